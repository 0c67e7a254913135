//! Resources of a container or pod, and the caps on what a request may carry.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use proto::cri;
use serde::{Deserialize, Serialize};

use crate::grammar;

/// The longest name, label value or line taken, in bytes.
pub const NAME_BYTES: usize = 4096;

/// The most that all labels or all annotations of one thing may weigh: what the Kubernetes API allows.
const MAP_BYTES: usize = 256 * 1024;

/// Where containers go whose pod names no cgroup.
const DEFAULT_PARENT: &str = "/wherry";
/// And where systemd makes them.
const DEFAULT_SLICE: &str = "system.slice";

/// Refuses a map that is too large.
///
/// # Errors
/// Says which map and how large it is.
pub fn check_map(what: &str, map: &HashMap<String, String>) -> Result<(), String> {
    let bytes: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAP_BYTES {
        Err(format!("{what} weigh {bytes} bytes, more than {MAP_BYTES}"))
    } else {
        Ok(())
    }
}

/// Who makes cgroups: the kubelet's and the runtime's answer has to be the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Their folders are made as they are named.
    #[default]
    Cgroupfs,
    /// systemd makes them: pods are slices, containers scopes in them.
    Systemd,
}

/// A pod's cgroup: a path below the hierarchy's root, or a slice of systemd's with or without the slices above it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CgroupParent(String);

/// What containers' scopes begin with; their ids follow.
const SCOPE_PREFIX: &str = "cri-wherry";

impl CgroupParent {
    /// Parses the kubelet's form; an empty text is Wherry's own parent.
    ///
    /// # Errors
    /// The path is not clean, or it is a slice while the driver is cgroupfs.
    pub fn parse(text: &str, driver: CgroupDriver) -> Result<Self, String> {
        let default = match driver {
            CgroupDriver::Cgroupfs => DEFAULT_PARENT,
            CgroupDriver::Systemd => DEFAULT_SLICE,
        };
        let text = if text.is_empty() { default } else { text };
        if shim::slice::ScopeName::is_meant(text) {
            return Err(format!("cgroup parent {text:?} is a systemd scope, and no parent of any"));
        }
        match (driver, text.ends_with(".slice")) {
            (CgroupDriver::Cgroupfs, true) => {
                return Err(format!(
                    "cgroup parent {text:?} is a systemd slice, and the cgroup driver is cgroupfs"
                ));
            }
            (CgroupDriver::Systemd, true) => return Self::slice(text),
            // A path that somebody else answers for (crictl, tests) is taken as it is by both.
            (_, false) => {}
        }
        let rooted = if text.starts_with('/') { text.to_owned() } else { format!("/{text}") };
        grammar::absolute(&rooted)
            .map_err(|reason| format!("cgroup parent: {reason}"))
            .map(|_| Self(rooted.trim_end_matches('/').to_owned()))
    }

    /// The kubelet names a slice with those above it (`/kubepods.slice/kubepods-pod1.slice`), which its own name says.
    fn slice(text: &str) -> Result<Self, String> {
        let slice = text.rsplit('/').next().unwrap_or(text);
        let refuse = |why: &str| format!("cgroup parent {text:?} {why}");
        let path = shim::slice::slice_path(slice).ok_or_else(|| refuse("is no systemd slice"))?;
        let above = text.trim_start_matches('/').strip_suffix(slice).unwrap_or_default();
        if !above.is_empty() && path.to_str() != Some(text.trim_start_matches('/')) {
            return Err(refuse("is not where systemd has its slice"));
        }
        Ok(Self(slice.to_owned()))
    }

    /// The cgroup of one container, as an OCI spec names it.
    #[must_use]
    pub fn leaf(&self, id: &str) -> String {
        if self.0.starts_with('/') {
            format!("{}/{id}", self.0)
        } else {
            format!("{}:{SCOPE_PREFIX}:{id}", self.0)
        }
    }

    /// The path of the pod's own cgroup below the hierarchies' mount points; none where the client named none.
    #[must_use]
    pub fn own_path(&self) -> Option<PathBuf> {
        if [DEFAULT_PARENT, DEFAULT_SLICE, ""].contains(&self.as_str()) {
            return None;
        }
        if self.0.starts_with('/') {
            return Some(PathBuf::from(&self.0));
        }
        shim::slice::slice_path(&self.0).map(|path| Path::new("/").join(path))
    }

    /// The parent itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The limits of a container; `None` is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds per period; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together.
    pub memory_swap: Option<i64>,
    /// The kernel's badness adjustment, -1000 to 1000; always applied.
    pub oom_score_adj: i32,
    /// CPUs as cpuset(7) lists them.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes as cpuset(7) lists them.
    pub cpuset_mems: Option<String>,
    /// Page size (for example 2MB) and bytes.
    pub hugepages: Vec<(String, u64)>,
    /// cgroup v2 files, written last.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    /// Parses the wire's form, where zero and empty mean not set.
    ///
    /// # Errors
    /// Says which limit is out of its range.
    pub fn parse(wire: cri::LinuxContainerResources) -> Result<Self, String> {
        let adj = i32::try_from(wire.oom_score_adj)
            .ok()
            .filter(|adj| (-1000..=1000).contains(adj))
            .ok_or_else(|| {
                format!("oom_score_adj {} is not between -1000 and 1000", wire.oom_score_adj)
            })?;
        let positive = |what: &str, value: i64| match u64::try_from(value) {
            Ok(0) => Ok(None),
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(format!("{what} {value} is negative")),
        };
        let set = |value: i64| (value != 0).then_some(value);
        if wire.cpu_quota < -1 {
            return Err(format!("cpu_quota {} is below -1", wire.cpu_quota));
        }
        for (file, value) in &wire.unified {
            if !is_cgroup_file(file) || !grammar::is_plain(value, NAME_BYTES) {
                return Err(format!(
                    "unified {file:?} = {value:?} is not a cgroup file and its value"
                ));
            }
        }
        Ok(Self {
            cpu_period: positive("cpu_period", wire.cpu_period)?,
            cpu_quota: set(wire.cpu_quota),
            cpu_shares: positive("cpu_shares", wire.cpu_shares)?,
            memory_limit: positive("memory_limit_in_bytes", wire.memory_limit_in_bytes)
                .map(|_| set(wire.memory_limit_in_bytes))?,
            memory_swap: set(wire.memory_swap_limit_in_bytes),
            oom_score_adj: adj,
            cpuset_cpus: cpu_list(wire.cpuset_cpus)?,
            cpuset_mems: cpu_list(wire.cpuset_mems)?,
            hugepages: wire
                .hugepage_limits
                .into_iter()
                .map(|limit| (limit.page_size, limit.limit))
                .collect(),
            unified: wire.unified.into_iter().collect(),
        })
    }

    /// These limits with those of an update in their places: what it does not mention stays.
    ///
    /// A memory limit without a word on swap leaves none, as it does at the start.
    #[must_use]
    pub fn updated(&self, update: &Self) -> Self {
        let pages = update.hugepages.iter();
        let kept =
            self.hugepages.iter().filter(|(size, _)| pages.clone().all(|(new, _)| new != size));
        let mut unified = self.unified.clone();
        unified.extend(update.unified.clone());
        Self {
            cpu_period: update.cpu_period.or(self.cpu_period),
            cpu_quota: update.cpu_quota.or(self.cpu_quota),
            cpu_shares: update.cpu_shares.or(self.cpu_shares),
            memory_limit: update.memory_limit.or(self.memory_limit),
            memory_swap: match update.memory_limit {
                Some(_) => update.memory_swap,
                None => update.memory_swap.or(self.memory_swap),
            },
            oom_score_adj: match update.oom_score_adj {
                0 => self.oom_score_adj,
                other => other,
            },
            cpuset_cpus: update.cpuset_cpus.clone().or_else(|| self.cpuset_cpus.clone()),
            cpuset_mems: update.cpuset_mems.clone().or_else(|| self.cpuset_mems.clone()),
            hugepages: kept.chain(&update.hugepages).cloned().collect(),
            unified,
        }
    }

    /// Memory and swap together in bytes, where there is a memory limit: without a word on swap there is none.
    #[must_use]
    pub fn memory_and_swap(&self) -> Option<i64> {
        self.memory_limit.map(|limit| self.memory_swap.unwrap_or(limit))
    }

    /// The wire's form, for a status.
    #[must_use]
    pub fn to_wire(&self) -> cri::LinuxContainerResources {
        let signed =
            |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
        cri::LinuxContainerResources {
            cpu_period: signed(self.cpu_period),
            cpu_quota: self.cpu_quota.unwrap_or(0),
            cpu_shares: signed(self.cpu_shares),
            memory_limit_in_bytes: self.memory_limit.unwrap_or(0),
            oom_score_adj: i64::from(self.oom_score_adj),
            cpuset_cpus: self.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: self.cpuset_mems.clone().unwrap_or_default(),
            hugepage_limits: self
                .hugepages
                .iter()
                .map(|(page_size, limit)| cri::HugepageLimit {
                    page_size: page_size.clone(),
                    limit: *limit,
                })
                .collect(),
            unified: self.unified.clone().into_iter().collect(),
            memory_swap_limit_in_bytes: self.memory_and_swap().unwrap_or(0),
        }
    }
}

fn is_cgroup_file(name: &str) -> bool {
    name.contains('.')
        && !name.starts_with("cgroup.")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !name.contains("..")
}

fn cpu_list(text: String) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b',' || byte == b'-') {
        return Ok(Some(text));
    }
    Err(format!("{text:?} is not a list of numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_not_set_and_the_status_says_what_is_in_force() {
        let wire = cri::LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: -1,
            memory_limit_in_bytes: 1 << 20,
            oom_score_adj: 500,
            ..Default::default()
        };
        let parsed = Resources::parse(wire.clone()).unwrap();
        assert_eq!((parsed.cpu_period, parsed.cpu_quota), (None, Some(-1)));
        let in_force = cri::LinuxContainerResources { memory_swap_limit_in_bytes: 1 << 20, ..wire };
        assert_eq!(parsed.to_wire(), in_force);
    }

    #[test]
    fn an_update_changes_what_it_mentions_and_nothing_else() {
        let before = Resources {
            cpu_shares: Some(512),
            memory_limit: Some(1 << 20),
            memory_swap: Some(2 << 20),
            oom_score_adj: 100,
            cpuset_cpus: Some("0-1".into()),
            hugepages: vec![("2MB".into(), 1), ("1GB".into(), 2)],
            unified: [("memory.low".to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        assert_eq!(before.updated(&Resources::default()), before);
        let update = Resources {
            cpu_quota: Some(-1),
            oom_score_adj: -5,
            hugepages: vec![("2MB".into(), 7)],
            unified: [("memory.high".to_owned(), "2".to_owned())].into(),
            ..Resources::default()
        };
        let after = before.updated(&update);
        assert_eq!((after.cpu_shares, after.cpu_quota), (Some(512), Some(-1)));
        assert_eq!((after.oom_score_adj, after.unified.len()), (-5, 2));
        assert_eq!(after.hugepages, [("1GB".to_owned(), 2), ("2MB".to_owned(), 7)]);
        assert_eq!(after.memory_and_swap(), Some(2 << 20));
    }

    #[test]
    fn another_memory_limit_without_a_word_on_swap_leaves_none() {
        let before = Resources {
            memory_limit: Some(1 << 20),
            memory_swap: Some(2 << 20),
            ..Resources::default()
        };
        let update = Resources { memory_limit: Some(4 << 20), ..Resources::default() };
        assert_eq!(before.updated(&update).memory_and_swap(), Some(4 << 20));
        let update = Resources { memory_swap: Some(3 << 20), ..Resources::default() };
        let after = before.updated(&update);
        assert_eq!((after.memory_limit, after.memory_and_swap()), (Some(1 << 20), Some(3 << 20)));
    }

    #[test]
    fn limits_out_of_range_are_refused() {
        let bad = [
            cri::LinuxContainerResources { oom_score_adj: 1001, ..Default::default() },
            cri::LinuxContainerResources { cpu_shares: -2, ..Default::default() },
            cri::LinuxContainerResources { memory_limit_in_bytes: -5, ..Default::default() },
            cri::LinuxContainerResources { cpuset_cpus: "0;1".into(), ..Default::default() },
            cri::LinuxContainerResources {
                unified: [("../memory.max".to_owned(), "1".to_owned())].into(),
                ..Default::default()
            },
            cri::LinuxContainerResources {
                unified: [("cgroup.procs".to_owned(), "1".to_owned())].into(),
                ..Default::default()
            },
        ];
        for wire in bad {
            assert!(Resources::parse(wire.clone()).is_err(), "{wire:?}");
        }
    }

    #[test]
    fn a_cgroup_parent_is_a_clean_path_and_has_a_default() {
        let leaf = |text: &str| {
            CgroupParent::parse(text, CgroupDriver::Cgroupfs).map(|parent| parent.leaf("x"))
        };
        let own = |text: &str| {
            CgroupParent::parse(text, CgroupDriver::Systemd).map(|parent| parent.own_path())
        };
        assert_eq!((own(""), own("/a/b/")), (Ok(None), Ok(Some("/a/b".into()))));
        assert_eq!(own("a-b.slice"), Ok(Some("/a.slice/a-b.slice".into())));
        assert_eq!(leaf("").unwrap(), "/wherry/x");
        assert_eq!(leaf("kubepods/pod1/").unwrap(), "/kubepods/pod1/x");
        assert!(leaf("/a/../b").is_err() && leaf("kubepods.slice").is_err());
    }

    #[test]
    fn under_systemd_a_cgroup_parent_is_a_slice_and_a_container_a_scope() {
        let leaf = |text: &str| {
            CgroupParent::parse(text, CgroupDriver::Systemd).map(|parent| parent.leaf("x"))
        };
        assert_eq!(leaf("").unwrap(), "system.slice:cri-wherry:x");
        let pod = "/kubepods.slice/kubepods-pod1.slice";
        assert_eq!(leaf(pod).unwrap(), "kubepods-pod1.slice:cri-wherry:x");
        assert_eq!(leaf("kubepods-pod1.slice").unwrap(), "kubepods-pod1.slice:cri-wherry:x");
        assert_eq!(leaf("/mine").unwrap(), "/mine/x");
        for text in ["/other.slice/kubepods-pod1.slice", "a--b.slice", "a:b.slice:c"] {
            assert!(leaf(text).is_err(), "{text}");
        }
    }
}

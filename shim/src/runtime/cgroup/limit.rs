//! The limits of a spec, in the words of either version of the cgroup interface.

use std::path::Path;

use crate::{Failure, FailureKind};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::hierarchy::{Hierarchy, Version};
use super::{is_missing, write_file};

/// One value for one file.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    controller: &'static str,
    file: String,
    value: String,
    /// A kernel without the file cannot break the limit either (swap without swap accounting).
    optional: bool,
}

/// Controllers that a container is in on a purely unified host, limits or not: its statistics come from them.
const ACCOUNTING: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// Whether there is a hierarchy for every limit that is asked for.
///
/// # Errors
/// `InvalidArgument` naming the controller that this host does not have.
pub fn check(resources: &LinuxResources, hierarchies: &[Hierarchy]) -> Result<(), Failure> {
    let asked = settings(resources, Version::V2);
    let missing = asked.iter().find(|setting| {
        // The kubelet asks for huge pages of every size unasked; runtimes let hosts without the controller be.
        setting.controller != "hugetlb"
            && !hierarchies.iter().any(|hierarchy| hierarchy.has(setting.controller))
    });
    missing.map_or(Ok(()), |setting| {
        let cause = "this host has no such controller";
        let kind = FailureKind::InvalidArgument;
        Err(Failure::new(kind, "limit", setting.controller, cause))
    })
}

/// The controllers that the folders above must pass on.
pub fn needed<'a>(resources: &LinuxResources, hierarchy: &'a Hierarchy) -> Vec<&'a str> {
    let asked = settings(resources, hierarchy.version);
    // Beside hierarchies of version 1 the unified one has only what these left over.
    let pure = hierarchy.has("memory");
    let wanted = |name: &&str| {
        (pure && ACCOUNTING.contains(name)) || asked.iter().any(|s| s.controller == *name)
    };
    hierarchy.controllers().iter().map(String::as_str).filter(wanted).collect()
}

/// Writes what belongs to `hierarchy` into the container's folder in it.
///
/// # Errors
/// `InvalidArgument` naming the file and the value that the kernel does not take.
pub fn write(
    resources: &LinuxResources,
    hierarchy: &Hierarchy,
    path: &Path,
) -> Result<(), Failure> {
    for setting in settings(resources, hierarchy.version) {
        if !hierarchy.has(setting.controller) {
            continue;
        }
        match write_file(&path.join(&setting.file), &setting.value) {
            Err(error) if setting.optional && is_missing(&error) => {}
            other => other.map_err(|error| {
                let object = format!("{} to {:?}", setting.file, setting.value);
                Failure::os_kind(FailureKind::InvalidArgument, "set", object, error)
            })?,
        }
    }
    Ok(())
}

fn settings(resources: &LinuxResources, version: Version) -> Vec<Setting> {
    let mut all = Vec::new();
    if let Some(memory) = resources.memory() {
        add_memory(memory, version, &mut all);
    }
    if let Some(cpu) = resources.cpu() {
        add_cpu(cpu, version, &mut all);
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        if limit != 0 {
            let value = if limit < 0 { "max".to_owned() } else { limit.to_string() };
            all.push(set("pids", "pids.max", value));
        }
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let word = if version == Version::V1 { "limit_in_bytes" } else { "max" };
        let mut setting = set("hugetlb", "", page.limit().to_string());
        setting.file = format!("hugetlb.{}.{word}", page.page_size());
        setting.optional = true;
        all.push(setting);
    }
    if version == Version::V2 {
        // Last, so that it wins.
        let mut own: Vec<_> = resources.unified().iter().flatten().collect();
        own.sort();
        all.extend(own.into_iter().filter_map(|(file, value)| unified(file, value)));
    }
    all
}

/// What the fuzzers call.
#[cfg(feature = "fuzz")]
pub fn fuzz(resources: &LinuxResources) {
    for version in [Version::V1, Version::V2] {
        for setting in settings(resources, version) {
            let plain = !setting.file.contains('/') && !setting.file.starts_with("cgroup.");
            assert!(plain, "{setting:?}");
        }
    }
}

/// A file of the pod's own choice, of a controller: never one of the cgroup core, which decides who is where.
fn unified(file: &str, value: &str) -> Option<Setting> {
    let (controller, _) = file.split_once('.')?;
    let known = ACCOUNTING.iter().chain(&["rdma", "misc"]).find(|name| **name == controller)?;
    let mut setting = set(known, file, value.to_owned());
    setting.optional = file.contains('/');
    (!setting.optional).then_some(setting)
}

fn add_memory(memory: &LinuxMemory, version: Version, all: &mut Vec<Setting>) {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let (limit_file, low_file) = match version {
        Version::V1 => ("memory.limit_in_bytes", "memory.soft_limit_in_bytes"),
        Version::V2 => ("memory.max", "memory.low"),
    };
    if let Some(limit) = limit {
        all.push(set("memory", limit_file, bytes(limit, version)));
    }
    if let Some(low) = memory.reservation().filter(|low| *low != 0) {
        all.push(set("memory", low_file, bytes(low, version)));
    }
    // The spec counts memory and swap together, as version 1 does.
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        let mut setting = match version {
            Version::V1 => set("memory", "memory.memsw.limit_in_bytes", swap.to_string()),
            Version::V2 => {
                let own =
                    if swap < 0 { -1 } else { swap.saturating_sub(limit.unwrap_or(0)).max(0) };
                set("memory", "memory.swap.max", bytes(own, version))
            }
        };
        setting.optional = true;
        all.push(setting);
    }
}

fn add_cpu(cpu: &LinuxCpu, version: Version, all: &mut Vec<Setting>) {
    let shares = cpu.shares().filter(|shares| *shares != 0);
    let period = cpu.period().filter(|period| *period != 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    match version {
        Version::V1 => {
            all.extend(shares.map(|shares| set("cpu", "cpu.shares", shares.to_string())));
            all.extend(period.map(|period| set("cpu", "cpu.cfs_period_us", period.to_string())));
            all.extend(quota.map(|quota| set("cpu", "cpu.cfs_quota_us", quota.to_string())));
        }
        Version::V2 => {
            all.extend(shares.map(|shares| set("cpu", "cpu.weight", weight(shares).to_string())));
            if period.is_some() || quota.is_some() {
                let quota = quota
                    .filter(|quota| *quota > 0)
                    .map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                let period = period.unwrap_or(100_000);
                all.push(set("cpu", "cpu.max", format!("{quota} {period}")));
            }
        }
    }
    let cpus = cpu.cpus().as_deref().filter(|list| !list.is_empty());
    all.extend(cpus.map(|list| set("cpuset", "cpuset.cpus", list.to_owned())));
    let mems = cpu.mems().as_deref().filter(|list| !list.is_empty());
    all.extend(mems.map(|list| set("cpuset", "cpuset.mems", list.to_owned())));
}

fn set(controller: &'static str, file: &str, value: String) -> Setting {
    Setting { controller, file: file.to_owned(), value, optional: false }
}

fn bytes(number: i64, version: Version) -> String {
    match version {
        Version::V2 if number < 0 => "max".to_owned(),
        _ => number.to_string(),
    }
}

/// CPU shares (2 to 262144, usually 1024) as a weight (1 to 10000, usually 100), by the quadratic in their logarithm
/// that runc uses since 1.3: the least, the usual and the highest value meet.
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        // At most 18 bits: exact.
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    fn written(json: &str, version: Version) -> Vec<(String, String)> {
        settings(&resources(json), version).into_iter().map(|s| (s.file, s.value)).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn shares_become_weights_whose_ends_and_middle_meet() {
        let known = [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)];
        for (shares, expected) in known {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        let mut last = 0;
        for shares in 2..10_000 {
            assert!(weight(shares) >= last, "{shares}");
            last = weight(shares);
        }
    }

    #[test]
    fn one_spec_is_written_in_the_words_of_either_version() {
        let spec = r#"{
            "memory": {"limit": 1000, "reservation": 500, "swap": 1500},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"},
            "pids": {"limit": 7}
        }"#;
        assert_eq!(
            written(spec, Version::V1),
            pairs(&[
                ("memory.limit_in_bytes", "1000"),
                ("memory.soft_limit_in_bytes", "500"),
                ("memory.memsw.limit_in_bytes", "1500"),
                ("cpu.shares", "1024"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpuset.cpus", "0-1"),
                ("pids.max", "7"),
            ])
        );
        assert_eq!(
            written(spec, Version::V2),
            pairs(&[
                ("memory.max", "1000"),
                ("memory.low", "500"),
                ("memory.swap.max", "500"),
                ("cpu.weight", "100"),
                ("cpu.max", "50000 100000"),
                ("cpuset.cpus", "0-1"),
                ("pids.max", "7"),
            ])
        );
    }

    #[test]
    fn zero_is_unset_and_minus_one_unlimited() {
        let nothing = r#"{"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0},
            "pids": {"limit": 0}}"#;
        assert_eq!(written(nothing, Version::V1), []);
        assert_eq!(written(nothing, Version::V2), []);
        let all =
            r#"{"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#;
        assert_eq!(
            written(all, Version::V2),
            pairs(&[
                ("memory.max", "max"),
                ("memory.swap.max", "max"),
                ("cpu.max", "max 100000"),
                ("pids.max", "max"),
            ])
        );
    }

    #[test]
    fn unified_files_are_a_controllers_and_come_last() {
        let spec = r#"{"memory": {"limit": 9}, "unified":
            {"memory.high": "5", "cgroup.procs": "1", "memory.x/../../y": "1"}}"#;
        assert_eq!(written(spec, Version::V2), pairs(&[("memory.max", "9"), ("memory.high", "5")]));
    }
}

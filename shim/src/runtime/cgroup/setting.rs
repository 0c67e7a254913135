//! The limits of a spec as values for files, in the words of either version of the cgroup interface.
//!
//! Every limit is one row that says both ways. A host has each controller in one hierarchy, and the row is written in
//! that one's words.

mod block;
mod cpu;
mod memory;

use crate::{Failure, FailureKind};
use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxRdma, LinuxResources};

use super::hierarchy::{Hierarchy, Version};

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The controller that has the file.
    pub controller: &'static str,
    /// Files and what is written to them: the first that the kernel has is the one.
    pub choices: Vec<(String, String)>,
    /// A kernel without the file cannot break the limit either (swap without swap accounting).
    pub optional: bool,
    /// The first word of the file stays, and the value comes after it.
    pub keeps_first_word: bool,
    /// How the value from before is read and written again.
    pub undo: Undo,
    /// Named in the spec as a file of version 2.
    pub unified: bool,
}

/// How a file gives back what it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// Its text is what was written.
    Whole,
    /// It has a line per key, and the one of `key` is what was written; without one it was `absent`.
    Line {
        /// The line's first word.
        key: String,
        /// What says the same as no line.
        absent: String,
    },
    /// It has a line per field, and the field's value is what was written.
    Field(&'static str),
}

/// Controllers that a container is in on a purely unified host, limits or not: its statistics come from them.
const ACCOUNTING: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];
/// Controllers that the spec's `unified` may name.
const KNOWN: [&str; 9] =
    ["cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc", "dmem"];

/// Whether there is a hierarchy for every limit that is asked for, and every limit is one.
///
/// # Errors
/// `InvalidArgument` naming the limit, or the controller that this host does not have.
pub fn check(resources: &LinuxResources, hierarchies: &[Hierarchy]) -> Result<(), Failure> {
    for version in [Version::V1, Version::V2] {
        if !hierarchies.iter().any(|hierarchy| hierarchy.version == version) {
            continue;
        }
        let asked = settings(resources, version)?;
        let missing = asked.iter().find(|setting| {
            let has = |hierarchy: &Hierarchy| {
                hierarchy.has(setting.controller)
                    && (!setting.unified || hierarchy.version == Version::V2)
            };
            // The kubelet asks for huge pages of every size unasked; runtimes let hosts without the controller be.
            let unasked = setting.controller == "hugetlb" && !setting.unified;
            !unasked && !hierarchies.iter().any(has)
        });
        if let Some(missing) = missing {
            let cause = "this host has no such controller";
            let kind = FailureKind::InvalidArgument;
            return Err(Failure::new(kind, "limit", missing.controller, cause));
        }
    }
    Ok(())
}

/// The controllers that the folders above must pass on.
pub fn needed<'a>(settings: &[Setting], hierarchy: &'a Hierarchy) -> Vec<&'a str> {
    // Beside hierarchies of version 1 the unified one has only what these left over.
    let pure = hierarchy.has("memory");
    let wanted = |name: &&str| {
        (pure && ACCOUNTING.contains(name)) || settings.iter().any(|s| s.controller == *name)
    };
    hierarchy.controllers().iter().map(String::as_str).filter(wanted).collect()
}

/// What belongs to `hierarchy`, in an order that a fresh cgroup takes.
///
/// # Errors
/// `InvalidArgument` for what is no limit.
pub fn of(resources: &LinuxResources, hierarchy: &Hierarchy) -> Result<Vec<Setting>, Failure> {
    let mut all = settings(resources, hierarchy.version)?;
    all.retain(|setting| hierarchy.has(setting.controller));
    Ok(all)
}

fn settings(resources: &LinuxResources, version: Version) -> Result<Vec<Setting>, Failure> {
    let mut table = Table { version, all: Vec::new() };
    if let Some(memory) = resources.memory() {
        memory::add(memory, &mut table)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu::add(cpu, &mut table);
    }
    if let Some(pids) = resources.pids().as_ref().filter(|pids| pids.limit() != 0) {
        table.add("pids", ["pids.max", "pids.max"], limit_or_max(pids.limit()));
    }
    for page in resources.hugepage_limits().iter().flatten() {
        add_huge_pages(page, &mut table)?;
    }
    if let Some(block) = resources.block_io() {
        block::add(block, &mut table);
    }
    if let Some(network) = resources.network() {
        add_network(network, &mut table)?;
    }
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    devices.into_iter().try_for_each(|(name, limits)| add_rdma(name, limits, &mut table))?;
    // Last, so that it wins.
    let mut own: Vec<_> = resources.unified().iter().flatten().collect();
    own.sort();
    for (file, value) in own {
        table.all.push(unified(file, value)?);
    }
    Ok(table.all)
}

/// What the fuzzers call.
#[cfg(feature = "fuzz")]
pub fn fuzz(resources: &LinuxResources) {
    for version in [Version::V1, Version::V2] {
        for setting in settings(resources, version).into_iter().flatten() {
            let plain = |file: &str| !file.contains('/') && !file.starts_with("cgroup.");
            assert!(setting.choices.iter().all(|(file, _)| plain(file)), "{setting:?}");
        }
    }
}

/// Rows in the words of one version.
struct Table {
    version: Version,
    all: Vec<Setting>,
}

impl Table {
    fn pick<T>(&self, [one, two]: [T; 2]) -> T {
        match self.version {
            Version::V1 => one,
            Version::V2 => two,
        }
    }

    /// A row with its file in either version; an empty name says that this version has nothing of the kind.
    fn add(&mut self, controller: &'static str, files: [&str; 2], value: String) -> &mut Setting {
        self.add_first(controller, files.map(|file| vec![(file.to_owned(), value.clone())]))
    }

    /// A row with several files, of which the first that there is counts, and their values in either version.
    fn add_first(
        &mut self,
        controller: &'static str,
        choices: [Vec<(String, String)>; 2],
    ) -> &mut Setting {
        let at = self.all.len();
        self.all.push(Setting {
            controller,
            choices: self.pick(choices),
            optional: false,
            keeps_first_word: false,
            undo: Undo::Whole,
            unified: false,
        });
        &mut self.all[at]
    }
}

/// A limit in words that both versions take.
fn limit_or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

fn invalid(object: impl Into<String>, cause: &'static str) -> Failure {
    Failure::new(FailureKind::InvalidArgument, "limit", object, cause)
}

/// Whether a text is one word that can stand in a line beside others.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn add_huge_pages(page: &LinuxHugepageLimit, table: &mut Table) -> Result<(), Failure> {
    let size = page.page_size();
    let digits = size.trim_end_matches(|letter: char| letter.is_ascii_uppercase());
    let unit = &size[digits.len()..];
    let is_size = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_size || !["KB", "MB", "GB"].contains(&unit) {
        return Err(invalid(format!("huge pages of {size:?}"), "no such page size"));
    }
    let value = table.pick([page.limit().to_string(), limit_or_max(page.limit())]);
    // Reserved but unused pages count only where the kernel has the second file.
    for kind in ["", "rsvd."] {
        let file = |word: &str| format!("hugetlb.{size}.{kind}{word}");
        let files = [file("limit_in_bytes"), file("max")];
        table.add("hugetlb", [&files[0], &files[1]], value.clone()).optional = true;
    }
    Ok(())
}

/// Version 1 only: a unified host marks packets by cgroup path instead (nftables), and runtimes leave these out.
fn add_network(network: &LinuxNetwork, table: &mut Table) -> Result<(), Failure> {
    if table.version == Version::V2 {
        return Ok(());
    }
    if let Some(class) = network.class_id() {
        table.add("net_cls", ["net_cls.classid", ""], class.to_string());
    }
    for priority in network.priorities().iter().flatten() {
        let name = priority.name();
        if !is_word(name) {
            return Err(invalid(format!("network interface {name:?}"), "no such name"));
        }
        let value = format!("{name} {}", priority.priority());
        let undo = Undo::Line { key: name.clone(), absent: format!("{name} 0") };
        table.add("net_prio", ["net_prio.ifpriomap", ""], value).undo = undo;
    }
    Ok(())
}

fn add_rdma(name: &str, limits: &LinuxRdma, table: &mut Table) -> Result<(), Failure> {
    if !is_word(name) {
        return Err(invalid(format!("RDMA device {name:?}"), "no such name"));
    }
    let mut value = name.to_owned();
    for (word, limit) in
        [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())]
    {
        if let Some(limit) = limit {
            value.push_str(&format!(" {word}={limit}"));
        }
    }
    let absent = format!("{name} hca_handle=max hca_object=max");
    let setting = table.add("rdma", ["rdma.max", "rdma.max"], value);
    setting.undo = Undo::Line { key: name.to_owned(), absent };
    Ok(())
}

/// A file of the spec's own choice, of a controller: never one of the cgroup core, which decides who is where.
///
/// `memory.oom.group` is such a file: the kubelet asks for it where it wants it, and nobody else gets it unasked.
fn unified(file: &str, value: &str) -> Result<Setting, Failure> {
    let known = |controller: &str| KNOWN.iter().find(|name| **name == controller);
    let controller = file.split_once('.').and_then(|(controller, _)| known(controller));
    let Some(controller) = controller.filter(|_| is_word(file) && !file.contains('/')) else {
        return Err(invalid(format!("by unified {file:?}"), "no file of a controller"));
    };
    let plain = value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if !plain || value.is_empty() {
        return Err(invalid(format!("by unified {file:?} = {value:?}"), "no value of one line"));
    }
    // Files with a line per device take one of these lines; the others say what was written.
    let key = value.split(' ').next().filter(|word| word.contains(':'));
    let undo = key.map_or(Undo::Whole, |key| Undo::Line {
        key: key.to_owned(),
        absent: match file {
            "io.max" => block::unlimited(key),
            _ => format!("{key} default"),
        },
    });
    Ok(Setting {
        controller,
        choices: vec![(file.to_owned(), value.to_owned())],
        optional: false,
        keeps_first_word: false,
        undo,
        unified: true,
    })
}

#[cfg(test)]
mod tests;

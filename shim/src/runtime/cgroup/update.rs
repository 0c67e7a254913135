//! Other limits for a running container: all of them, or none.
//!
//! A memory limit below what is in use must be an error and never an out-of-memory kill. Version 1 takes back what it
//! can and refuses otherwise. Version 2 sets the limit first and kills then; so `memory.high` is lowered before, which
//! makes the kernel take back what it can and slows down who wants more, and the limit follows only when everything
//! fits.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Failure, FailureKind};
use oci_spec::runtime::LinuxResources;

use super::folder::Folders;
use super::hierarchy::Hierarchy;
use super::transaction::{self, Write};
use super::{device, is_missing, setting, write_file};

/// How often and with which pause memory that is being taken back is looked at.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// In memory.stat of either version: pages of files, and those of them that are yet to be written.
const OF_FILES: [[[&str; 2]; 2]; 2] = [
    [["total_active_file", "total_inactive_file"], ["total_dirty", "total_writeback"]],
    [["active_file", "inactive_file"], ["file_dirty", "file_writeback"]],
];

/// Changes the limits in `folders` to `resources`; what these do not mention stays.
///
/// # Errors
/// `InvalidArgument` naming what the kernel does not take, `FailedPrecondition` for a memory limit below what is in
/// use. Everything is what it was then.
pub fn update(folders: &Folders, resources: &LinuxResources) -> Result<(), Failure> {
    let hierarchies = Hierarchy::find()?;
    setting::check(resources, &hierarchies)?;
    let mut rows = Vec::new();
    for (_, dir) in folders.all() {
        let own = hierarchies.iter().filter(|one| dir.starts_with(&one.mount_point));
        // The unified hierarchy may be mounted where the others' mount points are below.
        let Some(own) = own.max_by_key(|one| one.mount_point.as_os_str().len()) else { continue };
        rows.push((dir, setting::of(resources, own)?));
    }
    let limit = resources.memory().and_then(|memory| memory.limit()).unwrap_or(0);
    let strict = resources.memory().and_then(|memory| memory.check_before_update());
    let squeezed = match u64::try_from(limit) {
        Ok(limit) if limit > 0 => {
            check_memory(folders, limit, strict == Some(true))?;
            Squeeze::begin(folders, limit)?
        }
        _ => None,
    };
    let writes = rows
        .iter()
        .flat_map(|(folder, settings)| settings.iter().map(|setting| Write { folder, setting }));
    let change = transaction::change(writes.collect())?;
    if let Err(failure) = fence(folders, resources) {
        change.undo();
        return Err(failure);
    }
    if let Some(unit) = folders.unit() {
        let properties = super::scope_properties(resources, None, &hierarchies)?;
        if let Err(failure) = super::scope::set(unit, &properties) {
            change.undo();
            return Err(failure);
        }
    }
    if let Some(squeezed) = squeezed
        && resources.unified().as_ref().is_some_and(|files| files.contains_key("memory.high"))
    {
        // It has the value that was asked for.
        squeezed.keep();
    }
    Ok(())
}

/// The devices, if the update speaks of them at all.
fn fence(folders: &Folders, resources: &LinuxResources) -> Result<(), Failure> {
    let Some(spec) = resources.devices().as_deref().filter(|rules| !rules.is_empty()) else {
        return Ok(());
    };
    let rules = device::rules(spec)?;
    match (folders.legacy("devices"), folders.unified()) {
        (Some(dir), _) => device::rewrite(&rules, dir),
        (None, Some(dir)) => device::attach(&rules, dir),
        (None, None) => Ok(()),
    }
}

/// Refuses a limit below what the kernel cannot take back: everything but clean pages of files. With `strict` these
/// count, too (the spec's `checkBeforeUpdate`).
fn check_memory(folders: &Folders, limit: u64, strict: bool) -> Result<(), Failure> {
    let number = |files| folders.read("memory", files)?.trim().parse::<u64>().ok();
    let Some(usage) = number(["memory.usage_in_bytes", "memory.current"]) else { return Ok(()) };
    let stat = folders.read("memory", ["memory.stat", "memory.stat"]).unwrap_or_default();
    // Version 1 counts those below in fields of their own.
    let legacy = folders.legacy("memory").is_some();
    let fields = if legacy { &OF_FILES[0] } else { &OF_FILES[1] };
    let sum = |fields: [&str; 2]| -> u64 {
        let value = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            value.parse::<u64>().ok().filter(|_| fields.contains(&name))
        };
        stat.lines().filter_map(value).sum()
    };
    let clean = if strict { 0 } else { sum(fields[0]).saturating_sub(sum(fields[1])) };
    let used = usage.saturating_sub(clean);
    if used <= limit { Ok(()) } else { Err(below(limit, used)) }
}

fn below(limit: u64, used: u64) -> Failure {
    let cause = format!("{used} bytes are in use");
    Failure::new(FailureKind::FailedPrecondition, "set", format!("memory limit to {limit}"), cause)
}

/// Version 2: `memory.high` while it is lowered; put back when this is dropped.
#[derive(Debug)]
struct Squeeze {
    file: PathBuf,
    old: Option<String>,
}

impl Squeeze {
    fn begin(folders: &Folders, limit: u64) -> Result<Option<Self>, Failure> {
        let unified = folders.unified().filter(|_| folders.legacy("memory").is_none());
        let Some(dir) = unified else { return Ok(None) };
        let number = |file: &str| -> Option<u64> {
            fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
        };
        // "max" is no number: then every limit is a lower one.
        if number("memory.max").is_some_and(|old| old <= limit) {
            return Ok(None);
        }
        let Some(squeeze) = Self::lower(&dir.join("memory.high"), limit)? else { return Ok(None) };
        for attempt in 0.. {
            match number("memory.current") {
                Some(used) if used > limit && attempt == ATTEMPTS => {
                    return Err(below(limit, used));
                }
                Some(used) if used > limit => std::thread::sleep(PAUSE),
                _ => break,
            }
        }
        Ok(Some(squeeze))
    }

    fn lower(file: &Path, limit: u64) -> Result<Option<Self>, Failure> {
        let fail = |error| Failure::os("lower", file.display().to_string(), error);
        let old = match fs::read_to_string(file) {
            Err(error) if is_missing(&error) => return Ok(None),
            other => other.map_err(fail)?,
        };
        if old.trim().parse::<u64>().is_ok_and(|old| old <= limit) {
            return Ok(None);
        }
        let squeeze = Self { file: file.to_owned(), old: Some(old) };
        write_file(file, &limit.to_string()).map_err(fail)?;
        Ok(Some(squeeze))
    }

    fn keep(mut self) {
        self.old = None;
    }
}

impl Drop for Squeeze {
    fn drop(&mut self) {
        if let Some(old) = &self.old {
            drop(write_file(&self.file, old.trim_end()));
        }
    }
}

//! A process's own limits: rlimits, and how soon the kernel kills it when memory runs out.

use std::io::{self, Write};

use crate::Failure;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::procfs::Procfs;

const OOM_SCORE_ADJ: &str = "self/oom_score_adj";

/// Applies the limits. One above what this process may set (it takes `CAP_SYS_RESOURCE` to raise a hard limit)
/// becomes the highest it may, with a word on standard error unless that is not to be had.
///
/// # Errors
/// The kernel refuses for another reason.
pub fn apply(limits: &[PosixRlimit], quiet: bool) -> Result<(), Failure> {
    for limit in limits {
        let resource = resource(limit.typ());
        let fail = |error: Errno| {
            Failure::os("set limit", format!("{:?}", limit.typ()).to_lowercase(), error)
        };
        let wanted = Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) };
        match setrlimit(resource, wanted) {
            Err(Errno::PERM) => {
                let ceiling = getrlimit(resource).maximum;
                let maximum = lower(wanted.maximum, ceiling);
                let current = lower(wanted.current, maximum);
                setrlimit(resource, Rlimit { current, maximum }).map_err(fail)?;
                if !quiet {
                    warn(format_args!("limit {:?} clamped to {maximum:?}", limit.typ()));
                }
            }
            other => other.map_err(fail)?,
        }
    }
    Ok(())
}

/// Raises the hard limits as far as the limits to come need it: for a process that will not have the right to.
///
/// # Errors
/// The kernel refuses for another reason than a missing right.
pub fn raise(limits: &[PosixRlimit]) -> Result<(), Failure> {
    for limit in limits {
        let resource = resource(limit.typ());
        let Rlimit { current, maximum } = getrlimit(resource);
        let wanted = value(limit.hard());
        if lower(wanted, maximum) != maximum || wanted == maximum {
            continue;
        }
        match setrlimit(resource, Rlimit { current, maximum: wanted }) {
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => {
                let name = format!("{:?}", limit.typ()).to_lowercase();
                return Err(Failure::os("raise limit", name, error));
            }
        }
    }
    Ok(())
}

/// Makes the kernel spare this process, as far as it is permitted, and returns what was set before: that is what
/// containers get that ask for nothing.
pub fn protect_from_oom() -> i32 {
    const SHIM: i32 = -998;
    let Ok(procfs) = Procfs::open() else { return 0 };
    let before = procfs.read(OOM_SCORE_ADJ).ok();
    let before = before.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    drop(set_oom_score_adj(&procfs, SHIM));
    before
}

/// Sets this process's (and its later children's) `oom_score_adj`; a value that is not permitted leaves it at the
/// nearest one that is.
///
/// # Errors
/// `/proc` does not have the file, or the kernel refuses for another reason.
pub fn set_oom_score_adj(procfs: &Procfs, wanted: i32) -> Result<(), Failure> {
    match procfs.write(OOM_SCORE_ADJ, wanted.to_string().as_bytes()) {
        // Going lower takes CAP_SYS_RESOURCE: what we have is the lowest we can get.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(|e| Failure::os("set oom_score_adj", wanted.to_string(), e)),
    }
}

/// As [`set_oom_score_adj`], and what it is then.
///
/// # Errors
/// As there.
pub fn reach_oom_score_adj(procfs: &Procfs, wanted: i32) -> Result<i32, Failure> {
    set_oom_score_adj(procfs, wanted)?;
    let now = procfs.read(OOM_SCORE_ADJ).ok().and_then(|text| text.trim().parse().ok());
    Ok(now.unwrap_or(wanted))
}

/// A word for the shim's log, which is bounded: a container that is made to complain for ever must not fill the disk.
pub fn warn(words: std::fmt::Arguments<'_>) {
    const MAX_LOG: i64 = 64 << 10;
    let stderr = io::stderr();
    if rustix::fs::fstat(&stderr).is_ok_and(|found| found.st_size < MAX_LOG) {
        drop(writeln!(stderr.lock(), "wherry-shim: {words}"));
    }
}

/// The kernel's "unlimited" is the highest number.
fn value(number: u64) -> Option<u64> {
    (number != u64::MAX).then_some(number)
}

fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_of_two_limits_is_never_unlimited_unless_both_are() {
        assert_eq!(lower(None, Some(5)), Some(5));
        assert_eq!(lower(Some(7), Some(5)), Some(5));
        assert_eq!(lower(Some(7), None), Some(7));
        assert_eq!(lower(None, None), None);
    }
}

//! Whether a mount of the host can pass on what is mounted in it (mount_namespaces(7)): what a volume with propagation
//! stands on. Without it the volume would silently be a private one.

use std::fs;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::config::Propagation;

/// Checks the mount that `path` is in.
///
/// # Errors
/// Says what the mount would have to be, or that it cannot be looked at.
pub fn check(path: &Path, wanted: Propagation) -> Result<(), String> {
    if wanted == Propagation::Private {
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| format!("look at its mount: {error}");
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).map_err(|e| failed(&e))?;
    let table = fs::read_to_string("/proc/thread-self/mountinfo").map_err(|e| failed(&e))?;
    let (place, peers) = mount(&table, found.stx_mnt_id).ok_or_else(|| failed(&"it is gone"))?;
    match wanted {
        Propagation::Bidirectional if !peers.shared => {
            Err(format!("it is on mount {place}, which is not shared"))
        }
        Propagation::HostToContainer if !(peers.shared || peers.slave) => {
            Err(format!("it is on mount {place}, which is neither shared nor a slave"))
        }
        _ => Ok(()),
    }
}

/// Whom a mount passes mounts on to, and whom it gets them from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peers {
    shared: bool,
    slave: bool,
}

/// A mount's place and peers by its id (proc_pid_mountinfo(5): field 1 is the id, 5 the place, from 7 up to `-` are
/// the optional ones).
fn mount(table: &str, id: u64) -> Option<(&str, Peers)> {
    table.lines().find_map(|line| {
        let mut fields = line.split(' ');
        if fields.next()?.parse() != Ok(id) {
            return None;
        }
        let place = fields.nth(3)?;
        let mut peers = Peers { shared: false, slave: false };
        for field in fields.skip(1).take_while(|field| *field != "-") {
            peers.shared |= field.starts_with("shared:");
            peers.slave |= field.starts_with("master:");
        }
        Some((place, peers))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounts_peers_stand_between_its_options_and_a_hyphen() {
        let table = "21 1 8:1 / / rw,noatime shared:1 - ext4 /dev/sda1 rw\n\
            30 21 0:5 / /srv rw master:1 propagate_from:2 - tmpfs shared:9 rw\n\
            31 21 0:6 / /data rw - tmpfs none rw\n\
            32 21 0:7 / /both rw shared:3 master:1 - tmpfs none rw\n";
        let peers = |shared, slave| Peers { shared, slave };
        assert_eq!(mount(table, 21), Some(("/", peers(true, false))));
        assert_eq!(mount(table, 30), Some(("/srv", peers(false, true))));
        assert_eq!(mount(table, 31), Some(("/data", peers(false, false))));
        assert_eq!(mount(table, 32), Some(("/both", peers(true, true))));
        assert_eq!(mount(table, 2), None);
    }
}

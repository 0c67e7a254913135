//! Memory and swap.

use crate::Failure;
use oci_spec::runtime::LinuxMemory;

use super::super::hierarchy::Version;
use super::{Table, Undo, invalid, limit_or_max};

/// Kernel memory has no limit of its own any more: `kernel` and `kernelTCP` are passed over, as are hierarchies that
/// are not recursive.
pub fn add(memory: &LinuxMemory, table: &mut Table) -> Result<(), Failure> {
    let limit = memory.limit().unwrap_or(0);
    let swap = memory.swap().unwrap_or(0);
    // The spec counts memory and swap together, as version 1 does.
    if limit > 0 && swap > 0 && swap < limit {
        let both = format!("memory to {limit} and memory with swap to {swap}");
        return Err(invalid(both, "memory+swap limit should be >= memory limit"));
    }
    if limit != 0 {
        let files = ["memory.limit_in_bytes", "memory.max"];
        table.add("memory", files, table.pick([limit.to_string(), limit_or_max(limit)]));
    }
    if let Some(low) = memory.reservation().filter(|low| *low != 0) {
        let files = ["memory.soft_limit_in_bytes", "memory.low"];
        table.add("memory", files, table.pick([low.to_string(), limit_or_max(low)]));
    }
    add_swap(limit, swap, table)?;
    if table.version == Version::V2 {
        return Ok(());
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(invalid(format!("swappiness to {swappiness}"), "it is 0 to 100"));
        }
        table.add("memory", ["memory.swappiness", ""], swappiness.to_string());
    }
    if memory.disable_oom_killer() == Some(true) {
        let setting = table.add("memory", ["memory.oom_control", ""], "1".to_owned());
        setting.undo = Undo::Field("oom_kill_disable");
    }
    Ok(())
}

fn add_swap(limit: i64, swap: i64, table: &mut Table) -> Result<(), Failure> {
    // Unlimited memory means unlimited swap unless something else is said.
    let swap = if limit < 0 && swap == 0 { -1 } else { swap };
    let own = match (table.version, swap) {
        (_, 0) => return Ok(()),
        (Version::V1, _) => swap.to_string(),
        (Version::V2, ..0) => "max".to_owned(),
        (Version::V2, _) if limit <= 0 => {
            let object = format!("memory with swap to {swap}");
            return Err(invalid(object, "unable to set swap limit without memory limit"));
        }
        (Version::V2, _) => (swap - limit).to_string(),
    };
    let files = ["memory.memsw.limit_in_bytes", "memory.swap.max"];
    table.add("memory", files, own).optional = true;
    Ok(())
}

//! CPU time, and the CPUs and memory nodes.

use oci_spec::runtime::LinuxCpu;

use super::super::hierarchy::Version;
use super::Table;

/// Version 1 alone has limits for real-time processes.
pub fn add(cpu: &LinuxCpu, table: &mut Table) {
    let idle = cpu.idle().map(|idle| i64::from(idle != 0));
    if let Some(idle) = idle {
        table.add("cpu", ["cpu.idle", "cpu.idle"], idle.to_string());
    }
    // The kernel takes no weight of who only gets what others leave.
    let shares = cpu.shares().filter(|shares| *shares != 0 && idle != Some(1));
    if let Some(shares) = shares {
        let value = table.pick([shares.to_string(), weight(shares).to_string()]);
        table.add("cpu", ["cpu.shares", "cpu.weight"], value);
    }
    add_bandwidth(cpu, table);
    if table.version == Version::V1 {
        if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
            table.add("cpu", ["cpu.rt_period_us", ""], period.to_string());
        }
        if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
            table.add("cpu", ["cpu.rt_runtime_us", ""], runtime.to_string());
        }
    }
    let sets = [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())];
    for (file, list) in sets {
        if let Some(list) = list.as_deref().map(str::trim).filter(|list| !list.is_empty()) {
            table.add("cpuset", [file, file], list.to_owned());
        }
    }
}

fn add_bandwidth(cpu: &LinuxCpu, table: &mut Table) {
    let period = cpu.period().filter(|period| *period != 0).map(|period| period.to_string());
    let quota = cpu.quota().filter(|quota| *quota != 0);
    match table.version {
        Version::V1 => {
            if let Some(period) = period {
                table.add("cpu", ["cpu.cfs_period_us", ""], period);
            }
            if let Some(quota) = quota {
                table.add("cpu", ["cpu.cfs_quota_us", ""], quota.max(-1).to_string());
            }
        }
        // One file for both: a number alone leaves the period as it is, a period alone the quota.
        Version::V2 => match (quota.map(super::limit_or_max), period) {
            (None, None) => {}
            (Some(quota), None) => drop(table.add("cpu", ["", "cpu.max"], quota)),
            (Some(quota), Some(period)) => {
                table.add("cpu", ["", "cpu.max"], format!("{quota} {period}"));
            }
            (None, Some(period)) => {
                table.add("cpu", ["", "cpu.max"], period).keeps_first_word = true;
            }
        },
    }
    if let Some(burst) = cpu.burst() {
        table.add("cpu", ["cpu.cfs_burst_us", "cpu.max.burst"], burst.to_string());
    }
}

/// CPU shares (2 to 262144, usually 1024) as a weight (1 to 10000, usually 100), by the quadratic in their logarithm
/// that runc uses since 1.3: the least, the usual and the highest value meet.
pub fn weight(shares: u64) -> u64 {
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

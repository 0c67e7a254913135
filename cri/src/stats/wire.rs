//! CRI's form of what was measured.

use proto::cri;
use sys::cgroup::{Pressure, Stall};
use sys::netns::Interface;

use super::layer::Written;
use super::network::default_interface;
use super::sample::Sample;

/// The kernel counts pressure in microseconds, CRI in nanoseconds.
const MICROSECOND: u64 = 1000;

#[allow(clippy::unnecessary_wraps, reason = "every such field of CRI is optional")]
fn number(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

/// CPU time.
pub fn cpu(sample: &Sample) -> Option<cri::CpuUsage> {
    Some(cri::CpuUsage {
        timestamp: sample.at,
        usage_core_nano_seconds: number(sample.cpu?),
        usage_nano_cores: sample.nano_cores.and_then(number),
        psi: sample.cpu_pressure.map(pressure),
    })
}

/// Memory. Without a limit there is no saying how much is available, as the kubelet has it.
pub fn memory(sample: &Sample) -> cri::MemoryUsage {
    let available = |limit: u64| limit.saturating_sub(sample.working_set);
    cri::MemoryUsage {
        timestamp: sample.at,
        working_set_bytes: number(sample.working_set),
        available_bytes: sample.memory_limit.map(available).and_then(number),
        usage_bytes: number(sample.memory),
        rss_bytes: number(sample.rss),
        page_faults: number(sample.faults),
        major_page_faults: number(sample.major_faults),
        psi: sample.memory_pressure.map(pressure),
    }
}

/// Swap.
pub fn swap(sample: &Sample) -> cri::SwapUsage {
    let available = |limit: u64| limit.saturating_sub(sample.swap);
    cri::SwapUsage {
        timestamp: sample.at,
        swap_available_bytes: sample.swap_limit.map(available).and_then(number),
        swap_usage_bytes: number(sample.swap),
    }
}

/// Block devices: CRI has room for the pressure alone.
pub fn io(sample: &Sample) -> Option<cri::IoUsage> {
    let psi = Some(pressure(sample.io_pressure?));
    Some(cri::IoUsage { timestamp: sample.at, psi })
}

/// The writable layer, on the file system that has this folder.
pub fn layer(written: Written, mountpoint: String) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: written.at,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
        used_bytes: number(written.usage.bytes),
        inodes_used: number(written.usage.inodes),
    }
}

/// A pod's interfaces.
pub fn network(interfaces: &[Interface], timestamp: i64) -> cri::NetworkUsage {
    cri::NetworkUsage {
        timestamp,
        default_interface: default_interface(interfaces).map(interface),
        interfaces: interfaces.iter().map(interface).collect(),
    }
}

fn interface(interface: &Interface) -> cri::NetworkInterfaceUsage {
    cri::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: number(interface.received.bytes),
        rx_errors: number(interface.received.errors),
        tx_bytes: number(interface.sent.bytes),
        tx_errors: number(interface.sent.errors),
    }
}

/// A pod's processes and threads.
pub fn processes(count: u64, timestamp: i64) -> cri::ProcessUsage {
    cri::ProcessUsage { timestamp, process_count: number(count) }
}

fn pressure(pressure: Pressure) -> cri::PsiStats {
    let line = |stall: Stall| cri::PsiData {
        total: stall.total.saturating_mul(MICROSECOND),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    cri::PsiStats { full: Some(line(pressure.full)), some: Some(line(pressure.some)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_told_only_of_what_is_limited() {
        let sample =
            Sample { working_set: 30, memory_limit: Some(100), swap: 5, ..Sample::default() };
        assert_eq!(memory(&sample).available_bytes.unwrap().value, 70);
        assert_eq!(swap(&sample).swap_available_bytes, None);
        assert_eq!(memory(&Sample::default()).available_bytes, None);
        assert_eq!(cpu(&sample), None, "nobody counts the CPU");
    }

    #[test]
    fn pressure_is_told_in_nanoseconds() {
        let some = Stall { avg10: 1.5, total: 7, ..Stall::default() };
        let psi = pressure(Pressure { some, full: Stall::default() });
        assert_eq!((psi.some.unwrap().total, psi.full.unwrap().total), (7000, 0));
        assert!((psi.some.unwrap().avg10 - 1.5).abs() < 1e-9);
    }
}

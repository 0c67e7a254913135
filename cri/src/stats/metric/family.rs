//! Every metric, once: what it is called, what it means, and which labels it has beside the common ones.
//!
//! Names and labels are those of cAdvisor's Prometheus exporter (its `metrics` package, 0.60) in the sets that the kubelet
//! switches on, less those that no cgroup counts.

use proto::cri;

/// The labels that every metric has, as the kubelet's `/metrics/cadvisor` has them: the cgroup, the runtime's id, the
/// image, and whose it is.
pub const COMMON_LABELS: [&str; 6] = ["id", "name", "image", "container", "pod", "namespace"];

/// What a metric is.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Its kind.
    pub kind: cri::MetricType,
    /// Its labels beside the common ones.
    pub labels: &'static [&'static str],
}

impl Family {
    const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, help, kind: cri::MetricType::Counter, labels }
    }

    const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, help, kind: cri::MetricType::Gauge, labels }
    }

    /// CRI's form.
    #[must_use]
    pub fn to_wire(&self) -> cri::MetricDescriptor {
        let labels = COMMON_LABELS.iter().chain(self.labels);
        cri::MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: labels.map(ToString::to_string).collect(),
        }
    }
}

pub const LAST_SEEN: Family = Family::gauge(
    "container_last_seen",
    &[],
    "When the container was seen last, in seconds since the epoch.",
);
pub const START_TIME: Family = Family::gauge(
    "container_start_time_seconds",
    &[],
    "When the container was started, in seconds since the epoch.",
);
pub const SPEC_CPU_PERIOD: Family = Family::gauge(
    "container_spec_cpu_period",
    &[],
    "The period of the CPU limit, in microseconds.",
);
pub const SPEC_CPU_QUOTA: Family =
    Family::gauge("container_spec_cpu_quota", &[], "The CPU limit: microseconds in each period.");
pub const SPEC_CPU_SHARES: Family =
    Family::gauge("container_spec_cpu_shares", &[], "The weight among those that want the CPU.");
pub const SPEC_MEMORY_LIMIT: Family =
    Family::gauge("container_spec_memory_limit_bytes", &[], "The memory limit; zero is none.");
pub const SPEC_MEMORY_RESERVATION: Family = Family::gauge(
    "container_spec_memory_reservation_limit_bytes",
    &[],
    "The memory that the kernel leaves to the container; zero is none.",
);
pub const SPEC_MEMORY_SWAP: Family = Family::gauge(
    "container_spec_memory_swap_limit_bytes",
    &[],
    "The limit of memory and swap together; zero is none.",
);
pub const CPU_USER: Family =
    Family::counter("container_cpu_user_seconds_total", &[], "CPU time spent in programs.");
pub const CPU_SYSTEM: Family =
    Family::counter("container_cpu_system_seconds_total", &[], "CPU time spent in the kernel.");
pub const CPU_USAGE: Family =
    Family::counter("container_cpu_usage_seconds_total", &["cpu"], "CPU time spent.");
pub const CFS_PERIODS: Family = Family::counter(
    "container_cpu_cfs_periods_total",
    &[],
    "Periods of the CPU limit that have passed.",
);
pub const CFS_THROTTLED_PERIODS: Family = Family::counter(
    "container_cpu_cfs_throttled_periods_total",
    &[],
    "Periods in which the CPU limit was used up.",
);
pub const CFS_THROTTLED_SECONDS: Family = Family::counter(
    "container_cpu_cfs_throttled_seconds_total",
    &[],
    "Time spent waiting for the next period of the CPU limit.",
);
pub const CFS_BURST_PERIODS: Family = Family::counter(
    "container_cpu_cfs_burst_periods_total",
    &[],
    "Periods in which saved CPU time was used.",
);
pub const CFS_BURST_SECONDS: Family = Family::counter(
    "container_cpu_cfs_burst_seconds_total",
    &[],
    "CPU time used above the limit from what was saved.",
);
pub const MEMORY_CACHE: Family =
    Family::gauge("container_memory_cache", &[], "Memory for pages of files.");
pub const MEMORY_RSS: Family =
    Family::gauge("container_memory_rss", &[], "Memory of the processes themselves.");
pub const MEMORY_KERNEL: Family = Family::gauge(
    "container_memory_kernel_usage",
    &[],
    "Memory that the kernel uses for the container.",
);
pub const MEMORY_MAPPED: Family = Family::gauge(
    "container_memory_mapped_file",
    &[],
    "Memory for pages of files that are mapped.",
);
pub const MEMORY_SWAP: Family =
    Family::gauge("container_memory_swap", &[], "Memory that is in swap.");
pub const MEMORY_FAILCNT: Family =
    Family::counter("container_memory_failcnt", &[], "How often the memory limit was reached.");
pub const MEMORY_USAGE: Family =
    Family::gauge("container_memory_usage_bytes", &[], "Memory charged, whoever may have it back.");
pub const MEMORY_MAX_USAGE: Family = Family::gauge(
    "container_memory_max_usage_bytes",
    &[],
    "The most memory that was ever charged.",
);
pub const MEMORY_WORKING_SET: Family = Family::gauge(
    "container_memory_working_set_bytes",
    &[],
    "Memory that cannot be taken back at once.",
);
pub const MEMORY_ACTIVE_FILE: Family = Family::gauge(
    "container_memory_total_active_file_bytes",
    &[],
    "Memory for pages of files that are in use.",
);
pub const MEMORY_INACTIVE_FILE: Family = Family::gauge(
    "container_memory_total_inactive_file_bytes",
    &[],
    "Memory for pages of files that nobody has used lately.",
);
pub const MEMORY_FAILURES: Family = Family::counter(
    "container_memory_failures_total",
    &["failure_type", "scope"],
    "Page faults, by kind.",
);
pub const MEMORY_EVENTS_HIGH: Family = Family::counter(
    "container_memory_events_high_total",
    &[],
    "How often the container was slowed down for being above memory.high.",
);
pub const MEMORY_EVENTS_MAX: Family = Family::counter(
    "container_memory_events_max_total",
    &[],
    "How often the container was about to go beyond its memory limit.",
);
pub const MEMORY_DIRTY: Family = Family::gauge(
    "container_memory_file_dirty_bytes",
    &[],
    "Memory for pages of files that wait to be written.",
);
pub const MEMORY_WRITEBACK: Family = Family::gauge(
    "container_memory_file_writeback_bytes",
    &[],
    "Memory for pages of files that are being written.",
);
pub const MEMORY_PGSCAN: Family = Family::counter(
    "container_memory_pgscan_total",
    &[],
    "Pages looked at to find some to take back.",
);
pub const MEMORY_PGSTEAL: Family =
    Family::counter("container_memory_pgsteal_total", &[], "Pages taken back.");
pub const MEMORY_REFAULT_FILE: Family = Family::counter(
    "container_memory_workingset_refault_file_total",
    &[],
    "Pages of files that were taken back too early.",
);
pub const MEMORY_REFAULT_ANON: Family = Family::counter(
    "container_memory_workingset_refault_anon_total",
    &[],
    "Pages of processes that were taken back too early.",
);
pub const OOM_EVENTS: Family = Family::counter(
    "container_oom_events_total",
    &[],
    "How many processes the kernel has killed for want of memory.",
);
pub const HUGE_USAGE: Family =
    Family::gauge("container_hugetlb_usage_bytes", &["pagesize"], "Huge pages in use.");
pub const HUGE_MAX_USAGE: Family = Family::gauge(
    "container_hugetlb_max_usage_bytes",
    &["pagesize"],
    "The most huge pages that ever were in use.",
);
pub const FS_INODES_FREE: Family = Family::gauge(
    "container_fs_inodes_free",
    &["device"],
    "Inodes that are free on the file system.",
);
pub const FS_INODES_TOTAL: Family =
    Family::gauge("container_fs_inodes_total", &["device"], "Inodes of the file system.");
pub const FS_LIMIT: Family =
    Family::gauge("container_fs_limit_bytes", &["device"], "The size of the file system.");
pub const FS_USAGE: Family = Family::gauge(
    "container_fs_usage_bytes",
    &["device"],
    "What the container has written into its root file system.",
);
pub const FS_READS_BYTES: Family =
    Family::counter("container_fs_reads_bytes_total", &["device"], "Bytes read from the device.");
pub const FS_READS: Family =
    Family::counter("container_fs_reads_total", &["device"], "Reads from the device.");
pub const FS_WRITES_BYTES: Family =
    Family::counter("container_fs_writes_bytes_total", &["device"], "Bytes written to the device.");
pub const FS_WRITES: Family =
    Family::counter("container_fs_writes_total", &["device"], "Writes to the device.");
pub const BLKIO_USAGE: Family = Family::counter(
    "container_blkio_device_usage_total",
    &["device", "major", "minor", "operation"],
    "Bytes, by device and operation.",
);
pub const NET_RX_BYTES: Family =
    Family::counter("container_network_receive_bytes_total", &["interface"], "Bytes received.");
pub const NET_RX_PACKETS: Family =
    Family::counter("container_network_receive_packets_total", &["interface"], "Packets received.");
pub const NET_RX_DROPPED: Family = Family::counter(
    "container_network_receive_packets_dropped_total",
    &["interface"],
    "Packets that came in and were thrown away.",
);
pub const NET_RX_ERRORS: Family = Family::counter(
    "container_network_receive_errors_total",
    &["interface"],
    "Packets that came in with errors.",
);
pub const NET_TX_BYTES: Family =
    Family::counter("container_network_transmit_bytes_total", &["interface"], "Bytes sent.");
pub const NET_TX_PACKETS: Family =
    Family::counter("container_network_transmit_packets_total", &["interface"], "Packets sent.");
pub const NET_TX_DROPPED: Family = Family::counter(
    "container_network_transmit_packets_dropped_total",
    &["interface"],
    "Packets that were thrown away instead of being sent.",
);
pub const NET_TX_ERRORS: Family = Family::counter(
    "container_network_transmit_errors_total",
    &["interface"],
    "Packets that could not be sent.",
);
pub const PROCESSES: Family = Family::gauge("container_processes", &[], "Processes.");
pub const FILE_DESCRIPTORS: Family =
    Family::gauge("container_file_descriptors", &[], "Open files of all processes.");
pub const SOCKETS: Family =
    Family::gauge("container_sockets", &[], "Open sockets of all processes.");
pub const THREADS_MAX: Family =
    Family::gauge("container_threads_max", &[], "Threads at most; zero is no limit.");
pub const THREADS: Family = Family::gauge("container_threads", &[], "Threads.");
pub const ULIMITS_SOFT: Family =
    Family::gauge("container_ulimits_soft", &["ulimit"], "Limits of the first process.");
pub const PSI_CPU_FULL: Family = Family::counter(
    "container_pressure_cpu_stalled_seconds_total",
    &[],
    "Time in which nobody in the container could go on for want of a CPU.",
);
pub const PSI_CPU_SOME: Family = Family::counter(
    "container_pressure_cpu_waiting_seconds_total",
    &[],
    "Time in which somebody in the container waited for a CPU.",
);
pub const PSI_MEMORY_FULL: Family = Family::counter(
    "container_pressure_memory_stalled_seconds_total",
    &[],
    "Time in which nobody in the container could go on for want of memory.",
);
pub const PSI_MEMORY_SOME: Family = Family::counter(
    "container_pressure_memory_waiting_seconds_total",
    &[],
    "Time in which somebody in the container waited for memory.",
);
pub const PSI_IO_FULL: Family = Family::counter(
    "container_pressure_io_stalled_seconds_total",
    &[],
    "Time in which nobody in the container could go on for want of a device.",
);
pub const PSI_IO_SOME: Family = Family::counter(
    "container_pressure_io_waiting_seconds_total",
    &[],
    "Time in which somebody in the container waited for a device.",
);

/// All of them.
pub const FAMILIES: [&Family; 68] = [
    &LAST_SEEN,
    &START_TIME,
    &SPEC_CPU_PERIOD,
    &SPEC_CPU_QUOTA,
    &SPEC_CPU_SHARES,
    &SPEC_MEMORY_LIMIT,
    &SPEC_MEMORY_RESERVATION,
    &SPEC_MEMORY_SWAP,
    &CPU_USER,
    &CPU_SYSTEM,
    &CPU_USAGE,
    &CFS_PERIODS,
    &CFS_THROTTLED_PERIODS,
    &CFS_THROTTLED_SECONDS,
    &CFS_BURST_PERIODS,
    &CFS_BURST_SECONDS,
    &MEMORY_CACHE,
    &MEMORY_RSS,
    &MEMORY_KERNEL,
    &MEMORY_MAPPED,
    &MEMORY_SWAP,
    &MEMORY_FAILCNT,
    &MEMORY_USAGE,
    &MEMORY_MAX_USAGE,
    &MEMORY_WORKING_SET,
    &MEMORY_ACTIVE_FILE,
    &MEMORY_INACTIVE_FILE,
    &MEMORY_FAILURES,
    &MEMORY_EVENTS_HIGH,
    &MEMORY_EVENTS_MAX,
    &MEMORY_DIRTY,
    &MEMORY_WRITEBACK,
    &MEMORY_PGSCAN,
    &MEMORY_PGSTEAL,
    &MEMORY_REFAULT_FILE,
    &MEMORY_REFAULT_ANON,
    &OOM_EVENTS,
    &HUGE_USAGE,
    &HUGE_MAX_USAGE,
    &FS_INODES_FREE,
    &FS_INODES_TOTAL,
    &FS_LIMIT,
    &FS_USAGE,
    &FS_READS_BYTES,
    &FS_READS,
    &FS_WRITES_BYTES,
    &FS_WRITES,
    &BLKIO_USAGE,
    &NET_RX_BYTES,
    &NET_RX_PACKETS,
    &NET_RX_DROPPED,
    &NET_RX_ERRORS,
    &NET_TX_BYTES,
    &NET_TX_PACKETS,
    &NET_TX_DROPPED,
    &NET_TX_ERRORS,
    &PROCESSES,
    &FILE_DESCRIPTORS,
    &SOCKETS,
    &THREADS_MAX,
    &THREADS,
    &ULIMITS_SOFT,
    &PSI_CPU_FULL,
    &PSI_CPU_SOME,
    &PSI_MEMORY_FULL,
    &PSI_MEMORY_SOME,
    &PSI_IO_FULL,
    &PSI_IO_SOME,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own() {
        let names: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            // As Prometheus has it, but for this one of cAdvisor's.
            let total =
                family.name.ends_with("_total") && family.name != "container_fs_inodes_total";
            let counts = family.kind == cri::MetricType::Counter;
            assert!(counts || !total, "{}", family.name);
        }
    }
}

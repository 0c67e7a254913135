//! As containerd's messages have it: `io.containerd.cgroups.v1.Metrics` and `v2.Metrics`.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::Any;
use proto::shim::cgroups::{v1, v2};

use sys::cgroup::{Counter, Io, IoEntry, Memory, Pressure, Rdma, Stall, Stats};

const MICROSECOND: u64 = 1000;

/// What `Task.Stats` answers: the message of the version that counts the memory, with its type's name.
#[must_use]
pub fn to_metrics(stats: &Stats) -> Any {
    let (name, value) = if stats.legacy {
        ("io.containerd.cgroups.v1.Metrics", legacy(stats).encode_to_vec())
    } else {
        ("io.containerd.cgroups.v2.Metrics", unified(stats).encode_to_vec())
    };
    Any { type_url: name.to_owned(), value }
}

fn legacy(stats: &Stats) -> v1::Metrics {
    let cpu = &stats.cpu;
    let memory = &stats.memory;
    v1::Metrics {
        hugetlb: stats
            .hugetlb
            .iter()
            .map(|row| v1::HugetlbStat {
                usage: row.counter.usage,
                max: row.counter.peak,
                failcnt: row.counter.failures,
                pagesize: row.size.clone(),
            })
            .collect(),
        // Zero says that there is no limit.
        pids: Some(v1::PidsStat { current: stats.pids.current, limit: limit_or_zero(stats) }),
        cpu: Some(v1::CpuStat {
            usage: Some(v1::CpuUsage {
                total: cpu.usage,
                kernel: cpu.system,
                user: cpu.user,
                per_cpu: cpu.per_cpu.clone(),
            }),
            throttling: Some(v1::Throttle {
                periods: cpu.periods,
                throttled_periods: cpu.throttled_periods,
                throttled_time: cpu.throttled,
            }),
        }),
        memory: Some(legacy_memory(memory)),
        blkio: Some(legacy_io(&stats.io)),
        rdma: Some(v1::RdmaStat {
            current: legacy_rdma(&stats.rdma),
            limit: legacy_rdma(&stats.rdma_limit),
        }),
        memory_oom_control: Some(v1::MemoryOomControl {
            oom_kill_disable: memory.oom_kill_disabled.into(),
            under_oom: memory.under_oom.into(),
            oom_kill: memory.oom_kills,
        }),
        ..v1::Metrics::default()
    }
}

fn legacy_memory(memory: &Memory) -> v1::MemoryStat {
    let get = |name: &str| memory.stat.or_zero(name);
    let entry = |counter: &Counter| {
        let Counter { usage, peak, limit, failures } = *counter;
        Some(v1::MemoryEntry { limit, usage, max: peak, failcnt: failures })
    };
    v1::MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: entry(&memory.memory),
        swap: entry(&memory.with_swap),
        kernel: entry(&memory.kernel),
        kernel_tcp: entry(&memory.kernel_tcp),
    }
}

fn legacy_io(io: &Io) -> v1::BlkIoStat {
    let rows = |rows: &[IoEntry]| {
        let row = |row: &IoEntry| v1::BlkIoEntry {
            op: row.operation.clone(),
            device: String::new(),
            major: row.major,
            minor: row.minor,
            value: row.value,
        };
        rows.iter().map(row).collect()
    };
    v1::BlkIoStat {
        io_service_bytes_recursive: rows(&io.bytes),
        io_serviced_recursive: rows(&io.operations),
        io_queued_recursive: rows(&io.queued),
        io_service_time_recursive: rows(&io.service_time),
        io_wait_time_recursive: rows(&io.wait_time),
        io_merged_recursive: rows(&io.merged),
        io_time_recursive: rows(&io.time),
        sectors_recursive: rows(&io.sectors),
    }
}

fn legacy_rdma(rows: &[Rdma]) -> Vec<v1::RdmaEntry> {
    let row = |row: &Rdma| v1::RdmaEntry {
        device: row.device.clone(),
        hca_handles: row.handles,
        hca_objects: row.objects,
    };
    rows.iter().map(row).collect()
}

fn unified(stats: &Stats) -> v2::Metrics {
    let cpu = &stats.cpu;
    let event = |name: &str| stats.memory.events.or_zero(name);
    v2::Metrics {
        pids: Some(v2::PidsStat { current: stats.pids.current, limit: limit_or_zero(stats) }),
        cpu: Some(v2::CpuStat {
            usage_usec: cpu.usage / MICROSECOND,
            user_usec: cpu.user / MICROSECOND,
            system_usec: cpu.system / MICROSECOND,
            nr_periods: cpu.periods,
            nr_throttled: cpu.throttled_periods,
            throttled_usec: cpu.throttled / MICROSECOND,
            psi: pressure(cpu.pressure),
            nr_bursts: cpu.bursts,
            burst_usec: cpu.burst / MICROSECOND,
        }),
        memory: Some(unified_memory(&stats.memory)),
        rdma: Some(v2::RdmaStat {
            current: unified_rdma(&stats.rdma),
            limit: unified_rdma(&stats.rdma_limit),
        }),
        io: Some(v2::IoStat { usage: unified_io(&stats.io), psi: pressure(stats.io.pressure) }),
        hugetlb: stats
            .hugetlb
            .iter()
            .map(|row| v2::HugeTlbStat {
                current: row.counter.usage,
                max: row.counter.limit,
                pagesize: row.size.clone(),
                failcnt: row.counter.failures,
            })
            .collect(),
        memory_events: Some(v2::MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            oom_group_kill: event("oom_group_kill"),
        }),
        network: Vec::new(),
    }
}

#[allow(deprecated)]
fn unified_memory(memory: &Memory) -> v2::MemoryStat {
    let get = |name: &str| memory.stat.or_zero(name);
    v2::MemoryStat {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        workingset_refault: get("workingset_refault"),
        workingset_activate: get("workingset_activate"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        usage: memory.memory.usage,
        usage_limit: memory.memory.limit,
        swap_usage: memory.swap.usage,
        swap_limit: memory.swap.limit,
        max_usage: memory.memory.peak,
        swap_max_usage: memory.swap.peak,
        psi: pressure(memory.pressure),
        workingset_refault_anon: get("workingset_refault_anon"),
        workingset_refault_file: get("workingset_refault_file"),
        workingset_activate_anon: get("workingset_activate_anon"),
        workingset_activate_file: get("workingset_activate_file"),
    }
}

/// A row for each device, with both operations.
fn unified_io(io: &Io) -> Vec<v2::IoEntry> {
    let mut rows: BTreeMap<(u64, u64), v2::IoEntry> = BTreeMap::new();
    let mut add = |entries: &[IoEntry], put: fn(&mut v2::IoEntry, &str, u64)| {
        for entry in entries {
            let (major, minor) = (entry.major, entry.minor);
            let new = v2::IoEntry { major, minor, ..v2::IoEntry::default() };
            put(rows.entry((major, minor)).or_insert(new), &entry.operation, entry.value);
        }
    };
    add(&io.bytes, |row, operation, value| match operation {
        "Read" => row.rbytes = value,
        "Write" => row.wbytes = value,
        _ => {}
    });
    add(&io.operations, |row, operation, value| match operation {
        "Read" => row.rios = value,
        "Write" => row.wios = value,
        _ => {}
    });
    rows.into_values().collect()
}

fn unified_rdma(rows: &[Rdma]) -> Vec<v2::RdmaEntry> {
    let row = |row: &Rdma| v2::RdmaEntry {
        device: row.device.clone(),
        hca_handles: row.handles,
        hca_objects: row.objects,
    };
    rows.iter().map(row).collect()
}

fn pressure(pressure: Option<Pressure>) -> Option<v2::PsiStats> {
    let data = |stall: Stall| {
        let Stall { avg10, avg60, avg300, total } = stall;
        Some(v2::PsiData { avg10, avg60, avg300, total })
    };
    pressure.map(|Pressure { some, full }| v2::PsiStats { some: data(some), full: data(full) })
}

fn limit_or_zero(stats: &Stats) -> u64 {
    if stats.pids.limit == u64::MAX { 0 } else { stats.pids.limit }
}

//! The figures of a container and of a pod, metric by metric.

use std::path::Path;

use sys::cgroup::{IoEntry, Pressure};
use sys::netns::Interface;

use super::device;
use super::family as f;
use super::rows::{PodRows, Rows};
use crate::clock::Nanos;
use crate::container::Container;
use crate::limits::Resources;
use crate::sandbox::Sandbox;
use crate::stats::meter::Detail;
use crate::stats::sample::swap;

const SECOND: u64 = 1_000_000_000;
/// The kernel counts pressure in microseconds.
const PRESSURE_SECOND: u64 = 1_000_000;

/// The file system that root file systems are on.
#[derive(Debug, Default)]
pub struct Disk {
    device: String,
    bytes: u64,
    inodes: u64,
    inodes_free: u64,
}

impl Disk {
    /// The file system of a folder. Blocks.
    pub fn of(root: &Path) -> Self {
        let Ok(found) = rustix::fs::statvfs(root) else { return Self::default() };
        let Ok(stat) = rustix::fs::stat(root) else { return Self::default() };
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        Self {
            device: device::name(major.into(), minor.into()),
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            inodes: found.f_files,
            inodes_free: found.f_ffree,
        }
    }
}

/// Adds what a pod has of its own: interfaces, and its cgroup if no other pod is in it.
pub fn pod(
    out: &mut PodRows<'_>,
    sandbox: &Sandbox,
    whole: Option<&Detail>,
    interfaces: Option<&Vec<Interface>>,
) {
    let metadata = &sandbox.record.config.metadata;
    let (id, name, namespace) = (sandbox.id().as_str(), &metadata.name, &metadata.namespace);
    let parent = sandbox.record.config.cgroup_parent.own_path().unwrap_or_default();
    let path = parent.display().to_string();
    let labels = [path.as_str(), id, "", "", name, namespace];
    out.own(labels, Nanos::now().get(), |rows| {
        for interface in interfaces.into_iter().flatten() {
            network(rows, interface);
        }
    });
    // A cgroup as cAdvisor shows it: it belongs to no container and has no id of a runtime's.
    let labels = [path.as_str(), "", "", "", name, namespace];
    if let Some(detail) = whole {
        out.own(labels, detail.at, |rows| {
            cgroup(rows, detail);
        });
    }
}

/// Adds a container.
pub fn container(
    out: &mut PodRows<'_>,
    sandbox: &Sandbox,
    container: &Container,
    (detail, limits): (&Detail, &Resources),
    disk: &Disk,
) {
    let (record, pod) = (&container.record, &sandbox.record.config.metadata);
    let image = match record.config.image.user_specified.as_str() {
        "" => &record.config.image.image,
        name => name,
    };
    let labels = [
        detail.path.as_str(),
        record.id.as_str(),
        image,
        record.config.metadata.name.as_str(),
        pod.name.as_str(),
        pod.namespace.as_str(),
    ];
    out.container(record.id.as_str(), labels, detail.at, |rows| {
        rows.add(&f::LAST_SEEN, seconds(detail.at));
        let started_at = container.state.borrow().started_at();
        rows.add(&f::START_TIME, started_at.map_or(0, |at| seconds(at.get())));
        spec(rows, limits);
        cgroup(rows, detail);
        file_system(rows, disk, container.layer.written().map_or(0, |written| written.usage.bytes));
        processes(rows, detail);
    });
}

fn seconds(nanos: i64) -> u64 {
    nanos.unsigned_abs() / SECOND
}

fn spec(rows: &mut Rows<'_>, resources: &Resources) {
    let positive = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
    rows.add(&f::SPEC_CPU_PERIOD, resources.cpu_period.unwrap_or(0));
    if let Some(quota) = resources.cpu_quota.and_then(|quota| u64::try_from(quota).ok()) {
        rows.add(&f::SPEC_CPU_QUOTA, quota);
    }
    rows.add(&f::SPEC_CPU_SHARES, resources.cpu_shares.unwrap_or(0));
    rows.add(&f::SPEC_MEMORY_LIMIT, positive(resources.memory_limit));
    let reserved = resources.unified.get("memory.min").and_then(|text| text.parse().ok());
    rows.add(&f::SPEC_MEMORY_RESERVATION, reserved.unwrap_or(0));
    rows.add(&f::SPEC_MEMORY_SWAP, positive(resources.memory_swap));
}

/// What the kernel counts for a cgroup, a container's or a pod's.
fn cgroup(rows: &mut Rows<'_>, detail: &Detail) {
    let cpu = &detail.cpu;
    rows.add(&f::CPU_USER, cpu.user / SECOND);
    rows.add(&f::CPU_SYSTEM, cpu.system / SECOND);
    rows.labelled(&f::CPU_USAGE, ["total"], cpu.usage / SECOND);
    // As cAdvisor: without a limit there are no periods.
    if detail.limited {
        rows.add(&f::CFS_PERIODS, cpu.periods);
        rows.add(&f::CFS_THROTTLED_PERIODS, cpu.throttled_periods);
        rows.add(&f::CFS_THROTTLED_SECONDS, cpu.throttled / SECOND);
        rows.add(&f::CFS_BURST_PERIODS, cpu.bursts);
        rows.add(&f::CFS_BURST_SECONDS, cpu.burst / SECOND);
    }
    memory(rows, detail);
    for row in &detail.huge_pages {
        rows.labelled(&f::HUGE_USAGE, [&row.size], row.counter.usage);
        rows.labelled(&f::HUGE_MAX_USAGE, [&row.size], row.counter.peak);
    }
    block(rows, detail);
    let mut psi = |pressure: Option<Pressure>, some, full| {
        if let Some(pressure) = pressure {
            rows.add(some, pressure.some.total / PRESSURE_SECOND);
            rows.add(full, pressure.full.total / PRESSURE_SECOND);
        }
    };
    psi(cpu.pressure, &f::PSI_CPU_SOME, &f::PSI_CPU_FULL);
    psi(detail.memory.pressure, &f::PSI_MEMORY_SOME, &f::PSI_MEMORY_FULL);
    psi(detail.io.pressure, &f::PSI_IO_SOME, &f::PSI_IO_FULL);
}

fn memory(rows: &mut Rows<'_>, detail: &Detail) {
    let memory = &detail.memory;
    let first = |names: &[&str]| memory.first(names);
    rows.add(&f::MEMORY_CACHE, memory.cache());
    rows.add(&f::MEMORY_RSS, memory.rss());
    // Version 2 has the kernel's part in memory.stat since Linux 5.18.
    rows.add(&f::MEMORY_KERNEL, memory.kernel.usage.max(first(&["kernel"])));
    rows.add(&f::MEMORY_MAPPED, first(&["total_mapped_file", "mapped_file", "file_mapped"]));
    rows.add(&f::MEMORY_SWAP, swap(memory).0);
    rows.add(&f::MEMORY_FAILCNT, memory.memory.failures);
    rows.add(&f::MEMORY_USAGE, memory.memory.usage);
    rows.add(&f::MEMORY_MAX_USAGE, memory.memory.peak);
    rows.add(&f::MEMORY_WORKING_SET, memory.working_set());
    rows.add(&f::MEMORY_ACTIVE_FILE, first(&["total_active_file", "active_file"]));
    rows.add(&f::MEMORY_INACTIVE_FILE, first(&["total_inactive_file", "inactive_file"]));
    for (kind, own, all) in
        [("pgfault", "pgfault", "total_pgfault"), ("pgmajfault", "pgmajfault", "total_pgmajfault")]
    {
        rows.labelled(&f::MEMORY_FAILURES, [kind, "container"], first(&[own]));
        rows.labelled(&f::MEMORY_FAILURES, [kind, "hierarchy"], first(&[all, own]));
    }
    rows.add(&f::MEMORY_EVENTS_HIGH, memory.events.or_zero("high"));
    rows.add(&f::MEMORY_EVENTS_MAX, memory.events.or_zero("max"));
    rows.add(&f::MEMORY_DIRTY, first(&["total_dirty", "dirty", "file_dirty"]));
    rows.add(&f::MEMORY_WRITEBACK, first(&["total_writeback", "writeback", "file_writeback"]));
    rows.add(&f::MEMORY_PGSCAN, first(&["pgscan"]));
    rows.add(&f::MEMORY_PGSTEAL, first(&["pgsteal"]));
    rows.add(&f::MEMORY_REFAULT_FILE, first(&["workingset_refault_file"]));
    rows.add(&f::MEMORY_REFAULT_ANON, first(&["workingset_refault_anon"]));
    rows.add(&f::OOM_EVENTS, memory.oom_kills);
}

fn block(rows: &mut Rows<'_>, detail: &Detail) {
    let mut each = |entries: &[IoEntry], read, write, bytes: bool| {
        for entry in entries {
            let name = device::name(entry.major, entry.minor);
            match entry.operation.as_str() {
                "Read" => rows.labelled(read, [&name], entry.value),
                "Write" => rows.labelled(write, [&name], entry.value),
                _ => {}
            }
            if bytes && !entry.operation.is_empty() {
                let (major, minor) = (entry.major.to_string(), entry.minor.to_string());
                let labels = [name.as_str(), &major, &minor, &entry.operation];
                rows.labelled(&f::BLKIO_USAGE, labels, entry.value);
            }
        }
    };
    each(&detail.io.bytes, &f::FS_READS_BYTES, &f::FS_WRITES_BYTES, true);
    each(&detail.io.operations, &f::FS_READS, &f::FS_WRITES, false);
}

fn file_system(rows: &mut Rows<'_>, disk: &Disk, written: u64) {
    let device = [disk.device.as_str()];
    rows.labelled(&f::FS_INODES_FREE, device, disk.inodes_free);
    rows.labelled(&f::FS_INODES_TOTAL, device, disk.inodes);
    rows.labelled(&f::FS_LIMIT, device, disk.bytes);
    rows.labelled(&f::FS_USAGE, device, written);
}

fn processes(rows: &mut Rows<'_>, detail: &Detail) {
    let descriptors = &detail.descriptors;
    rows.add(&f::PROCESSES, descriptors.processes);
    rows.add(&f::FILE_DESCRIPTORS, descriptors.open);
    rows.add(&f::SOCKETS, descriptors.sockets);
    let limit = detail.pids.limit;
    rows.add(&f::THREADS_MAX, if limit == u64::MAX { 0 } else { limit });
    rows.add(&f::THREADS, detail.pids.current);
    rows.labelled(&f::ULIMITS_SOFT, ["max_open_files"], descriptors.limit);
}

fn network(rows: &mut Rows<'_>, interface: &Interface) {
    let name = [interface.name.as_str()];
    let (received, sent) = (&interface.received, &interface.sent);
    rows.labelled(&f::NET_RX_BYTES, name, received.bytes);
    rows.labelled(&f::NET_RX_PACKETS, name, received.packets);
    rows.labelled(&f::NET_RX_DROPPED, name, received.dropped);
    rows.labelled(&f::NET_RX_ERRORS, name, received.errors);
    rows.labelled(&f::NET_TX_BYTES, name, sent.bytes);
    rows.labelled(&f::NET_TX_PACKETS, name, sent.packets);
    rows.labelled(&f::NET_TX_DROPPED, name, sent.dropped);
    rows.labelled(&f::NET_TX_ERRORS, name, sent.errors);
}

//! As runc's command line prints it: the `data` of an event of type `stats`.

use serde_json::{Map, Value, json};

use sys::cgroup::{Counter, Fields, Io, IoEntry, Pressure, Stall, Stats};

/// What `events --stats` prints as `data`.
#[must_use]
pub fn to_events(stats: &Stats) -> Value {
    let cpu = &stats.cpu;
    let memory = &stats.memory;
    let hugetlb: Map<String, Value> = stats
        .hugetlb
        .iter()
        .map(|row| {
            let Counter { usage, peak, failures, .. } = row.counter;
            (row.size.clone(), json!({"usage": usage, "max": peak, "failcnt": failures}))
        })
        .collect();
    let limit = if stats.pids.limit == u64::MAX { 0 } else { stats.pids.limit };
    let mut data = json!({
        "cpu": {
            "usage": {
                "total": cpu.usage,
                "percpu": cpu.per_cpu,
                "kernel": cpu.system,
                "user": cpu.user,
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled,
            },
        },
        "memory": {
            "cache": memory.cache(),
            "usage": counter(&memory.memory),
            "swap": counter(&memory.with_swap),
            "kernel": counter(&memory.kernel),
            "kernelTCP": counter(&memory.kernel_tcp),
            "raw": map(&memory.stat),
            "event_count": map(&memory.events),
        },
        "pids": {"current": stats.pids.current, "limit": limit},
        "blkio": io(&stats.io),
        "hugetlb": hugetlb,
        "intel_rdt": {},
        "network_interfaces": null,
    });
    let pressures =
        [("cpu", cpu.pressure), ("memory", memory.pressure), ("blkio", stats.io.pressure)];
    for (place, pressure) in pressures {
        if let Some(pressure) = pressure {
            data[place]["psi"] = psi(&pressure);
        }
    }
    data
}

fn map(fields: &Fields) -> Map<String, Value> {
    fields.iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn counter(counter: &Counter) -> Value {
    let Counter { usage, peak, limit, failures } = *counter;
    json!({"limit": limit, "usage": usage, "max": peak, "failcnt": failures})
}

fn io(io: &Io) -> Value {
    let kinds = [
        ("ioServiceBytesRecursive", &io.bytes),
        ("ioServicedRecursive", &io.operations),
        ("ioQueueRecursive", &io.queued),
        ("ioServiceTimeRecursive", &io.service_time),
        ("ioWaitTimeRecursive", &io.wait_time),
        ("ioMergedRecursive", &io.merged),
        ("ioTimeRecursive", &io.time),
        ("sectorsRecursive", &io.sectors),
    ];
    let row = |row: &IoEntry| {
        let IoEntry { major, minor, operation, value } = row;
        json!({"major": major, "minor": minor, "op": operation, "value": value})
    };
    let filled = kinds.into_iter().filter(|(_, rows)| !rows.is_empty());
    let all: Map<String, Value> =
        filled.map(|(name, rows)| (name.to_owned(), rows.iter().map(row).collect())).collect();
    all.into()
}

fn psi(pressure: &Pressure) -> Value {
    let stall = |stall: &Stall| {
        let Stall { avg10, avg60, avg300, total } = stall;
        json!({"avg10": avg10, "avg60": avg60, "avg300": avg300, "total": total})
    };
    json!({"some": stall(&pressure.some), "full": stall(&pressure.full)})
}

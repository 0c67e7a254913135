//! The files and their formats.

use std::collections::BTreeMap;
use std::fs;

use super::super::folder::Folders;
use super::{Counter, Cpu, HugePages, Io, IoEntry, Memory, Pids, Pressure, Rdma, Stats};

/// What version 1's cpuacct.stat counts in (USER_HZ).
const TICK: u64 = 10_000_000;
const MICROSECOND: u64 = 1000;
/// What memory files of version 1 say for "no limit": the largest number of whole pages, whatever their size.
const LEGACY_UNLIMITED: u64 = (i64::MAX as u64) & !0xffff;

/// Reads everything.
pub fn all(folders: &Folders) -> Stats {
    let numbers = |file| rdma(&folders.read("rdma", [file, file]).unwrap_or_default());
    Stats {
        legacy: folders.legacy("memory").is_some() || folders.unified().is_none(),
        cpu: cpu(folders),
        memory: memory(folders),
        pids: Pids {
            current: number(folders, "pids", ["pids.current"; 2]).unwrap_or(0),
            limit: number(folders, "pids", ["pids.max"; 2]).unwrap_or(u64::MAX),
        },
        io: io(folders),
        hugetlb: huge_pages(folders),
        rdma: numbers("rdma.current"),
        rdma_limit: numbers("rdma.max"),
    }
}

fn cpu(folders: &Folders) -> Cpu {
    let throttle = fields(&folders.read("cpu", ["cpu.stat"; 2]).unwrap_or_default());
    let get = |name: &str| throttle.get(name).copied().unwrap_or(0);
    // Version 2 has the times there, too, in microseconds.
    let micro = |name: &str| get(name).saturating_mul(MICROSECOND);
    let mut cpu = Cpu {
        usage: micro("usage_usec"),
        user: micro("user_usec"),
        system: micro("system_usec"),
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled: get("throttled_time").max(micro("throttled_usec")),
        bursts: get("nr_bursts"),
        burst: get("burst_time").max(micro("burst_usec")),
        per_cpu: Vec::new(),
        pressure: pressure(folders, "cpu.pressure"),
    };
    if let Some(usage) = number(folders, "cpuacct", ["cpuacct.usage", ""]) {
        let stat = fields(&folders.read("cpuacct", ["cpuacct.stat", ""]).unwrap_or_default());
        let ticks = |name: &str| stat.get(name).copied().unwrap_or(0).saturating_mul(TICK);
        let each = folders.read("cpuacct", ["cpuacct.usage_percpu", ""]).unwrap_or_default();
        cpu.usage = usage;
        cpu.user = ticks("user");
        cpu.system = ticks("system");
        cpu.per_cpu = each.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    }
    cpu
}

fn memory(folders: &Folders) -> Memory {
    let legacy = folders.legacy("memory").is_some();
    let events = folders.read("memory", ["", "memory.events"]);
    let events = fields(&events.unwrap_or_default());
    let control = folders.read("memory", ["memory.oom_control", ""]);
    let control = fields(&control.unwrap_or_default());
    let event = |name: &str| events.get(name).copied().unwrap_or(0);
    let flag = |name: &str| control.get(name).is_some_and(|value| *value != 0);
    let mut memory = counter(folders, "memory", ["memory", "memory"]);
    memory.failures = memory.failures.max(event("max"));
    let swap = counter(folders, "memory", ["", "memory.swap"]);
    let with_swap = if legacy {
        counter(folders, "memory", ["memory.memsw", ""])
    } else {
        Counter {
            usage: memory.usage.saturating_add(swap.usage),
            limit: memory.limit.saturating_add(swap.limit),
            ..Counter::default()
        }
    };
    Memory {
        memory,
        with_swap,
        swap,
        kernel: counter(folders, "memory", ["memory.kmem", ""]),
        kernel_tcp: counter(folders, "memory", ["memory.kmem.tcp", ""]),
        stat: fields(&folders.read("memory", ["memory.stat"; 2]).unwrap_or_default()),
        oom_kills: event("oom_kill").max(control.get("oom_kill").copied().unwrap_or(0)),
        events,
        oom_kill_disabled: flag("oom_kill_disable"),
        under_oom: flag("under_oom"),
        pressure: pressure(folders, "memory.pressure"),
    }
}

/// A counter whose files begin with `names`, in either version; an empty name says that this version has none.
fn counter(folders: &Folders, controller: &str, names: [&str; 2]) -> Counter {
    let read = |one: &str, two: &str| {
        let [first, second] = names;
        let file = |name: &str, word: &str| {
            if name.is_empty() { String::new() } else { format!("{name}.{word}") }
        };
        number(folders, controller, [&file(first, one), &file(second, two)])
    };
    Counter {
        usage: read("usage_in_bytes", "current").unwrap_or(0),
        peak: read("max_usage_in_bytes", "peak").unwrap_or(0),
        limit: read("limit_in_bytes", "max")
            .filter(|limit| *limit < LEGACY_UNLIMITED)
            .unwrap_or(u64::MAX),
        failures: read("failcnt", "").unwrap_or(0),
    }
}

fn io(folders: &Folders) -> Io {
    let pressure = pressure(folders, "io.pressure");
    if folders.legacy("blkio").is_none() {
        let text = folders.read("io", ["", "io.stat"]).unwrap_or_default();
        let kinds = |kinds: [(&str, &str); 3]| unified_io(&text, &kinds);
        return Io {
            bytes: kinds([("rbytes", "Read"), ("wbytes", "Write"), ("dbytes", "Discard")]),
            operations: kinds([("rios", "Read"), ("wios", "Write"), ("dios", "Discard")]),
            pressure,
            ..Io::default()
        };
    }
    // BFQ counts what it schedules, and the throttle everything.
    let read = |word: &str| {
        let names = ["bfq.", "", "throttle."].map(|by| format!("blkio.{by}{word}_recursive"));
        let texts = names.iter().filter_map(|name| folders.read("blkio", [name, ""]));
        texts.map(|text| legacy_io(&text)).find(|rows| !rows.is_empty()).unwrap_or_default()
    };
    Io {
        bytes: read("io_service_bytes"),
        operations: read("io_serviced"),
        queued: read("io_queued"),
        service_time: read("io_service_time"),
        wait_time: read("io_wait_time"),
        merged: read("io_merged"),
        time: read("time"),
        sectors: read("sectors"),
        pressure,
    }
}

/// "8:0 rbytes=1 wbytes=2 …", a line for each device.
fn unified_io(text: &str, kinds: &[(&str, &str)]) -> Vec<IoEntry> {
    let mut rows = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let kind = kinds.iter().find(|(own, _)| *own == name);
            if let (Some((_, operation)), Ok(value)) = (kind, value.parse()) {
                let operation = (*operation).to_owned();
                rows.push(IoEntry { major, minor, operation, value });
            }
        }
    }
    rows
}

/// "8:0 Read 1", "8:0 1", and a "Total 1" that is passed over.
fn legacy_io(text: &str) -> Vec<IoEntry> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = device(words.next()?)?;
        let (first, second) = (words.next()?, words.next());
        let (operation, value) = second.map_or(("", first), |value| (first, value));
        Some(IoEntry { major, minor, operation: operation.to_owned(), value: value.parse().ok()? })
    };
    text.lines().filter_map(row).collect()
}

fn device(word: &str) -> Option<(u64, u64)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Which sizes there are the files' names say.
fn huge_pages(folders: &Folders) -> Vec<HugePages> {
    let legacy = folders.legacy("hugetlb");
    let Some(dir) = legacy.or_else(|| folders.unified()) else { return Vec::new() };
    let last = if legacy.is_some() { ".usage_in_bytes" } else { ".current" };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |name: &str| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(last)?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    let mut sizes: Vec<String> =
        entries.filter_map(|entry| size(entry.file_name().to_str()?)).collect();
    sizes.sort();
    let row = |size: String| {
        let name = format!("hugetlb.{size}");
        let mut counter = counter(folders, "hugetlb", [&name, &name]);
        let file = format!("{name}.events");
        let events = fields(&folders.read("hugetlb", ["", &file]).unwrap_or_default());
        counter.failures = counter.failures.max(events.get("max").copied().unwrap_or(0));
        HugePages { size, counter }
    };
    sizes.into_iter().map(row).collect()
}

/// "mlx5_0 hca_handle=2 hca_object=max", a line for each device.
fn rdma(text: &str) -> Vec<Rdma> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let mut row = Rdma { device: words.next()?.to_owned(), ..Rdma::default() };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(u32::MAX);
            match name {
                "hca_handle" => row.handles = value,
                "hca_object" => row.objects = value,
                _ => {}
            }
        }
        Some(row)
    };
    text.lines().filter_map(row).collect()
}

/// Pressure is counted in the unified hierarchy, also when its controllers are elsewhere.
fn pressure(folders: &Folders, file: &str) -> Option<Pressure> {
    parse_pressure(&fs::read_to_string(folders.unified()?.join(file)).ok()?)
}

/// "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and a line of "full".
fn parse_pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut found = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let stall = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        found = true;
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let average = || value.parse().unwrap_or(0.0);
            match name {
                "avg10" => stall.avg10 = average(),
                "avg60" => stall.avg60 = average(),
                "avg300" => stall.avg300 = average(),
                "total" => stall.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    found.then_some(pressure)
}

/// "name 1", a line for each field.
fn fields(text: &str) -> BTreeMap<String, u64> {
    let field = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(field).collect()
}

/// A file of one number; "max" is none.
fn number(folders: &Folders, controller: &str, files: [&str; 2]) -> Option<u64> {
    folders.read(controller, files)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_both_versions_are_read() {
        let two = "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 \n";
        let rows = unified_io(two, &[("rbytes", "Read"), ("wbytes", "Write")]);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[1].major, rows[1].minor, rows[1].value), (8, 0, 20));
        let one = legacy_io("8:0 Read 10\n8:0 Total 30\n8:16 7\nTotal 40\n");
        assert_eq!(one.len(), 3);
        assert_eq!((one[0].operation.as_str(), one[2].operation.as_str()), ("Read", ""));
        let rows = rdma("mlx5_0 hca_handle=2 hca_object=max\n");
        assert_eq!((rows[0].handles, rows[0].objects), (2, u32::MAX));
    }

    #[test]
    fn pressure_has_two_lines_and_may_be_switched_off() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=123\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = parse_pressure(text).unwrap();
        assert!((pressure.some.avg10 - 1.5).abs() < 1e-9);
        assert_eq!((pressure.some.total, pressure.full.total), (123, 7));
        assert_eq!(parse_pressure(""), None);
    }
}

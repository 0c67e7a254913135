//! The files and their formats.

use super::{
    Counter, Cpu, Fields, Files, HugePages, Io, IoEntry, Memory, Pids, Pressure, Rdma, Stats,
};

/// What version 1's cpuacct.stat counts in (USER_HZ).
const TICK: u64 = 10_000_000;
const MICROSECOND: u64 = 1000;
/// What memory files of version 1 say for "no limit": the largest number of whole pages, whatever their size.
const LEGACY_UNLIMITED: u64 = (i64::MAX as u64) & !0xffff;

/// Reads everything.
pub fn all(files: &mut impl Files) -> Stats {
    let numbers = |files: &mut _, name| rdma(&read(files, "rdma", [name, name]));
    Stats {
        legacy: files.is_legacy("memory") || !files.is_unified(),
        cpu: cpu(files),
        memory: memory(files),
        pids: pids(files),
        io: io(files),
        hugetlb: huge_pages(files),
        rdma: numbers(files, "rdma.current"),
        rdma_limit: numbers(files, "rdma.max"),
    }
}

/// Reads the CPU time alone, in nanoseconds; `None` where nobody counts it.
pub fn cpu_time(files: &mut impl Files) -> Option<u64> {
    if files.is_legacy("cpuacct") {
        return number(files, "cpuacct", ["cpuacct.usage", ""]);
    }
    let stat = Fields::parse(files.read("cpuacct", ["", "cpu.stat"])?);
    stat.get("usage_usec").map(|usage| usage.saturating_mul(MICROSECOND))
}

/// Reads what there is of CPU times.
pub fn cpu(files: &mut impl Files) -> Cpu {
    let mut cpu = cpu_times(files);
    cpu_throttling(files, &mut cpu);
    if files.is_legacy("cpuacct") {
        let each = read(files, "cpuacct", ["cpuacct.usage_percpu", ""]);
        cpu.per_cpu = each.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    }
    cpu
}

/// Reads how long a cgroup has run and waited.
pub fn cpu_times(files: &mut impl Files) -> Cpu {
    let mut cpu = Cpu { pressure: pressure(files, "cpu.pressure"), ..Cpu::default() };
    if let Some(usage) = number(files, "cpuacct", ["cpuacct.usage", ""]) {
        let stat = fields(files, "cpuacct", ["cpuacct.stat", ""]);
        let ticks = |name: &str| stat.or_zero(name).saturating_mul(TICK);
        cpu.usage = usage;
        cpu.user = ticks("user");
        cpu.system = ticks("system");
    } else {
        let stat = fields(files, "cpuacct", ["", "cpu.stat"]);
        let micro = |name: &str| stat.or_zero(name).saturating_mul(MICROSECOND);
        cpu.usage = micro("usage_usec");
        cpu.user = micro("user_usec");
        cpu.system = micro("system_usec");
    }
    cpu
}

/// Reads what a quota has done.
pub fn cpu_throttling(files: &mut impl Files, cpu: &mut Cpu) {
    let stat = fields(files, "cpu", ["cpu.stat"; 2]);
    let micro = |name: &str| stat.or_zero(name).saturating_mul(MICROSECOND);
    cpu.periods = stat.or_zero("nr_periods");
    cpu.throttled_periods = stat.or_zero("nr_throttled");
    cpu.throttled = stat.or_zero("throttled_time").max(micro("throttled_usec"));
    cpu.bursts = stat.or_zero("nr_bursts");
    cpu.burst = stat.or_zero("burst_time").max(micro("burst_usec"));
}

/// Reads the memory in use, in bytes.
pub fn memory_usage(files: &mut impl Files) -> u64 {
    part(files, ["memory", "memory"], USAGE).unwrap_or(0)
}

/// Reads what of the memory changes from moment to moment: usage, memory.stat, pressure. What version 1 counts as memory
/// and swap together is not read.
pub fn memory_now(files: &mut impl Files, usage: u64) -> Memory {
    let unlimited = |usage| Counter { usage, limit: u64::MAX, ..Counter::default() };
    let memory = unlimited(usage);
    let swap = unlimited(part(files, ["", "memory.swap"], USAGE).unwrap_or(0));
    let both = if files.is_legacy("memory") { 0 } else { memory.usage.saturating_add(swap.usage) };
    Memory {
        memory,
        with_swap: unlimited(both),
        swap,
        stat: fields(files, "memory", ["memory.stat"; 2]),
        ..Memory::default()
    }
}

/// Reads the limits of memory and swap.
pub fn memory_limits(files: &mut impl Files, memory: &mut Memory) {
    memory.memory.limit = limit(files, ["memory", "memory"]);
    memory.swap.limit = limit(files, ["", "memory.swap"]);
    memory.with_swap.limit = if files.is_legacy("memory") {
        limit(files, WITH_SWAP)
    } else {
        memory.memory.limit.saturating_add(memory.swap.limit)
    };
}

/// Reads, beside [`memory_now`], what the kernel remembers of memory, and what it uses of it itself.
pub fn memory_history(files: &mut impl Files) -> Memory {
    let usage = memory_usage(files);
    let mut memory = memory_now(files, usage);
    memory.pressure = pressure(files, "memory.pressure");
    let events = fields(files, "memory", ["", "memory.events"]);
    let control = fields(files, "memory", ["memory.oom_control", ""]);
    history(files, &mut memory.memory, ["memory", "memory"]);
    memory.memory.failures = memory.memory.failures.max(events.or_zero("max"));
    memory.kernel.usage = part(files, ["memory.kmem", ""], USAGE).unwrap_or(0);
    memory.oom_kills = events.or_zero("oom_kill").max(control.or_zero("oom_kill"));
    memory.oom_kill_disabled = control.or_zero("oom_kill_disable") != 0;
    memory.under_oom = control.or_zero("under_oom") != 0;
    memory.events = events;
    memory
}

/// Reads what there is of memory.
pub fn memory(files: &mut impl Files) -> Memory {
    let mut memory = memory_history(files);
    memory_limits(files, &mut memory);
    history(files, &mut memory.swap, ["", "memory.swap"]);
    if files.is_legacy("memory") {
        memory.with_swap.usage = part(files, WITH_SWAP, USAGE).unwrap_or(0);
        history(files, &mut memory.with_swap, WITH_SWAP);
    }
    memory.kernel = counter(files, ["memory.kmem", ""]);
    memory.kernel_tcp = counter(files, ["memory.kmem.tcp", ""]);
    memory
}

/// Reads how many processes and threads there are.
pub fn pids_current(files: &mut impl Files) -> u64 {
    number(files, "pids", ["pids.current"; 2]).unwrap_or(0)
}

/// Reads how many processes and threads there are, and may be.
pub fn pids(files: &mut impl Files) -> Pids {
    Pids {
        current: pids_current(files),
        limit: number(files, "pids", ["pids.max"; 2]).unwrap_or(u64::MAX),
    }
}

/// How the files begin of what version 1 counts as memory and swap together.
const WITH_SWAP: [&str; 2] = ["memory.memsw", ""];

/// The last words of a counter's files, in both versions.
const USAGE: [&str; 2] = ["usage_in_bytes", "current"];
const LIMIT: [&str; 2] = ["limit_in_bytes", "max"];
const PEAK: [&str; 2] = ["max_usage_in_bytes", "peak"];

/// A counter whose files begin with `names`, in either version; an empty name says that this version has none.
fn counter(files: &mut impl Files, names: [&str; 2]) -> Counter {
    let usage = part(files, names, USAGE).unwrap_or(0);
    let mut counter = Counter { usage, limit: limit(files, names), ..Counter::default() };
    history(files, &mut counter, names);
    counter
}

/// What the counter remembers.
fn history(files: &mut impl Files, counter: &mut Counter, names: [&str; 2]) {
    counter.peak = part(files, names, PEAK).unwrap_or(0);
    counter.failures = part(files, names, ["failcnt", ""]).unwrap_or(0);
}

fn limit(files: &mut impl Files, names: [&str; 2]) -> u64 {
    part(files, names, LIMIT).filter(|limit| *limit < LEGACY_UNLIMITED).unwrap_or(u64::MAX)
}

/// One file of a counter. Its controller is what its name begins with.
fn part(files: &mut impl Files, names: [&str; 2], words: [&str; 2]) -> Option<u64> {
    let file = |at: usize| {
        let (name, word): (&str, &str) = (names[at], words[at]);
        if name.is_empty() || word.is_empty() { String::new() } else { format!("{name}.{word}") }
    };
    let controller = names.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
    let controller = controller.split('.').next().unwrap_or_default();
    number(files, controller, [&file(0), &file(1)])
}

/// Reads what block devices have done: bytes and operations.
pub fn io_done(files: &mut impl Files) -> Io {
    let pressure = pressure(files, "io.pressure");
    if !files.is_legacy("blkio") {
        let text = read(files, "io", ["", "io.stat"]);
        let kinds = |kinds: [(&str, &str); 3]| unified_io(&text, &kinds);
        return Io {
            bytes: kinds([("rbytes", "Read"), ("wbytes", "Write"), ("dbytes", "Discard")]),
            operations: kinds([("rios", "Read"), ("wios", "Write"), ("dios", "Discard")]),
            pressure,
            ..Io::default()
        };
    }
    Io {
        bytes: block(files, "io_service_bytes"),
        operations: block(files, "io_serviced"),
        pressure,
        ..Io::default()
    }
}

fn io(files: &mut impl Files) -> Io {
    let done = io_done(files);
    if !files.is_legacy("blkio") {
        return done;
    }
    Io {
        queued: block(files, "io_queued"),
        service_time: block(files, "io_service_time"),
        wait_time: block(files, "io_wait_time"),
        merged: block(files, "io_merged"),
        time: block(files, "time"),
        sectors: block(files, "sectors"),
        ..done
    }
}

/// Version 1: BFQ counts what it schedules, and the throttle everything.
fn block(files: &mut impl Files, word: &str) -> Vec<IoEntry> {
    let names = ["bfq.", "", "throttle."].map(|by| format!("blkio.{by}{word}_recursive"));
    let texts = names.iter().filter_map(|name| files.read("blkio", [name, ""]));
    texts.map(|text| legacy_io(&text)).find(|rows| !rows.is_empty()).unwrap_or_default()
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

/// Reads the use of huge pages, with limits and failures.
pub fn huge_pages(files: &mut impl Files) -> Vec<HugePages> {
    let mut rows = huge_pages_used(files);
    for HugePages { size, counter: row } in &mut rows {
        let name = format!("hugetlb.{size}");
        let events = fields(files, "hugetlb", ["", &format!("{name}.events")]);
        let failures = part(files, [&name, ""], ["failcnt", ""]).unwrap_or(0);
        row.failures = failures.max(events.or_zero("max"));
        row.limit = limit(files, [&name, &name]);
    }
    rows
}

/// Reads the use of huge pages alone. Which sizes there are the files' names say.
pub fn huge_pages_used(files: &mut impl Files) -> Vec<HugePages> {
    let last = if files.is_legacy("hugetlb") { ".usage_in_bytes" } else { ".current" };
    let size = |name: &String| {
        let size = name.strip_prefix("hugetlb.")?.strip_suffix(last)?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    let mut sizes: Vec<String> = files.names("hugetlb").iter().filter_map(size).collect();
    sizes.sort();
    let row = |size: String| {
        let name = format!("hugetlb.{size}");
        let usage = part(files, [&name, &name], USAGE).unwrap_or(0);
        let peak = part(files, [&name, &name], PEAK).unwrap_or(0);
        HugePages { size, counter: Counter { usage, peak, limit: u64::MAX, failures: 0 } }
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

/// Reads one of the three files of pressure, which is counted in the unified hierarchy, also when its controllers are
/// elsewhere; `None` where the kernel does not count it.
pub fn pressure(files: &mut impl Files, name: &str) -> Option<Pressure> {
    parse_pressure(&files.read_unified(name)?)
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

fn fields(files: &mut impl Files, controller: &str, names: [&str; 2]) -> Fields {
    files.read(controller, names).map(Fields::parse).unwrap_or_default()
}

fn read(files: &mut impl Files, controller: &str, names: [&str; 2]) -> String {
    files.read(controller, names).unwrap_or_default()
}

/// A file of one number; "max" is none.
fn number(files: &mut impl Files, controller: &str, names: [&str; 2]) -> Option<u64> {
    files.read(controller, names)?.trim_ascii().parse().ok()
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

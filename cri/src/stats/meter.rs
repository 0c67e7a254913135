//! A cgroup that is read again and again.
//!
//! Most containers of a node do nothing most of the time. Where no CPU time was used since the last reading, and as much
//! memory is charged as then, only what can change without them is read anew: who waits for what. The longest file of
//! all, memory.stat, is not among that. Limits are this daemon's to change, or an administrator's now and then. Everything
//! is read every [`WHOLE_INTERVAL`]: the kernel moves pages about by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sys::cgroup::{
    Cpu, Descriptors, Files, HugePages, Io, Kept, Memory, Pids, Places, Pressure, count_descriptors,
};

use crate::clock::Nanos;

/// Who asks sooner gets what is known.
const INTERVAL: Duration = Duration::from_secs(1);

/// Everything is read anew after this.
const WHOLE_INTERVAL: Duration = Duration::from_secs(10);

/// Open files are counted anew after this, if the container has run meanwhile.
const DESCRIPTORS_INTERVAL: Duration = Duration::from_secs(10);

/// What a cgroup uses now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// When it was read.
    pub at: i64,
    /// CPU time in nanoseconds; `None` where nobody counts it.
    pub cpu: Option<u64>,
    /// CPU time for each second since the sample before, in nanoseconds; the first has none.
    pub nano_cores: Option<u64>,
    /// Who waited for a CPU.
    pub cpu_pressure: Option<Pressure>,
    /// Bytes charged.
    pub memory: u64,
    /// Bytes that cannot be given back at once, as the kubelet counts them.
    pub working_set: u64,
    /// Bytes of the processes themselves.
    pub rss: u64,
    /// Bytes at most; `None` is no limit.
    pub memory_limit: Option<u64>,
    /// Page faults.
    pub faults: u64,
    /// Page faults that went to the disk.
    pub major_faults: u64,
    /// Who waited for memory.
    pub memory_pressure: Option<Pressure>,
    /// Bytes in swap.
    pub swap: u64,
    /// Bytes in swap at most; `None` is no limit.
    pub swap_limit: Option<u64>,
    /// Who waited for a device.
    pub io_pressure: Option<Pressure>,
    /// Threads.
    pub pids: u64,
}

/// Everything that metrics tell of a cgroup.
#[derive(Clone, Debug, Default)]
pub struct Detail {
    /// When it was read.
    pub at: i64,
    /// CPU time.
    pub cpu: Cpu,
    /// CPU time has a limit, whose effects are read.
    pub limited: bool,
    /// Memory.
    pub memory: Memory,
    /// Block devices.
    pub io: Io,
    /// Processes and threads.
    pub pids: Pids,
    /// Huge pages.
    pub huge_pages: Vec<HugePages>,
    /// Open files.
    pub descriptors: Descriptors,
    /// The cgroup's path, as the kubelet's tools name it.
    pub path: String,
}

/// Reads one cgroup, whose files stay open between the readings.
#[derive(Debug, Default)]
pub struct Meter(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// Nobody has asked yet, or the cgroup was not to be found.
    #[default]
    Unopened,
    /// It is being read.
    Open(Box<Open>),
    /// It is gone, or about to be.
    Closed,
}

#[derive(Debug)]
struct Open {
    files: Kept,
    last: Option<(Instant, Arc<Sample>)>,
    /// When everything of it was read.
    whole: Option<Instant>,
    /// The CPU time at which they were counted, too: who has not run has opened nothing.
    descriptors: Option<(Instant, u64, Descriptors)>,
}

impl Meter {
    /// What the cgroup uses now; `find` says where it is when that is not known yet. Blocks for some microseconds.
    pub fn sample(&self, find: impl FnOnce() -> Option<Places>) -> Option<Arc<Sample>> {
        let mut state = self.lock();
        let open = state.open(find)?;
        if let Some((when, sample)) = &open.last
            && when.elapsed() < INTERVAL
        {
            return Some(Arc::clone(sample));
        }
        let now = Instant::now();
        let recent = open.whole.is_some_and(|when| now - when < WHOLE_INTERVAL);
        let known = open.last.as_ref().filter(|_| recent).map(|(_, sample)| &**sample);
        let mut sample = read(&mut open.files, known);
        if known.is_none() {
            open.whole = Some(now);
        }
        if let (Some(cpu), Some((before, last))) = (sample.cpu, &open.last) {
            sample.nano_cores = last.cpu.and_then(|last| rate(last, cpu, now - *before));
        }
        let sample = Arc::new(sample);
        open.last = Some((now, Arc::clone(&sample)));
        Some(sample)
    }

    /// All that metrics tell, with what a limit of its CPU time has done if it is `limited`. Blocks for some ten
    /// microseconds.
    pub fn detail(&self, limited: bool, find: impl FnOnce() -> Option<Places>) -> Option<Detail> {
        let mut state = self.lock();
        let open = state.open(find)?;
        let files = &mut open.files;
        let mut cpu = sys::cgroup::cpu_times(files);
        if limited {
            sys::cgroup::cpu_throttling(files, &mut cpu);
        }
        let mut detail = Detail {
            at: Nanos::now().get(),
            cpu,
            limited,
            memory: sys::cgroup::memory_history(files),
            io: sys::cgroup::io_done(files),
            pids: sys::cgroup::pids(files),
            huge_pages: sys::cgroup::huge_pages_used(files),
            descriptors: Descriptors::default(),
            path: files.places().path().display().to_string(),
        };
        detail.descriptors = open.descriptors(detail.cpu.usage);
        Some(detail)
    }

    /// Says that the limits have changed.
    pub fn renew(&self) {
        if let State::Open(open) = &mut *self.lock() {
            open.whole = None;
        }
    }

    /// Whether there is a cgroup to read.
    pub fn is_open(&self, find: impl FnOnce() -> Option<Places>) -> bool {
        self.lock().open(find).is_some()
    }

    /// Lets go of the files, for good.
    pub fn close(&self) {
        *self.lock() = State::Closed;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Held for one reading. What a panic would leave is a reading less.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(&mut self, find: impl FnOnce() -> Option<Places>) -> Option<&mut Open> {
        if matches!(self, Self::Unopened) {
            let files = Kept::new(find()?);
            *self =
                Self::Open(Box::new(Open { files, last: None, whole: None, descriptors: None }));
        }
        match self {
            Self::Open(open) => Some(open),
            Self::Unopened | Self::Closed => None,
        }
    }
}

impl Open {
    fn descriptors(&mut self, cpu: u64) -> Descriptors {
        if let Some((when, at, known)) = self.descriptors
            && (at == cpu || when.elapsed() < DESCRIPTORS_INTERVAL)
        {
            return known;
        }
        let count = count_descriptors(self.files.places());
        self.descriptors = Some((Instant::now(), cpu, count));
        count
    }
}

/// Reads a cgroup; what has not changed since a sample that is `known` is taken from there.
fn read(files: &mut impl Files, known: Option<&Sample>) -> Sample {
    let (at, cpu) = (Nanos::now().get(), sys::cgroup::cpu_time(files));
    if let Some(known) = known.filter(|known| known.cpu == cpu && cpu.is_some())
        && sys::cgroup::memory_usage(files) == known.memory
    {
        return Sample {
            at,
            cpu_pressure: sys::cgroup::pressure(files, "cpu.pressure"),
            memory_pressure: sys::cgroup::pressure(files, "memory.pressure"),
            io_pressure: sys::cgroup::pressure(files, "io.pressure"),
            ..known.clone()
        };
    }
    let mut memory = sys::cgroup::memory_now(files);
    let limited = |limit: u64| (limit != u64::MAX).then_some(limit);
    if known.is_none() {
        sys::cgroup::memory_limits(files, &mut memory);
    }
    let (swap, swap_limit) = swap(&memory);
    let limits = match known {
        Some(known) => [known.memory_limit, known.swap_limit],
        None => [memory.memory.limit, swap_limit].map(limited),
    };
    Sample {
        at,
        cpu,
        nano_cores: None,
        cpu_pressure: sys::cgroup::pressure(files, "cpu.pressure"),
        memory: memory.memory.usage,
        working_set: memory.working_set(),
        rss: memory.rss(),
        memory_limit: limits[0],
        faults: memory.first(&["total_pgfault", "pgfault"]),
        major_faults: memory.first(&["total_pgmajfault", "pgmajfault"]),
        memory_pressure: memory.pressure,
        swap,
        swap_limit: limits[1],
        io_pressure: sys::cgroup::pressure(files, "io.pressure"),
        pids: sys::cgroup::pids_current(files),
    }
}

/// Swap in use and at most: version 2 counts it by itself, version 1 together with memory.
pub fn swap(memory: &Memory) -> (u64, u64) {
    match memory.stat.get("total_swap").or_else(|| memory.stat.get("swap")) {
        Some(used) if memory.with_swap.limit == u64::MAX => (used, u64::MAX),
        Some(used) => (used, memory.with_swap.limit.saturating_sub(memory.memory.limit)),
        None => (memory.swap.usage, memory.swap.limit),
    }
}

/// CPU time for each second, in nanoseconds; `None` if the time went backwards.
fn rate(before: u64, now: u64, passed: Duration) -> Option<u64> {
    let used = u128::from(now.checked_sub(before)?);
    let rate = (used * 1_000_000_000).checked_div(passed.as_nanos())?;
    u64::try_from(rate).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cgroup of one version, by the names of its files.
    struct Fixture(bool, Vec<(&'static str, &'static str)>);

    impl Files for Fixture {
        fn is_legacy(&self, _: &str) -> bool {
            self.0
        }
        fn is_unified(&self) -> bool {
            true
        }
        fn read(&mut self, _: &str, [one, two]: [&str; 2]) -> Option<String> {
            self.read_unified(if self.0 { one } else { two })
        }
        fn read_unified(&mut self, name: &str) -> Option<String> {
            self.1.iter().find(|(own, _)| *own == name).map(|(_, text)| (*text).to_owned())
        }
        fn names(&mut self, _: &str) -> Vec<String> {
            Vec::new()
        }
    }

    fn read_all(mut files: Fixture) -> Sample {
        read(&mut files, None)
    }

    const PRESSURE: &str = "some avg10=1.00 avg60=0.50 avg300=0.10 total=1234\n\
                            full avg10=0.00 avg60=0.00 avg300=0.00 total=34\n";

    #[test]
    fn version_2_is_read() {
        let sample = read_all(Fixture(
            false,
            vec![
                ("cpu.stat", "usage_usec 2500\nuser_usec 2000\nsystem_usec 500\n"),
                ("memory.current", "10485760\n"),
                ("memory.max", "max\n"),
                (
                    "memory.stat",
                    "anon 4096\nfile 8192\ninactive_file 1048576\npgfault 7\npgmajfault 2\n",
                ),
                ("memory.swap.current", "100\n"),
                ("memory.swap.max", "300\n"),
                ("memory.pressure", PRESSURE),
                ("pids.current", "3\n"),
            ],
        ));
        assert_eq!((sample.cpu, sample.nano_cores), (Some(2_500_000), None));
        assert_eq!((sample.memory, sample.working_set), (10 << 20, 9 << 20));
        assert_eq!((sample.rss, sample.faults, sample.major_faults), (4096, 7, 2));
        assert_eq!((sample.memory_limit, sample.swap, sample.swap_limit), (None, 100, Some(300)));
        assert_eq!(sample.memory_pressure.unwrap().some.total, 1234);
        assert_eq!((sample.io_pressure, sample.pids), (None, 3));
    }

    #[test]
    fn version_1_is_read_with_what_is_below() {
        let sample = read_all(Fixture(
            true,
            vec![
                ("cpuacct.usage", "2500000\n"),
                ("memory.usage_in_bytes", "10485760\n"),
                ("memory.limit_in_bytes", "67108864\n"),
                ("memory.memsw.limit_in_bytes", "67109864\n"),
                (
                    "memory.stat",
                    "inactive_file 1\nrss 1\ntotal_rss 4096\ntotal_inactive_file 1048576\n\
                     total_pgfault 7\ntotal_pgmajfault 2\ntotal_swap 100\n",
                ),
                ("cpu.pressure", PRESSURE),
            ],
        ));
        assert_eq!(
            (sample.cpu, sample.memory, sample.working_set),
            (Some(2_500_000), 10 << 20, 9 << 20)
        );
        assert_eq!((sample.rss, sample.memory_limit), (4096, Some(64 << 20)));
        assert_eq!((sample.swap, sample.swap_limit), (100, Some(1000)));
        assert_eq!(sample.cpu_pressure.unwrap().full.total, 34);
    }

    #[test]
    fn a_working_set_is_never_negative() {
        let files = vec![("memory.current", "10\n"), ("memory.stat", "inactive_file 20\n")];
        assert_eq!(read_all(Fixture(false, files)).working_set, 0);
    }

    #[test]
    fn of_who_does_nothing_only_what_others_can_change_is_read_anew() {
        let known = Sample {
            cpu: Some(7_000),
            memory: 10,
            working_set: 5,
            rss: 3,
            memory_limit: Some(20),
            ..Sample::default()
        };
        let cgroup = |cpu, memory| {
            Fixture(
                false,
                vec![("cpu.stat", cpu), ("memory.current", memory), ("io.pressure", PRESSURE)],
            )
        };
        let still = read(&mut cgroup("usage_usec 7\n", "10\n"), Some(&known));
        assert_eq!((still.working_set, still.rss, still.memory_limit), (5, 3, Some(20)));
        assert_eq!(still.io_pressure.unwrap().some.total, 1234);
        for (cpu, memory) in [("usage_usec 8\n", "10\n"), ("usage_usec 7\n", "11\n"), ("", "10\n")]
        {
            let sample = read(&mut cgroup(cpu, memory), Some(&known));
            assert_eq!((sample.rss, sample.memory_limit), (0, Some(20)), "{cpu}{memory}");
        }
    }

    #[test]
    fn a_rate_is_cpu_time_for_each_second() {
        let second = Duration::from_secs(1);
        assert_eq!(rate(0, 500_000_000, second), Some(500_000_000));
        assert_eq!(rate(1_000, 3_000, 2 * second), Some(1_000));
        assert_eq!(rate(2, 1, second), None);
        assert_eq!(rate(1, 2, Duration::ZERO), None);
    }

    #[test]
    fn who_asks_twice_within_a_second_gets_one_sample_and_a_closed_meter_gives_none() {
        let meter = Meter::default();
        assert!(meter.sample(|| None).is_none());
        let here = || Some(Places::of_path("/".as_ref()));
        let first = meter.sample(here).unwrap();
        assert!(Arc::ptr_eq(&first, &meter.sample(|| None).unwrap()));
        meter.close();
        assert!(meter.sample(here).is_none());
    }
}

//! One reading of a cgroup, of which what cannot have changed is not read.
//!
//! Most containers of a node do nothing most of the time. Where no CPU time was used since the last reading, and as much
//! memory is charged as then, only what can change without them is read anew: who waits for what. The longest file of
//! all, memory.stat, is not among that. And where nothing at all has happened in a cgroup, nothing has in those below it:
//! of the containers of a pod that does nothing no file is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sys::cgroup::{Files, Memory, Places, Pressure, Stall};

use crate::clock::Nanos;

/// The kernel brings pressure up to date every two seconds, each cgroup at a time of its own (kernel/sched/psi.c,
/// PSI_FREQ). What two cgroups say is of the same moment only if nothing has changed for longer than that.
const PRESSURE_LAG: Duration = Duration::from_secs(3);

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
    /// Where it was read.
    pub cgroup: Arc<Places>,
    /// How old all this is.
    pub age: Age,
    /// How old what it says of pressure is: of CPU, memory and devices.
    pub pressure_ages: [Age; 3],
}

/// How old figures are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Age {
    /// When they were last read.
    read: Option<Instant>,
    /// From when on each reading has found the same, and nobody waiting; `None` if the last one did not.
    since: Option<Instant>,
}

impl Age {
    /// After a reading that has found what the last one had, or has not.
    fn read(self, now: Instant, same: bool) -> Self {
        Self { read: Some(now), since: self.since.or(self.read).filter(|_| same) }
    }

    /// Whether figures of this age are true still, in a cgroup below one that says the same since `above.since`.
    fn holds(self, above: Self) -> bool {
        let (Some(read), Some(since)) = (self.read, above.since) else { return false };
        read.saturating_duration_since(since) >= PRESSURE_LAG
    }
}

/// The three files of pressure.
const PRESSURES: [&str; 3] = ["cpu.pressure", "memory.pressure", "io.pressure"];

impl Sample {
    /// Reads a cgroup. What has not changed since a sample that is `known` is taken from there, unless it is to be read
    /// whole; `above` is a new sample of a cgroup that this one is below.
    pub fn read(
        files: &mut impl Files,
        known: Option<&Self>,
        whole: bool,
        above: Option<&Self>,
    ) -> Self {
        let first = Self::default();
        let (last, whole) = known.map_or((&first, true), |known| (known, whole));
        if let Some(above) = above.filter(|above| !whole && last.holds_below(above)) {
            return Self { at: above.at, ..last.clone() };
        }
        let (at, now) = (Nanos::now().get(), Instant::now());
        let cpu = sys::cgroup::cpu_time(files);
        let memory = sys::cgroup::memory_usage(files);
        let same = cpu.is_some() && cpu == last.cpu && memory == last.memory;
        let mut sample =
            if same && !whole { last.clone() } else { last.memory_anew(files, memory, whole) };
        sample.read_pressures(files, last, above, now);
        let ages = sample.pressure_ages.iter();
        let calm = ages.zip(sample.pressures()).all(|(age, p)| p.is_none() || age.since.is_some());
        Self { at, cpu, age: last.age.read(now, same && calm), ..sample }
    }

    /// Whether everything is as it was, to judge from a new sample of the cgroup above.
    fn holds_below(&self, above: &Self) -> bool {
        let mut pressures = self.pressures().into_iter().zip(above.pressures());
        self.age.holds(above.age) && pressures.all(|(own, above)| own.is_none() || above.is_some())
    }

    fn pressures(&self) -> [Option<Pressure>; 3] {
        [self.cpu_pressure, self.memory_pressure, self.io_pressure]
    }

    /// Reads what is known of the memory in use; the limits, which are another's to change, if the `whole` is wanted.
    fn memory_anew(&self, files: &mut impl Files, usage: u64, whole: bool) -> Self {
        let mut memory = sys::cgroup::memory_now(files, usage);
        if whole {
            sys::cgroup::memory_limits(files, &mut memory);
        }
        let (swap, swap_limit) = swap(&memory);
        let limited = |limit: u64| (limit != u64::MAX).then_some(limit);
        let known = (self.memory_limit, self.swap_limit);
        let (memory_limit, swap_limit) =
            if whole { (limited(memory.memory.limit), limited(swap_limit)) } else { known };
        Self {
            memory: usage,
            working_set: memory.working_set(),
            rss: memory.rss(),
            memory_limit,
            faults: memory.first(&["total_pgfault", "pgfault"]),
            major_faults: memory.first(&["total_pgmajfault", "pgmajfault"]),
            swap,
            swap_limit,
            ..Self::default()
        }
    }

    /// Reads who waits, unless nobody does in the cgroup above.
    fn read_pressures(
        &mut self,
        files: &mut impl Files,
        last: &Self,
        above: Option<&Self>,
        now: Instant,
    ) {
        self.pressure_ages = last.pressure_ages;
        let mut pressures = last.pressures();
        for (index, name) in PRESSURES.into_iter().enumerate() {
            let (pressure, age) = (&mut pressures[index], &mut self.pressure_ages[index]);
            let known = *pressure;
            let above = above.map(|above| above.pressure_ages[index]);
            if is_calm(known) && above.is_some_and(|above| age.holds(above)) {
                continue;
            }
            *pressure = sys::cgroup::pressure(files, name);
            let same = pressure.is_some() && *pressure == known && is_calm(known);
            *age = age.read(now, same);
        }
        [self.cpu_pressure, self.memory_pressure, self.io_pressure] = pressures;
    }
}

/// Whether nobody has waited for some minutes; true also where the kernel does not count it.
fn is_calm(pressure: Option<Pressure>) -> bool {
    let calm = |stall: Stall| [stall.avg10, stall.avg60, stall.avg300] == [0.0; 3];
    pressure.is_none_or(|pressure| calm(pressure.some) && calm(pressure.full))
}

/// Swap in use and at most: version 2 counts it by itself, version 1 together with memory.
pub fn swap(memory: &Memory) -> (u64, u64) {
    match memory.stat.get("total_swap").or_else(|| memory.stat.get("swap")) {
        Some(used) if memory.with_swap.limit == u64::MAX => (used, u64::MAX),
        Some(used) => (used, memory.with_swap.limit.saturating_sub(memory.memory.limit)),
        None => (memory.swap.usage, memory.swap.limit),
    }
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
        Sample::read(&mut files, None, true, None)
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
            ],
        ));
        assert_eq!((sample.cpu, sample.nano_cores), (Some(2_500_000), None));
        assert_eq!((sample.memory, sample.working_set), (10 << 20, 9 << 20));
        assert_eq!((sample.rss, sample.faults, sample.major_faults), (4096, 7, 2));
        assert_eq!((sample.memory_limit, sample.swap, sample.swap_limit), (None, 100, Some(300)));
        assert_eq!(sample.memory_pressure.unwrap().some.total, 1234);
        assert_eq!(sample.io_pressure, None);
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

    /// A cgroup of version 2 with this CPU time, memory and pressure of devices.
    fn cgroup(cpu: &'static str, memory: &'static str, pressure: &'static str) -> Fixture {
        let files = [("cpu.stat", cpu), ("memory.current", memory), ("io.pressure", pressure)];
        Fixture(false, files.into())
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
        let read = |mut files: Fixture, whole| Sample::read(&mut files, Some(&known), whole, None);
        let still = read(cgroup("usage_usec 7\n", "10\n", PRESSURE), false);
        assert_eq!((still.working_set, still.rss, still.memory_limit), (5, 3, Some(20)));
        assert_eq!(still.io_pressure.unwrap().some.total, 1234);
        for (cpu, memory) in [("usage_usec 8\n", "10\n"), ("usage_usec 7\n", "11\n"), ("", "10\n")]
        {
            let sample = read(cgroup(cpu, memory, PRESSURE), false);
            assert_eq!((sample.rss, sample.memory_limit), (0, Some(20)), "{cpu}{memory}");
        }
        let whole = read(cgroup("usage_usec 7\n", "10\n", PRESSURE), true);
        assert_eq!((whole.rss, whole.memory_limit), (0, None));
    }

    const CALM: &str = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\n\
                        full avg10=0.00 avg60=0.00 avg300=0.00 total=34\n";

    /// So many readings of a cgroup that were as long ago as is wanted of the first.
    fn readings(files: &Fixture, seconds_ago: &[u64]) -> Sample {
        let mut known: Option<Sample> = None;
        for ago in seconds_ago {
            let mut files = Fixture(files.0, files.1.clone());
            let mut sample = Sample::read(&mut files, known.as_ref(), false, None);
            let then = Instant::now().checked_sub(Duration::from_secs(*ago));
            for age in sample.pressure_ages.iter_mut().chain([&mut sample.age]) {
                age.read = then;
            }
            known = Some(sample);
        }
        known.unwrap()
    }

    #[test]
    fn below_a_cgroup_where_nothing_happens_nothing_is_read() {
        let still = || cgroup("usage_usec 7\n", "10\n", CALM);
        let changed = || cgroup("usage_usec 8\n", "11\n", PRESSURE);
        let pod = readings(&still(), &[30, 0]);
        let known = readings(&still(), &[20]);
        let container = |pod: &Sample, known: &Sample, whole| {
            Sample::read(&mut changed(), Some(known), whole, Some(pod))
        };
        let taken = container(&pod, &known, false);
        assert_eq!((taken.cpu, taken.memory), (Some(7_000), 10));
        assert_eq!((taken.io_pressure, taken.at), (known.io_pressure, pod.at));
        let is_read = |sample: &Sample| sample.cpu == Some(8_000) && sample.memory == 11;
        assert!(is_read(&container(&pod, &known, true)), "everything is wanted");
        // The pod's pressure of the first reading may be from before the container's.
        assert!(is_read(&container(&pod, &readings(&still(), &[29]), false)));
        for moving in [cgroup("usage_usec 7\n", "10\n", PRESSURE), cgroup("", "10\n", CALM)] {
            assert!(is_read(&container(&readings(&moving, &[30, 0]), &known, false)));
        }
        let mut later = changed();
        let pod = Sample::read(&mut later, Some(&readings(&still(), &[30])), false, None);
        assert!(is_read(&container(&pod, &known, false)), "the pod has run");
        let mut silent = still();
        silent.1.pop();
        let pod = readings(&silent, &[30, 0]);
        assert!(is_read(&container(&pod, &known, false)), "the pod knows of no pressure");
    }

    #[test]
    fn where_nobody_waits_in_a_busy_pod_pressure_is_not_read_below() {
        let pod =
            Sample { cpu: Some(1), ..readings(&cgroup("usage_usec 7\n", "10\n", CALM), &[30, 0]) };
        let mut pod = Sample { age: Age::default(), ..pod };
        let known = readings(&cgroup("usage_usec 7\n", "10\n", CALM), &[20]);
        let container = |pod: &Sample| {
            let mut files = cgroup("usage_usec 8\n", "10\n", PRESSURE);
            Sample::read(&mut files, Some(&known), false, Some(pod))
        };
        let taken = container(&pod);
        assert_eq!((taken.cpu, taken.io_pressure), (Some(8_000), known.io_pressure));
        pod.pressure_ages[2].since = None;
        assert_ne!(container(&pod).io_pressure, known.io_pressure);
    }
}

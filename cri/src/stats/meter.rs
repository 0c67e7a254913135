//! A cgroup that is read again and again, from files that stay open.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sys::cgroup::{Cpu, Descriptors, HugePages, Io, Kept, Memory, Pids, Places, count_descriptors};

use super::sample::Sample;
use crate::clock::Nanos;

/// Who asks sooner gets what is known.
const INTERVAL: Duration = Duration::from_secs(1);

/// Everything is read anew after this: an administrator changes limits, and the kernel moves pages about by itself.
const WHOLE_INTERVAL: Duration = Duration::from_secs(60);

/// Open files are counted anew after this, if the container has run meanwhile.
const DESCRIPTORS_INTERVAL: Duration = Duration::from_secs(10);

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
    /// It is below the one that is read together with it; cgroups do not move.
    below: Option<bool>,
    last: Option<(Instant, Arc<Sample>)>,
    /// When everything of it was read.
    whole: Option<Instant>,
    /// The CPU time at which they were counted, too: who has not run has opened nothing.
    descriptors: Option<(Instant, u64, Descriptors)>,
}

impl Meter {
    /// What the cgroup uses now; `find` says where it is when that is not known yet. With a new sample of the cgroup
    /// that should be `above`, if it is, not everything is read. Blocks for some microseconds.
    pub fn sample(
        &self,
        above: Option<&Sample>,
        find: impl FnOnce() -> Option<Places>,
    ) -> Option<Arc<Sample>> {
        let mut state = self.lock();
        let open = state.open(find)?;
        if let Some((when, sample)) = &open.last
            && when.elapsed() < INTERVAL
        {
            return Some(Arc::clone(sample));
        }
        let now = Instant::now();
        let whole = open.whole.is_none_or(|when| now - when >= WHOLE_INTERVAL);
        let above = above.filter(|above| {
            *open.below.get_or_insert_with(|| open.files.places().is_below(&above.cgroup))
        });
        let known = open.last.as_ref().map(|(_, sample)| &**sample);
        let mut sample = Sample::read(&mut open.files, known, whole, above);
        sample.cgroup = Arc::clone(open.files.places());
        if whole {
            open.whole = Some(now);
        }
        if let (Some(cpu), Some((before, last))) = (sample.cpu, &open.last) {
            sample.nano_cores = last.cpu.and_then(|last| rate(last, cpu, now - *before));
        }
        let sample = Arc::new(sample);
        open.last = Some((now, Arc::clone(&sample)));
        Some(sample)
    }

    /// How many processes and threads there are. Blocks for some microseconds.
    pub fn processes(&self) -> Option<u64> {
        match &mut *self.lock() {
            State::Open(open) => Some(sys::cgroup::pids_current(&mut open.files)),
            State::Unopened | State::Closed => None,
        }
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
            *self = Self::Open(Box::new(Open {
                files: Kept::new(find()?),
                below: None,
                last: None,
                whole: None,
                descriptors: None,
            }));
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

/// CPU time for each second, in nanoseconds; `None` if the time went backwards.
fn rate(before: u64, now: u64, passed: Duration) -> Option<u64> {
    let used = u128::from(now.checked_sub(before)?);
    let rate = (used * 1_000_000_000).checked_div(passed.as_nanos())?;
    u64::try_from(rate).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(meter.sample(None, || None).is_none());
        let here = || Some(Places::of_path("/".as_ref()));
        let first = meter.sample(None, here).unwrap();
        assert!(Arc::ptr_eq(&first, &meter.sample(None, || None).unwrap()));
        meter.close();
        assert!(meter.sample(None, here).is_none());
    }
}

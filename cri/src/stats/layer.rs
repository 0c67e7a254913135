//! What containers have written into their root file systems: bytes and inodes.
//!
//! No file system but one with project quotas counts this, so it is measured by looking at every file. That is made
//! cheap by not doing it:
//!
//! - Who has not used the CPU since the last look has written nothing.
//! - A look is not repeated for ten seconds, and for a hundred times as long as it took: a container costs one percent
//!   of a CPU at most, however many files it has.
//! - What takes more than a moment is measured by one thread, of low priority, that ends when it is done; until then
//!   the last known figures are told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use snapshotter::Usage;

use crate::clock::Nanos;
use crate::container::Container;
use crate::container::create::rootfs_key;
use crate::runtime::Runtime;

/// A measurement is taken for good so long, whatever the container does.
const INTERVAL: Duration = Duration::from_secs(10);

/// How many times as long as a look took it is not repeated.
const PAUSE: u32 = 100;

/// Files that are looked at while a client waits, in each container that was never measured to be larger.
const AT_ONCE: u64 = 2_000;

/// How long a client waits for such looks, in all.
const WAIT: Duration = Duration::from_millis(10);

/// How much less important than others the measuring thread is (nice(2)).
const NICE: i32 = 10;

/// What a container has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// When it was measured.
    pub at: i64,
    /// How much.
    pub usage: Usage,
}

/// The last measurement of one container.
#[derive(Debug, Default)]
pub struct Layer(Mutex<Option<Known>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    written: Written,
    /// When the look ended.
    when: Instant,
    took: Duration,
    /// The container's CPU time before the look; an ended one has none.
    cpu: Option<u64>,
}

impl Layer {
    /// The last measurement.
    pub fn written(&self) -> Option<Written> {
        self.known().map(|known| known.written)
    }

    fn known(&self) -> Option<Known> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, known: Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Whether a container that has used this CPU time is to be measured again.
    fn is_due(&self, cpu: Option<u64>) -> bool {
        self.known().is_none_or(|known| {
            known.cpu != cpu && known.when.elapsed() >= INTERVAL.max(known.took * PAUSE)
        })
    }

    /// Whether a look is over in a moment, as far as one can know.
    fn is_quick(&self) -> bool {
        self.known().is_none_or(|known| known.written.usage.inodes < AT_ONCE)
    }
}

/// The one that measures what takes longer.
#[derive(Debug, Default)]
pub struct Surveyor(Arc<AtomicBool>);

/// Measures those of these containers that may have changed, given the CPU time that each has used. Blocks for some
/// milliseconds; what takes longer goes on without the caller.
pub fn refresh(runtime: &Arc<Runtime>, containers: &[(Arc<Container>, Option<u64>)]) {
    let start = Instant::now();
    let mut later = Vec::new();
    for (container, cpu) in containers {
        if !container.layer.is_due(*cpu) {
            continue;
        }
        let quick = container.layer.is_quick() && start.elapsed() < WAIT;
        if !quick || !measure(runtime, container, *cpu, AT_ONCE) {
            later.push((Arc::clone(container), *cpu));
        }
    }
    if later.is_empty() || runtime.surveyor.0.swap(true, Ordering::AcqRel) {
        return;
    }
    let (busy, shared) = (Arc::clone(&runtime.surveyor.0), Arc::clone(runtime));
    let survey = move || {
        // Where the priority cannot be changed the pauses still bound what this costs.
        rustix::process::nice(NICE).ok();
        for (container, cpu) in later {
            measure(&shared, &container, cpu, u64::MAX);
        }
        busy.store(false, Ordering::Release);
    };
    if let Err(error) = std::thread::Builder::new().name("layers".into()).spawn(survey) {
        tracing::warn!(%error, "start a thread to measure what containers have written");
        runtime.surveyor.0.store(false, Ordering::Release);
    }
}

/// Measures one container; false if it has more files than `most`, of which nothing is noted then.
fn measure(runtime: &Runtime, container: &Container, cpu: Option<u64>, most: u64) -> bool {
    let start = Instant::now();
    let at = Nanos::now().get();
    let Ok(key) = rootfs_key(container.id()) else { return true };
    let usage = match runtime.snapshots.written(&key, most) {
        Ok(Some(usage)) => usage,
        Ok(None) => return false,
        Err(error) => {
            tracing::debug!(container = %container.id(), %error, "measure what a container has written");
            Usage::default()
        }
    };
    let written = Written { at, usage };
    container.layer.set(Known { written, when: Instant::now(), took: start.elapsed(), cpu });
    true
}

/// What all containers together have written, as far as it is known.
pub fn total(runtime: &Runtime) -> Usage {
    let containers = runtime.containers.all();
    containers.iter().filter_map(|container| container.layer.written()).map(|w| w.usage).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(cpu: Option<u64>, age: Duration, took: Duration, inodes: u64) -> Layer {
        let layer = Layer::default();
        let written = Written { at: 1, usage: Usage { bytes: 1, inodes } };
        let when = Instant::now().checked_sub(age).unwrap();
        layer.set(Known { written, when, took, cpu });
        layer
    }

    #[test]
    fn who_has_not_run_is_not_measured_again() {
        let (old, quick) = (Duration::from_secs(100), Duration::from_millis(1));
        assert!(Layer::default().is_due(Some(1)) && Layer::default().is_quick());
        assert!(!known(Some(1), old, quick, 1).is_due(Some(1)));
        assert!(known(Some(1), old, quick, 1).is_due(Some(2)));
        // The last look at an ended container is final.
        assert!(known(Some(1), old, quick, 1).is_due(None));
        assert!(!known(None, old, quick, 1).is_due(None));
    }

    #[test]
    fn a_look_that_takes_long_is_not_repeated_for_long() {
        let second = Duration::from_secs(1);
        assert!(!known(Some(1), 5 * second, Duration::ZERO, 1).is_due(Some(2)));
        assert!(known(Some(1), 20 * second, second / 10, 1).is_due(Some(2)));
        assert!(!known(Some(1), 20 * second, second, 1).is_due(Some(2)));
        assert!(!known(Some(1), second, second, AT_ONCE).is_quick());
    }
}

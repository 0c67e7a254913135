//! Percentiles and tables of durations.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Durations by the name of what took them, in the order in which the names first came.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    order: Vec<&'static str>,
    samples: BTreeMap<&'static str, Vec<Duration>>,
}

impl Timings {
    /// Measures one run of this.
    pub async fn time<T>(&mut self, name: &'static str, what: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = what.await;
        self.add(name, start.elapsed());
        result
    }

    /// Adds a duration.
    pub fn add(&mut self, name: &'static str, duration: Duration) {
        if !self.samples.contains_key(name) {
            self.order.push(name);
        }
        self.samples.entry(name).or_default().push(duration);
    }

    /// The duration added last under this name.
    pub fn last(&self, name: &str) -> Duration {
        self.samples.get(name).and_then(|samples| samples.last()).copied().unwrap_or_default()
    }

    /// The names.
    pub fn names(&self) -> &[&'static str] {
        &self.order
    }

    /// The duration that this share (0 to 100) of the samples does not exceed, in milliseconds.
    pub fn percentile(&self, name: &str, percent: usize) -> f64 {
        let mut sorted = self.samples.get(name).cloned().unwrap_or_default();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((last * percent).div_ceil(100)).map_or(f64::NAN, |one| one.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_and_not_means() {
        let mut timings = Timings::default();
        for ms in [5, 1, 3, 2, 4] {
            timings.add("call", Duration::from_millis(ms));
        }
        assert_eq!(timings.percentile("call", 0), 1.0);
        assert_eq!(timings.percentile("call", 50), 3.0);
        assert_eq!(timings.percentile("call", 99), 5.0);
    }

    #[test]
    fn what_was_never_measured_is_no_number() {
        assert!(Timings::default().percentile("call", 50).is_nan());
    }
}

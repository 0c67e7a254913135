//! Who works with which layer or document right now.
//!
//! A pull *leases* the names that it is about to rely on, so that a removal running beside it leaves them alone; and
//! it *locks* each layer that it fetches, so that a second pull waits for it instead of fetching the same again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use snapshotter::ChainId;
use tokio::sync::OwnedMutexGuard;

/// Removals take milliseconds; a pull that meets one looks again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Names in use, and names being removed. Never both.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    // A std mutex: held for single look-ups only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    leased: HashMap<String, usize>,
    removing: HashSet<String>,
}

/// Names that are not removed as long as this lives.
#[derive(Debug)]
pub(crate) struct Lease {
    leases: Arc<Leases>,
    names: Vec<String>,
}

/// A name that nobody can lease as long as this lives.
#[derive(Debug)]
pub(crate) struct Removal<'a> {
    leases: &'a Leases,
    name: String,
}

impl Leases {
    /// Leases all the names, waiting for removals of them to end.
    pub(crate) async fn lease(self: &Arc<Self>, names: Vec<String>) -> Lease {
        while !self.try_lease(&names) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Lease { leases: Arc::clone(self), names }
    }

    /// Claims a name for its removal; `None` if it is in use.
    pub(crate) fn remove(&self, name: &str) -> Option<Removal<'_>> {
        let mut state = self.state();
        if state.leased.contains_key(name) || !state.removing.insert(name.to_owned()) {
            return None;
        }
        Some(Removal { leases: self, name: name.to_owned() })
    }

    fn try_lease(&self, names: &[String]) -> bool {
        let mut state = self.state();
        if names.iter().any(|name| state.removing.contains(name)) {
            return false;
        }
        for name in names {
            *state.leased.entry(name.clone()).or_default() += 1;
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.leases.state();
        for name in &self.names {
            if let Some(count) = state.leased.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    state.leased.remove(name);
                }
            }
        }
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.leases.state().removing.remove(&self.name);
    }
}

/// One lock per layer that is being fetched.
#[derive(Debug, Default)]
pub(crate) struct ChainLocks {
    locks: Mutex<HashMap<ChainId, Weak<tokio::sync::Mutex<()>>>>,
}

impl ChainLocks {
    /// Waits until nobody else fetches the layer.
    ///
    /// Whoever holds it waits only for layers below it, so two pulls never wait for each other.
    pub(crate) async fn lock(&self, chain: &ChainId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(chain).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    locks.insert(chain.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_leased_is_not_removed_and_what_is_being_removed_is_waited_for() {
        let leases = Arc::new(Leases::default());
        let names = || vec!["a".to_owned(), "b".to_owned()];
        let (first, second) = (leases.lease(names()).await, leases.lease(names()).await);
        drop(first);
        assert!(leases.remove("a").is_none());
        drop(second);
        let removal = leases.remove("a").unwrap();
        assert!(leases.remove("a").is_none());
        let waits = tokio::time::timeout(Duration::from_millis(30), leases.lease(names())).await;
        assert!(waits.is_err());
        drop(removal);
        drop(leases.lease(names()).await);
    }
}

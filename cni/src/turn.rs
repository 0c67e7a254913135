//! One operation at a time for each pod, any number of pods at once.
//!
//! The CNI specification forbids parallel operations on one container, and a detach that overtakes its attach
//! would remove a record that is still being acted upon.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as TurnLock, OwnedMutexGuard};

type Waiting = Arc<Mutex<HashMap<String, Arc<TurnLock<()>>>>>;

/// The pods that something is being done to.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    waiting: Waiting,
}

/// The right to change one pod's network, given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    id: String,
    waiting: Waiting,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until nobody else has the pod's turn.
    pub(crate) async fn take(&self, id: &str) -> Turn {
        let lock = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(waiting.entry(id.to_owned()).or_default())
        };
        let held = Some(lock.lock_owned().await);
        Turn { id: id.to_owned(), waiting: Arc::clone(&self.waiting), held }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.held.take());
        // Whoever waits has its own count on the lock, taken under the table's lock that is held here.
        if waiting.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            waiting.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn a_turn_keeps_others_of_the_same_pod_waiting_and_leaves_nothing_behind() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let turns = Turns::default();
            let first = turns.take("a").await;
            drop(turns.take("b").await);
            let soon = Duration::from_millis(20);
            assert!(timeout(soon, turns.take("a")).await.is_err());
            drop(first);
            drop(timeout(soon, turns.take("a")).await.unwrap());
            assert!(turns.waiting.lock().unwrap().is_empty());
        });
    }
}

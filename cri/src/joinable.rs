//! Requests that a retry joins instead of repeating.
//!
//! The kubelet gives up on RunPodSandbox and CreateContainer after its own deadline and asks again with the same
//! metadata. The work goes on in a task of its own, whoever waits for it; a second caller with the same key waits
//! for the first one's result.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::error::Error;

/// The result as every waiter gets it.
type Outcome<V> = Option<Result<V, Arc<Error>>>;

/// Work in flight, by key.
pub struct Joinable<K, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

struct Flight<V> {
    /// What the request asks for: a retry asks for the same.
    request: u64,
    outcome: watch::Receiver<Outcome<V>>,
}

impl<K, V> Default for Joinable<K, V> {
    fn default() -> Self {
        Self { flights: Arc::default() }
    }
}

impl<K, V> fmt::Debug for Joinable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joinable").finish_non_exhaustive()
    }
}

impl<K, V> Joinable<K, V>
where
    K: Clone + Eq + Hash + fmt::Debug + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Joins the work for `key` if it is in flight, and starts `work` otherwise.
    ///
    /// `request` is a fingerprint of the whole request. The work is not cancelled when the caller goes away.
    ///
    /// # Errors
    /// The work's own, shared by all who wait; a conflict when work for `key` with another request is in flight.
    pub async fn join<F>(&self, key: K, request: u64, work: F) -> Result<V, Error>
    where
        F: Future<Output = Result<V, Error>> + Send + 'static,
    {
        let mut outcome = self.enter(key, request, work)?;
        let seen = outcome.wait_for(Option::is_some).await;
        match seen.ok().and_then(|outcome| outcome.clone()) {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(Error::Joined(error)),
            None => Err(Error::Refused {
                operation: "finish the request".into(),
                reason: "its task ended without a result".into(),
            }),
        }
    }

    fn enter<F>(&self, key: K, request: u64, work: F) -> Result<watch::Receiver<Outcome<V>>, Error>
    where
        F: Future<Output = Result<V, Error>> + Send + 'static,
    {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            if flight.request == request {
                return Ok(flight.outcome.clone());
            }
            return Err(Error::Conflict {
                operation: format!("begin the request for {key:?}"),
                reason: "another one with this name and another configuration is under way".into(),
            });
        }
        let (sender, outcome) = watch::channel(None);
        flights.insert(key.clone(), Flight { request, outcome: outcome.clone() });
        drop(flights);
        let landing = Landing { flights: Arc::clone(&self.flights), key };
        tokio::spawn(async move {
            let result = work.await.map_err(Arc::new);
            // Whoever comes after this line finds the result in the store, not here.
            drop(landing);
            sender.send_replace(Some(result));
        });
        Ok(outcome)
    }
}

/// Takes the flight off the list, also when its task panics.
struct Landing<K: Eq + Hash, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_retry_joins_the_work_in_flight_and_gets_its_result() {
        let joinable = Arc::new(Joinable::<&str, u32>::default());
        let runs = Arc::new(AtomicU32::new(0));
        let call = || {
            let (joinable, runs) = (Arc::clone(&joinable), Arc::clone(&runs));
            async move {
                let work = async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(runs.fetch_add(1, Ordering::SeqCst) + 7)
                };
                joinable.join("pod", 1, work).await
            }
        };
        let (first, second) = tokio::join!(call(), call());
        assert_eq!((first.unwrap(), second.unwrap()), (7, 7));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_work_goes_on_when_its_caller_goes_away() {
        let joinable = Joinable::<&str, u32>::default();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let work = async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            sender.send(()).unwrap();
            Ok(1)
        };
        let call = joinable.join("pod", 1, work);
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
        receiver.await.unwrap();
    }

    #[tokio::test]
    async fn the_same_name_with_another_request_is_a_conflict() {
        let joinable = Joinable::<&str, u32>::default();
        let slow = joinable.join("pod", 1, async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(1)
        });
        let other = joinable.join("pod", 2, async { Ok(2) });
        let (first, second) = tokio::join!(slow, other);
        assert_eq!(first.unwrap(), 1);
        assert!(matches!(second, Err(Error::Conflict { .. })));
    }
}

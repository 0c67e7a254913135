//! Pull: a chain of steps, each of which leaves nothing behind if it fails.
//!
//! ```text
//! plan      which manifest, which configuration, which layers        (registry only)
//! lease     what is about to be relied on is not removed meanwhile
//! documents manifest and configuration are stored                    (nothing refers to them yet)
//! layers    fetched side by side, committed bottom first             (each stays, also if a later one fails)
//! publish   the record is written, the index shows the image
//! ```
//!
//! Calls for one name with the same credentials share one pull; it ends when the last of them goes away.

mod layers;
mod plan;
mod publish;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use self::plan::Plan;
use crate::images::{Image, blocking};
use crate::registry::{Patience, Registry};
use crate::{Auth, ImageError, Images, Reference};

type Outcome = Result<Arc<Image>, Arc<ImageError>>;
type Flight = BoxFuture<'static, Outcome>;
/// Credentials are part of the key: one caller's must not fetch for another.
type Key = (Reference, Option<Auth>);

/// The pulls in progress.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    // A std mutex: held for map look-ups only.
    flights: Mutex<HashMap<Key, WeakShared<Flight>>>,
}

impl Flights {
    /// The running pull of this key, or a new one.
    fn join(&self, key: Key, start: impl FnOnce() -> Flight) -> Shared<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.upgrade().is_some());
        if let Some(flight) = flights.get(&key).and_then(WeakShared::upgrade) {
            return flight;
        }
        let flight = start().shared();
        flights.extend(flight.downgrade().map(|weak| (key, weak)));
        flight
    }
}

impl Images {
    /// Pulls an image, or finds that all of it is here already; the tag's meaning is always asked of the registry.
    ///
    /// Dropping the returned future ends the pull, unless another caller waits for the same one. Layers that were
    /// complete by then stay and are not fetched again.
    ///
    /// # Errors
    /// See [`ErrorKind`](crate::ErrorKind).
    pub async fn pull(
        self: &Arc<Self>,
        name: &Reference,
        auth: Option<Auth>,
    ) -> Result<Arc<Image>, ImageError> {
        let flight = self.flights.join((name.clone(), auth.clone()), || {
            let (images, name) = (Arc::clone(self), name.clone());
            async move { images.fly(name, auth).await.map_err(Arc::new) }.boxed()
        });
        flight.await.map_err(ImageError::Joined)
    }

    async fn fly(
        self: Arc<Self>,
        name: Reference,
        auth: Option<Auth>,
    ) -> Result<Arc<Image>, ImageError> {
        let registry = self.registry(&name, auth).await?;
        let plan = Arc::new(plan::make(&registry, &name).await?);
        let lease = self.leases.lease(plan.names()).await;
        let pulled = self.land(registry, Arc::clone(&plan)).await;
        drop(lease);
        if pulled.is_err() {
            self.forget_documents(plan).await;
        }
        pulled
    }

    /// What happens under the lease.
    async fn land(
        self: &Arc<Self>,
        registry: Registry,
        plan: Arc<Plan>,
    ) -> Result<Arc<Image>, ImageError> {
        self.store_documents(Arc::clone(&plan)).await?;
        self.fetch_layers(Arc::new(registry), Arc::clone(&plan)).await?;
        let images = Arc::clone(self);
        blocking("publish an image", move || images.publish(&plan)).await
    }

    /// Takes away the documents of a pull that failed, unless another image has them.
    async fn forget_documents(self: &Arc<Self>, plan: Arc<Plan>) {
        let images = Arc::clone(self);
        let forgotten = blocking("forget documents", move || {
            plan.documents.iter().for_each(|(digest, _)| images.clean_document(digest));
            Ok(())
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(%error, "documents of a failed pull stay until the next sweep");
        }
    }

    async fn registry(&self, name: &Reference, auth: Option<Auth>) -> Result<Registry, ImageError> {
        let (certs, name) = (self.config.certs_dir.clone(), name.clone());
        let patience = Patience {
            no_progress: self.config.no_progress_timeout,
            retry_delay: self.config.retry_delay,
        };
        blocking("read the hosts' configuration", move || {
            Registry::open(certs.as_deref(), &name, auth, patience)
        })
        .await
    }

    async fn store_documents(self: &Arc<Self>, plan: Arc<Plan>) -> Result<(), ImageError> {
        let images = Arc::clone(self);
        blocking("store documents", move || {
            plan.documents.iter().try_for_each(|(digest, bytes)| images.content.put(digest, bytes))
        })
        .await
    }
}

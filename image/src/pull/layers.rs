//! Layers of one image, fetched and unpacked side by side, committed bottom first.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use snapshotter::{Draft, Lower, Snapshotter};
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::plan::Plan;
use crate::images::blocking;
use crate::layer::{Feed, Fixups, LayerError, Unpacked, feed, unpack};
use crate::registry::{BlobStream, Registry};
use crate::{ImageError, Images};

/// What one layer's task needs.
struct Work {
    images: Arc<Images>,
    registry: Arc<Registry>,
    plan: Arc<Plan>,
    permits: Semaphore,
}

/// How a layer came to be had.
enum Got {
    /// It was here, or another pull has fetched it.
    Present,
    Unpacked(Parked<Ready>),
}

/// A layer that waits for those below it.
struct Ready {
    draft: Draft,
    unpacked: Unpacked,
    /// Keeps other pulls from fetching it until it is committed.
    _lock: OwnedMutexGuard<()>,
}

impl Images {
    /// Makes sure that every layer of the plan is committed.
    pub(super) async fn fetch_layers(
        self: &Arc<Self>,
        registry: Arc<Registry>,
        plan: Arc<Plan>,
    ) -> Result<(), ImageError> {
        let missing =
            (0..plan.layers.len()).filter(|n| !self.snapshotter.has(&plan.layers[*n].chain));
        let missing: Vec<usize> = missing.collect();
        let work = Arc::new(Work {
            images: Arc::clone(self),
            registry,
            plan: Arc::clone(&plan),
            permits: Semaphore::new(self.config.max_parallel_downloads.max(1)),
        });
        // Dropping the set, when this pull fails or is given up, ends its tasks.
        let mut tasks = JoinSet::new();
        for number in missing {
            let work = Arc::clone(&work);
            tasks.spawn(async move { work.layer(number).await.map(|got| (number, got)) });
        }
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        while let Some(joined) = tasks.join_next().await {
            let worker = |e: tokio::task::JoinError| ImageError::Worker {
                operation: "fetch a layer",
                why: e.to_string(),
            };
            let (number, got) = joined.map_err(worker)??;
            waiting.insert(number, got);
            let run = self.ripe(&plan, &mut next, &mut waiting);
            self.commit(run).await?;
        }
        Ok(())
    }

    /// Takes the layers off that have everything below them, from the `next` one on.
    fn ripe(
        &self,
        plan: &Plan,
        next: &mut usize,
        waiting: &mut BTreeMap<usize, Got>,
    ) -> Vec<Parked<Ready>> {
        let mut run = Vec::new();
        while let Some(layer) = plan.layers.get(*next) {
            match waiting.remove(next) {
                Some(Got::Unpacked(ready)) => run.push(ready),
                Some(Got::Present) => {}
                None if self.snapshotter.has(&layer.chain) => {}
                None => break,
            }
            *next += 1;
        }
        run
    }

    async fn commit(&self, run: Vec<Parked<Ready>>) -> Result<(), ImageError> {
        if run.is_empty() {
            return Ok(());
        }
        let snapshotter = Arc::clone(&self.snapshotter);
        blocking("commit layers", move || {
            let run = run.into_iter().filter_map(Parked::take).collect();
            settle(snapshotter.as_ref(), run)
        })
        .await
    }
}

/// Answers what the layers have left open, bottom first, and commits them; what is below a failing one stays.
fn settle(snapshotter: &dyn Snapshotter, run: Vec<Ready>) -> Result<(), ImageError> {
    let mut below: Vec<PathBuf> = match run.first().and_then(|ready| ready.draft.parent()) {
        Some(parent) => snapshotter.layer_dirs(parent)?,
        None => Vec::new(),
    };
    let (mut whole, mut locks) = (Vec::new(), Vec::new());
    let mut outcome = Ok(());
    for Ready { draft, unpacked, _lock: lock } in run {
        let object = format!("layer {}", draft.chain());
        match fix(&draft, &unpacked.fixups, &below) {
            Ok(added) => {
                below.insert(0, draft.fs());
                whole.push((draft, unpacked.usage + added));
                locks.push(lock);
            }
            Err(error) => {
                outcome = Err(explain(error, object));
                break;
            }
        }
    }
    snapshotter.commit(whole)?;
    outcome
}

fn fix(
    draft: &Draft,
    fixups: &Fixups,
    below: &[PathBuf],
) -> Result<snapshotter::Usage, LayerError> {
    fixups.apply(&draft.fs(), &Lower::open(below)?)
}

impl Work {
    async fn layer(&self, number: usize) -> Result<Got, ImageError> {
        let layer = &self.plan.layers[number];
        let lock = self.images.chains.lock(&layer.chain).await;
        if self.images.snapshotter.has(&layer.chain) {
            return Ok(Got::Present);
        }
        let permit = self.permits.acquire().await;
        let _permit = permit
            .map_err(|e| ImageError::Worker { operation: "fetch a layer", why: e.to_string() })?;
        let sources = self.registry.blob_source_count().max(1);
        let mut first = 0;
        loop {
            match self.attempt(number, first).await {
                Ok((draft, unpacked)) => {
                    let ready = Ready { draft, unpacked, _lock: lock };
                    return Ok(Got::Unpacked(Parked::new(ready)));
                }
                // A mirror may have it wrong: the next source gets one clean try, from the start.
                Err(error @ ImageError::Corrupt { .. }) if first + 1 < sources => {
                    tracing::warn!(%error, "layer does not verify, asking the next host");
                    first += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Fetches and unpacks a layer from the `first` source on; on failure nothing of it is left.
    async fn attempt(&self, number: usize, first: usize) -> Result<(Draft, Unpacked), ImageError> {
        let layer = &self.plan.layers[number];
        let (feed, intake) = feed();
        let (plan, snapshotter) = (Arc::clone(&self.plan), Arc::clone(&self.images.snapshotter));
        let unpacking = tokio::task::spawn_blocking(move || {
            let layer = &plan.layers[number];
            let draft = snapshotter.draft(&layer.chain, layer.parent.as_ref())?;
            // A failing layer's draft is deleted here, where it may block.
            let unpacked = unpack(intake, &draft.fs(), &layer.diff_id)?;
            Ok::<_, LayerError>((draft, unpacked))
        });
        let stream = self.registry.blob(&layer.blob, first);
        let sent = self.send(stream, feed).await;
        let object = format!("layer {}", layer.blob.digest);
        let unpacked = unpacking
            .await
            .map_err(|e| ImageError::Worker { operation: "unpack a layer", why: e.to_string() })?;
        match (sent, unpacked) {
            // A download that failed is why the unpacking was cut.
            (Err(error), _) => Err(error),
            (Ok(()), Ok(done)) => Ok(done),
            (Ok(()), Err(error)) => Err(explain(error, object)),
        }
    }

    /// Passes a blob on, and says that it is whole only once it was verified.
    async fn send(&self, mut stream: BlobStream, feed: Feed) -> Result<(), ImageError> {
        let patience = self.images.config.no_progress_timeout;
        while let Some(bytes) = stream.next().await? {
            match timeout(patience, feed.data(bytes)).await {
                Ok(true) => {}
                // The unpacking has ended; its own result says why.
                Ok(false) => return Ok(()),
                Err(_) => {
                    let why = format!("the disk took nothing for {patience:?}");
                    return Err(ImageError::Worker { operation: "unpack a layer", why });
                }
            }
        }
        feed.end().await;
        Ok(())
    }
}

fn explain(error: LayerError, object: String) -> ImageError {
    match error {
        LayerError::Malformed { .. } | LayerError::WrongContent { .. } => {
            ImageError::corrupt(object, error.to_string())
        }
        LayerError::Unsupported { why } => ImageError::unsupported(object, why),
        LayerError::Disk { operation, path, source } => {
            ImageError::Local { operation, path, source }
        }
        LayerError::Snapshot(error) => error.into(),
        LayerError::Cut => {
            ImageError::Worker { operation: "fetch a layer", why: error.to_string() }
        }
    }
}

/// Something whose dropping blocks on the disk, held by async code: dropped there, it is dropped elsewhere.
struct Parked<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Parked<T> {
    fn new(value: T) -> Self {
        Self(Some(value))
    }

    fn take(mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T: Send + 'static> Drop for Parked<T> {
    fn drop(&mut self) {
        let Some(value) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
            Err(_) => drop(value),
        }
    }
}

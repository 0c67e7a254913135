//! Removing images, and what nothing refers to any more.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use snapshotter::{ChainId, SnapshotError};

use crate::images::{Entry, blocking};
use crate::{ImageError, Images};

impl Images {
    /// Removes an image under all its names; one that is not there is no error.
    ///
    /// The record goes first, then the layers and documents that no other image has, also those that an unfinished
    /// pull had left for its next try: whoever removes images wants the room. Layers below a container's rootfs stay
    /// until it is released and [`sweep`](Self::sweep) runs.
    ///
    /// # Errors
    /// The record cannot be removed. Leftover layers are not an error; a sweep finds them.
    pub async fn remove(self: &Arc<Self>, name_or_id: &str) -> Result<(), ImageError> {
        let (images, name) = (Arc::clone(self), name_or_id.to_owned());
        blocking("remove an image", move || {
            if images.unlist(&name)?.is_some() {
                images.sweep_now();
            }
            Ok(())
        })
        .await
    }

    /// Removes layers and documents that no image and no container refers to.
    pub async fn sweep(self: &Arc<Self>) {
        let images = Arc::clone(self);
        let swept = blocking("sweep", move || {
            images.sweep_now();
            Ok(())
        });
        if let Err(error) = swept.await {
            tracing::warn!(%error, "sweeping ended early");
        }
    }

    fn unlist(&self, name: &str) -> Result<Option<Arc<Entry>>, ImageError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = self.find_entry(name) else { return Ok(None) };
        self.records.remove(&entry.record.id)?;
        self.forget(&entry.image.id);
        Ok(Some(entry))
    }

    fn sweep_now(&self) {
        // Layers first: what goes makes the one below it free, so this repeats until nothing goes.
        loop {
            let layers: Vec<ChainId> =
                self.snapshotter.layers().into_iter().map(|layer| layer.chain).collect();
            if self.clean(layers) == 0 {
                break;
            }
        }
        match self.content.list() {
            Ok(digests) => digests.iter().for_each(|digest| self.clean_document(digest)),
            Err(error) => tracing::warn!(%error, "cannot sweep documents"),
        }
    }

    /// Removes those of the layers that nobody needs; how many went.
    fn clean(&self, layers: Vec<ChainId>) -> usize {
        layers.into_iter().filter(|chain| self.clean_layer(chain)).count()
    }

    fn clean_layer(&self, chain: &ChainId) -> bool {
        // A pull leases first and looks then; a removal claims first and looks then. One of them sees the other.
        let Some(_claim) = self.leases.remove(chain.as_str()) else { return false };
        if !self.snapshotter.has(chain)
            || self.entries().values().any(|e| e.record.layers.contains(chain))
        {
            return false;
        }
        match self.snapshotter.remove_layer(chain) {
            Ok(detached) => {
                if let Err(error) = detached.delete() {
                    tracing::warn!(%error, %chain, "a removed layer's files stay until the next start");
                }
                true
            }
            Err(SnapshotError::InUse { .. }) => false,
            Err(error) => {
                tracing::warn!(%error, %chain, "cannot remove a layer");
                false
            }
        }
    }

    pub(crate) fn clean_document(&self, digest: &crate::Digest) {
        let Some(_claim) = self.leases.remove(digest.as_str()) else { return };
        let wanted: HashSet<_> = {
            let entries = self.entries();
            let of = |e: &Arc<Entry>| {
                e.record.documents.iter().chain([&e.record.id]).cloned().collect::<Vec<_>>()
            };
            entries.values().flat_map(of).collect()
        };
        if wanted.contains(digest) {
            return;
        }
        if let Err(error) = self.content.remove(digest) {
            tracing::warn!(%error, "cannot remove a document");
        }
    }
}

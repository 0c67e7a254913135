//! The images of this node: the index in memory, and the verbs that only read it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use snapshotter::{ChainId, Snapshotter, Usage};

use crate::lease::{ChainLocks, Leases};
use crate::pull::Flights;
use crate::store::{Content, Record, Records};
use crate::{Digest, ImageConfig, ImageError, Reference, config};

/// Fewer hex digits than this are not taken for the start of an id.
const MIN_PREFIX: usize = 3;

/// How images are pulled and where they are kept.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// The directory that has `content` and `images`.
    pub root: PathBuf,
    /// containerd's `certs.d` tree, if there is one.
    pub certs_dir: Option<PathBuf>,
    /// Layers of one image that are downloaded at a time.
    pub max_parallel_downloads: usize,
    /// A transfer that brings (nearly) nothing for this long is given up.
    pub no_progress_timeout: Duration,
    /// The pause before a failed request is tried again; it doubles with every further try.
    pub retry_delay: Duration,
    /// Names of images that whoever collects garbage is asked to keep, completed as [`Reference::parse`] does.
    pub pinned: Vec<String>,
}

impl ImagesConfig {
    /// The defaults, below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            certs_dir: None,
            max_parallel_downloads: 3,
            no_progress_timeout: Duration::from_secs(300),
            retry_delay: Duration::from_millis(500),
            pinned: Vec::new(),
        }
    }
}

/// An image's identity, the same everywhere: the digest of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(Digest);

impl ImageId {
    /// `sha256:` and 64 hex digits.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The 64 hex digits.
    pub fn hex(&self) -> &str {
        self.0.hex()
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An image that is complete on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its identity.
    pub id: ImageId,
    /// Full names with a tag; empty if it was pulled by digest, or its tags have moved on.
    pub repo_tags: Vec<String>,
    /// Full names with the digest they were pulled by.
    pub repo_digests: Vec<String>,
    /// Compressed bytes of configuration and layers.
    pub size: u64,
    /// What it asks for.
    pub config: ImageConfig,
    /// Its layers, bottom first.
    pub layers: Vec<ChainId>,
    /// Whether it should survive garbage collection.
    pub pinned: bool,
}

/// The images of this node.
#[derive(Debug)]
pub struct Images {
    pub(crate) config: ImagesConfig,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    pub(crate) content: Content,
    pub(crate) records: Records,
    pub(crate) leases: Arc<Leases>,
    pub(crate) chains: ChainLocks,
    pub(crate) flights: Flights,
    // A std lock: held for look-ups and single inserts, never over anything slow.
    index: RwLock<HashMap<ImageId, Arc<Entry>>>,
    /// Full names of images that should survive garbage collection.
    pub(crate) pinned: HashSet<String>,
    /// Held while records change, which takes a few syncs; readers do not need it.
    pub(crate) changing: Mutex<()>,
}

/// An image and the record that it was made from.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) image: Arc<Image>,
    pub(crate) record: Record,
}

impl Entry {
    pub(crate) fn new(record: Record, config: ImageConfig, pinned: &HashSet<String>) -> Self {
        let names = record.repo_tags.iter().chain(&record.repo_digests);
        let is_pinned = names.chain([&record.id.to_string()]).any(|name| pinned.contains(name));
        let image = Arc::new(Image {
            id: ImageId(record.id.clone()),
            repo_tags: record.repo_tags.clone(),
            repo_digests: record.repo_digests.clone(),
            size: record.size,
            config,
            layers: record.layers.clone(),
            pinned: is_pinned,
        });
        Self { image, record }
    }
}

impl Images {
    /// Opens the images below `config.root`, making the directories if needed. Blocks on the disk.
    ///
    /// The index is rebuilt from the records; one whose configuration or layers are gone or damaged is set aside with
    /// a warning, and the image has to be pulled again.
    ///
    /// # Errors
    /// The directories cannot be made or read.
    pub fn open(
        config: ImagesConfig,
        snapshotter: Arc<dyn Snapshotter>,
    ) -> Result<Arc<Self>, ImageError> {
        let content = Content::open(&config.root.join("content"))?;
        let records = Records::open(&config.root.join("images"))?;
        let mut loaded = records.load()?;
        settle_tags(&mut loaded);
        let pinned: HashSet<String> = config.pinned.iter().map(|name| full_name(name)).collect();
        let mut index = HashMap::new();
        for record in loaded {
            match vouch(&record, &content, snapshotter.as_ref()) {
                Ok(config) => {
                    let entry = Entry::new(record, config, &pinned);
                    index.insert(entry.image.id.clone(), Arc::new(entry));
                }
                Err(why) => records.quarantine(&record.id, &why),
            }
        }
        Ok(Arc::new(Self {
            config,
            snapshotter,
            content,
            records,
            leases: Arc::default(),
            chains: ChainLocks::default(),
            flights: Flights::default(),
            index: RwLock::new(index),
            pinned,
            changing: Mutex::new(()),
        }))
    }

    /// All images.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.entries().values().map(|entry| Arc::clone(&entry.image)).collect()
    }

    /// Finds an image by name (completed as [`Reference::parse`] does), by name and digest, by id, or by a unique
    /// start of its id of at least three hex digits.
    pub fn find(&self, name_or_id: &str) -> Option<Arc<Image>> {
        self.find_entry(name_or_id).map(|entry| Arc::clone(&entry.image))
    }

    /// What images take on the disk: layers and documents, from memory.
    pub fn usage(&self) -> Usage {
        self.snapshotter.usage() + self.content.usage()
    }

    /// An image's configuration as its author wrote it.
    ///
    /// # Errors
    /// It is not there or damaged.
    pub async fn raw_config(self: &Arc<Self>, id: &ImageId) -> Result<String, ImageError> {
        let (images, digest) = (Arc::clone(self), id.digest().clone());
        let bytes = blocking("read a configuration", move || images.content.get(&digest)).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(crate) fn entries(&self) -> RwLockReadGuard<'_, HashMap<ImageId, Arc<Entry>>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replace(&self, entry: Entry) -> Arc<Image> {
        let image = Arc::clone(&entry.image);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.insert(image.id.clone(), Arc::new(entry));
        image
    }

    pub(crate) fn forget(&self, id: &ImageId) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn find_entry(&self, text: &str) -> Option<Arc<Entry>> {
        let entries = self.entries();
        let by_id =
            |hex: &str| unique(entries.values().filter(|e| e.image.id.hex().starts_with(hex)));
        if let Some(hex) = text.strip_prefix("sha256:") {
            return if is_prefix(hex) { by_id(hex).cloned() } else { None };
        }
        let named = Reference::parse(text).ok().and_then(|reference| {
            let name = reference.to_string();
            let has = |e: &&Arc<Entry>| {
                e.image.repo_tags.contains(&name) || e.image.repo_digests.contains(&name)
            };
            entries.values().find(has)
        });
        named.or_else(|| if is_prefix(text) { by_id(text) } else { None }).cloned()
    }
}

fn is_prefix(hex: &str) -> bool {
    (MIN_PREFIX..=64).contains(&hex.len())
        && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn unique<T>(mut found: impl Iterator<Item = T>) -> Option<T> {
    let first = found.next()?;
    if found.next().is_some() { None } else { Some(first) }
}

/// A name as records have it; an image's id is one, too.
fn full_name(name: &str) -> String {
    match Reference::parse(name) {
        Ok(reference) if !name.starts_with("sha256:") => reference.to_string(),
        _ => name.to_owned(),
    }
}

/// A power cut may leave a moved tag in two records: the later one has it.
fn settle_tags(records: &mut [Record]) {
    records.sort_by_key(|record| std::cmp::Reverse(record.generation));
    let mut taken = HashSet::new();
    for record in records {
        record.repo_tags.retain(|tag| taken.insert(tag.clone()));
    }
}

/// Checks that everything a record needs is there; returns the configuration.
fn vouch(
    record: &Record,
    content: &Content,
    snapshotter: &dyn Snapshotter,
) -> Result<ImageConfig, String> {
    if let Some(missing) = record.layers.iter().find(|chain| !snapshotter.has(chain)) {
        return Err(format!("its layer {missing} is missing"));
    }
    let bytes = content.get(&record.id).map_err(|e| e.to_string())?;
    config::parse(&bytes).map(|parsed| parsed.config).map_err(|e| e.to_string())
}

/// Runs what blocks on a thread where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(ImageError::Worker { operation, why: error.to_string() }),
    }
}

#[cfg(test)]
mod tests;

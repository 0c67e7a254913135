//! The contract every snapshotter keeps, and the values it speaks in.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{ChainId, Rootfs, RootfsKey, View};

/// Keeps layers and the root filesystems on top of them.
///
/// All calls may block on the disk, except [`has`](Self::has), [`rootfs`](Self::rootfs), [`layers`](Self::layers),
/// [`rootfs_keys`](Self::rootfs_keys) and [`usage`](Self::usage), which answer from memory. No lock is held over
/// slow work, so those never wait for the others.
pub trait Snapshotter: Send + Sync + Debug {
    /// Whether the layer is committed.
    fn has(&self, chain: &ChainId) -> bool;

    /// Starts a layer: a fresh directory that nothing else uses, owned by root, mode 0755 below a private one.
    ///
    /// The parent need not be committed yet, so that the layers of an image can be filled side by side. Several
    /// drafts of one chain may exist.
    ///
    /// # Errors
    /// The directory cannot be made.
    fn draft(&self, chain: &ChainId, parent: Option<&ChainId>) -> Result<Draft, SnapshotError>;

    /// Commits a run of filled drafts, bottom first; what is committed survives a power cut.
    ///
    /// The run shares one flush of the file system. A chain that somebody else has committed meanwhile keeps the
    /// earlier directory, and ours goes away. If a draft fails, those before it are committed and the rest is discarded.
    ///
    /// # Errors
    /// [`SnapshotError::ParentMissing`] if a parent is neither committed nor earlier in the run; or the disk refuses.
    fn commit(&self, run: Vec<(Draft, Usage)>) -> Result<(), SnapshotError>;

    /// Gives a draft up; so does dropping it.
    fn discard(&self, draft: Draft) {
        drop(draft);
    }

    /// The directories of a committed layer and of all below it, top first.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`] if it is not committed.
    fn layer_dirs(&self, chain: &ChainId) -> Result<Vec<PathBuf>, SnapshotError>;

    /// Takes a layer out of the index at once; its files go when the returned value is dropped.
    ///
    /// Idempotent: a layer that is not there is detached already.
    ///
    /// # Errors
    /// [`SnapshotError::InUse`] while another layer or a rootfs is on it.
    fn remove_layer(&self, chain: &ChainId) -> Result<Detached, SnapshotError>;

    /// Makes the writable part of a container's rootfs over `top`, or over nothing.
    ///
    /// Idempotent for one key and chain. It is not made durable: after a reboot the container is gone anyway.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`] if the layer is not committed; [`SnapshotError::InUse`] if the key has another chain.
    fn prepare(&self, key: &RootfsKey, top: Option<&ChainId>) -> Result<Rootfs, SnapshotError>;

    /// Keeps the layers of an image for who only looks at them, over `top` or over nothing, until the key is released.
    ///
    /// Idempotent for one key and chain. Nothing is made that could be written to.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    fn view(&self, key: &RootfsKey, top: Option<&ChainId>) -> Result<View, SnapshotError>;

    /// The rootfs of a key, if it is prepared and its layers are there.
    fn rootfs(&self, key: &RootfsKey) -> Option<Rootfs>;

    /// Deletes what the container has written. Idempotent; follows no link and enters no mount.
    ///
    /// # Errors
    /// Something inside cannot be deleted; calling again goes on.
    fn release(&self, key: &RootfsKey) -> Result<(), SnapshotError>;

    /// What has been written into a rootfs, by looking at every file; `None` if there are more than `most`. A key that
    /// is not prepared has nothing.
    ///
    /// # Errors
    /// The disk refuses.
    fn written(&self, key: &RootfsKey, most: u64) -> Result<Option<Usage>, SnapshotError>;

    /// All committed layers.
    fn layers(&self) -> Vec<LayerInfo>;

    /// All keys that have something to release, also damaged ones.
    fn rootfs_keys(&self) -> Vec<RootfsKey>;

    /// What the committed layers take together.
    fn usage(&self) -> Usage;
}

/// Space taken on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of file content.
    pub bytes: u64,
    /// Files, directories, links and nodes.
    pub inodes: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), std::ops::Add::add)
    }
}

/// A committed layer, as a sweeper needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its name.
    pub chain: ChainId,
    /// The layer below it.
    pub parent: Option<ChainId>,
    /// What it takes by itself.
    pub usage: Usage,
}

/// A layer being filled. Dropping it deletes it, on the dropping thread.
#[derive(Debug)]
pub struct Draft {
    chain: ChainId,
    parent: Option<ChainId>,
    /// The private directory around the layer's own; gone once the draft is consumed.
    dir: Option<Detached>,
}

impl Draft {
    /// For implementors: a draft in `dir`, which has an empty directory `fs`.
    pub fn new(chain: ChainId, parent: Option<ChainId>, dir: PathBuf) -> Self {
        Self { chain, parent, dir: Some(Detached::tree(dir)) }
    }

    /// The layer it becomes.
    pub fn chain(&self) -> &ChainId {
        &self.chain
    }

    /// The layer below it.
    pub fn parent(&self) -> Option<&ChainId> {
        self.parent.as_ref()
    }

    /// The private directory that holds `fs`.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().and_then(|d| d.path.as_deref()).unwrap_or(Path::new(""))
    }

    /// The directory to fill.
    pub fn fs(&self) -> PathBuf {
        self.dir().join("fs")
    }

    /// For implementors: the directory is a layer now and stays.
    pub fn keep(mut self) {
        if let Some(mut dir) = self.dir.take() {
            dir.path = None;
        }
    }
}

/// A tree that nothing refers to any more. Dropping it deletes it, on the dropping thread.
#[derive(Debug)]
#[must_use = "dropping it deletes a whole tree"]
pub struct Detached {
    path: Option<PathBuf>,
}

impl Detached {
    /// Nothing to delete.
    pub fn nothing() -> Self {
        Self { path: None }
    }

    /// For implementors: the tree at `path`.
    pub fn tree(path: PathBuf) -> Self {
        Self { path: Some(path) }
    }

    /// Deletes the tree now.
    ///
    /// # Errors
    /// Something inside cannot be deleted; an implementor finds the rest when it is opened next.
    pub fn delete(mut self) -> Result<(), SnapshotError> {
        self.path.take().map_or(Ok(()), |path| delete_tree(&path))
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        if let Err(error) = delete_tree(&path) {
            tracing::warn!(%error, path = %path.display(), "a discarded tree stays on the disk until the next start");
        }
    }
}

/// Deletes a tree below a directory of ours, whatever is in it.
pub(crate) fn delete_tree(path: &Path) -> Result<(), SnapshotError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(SnapshotError::invalid("tree", &path.to_string_lossy()));
    };
    let dir = match File::open(parent) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| SnapshotError::io("open", parent, e))?,
    };
    Ok(sys::confined::remove_tree(dir.as_fd(), name)?)
}

/// Why a snapshotter could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk refused.
    #[error("{operation} {path:?}: {source}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Work inside a tree was refused.
    #[error(transparent)]
    Tree(#[from] sys::confined::PathError),
    /// A layer is not committed.
    #[error("find layer {chain}: not committed")]
    NotFound {
        /// The layer.
        chain: ChainId,
    },
    /// A draft's parent is not committed.
    #[error("commit layer {chain}: its parent {parent} is not committed")]
    ParentMissing {
        /// The draft.
        chain: ChainId,
        /// What has to come first.
        parent: ChainId,
    },
    /// Somebody depends on it.
    #[error("{operation} {object}: in use by {user}")]
    InUse {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        object: String,
        /// Who needs it as it is.
        user: String,
    },
    /// A name outside its grammar.
    #[error("parse {what} {text:?}: not in its grammar")]
    Invalid {
        /// The kind of name.
        what: &'static str,
        /// The text, cut to a readable length.
        text: String,
    },
}

impl SnapshotError {
    /// For implementors: an I/O error with its operation and object.
    pub fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn invalid(what: &'static str, text: &str) -> Self {
        Self::Invalid { what, text: text.chars().take(80).collect() }
    }

    /// Whether the disk is full (`ENOSPC`, `EDQUOT`).
    pub fn is_no_space(&self) -> bool {
        let source = match self {
            Self::Io { source, .. } => source,
            Self::Tree(error) => &error.source,
            _ => return false,
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

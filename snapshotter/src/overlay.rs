//! The overlay snapshotter: one directory per layer, one upper directory per container.
//!
//! ```text
//! snapshots/
//!   7/fs            a committed layer          7/layer.json   its record; the directory's name is only a number
//!   8.tmp/fs        a draft, or a tree being deleted; swept at open
//!   9.bad/          damaged, set aside at open with a warning
//!   empty/          the lower directory of a rootfs without layers
//!   rootfs/<key>/   upper, work, and `top`: a symbolic link whose target is the chain id; a view has `top` alone
//! ```
//!
//! A layer counts when its number has lost `.tmp`: by then its data is flushed (syncfs(2)) and its record is on the
//! disk, so a power cut leaves the whole layer or a draft. Numbers keep the overlay's mount options short. The
//! `top` of a rootfs is a link because making one is a single atomic call, and a rootfs is made for every container.

mod record;
mod scan;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use record::LayerRecord;

use crate::contract::delete_tree;
use crate::{
    ChainId, Detached, Draft, LayerInfo, Rootfs, RootfsKey, SnapshotError, Snapshotter, Usage, View,
};

/// The target of `top` when a rootfs has no layers.
const NO_LAYERS: &str = "none";

/// Layers on one file system, combined by overlayfs.
#[derive(Debug)]
pub struct Overlay {
    root: PathBuf,
    next: AtomicU64,
    // A std mutex: it guards maps only, and nothing slow happens while it is held.
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    layers: HashMap<ChainId, Layer>,
    /// By key: the top layer, or `Base::Damaged`.
    rootfs: HashMap<RootfsKey, Base>,
}

#[derive(Debug, Clone)]
struct Layer {
    number: u64,
    parent: Option<ChainId>,
    usage: Usage,
}

/// What a container's rootfs stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Base {
    Nothing,
    Layer(ChainId),
    /// Its record cannot be read; it can only be released.
    Damaged,
}

impl Overlay {
    /// Opens the directory `root`, making it if needed.
    ///
    /// Deletes what an unclean stop left half-made, and renames what is damaged to `*.bad` with a warning: one bad
    /// piece never keeps the rest from being used.
    ///
    /// # Errors
    /// The directory itself cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, SnapshotError> {
        for dir in [root, &root.join("rootfs")] {
            make_dir(dir, 0o700)?;
        }
        make_dir(&root.join("empty"), 0o755)?;
        let (index, next) = scan::scan(root)?;
        Ok(Self { root: root.to_owned(), next: AtomicU64::new(next), index: Mutex::new(index) })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // The maps are changed by single inserts and removes: a panic elsewhere cannot leave them half-changed.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer_dir(&self, number: u64) -> PathBuf {
        self.root.join(number.to_string())
    }

    fn fresh_dir(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.root.join(format!("{number}.tmp"))
    }

    fn rootfs_dir(&self, key: &RootfsKey) -> PathBuf {
        self.root.join("rootfs").join(key.as_str())
    }

    /// Flushes everything on the file system of the layers.
    fn flush(&self) -> Result<(), SnapshotError> {
        let fail = |e: io::Error| SnapshotError::io("flush", &self.root, e);
        let dir = File::open(&self.root).map_err(fail)?;
        rustix::fs::syncfs(dir).map_err(|e| fail(e.into()))
    }

    /// Gives a flushed draft its record and its number. The name is durable after the next sync of the root.
    fn settle(&self, draft: Draft, usage: Usage) -> Result<(ChainId, Layer), SnapshotError> {
        let (chain, parent) = (draft.chain().clone(), draft.parent().cloned());
        let from = draft.dir().to_owned();
        let number = scan::draft_number(&from)
            .ok_or_else(|| SnapshotError::invalid("draft", &from.to_string_lossy()))?;
        LayerRecord { chain: chain.clone(), parent: parent.clone(), usage }.write(&from)?;
        let to = self.layer_dir(number);
        fs::rename(&from, &to).map_err(|e| SnapshotError::io("commit", &to, e))?;
        draft.keep();
        Ok((chain, Layer { number, parent, usage }))
    }

    fn sync_names(&self) -> Result<(), SnapshotError> {
        sys::durable::sync_dir(&self.root).map_err(|e| SnapshotError::io("sync", &self.root, e))
    }

    /// Puts settled layers in the index; of a chain that is there already the first directory stays.
    fn publish(&self, settled: Vec<(ChainId, Layer)>) -> Vec<Detached> {
        let mut surplus = Vec::new();
        {
            let mut index = self.index();
            for (chain, layer) in settled {
                match index.layers.entry(chain) {
                    Entry::Occupied(_) => surplus.push(self.layer_dir(layer.number)),
                    Entry::Vacant(place) => {
                        place.insert(layer);
                    }
                }
            }
        }
        let detach = |dir: PathBuf| {
            let away = dir.with_extension("tmp");
            Detached::tree(if fs::rename(&dir, &away).is_ok() { away } else { dir })
        };
        surplus.into_iter().map(detach).collect()
    }

    fn lower(&self, index: &Index, base: &Base) -> Result<Vec<PathBuf>, SnapshotError> {
        match base {
            Base::Layer(chain) => self.stack(index, chain),
            Base::Nothing | Base::Damaged => Ok(vec![self.root.join("empty")]),
        }
    }

    fn stack(&self, index: &Index, chain: &ChainId) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut dirs = Vec::new();
        let mut at = Some(chain);
        // Parents exist before their children, so the chain is finite.
        while let Some(chain) = at {
            let layer = index
                .layers
                .get(chain)
                .ok_or_else(|| SnapshotError::NotFound { chain: chain.clone() })?;
            dirs.push(self.layer_dir(layer.number).join("fs"));
            at = layer.parent.as_ref();
        }
        Ok(dirs)
    }

    fn assemble(&self, key: &RootfsKey, lower: Vec<PathBuf>) -> Rootfs {
        let dir = self.rootfs_dir(key);
        Rootfs { lower, upper: dir.join("upper"), work: dir.join("work") }
    }

    /// Puts the key on the chain: from here on its layers cannot be removed. The directories of these.
    fn hold(&self, key: &RootfsKey, base: &Base) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut index = self.index();
        let lower = self.lower(&index, base)?;
        match index.rootfs.get(key) {
            Some(other) if other != base => {
                return Err(SnapshotError::InUse {
                    operation: "prepare rootfs",
                    object: key.to_string(),
                    user: "another chain of layers".to_owned(),
                });
            }
            _ => index.rootfs.insert(key.clone(), base.clone()),
        };
        Ok(lower)
    }

    /// Writes down what the key stands on; returns its directory.
    fn record_top(&self, key: &RootfsKey, base: &Base) -> Result<PathBuf, SnapshotError> {
        let dir = self.rootfs_dir(key);
        make_dir(&dir, 0o700)?;
        let top = dir.join("top");
        let target = if let Base::Layer(chain) = base { chain.as_str() } else { NO_LAYERS };
        match symlink(target, &top) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(SnapshotError::io("record rootfs", &top, e))
            }
            _ => Ok(dir),
        }
    }

    fn make_rootfs(&self, key: &RootfsKey, base: &Base, lower: &Path) -> Result<(), SnapshotError> {
        let dir = self.record_top(key, base)?;
        make_dir(&dir.join("work"), 0o700)?;
        let upper = dir.join("upper");
        make_dir(&upper, 0o755)?;
        // The merged root has the upper directory's owner; an image may have given its root away.
        let owner = fs::metadata(lower).map_err(|e| SnapshotError::io("stat", lower, e))?;
        if (owner.uid(), owner.gid()) != (0, 0) {
            chown(&upper, Some(owner.uid()), Some(owner.gid()))
                .map_err(|e| SnapshotError::io("chown", &upper, e))?;
        }
        Ok(())
    }
}

impl Snapshotter for Overlay {
    fn has(&self, chain: &ChainId) -> bool {
        self.index().layers.contains_key(chain)
    }

    fn draft(&self, chain: &ChainId, parent: Option<&ChainId>) -> Result<Draft, SnapshotError> {
        let dir = self.fresh_dir();
        make_dir(&dir, 0o700)?;
        let draft = Draft::new(chain.clone(), parent.cloned(), dir);
        make_dir(&draft.fs(), 0o755)?;
        Ok(draft)
    }

    fn commit(&self, run: Vec<(Draft, Usage)>) -> Result<(), SnapshotError> {
        if run.is_empty() {
            return Ok(());
        }
        self.flush()?;
        let mut settled = Vec::new();
        let mut known = HashSet::new();
        let mut outcome = Ok(());
        for (draft, usage) in run {
            let missing = draft.parent().filter(|p| !known.contains(*p) && !self.has(p)).cloned();
            let step = match missing {
                Some(parent) => {
                    Err(SnapshotError::ParentMissing { chain: draft.chain().clone(), parent })
                }
                None => self.settle(draft, usage),
            };
            match step {
                Ok(layer) => {
                    known.insert(layer.0.clone());
                    settled.push(layer);
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.sync_names()?;
        drop(self.publish(settled));
        outcome
    }

    fn layer_dirs(&self, chain: &ChainId) -> Result<Vec<PathBuf>, SnapshotError> {
        self.stack(&self.index(), chain)
    }

    fn remove_layer(&self, chain: &ChainId) -> Result<Detached, SnapshotError> {
        let dir = {
            let mut index = self.index();
            let Some(layer) = index.layers.get(chain) else { return Ok(Detached::nothing()) };
            if let Some(user) = index.user_of(chain) {
                return Err(SnapshotError::InUse {
                    operation: "remove layer",
                    object: chain.to_string(),
                    user,
                });
            }
            let dir = self.layer_dir(layer.number);
            index.layers.remove(chain);
            dir
        };
        let away = dir.with_extension("tmp");
        fs::rename(&dir, &away).map_err(|e| SnapshotError::io("detach", &dir, e))?;
        // Without this a power cut could bring the name back over a tree that is partly deleted.
        self.sync_names()?;
        Ok(Detached::tree(away))
    }

    fn prepare(&self, key: &RootfsKey, top: Option<&ChainId>) -> Result<Rootfs, SnapshotError> {
        let base = top.map_or(Base::Nothing, |chain| Base::Layer(chain.clone()));
        let lower = self.hold(key, &base)?;
        self.make_rootfs(key, &base, &lower[0])?;
        Ok(self.assemble(key, lower))
    }

    fn view(&self, key: &RootfsKey, top: Option<&ChainId>) -> Result<View, SnapshotError> {
        let base = top.map_or(Base::Nothing, |chain| Base::Layer(chain.clone()));
        let lower = self.hold(key, &base)?;
        self.record_top(key, &base)?;
        Ok(View::new(lower, self.root.join("empty")))
    }

    fn rootfs(&self, key: &RootfsKey) -> Option<Rootfs> {
        let index = self.index();
        let base = index.rootfs.get(key).filter(|base| **base != Base::Damaged)?;
        let lower = self.lower(&index, base).ok()?;
        Some(self.assemble(key, lower))
    }

    fn release(&self, key: &RootfsKey) -> Result<(), SnapshotError> {
        let (dir, away) = (self.rootfs_dir(key), self.fresh_dir());
        match fs::rename(&dir, &away) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(SnapshotError::io("release", &dir, e));
            }
            _ => {}
        }
        self.index().rootfs.remove(key);
        delete_tree(&away)
    }

    fn written(&self, key: &RootfsKey, most: u64) -> Result<Option<Usage>, SnapshotError> {
        let dir = self.rootfs_dir(key);
        let open = match File::open(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some(Usage::default())),
            other => other.map_err(|e| SnapshotError::io("open", &dir, e))?,
        };
        let found = sys::confined::measure_tree(open.as_fd(), "upper".as_ref(), most)?;
        if found.partial && most != u64::MAX {
            return Ok(None);
        }
        if found.partial {
            tracing::warn!(rootfs = %key, "a container's directories are too deep to be measured");
        }
        Ok(Some(Usage { bytes: found.bytes, inodes: found.inodes }))
    }

    fn layers(&self) -> Vec<LayerInfo> {
        let info = |(chain, layer): (&ChainId, &Layer)| LayerInfo {
            chain: chain.clone(),
            parent: layer.parent.clone(),
            usage: layer.usage,
        };
        self.index().layers.iter().map(info).collect()
    }

    fn rootfs_keys(&self) -> Vec<RootfsKey> {
        self.index().rootfs.keys().cloned().collect()
    }

    fn usage(&self) -> Usage {
        self.index().layers.values().map(|layer| layer.usage).sum()
    }
}

impl Index {
    /// Who keeps a layer from being removed. A rootfs higher up holds it through the layers between.
    fn user_of(&self, chain: &ChainId) -> Option<String> {
        let above = self.layers.iter().find(|(_, layer)| layer.parent.as_ref() == Some(chain));
        if let Some((above, _)) = above {
            return Some(format!("layer {above}"));
        }
        let holds = |base: &Base| matches!(base, Base::Layer(top) if top == chain);
        self.rootfs.iter().find(|(_, base)| holds(base)).map(|(key, _)| format!("container {key}"))
    }
}

/// Makes one directory with exactly this mode; one that is there already is taken as it is.
fn make_dir(path: &Path, mode: u32) -> Result<(), SnapshotError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(SnapshotError::io("make directory", path, e)),
    }
    // The umask may have taken bits away.
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|e| SnapshotError::io("set the mode of", path, e))
}

#[cfg(test)]
mod tests;

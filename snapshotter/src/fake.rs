//! A snapshotter without records or durability: the second implementor, for tests of what stands on the contract.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::contract::delete_tree;
use crate::{
    ChainId, Detached, Draft, LayerInfo, Rootfs, RootfsKey, SnapshotError, Snapshotter, Usage, View,
};

/// Layers in a directory, known only as long as this value lives.
#[derive(Debug)]
pub struct Fake {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    layers: HashMap<ChainId, (LayerInfo, PathBuf)>,
    rootfs: HashMap<RootfsKey, Option<ChainId>>,
}

impl Fake {
    /// A fake that keeps its directories below `root`, which exists.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(path: &Path) -> Result<(), SnapshotError> {
        fs::create_dir_all(path).map_err(|e| SnapshotError::io("make directory", path, e))
    }

    fn assemble(&self, key: &RootfsKey, lower: Vec<PathBuf>) -> Rootfs {
        let dir = self.root.join(key.as_str());
        Rootfs { lower, upper: dir.join("upper"), work: dir.join("work") }
    }
}

impl State {
    fn stack(&self, top: Option<&ChainId>) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut dirs = Vec::new();
        let mut at = top;
        while let Some(chain) = at {
            let (info, dir) = self
                .layers
                .get(chain)
                .ok_or_else(|| SnapshotError::NotFound { chain: chain.clone() })?;
            dirs.push(dir.clone());
            at = info.parent.as_ref();
        }
        Ok(dirs)
    }
}

impl Snapshotter for Fake {
    fn has(&self, chain: &ChainId) -> bool {
        self.state().layers.contains_key(chain)
    }

    fn draft(&self, chain: &ChainId, parent: Option<&ChainId>) -> Result<Draft, SnapshotError> {
        let dir = {
            let mut state = self.state();
            state.next += 1;
            self.root.join(format!("layer-{}", state.next))
        };
        Self::make(&dir.join("fs"))?;
        Ok(Draft::new(chain.clone(), parent.cloned(), dir))
    }

    fn commit(&self, run: Vec<(Draft, Usage)>) -> Result<(), SnapshotError> {
        let mut state = self.state();
        for (draft, usage) in run {
            let (chain, parent) = (draft.chain().clone(), draft.parent().cloned());
            if let Some(parent) = parent.clone().filter(|p| !state.layers.contains_key(p)) {
                return Err(SnapshotError::ParentMissing { chain, parent });
            }
            if let Entry::Vacant(place) = state.layers.entry(chain.clone()) {
                place.insert((LayerInfo { chain, parent, usage }, draft.fs()));
                draft.keep();
            }
        }
        Ok(())
    }

    fn layer_dirs(&self, chain: &ChainId) -> Result<Vec<PathBuf>, SnapshotError> {
        self.state().stack(Some(chain))
    }

    fn remove_layer(&self, chain: &ChainId) -> Result<Detached, SnapshotError> {
        let mut state = self.state();
        let used = state.layers.values().any(|(info, _)| info.parent.as_ref() == Some(chain))
            || state.rootfs.values().any(|top| top.as_ref() == Some(chain));
        if used {
            return Err(SnapshotError::InUse {
                operation: "remove layer",
                object: chain.to_string(),
                user: "a layer or a container".to_owned(),
            });
        }
        Ok(state
            .layers
            .remove(chain)
            .map_or_else(Detached::nothing, |(_, dir)| Detached::tree(dir)))
    }

    fn prepare(&self, key: &RootfsKey, top: Option<&ChainId>) -> Result<Rootfs, SnapshotError> {
        let mut state = self.state();
        let mut lower = state.stack(top)?;
        if state.rootfs.get(key).is_some_and(|other| other.as_ref() != top) {
            return Err(SnapshotError::InUse {
                operation: "prepare rootfs",
                object: key.to_string(),
                user: "another chain of layers".to_owned(),
            });
        }
        if lower.is_empty() {
            lower.push(self.root.join("empty"));
            Self::make(&lower[0])?;
        }
        let rootfs = self.assemble(key, lower);
        Self::make(&rootfs.upper)?;
        Self::make(&rootfs.work)?;
        state.rootfs.insert(key.clone(), top.cloned());
        Ok(rootfs)
    }

    fn view(&self, key: &RootfsKey, top: Option<&ChainId>) -> Result<View, SnapshotError> {
        let mut state = self.state();
        let mut lower = state.stack(top)?;
        let empty = self.root.join("empty");
        Self::make(&empty)?;
        if lower.is_empty() {
            lower.push(empty.clone());
        }
        if state.rootfs.get(key).is_some_and(|other| other.as_ref() != top) {
            return Err(SnapshotError::InUse {
                operation: "view",
                object: key.to_string(),
                user: "another chain of layers".to_owned(),
            });
        }
        state.rootfs.insert(key.clone(), top.cloned());
        Ok(View::new(lower, empty))
    }

    fn rootfs(&self, key: &RootfsKey) -> Option<Rootfs> {
        let state = self.state();
        let mut lower = state.stack(state.rootfs.get(key)?.as_ref()).ok()?;
        if lower.is_empty() {
            lower.push(self.root.join("empty"));
        }
        Some(self.assemble(key, lower))
    }

    fn release(&self, key: &RootfsKey) -> Result<(), SnapshotError> {
        self.state().rootfs.remove(key);
        delete_tree(&self.root.join(key.as_str()))
    }

    fn written(&self, key: &RootfsKey, most: u64) -> Result<Option<Usage>, SnapshotError> {
        let Some(rootfs) = self.rootfs(key) else { return Ok(Some(Usage::default())) };
        let mut usage = Usage { bytes: 0, inodes: 1 };
        for entry in std::fs::read_dir(rootfs.upper).into_iter().flatten().flatten() {
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            usage = usage + Usage { bytes, inodes: 1 };
        }
        Ok(Some(usage).filter(|usage| usage.inodes < most))
    }

    fn layers(&self) -> Vec<LayerInfo> {
        self.state().layers.values().map(|(info, _)| info.clone()).collect()
    }

    fn rootfs_keys(&self) -> Vec<RootfsKey> {
        self.state().rootfs.keys().cloned().collect()
    }

    fn usage(&self) -> Usage {
        self.state().layers.values().map(|(info, _)| info.usage).sum()
    }
}

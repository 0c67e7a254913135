//! Rebuilding the index from the directories, and setting aside what cannot be trusted.

use std::fs;
use std::path::{Path, PathBuf};

use super::record::LayerRecord;
use super::{Base, Index, Layer, NO_LAYERS};
use crate::contract::delete_tree;
use crate::{ChainId, RootfsKey, SnapshotError};

/// Reads `root`; returns the index and the first free number.
pub(super) fn scan(root: &Path) -> Result<(Index, u64), SnapshotError> {
    let mut index = Index::default();
    let mut next = 1;
    for name in names(root)? {
        let path = root.join(&name);
        next = next.max(leading_number(&name).map_or(0, |n| n.saturating_add(1)));
        if name.ends_with(".tmp") {
            sweep(&path);
        } else if let Ok(number) = name.parse::<u64>() {
            load(&mut index, &path, number);
        }
    }
    drop_orphans(&mut index, root);
    let dir = root.join("rootfs");
    for name in names(&dir)? {
        match RootfsKey::parse(&name) {
            Ok(key) => {
                let base = read_base(&dir.join(&name));
                index.rootfs.insert(key, base);
            }
            Err(_) => sweep(&dir.join(&name)),
        }
    }
    Ok((index, next))
}

/// The number of a draft's directory, `<n>.tmp`.
pub(super) fn draft_number(dir: &Path) -> Option<u64> {
    dir.file_name()?.to_str()?.strip_suffix(".tmp")?.parse().ok()
}

fn names(dir: &Path) -> Result<Vec<String>, SnapshotError> {
    let fail = |e| SnapshotError::io("list", dir, e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        // A name that is not UTF-8 is none of ours.
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    // Older numbers first, so that of two layers of one chain always the same one is kept.
    names.sort_by_key(|name| leading_number(name));
    Ok(names)
}

fn leading_number(name: &str) -> Option<u64> {
    name.split('.').next()?.parse().ok()
}

fn load(index: &mut Index, path: &Path, number: u64) {
    let record = match LayerRecord::read(path) {
        Ok(record) if path.join("fs").is_dir() => record,
        Ok(_) => return quarantine(path, "its directory is missing"),
        Err(error) => return quarantine(path, &error.to_string()),
    };
    if index.layers.contains_key(&record.chain) {
        return sweep(path);
    }
    let layer = Layer { number, parent: record.parent, usage: record.usage };
    index.layers.insert(record.chain, layer);
}

/// Sets layers aside whose lower layers are not all there.
fn drop_orphans(index: &mut Index, root: &Path) {
    loop {
        let orphans: Vec<(ChainId, u64)> = index
            .layers
            .iter()
            .filter(|(_, layer)| {
                layer.parent.as_ref().is_some_and(|p| !index.layers.contains_key(p))
            })
            .map(|(chain, layer)| (chain.clone(), layer.number))
            .collect();
        if orphans.is_empty() {
            return;
        }
        for (chain, number) in orphans {
            index.layers.remove(&chain);
            quarantine(&root.join(number.to_string()), "a layer below it is missing");
        }
    }
}

fn read_base(dir: &Path) -> Base {
    let target =
        fs::read_link(dir.join("top")).ok().and_then(|t| t.into_os_string().into_string().ok());
    match target.as_deref() {
        Some(NO_LAYERS) => Base::Nothing,
        Some(text) => ChainId::parse(text).map_or(Base::Damaged, Base::Layer),
        None => Base::Damaged,
    }
}

fn sweep(path: &Path) {
    if let Err(error) = delete_tree(path) {
        tracing::warn!(%error, "leftovers stay on the disk");
    }
}

fn quarantine(path: &Path, why: &str) {
    let aside = free_name(path);
    tracing::warn!(layer = %path.display(), aside = %aside.display(), why, "damaged layer set aside");
    if let Err(error) = fs::rename(path, &aside) {
        tracing::warn!(%error, layer = %path.display(), "cannot set a damaged layer aside");
    }
}

fn free_name(path: &Path) -> PathBuf {
    let name =
        |n: u32| path.with_extension(if n == 0 { "bad".to_owned() } else { format!("{n}.bad") });
    (0..1000).map(name).find(|p| !p.exists()).unwrap_or_else(|| name(0))
}

//! A layer: a tar archive made entry by entry, with fixed times, so that its digest never changes.

use std::collections::BTreeSet;
use std::io::Write;

use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::digest;

/// All files are this old (2023-11-14), whatever the clock says.
const MTIME: u64 = 1_700_000_000;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip, what nearly all images use.
    Gzip,
    /// Zstandard.
    Zstd,
    /// Not at all.
    Plain,
}

/// A compressed layer.
#[derive(Clone, Debug)]
pub struct Blob {
    pub(super) diff_id: String,
    pub(super) compression: Compression,
    pub(super) bytes: Vec<u8>,
}

/// A layer in the making; folders on the way to an entry are made by themselves.
#[allow(missing_debug_implementations, reason = "a tar archive has nothing to show")]
pub struct Layer {
    tar: Builder<Vec<u8>>,
    folders: BTreeSet<String>,
}

impl Default for Layer {
    fn default() -> Self {
        Self { tar: Builder::new(Vec::new()), folders: BTreeSet::new() }
    }
}

impl Layer {
    /// Adds a folder.
    pub fn folder(mut self, path: &str, mode: u32) -> Self {
        self.parents(path);
        self.add_folder(path, mode);
        self
    }

    /// Adds a folder of this user and group.
    pub fn owned_folder(mut self, path: &str, mode: u32, owner: (u64, u64)) -> Self {
        self.parents(path);
        self.folders.insert(path.into());
        let mut header = header(EntryType::Directory, mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        self.tar.append_data(&mut header, format!("{path}/"), std::io::empty()).unwrap();
        self
    }

    /// Adds a file of root's.
    pub fn file(self, path: &str, mode: u32, data: &[u8]) -> Self {
        self.owned(path, mode, (0, 0), data)
    }

    /// Adds a file of this user and group.
    pub fn owned(mut self, path: &str, mode: u32, owner: (u64, u64), data: &[u8]) -> Self {
        self.parents(path);
        let mut header = header(EntryType::Regular, mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_size(data.len() as u64);
        self.tar.append_data(&mut header, path, data).unwrap();
        self
    }

    /// Adds a hard link to an entry of this layer.
    pub fn hard_link(mut self, path: &str, target: &str) -> Self {
        self.parents(path);
        self.tar.append_link(&mut header(EntryType::Link, 0o755), path, target).unwrap();
        self
    }

    /// Adds a symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.parents(path);
        self.tar.append_link(&mut header(EntryType::Symlink, 0o777), path, target).unwrap();
        self
    }

    /// Removes what the layers below have at this path.
    pub fn whiteout(self, path: &str) -> Self {
        let (folder, name) = path.rsplit_once('/').unwrap();
        self.file(&format!("{folder}/.wh.{name}"), 0o644, b"")
    }

    /// Hides what the layers below have in this folder.
    pub fn opaque(self, folder: &str) -> Self {
        self.file(&format!("{folder}/.wh..wh..opq"), 0o644, b"")
    }

    fn parents(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            if !self.folders.contains(&path[..end]) {
                self.add_folder(&path[..end], 0o755);
            }
        }
    }

    fn add_folder(&mut self, path: &str, mode: u32) {
        self.folders.insert(path.into());
        let mut header = header(EntryType::Directory, mode);
        self.tar.append_data(&mut header, format!("{path}/"), std::io::empty()).unwrap();
    }

    /// Ends the layer.
    pub fn pack(self, compression: Compression) -> Blob {
        let plain = self.tar.into_inner().unwrap();
        let diff_id = digest(&plain);
        let bytes = match compression {
            Compression::Plain => plain,
            Compression::Gzip => gzip(&plain),
            Compression::Zstd => zstd::bulk::compress(&plain, 3).unwrap(),
        };
        Blob { diff_id, compression, bytes }
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(MTIME);
    header.set_size(0);
    header
}

//! Documents by digest.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use snapshotter::Usage;

use super::quarantine;
use crate::{Digest, ImageError};

/// Larger than any document that a pull accepts.
const MAX_DOCUMENT: u64 = 8 << 20;

/// The directory `content`. All calls but `usage` block on the disk.
#[derive(Debug)]
pub(crate) struct Content {
    root: PathBuf,
    usage: Mutex<Usage>,
}

impl Content {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        for algorithm in ["sha256", "sha512"] {
            make_dir(&root.join(algorithm))?;
            drop_drafts(&root.join(algorithm));
        }
        let content = Self { root: root.to_owned(), usage: Mutex::default() };
        let mut usage = Usage::default();
        for digest in content.list()? {
            usage = usage + content.size(&digest);
        }
        content.add(usage);
        Ok(content)
    }

    /// Stores a document that was verified; one that is there already is left alone.
    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.path(digest);
        if fs::metadata(&path).is_ok_and(|m| m.len() == bytes.len() as u64) {
            return Ok(());
        }
        sys::durable::write(&path, bytes).map_err(|e| ImageError::local("store", &path, e))?;
        self.add(Usage { bytes: bytes.len() as u64, inodes: 1 });
        Ok(())
    }

    /// Reads a document and verifies it again; a damaged one is set aside.
    pub(crate) fn get(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest);
        let fail = |e| ImageError::local("read", &path, e);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|f| f.take(MAX_DOCUMENT).read_to_end(&mut bytes))
            .map_err(fail)?;
        if digest.matches(&bytes) {
            return Ok(bytes);
        }
        quarantine(&path, "its content does not have its digest");
        Err(fail(io::Error::new(
            io::ErrorKind::InvalidData,
            "its content does not have its digest",
        )))
    }

    /// Deletes a document. Idempotent.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<(), ImageError> {
        let (path, size) = (self.path(digest), self.size(digest));
        match fs::remove_file(&path) {
            Ok(()) => {
                let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
                usage.bytes = usage.bytes.saturating_sub(size.bytes);
                usage.inodes = usage.inodes.saturating_sub(size.inodes);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(ImageError::local("remove", &path, e)),
        }
    }

    /// The digests of all documents.
    pub(crate) fn list(&self) -> Result<Vec<Digest>, ImageError> {
        let mut digests = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let dir = self.root.join(algorithm);
            let fail = |e| ImageError::local("list", &dir, e);
            for entry in fs::read_dir(&dir).map_err(fail)? {
                let name = entry.map_err(fail)?.file_name();
                let name = name.to_string_lossy();
                digests.extend(Digest::parse(&format!("{algorithm}:{name}")));
            }
        }
        Ok(digests)
    }

    pub(crate) fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, more: Usage) {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        *usage = *usage + more;
    }

    fn size(&self, digest: &Digest) -> Usage {
        fs::metadata(self.path(digest))
            .map_or_else(|_| Usage::default(), |m| Usage { bytes: m.len(), inodes: 1 })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.algorithm()).join(digest.hex())
    }
}

/// Deletes what a crash left half-written; nothing is being written yet.
fn drop_drafts(dir: &Path) {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    for path in
        names.map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == "tmp"))
    {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "cannot delete a leftover file");
        }
    }
}

/// Makes a private directory and those above it.
pub(super) fn make_dir(path: &Path) -> Result<(), ImageError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| ImageError::local("make directory", path, e))
}

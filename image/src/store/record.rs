//! Image records.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snapshotter::ChainId;

use super::content::make_dir;
use super::quarantine;
use crate::{Digest, ImageError};

const MAX_RECORD: u64 = 1 << 20;

/// Everything about an image that its configuration does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The configuration's digest.
    pub(crate) id: Digest,
    pub(crate) repo_tags: Vec<String>,
    pub(crate) repo_digests: Vec<String>,
    /// Compressed bytes: configuration and layers.
    pub(crate) size: u64,
    /// Bottom first.
    pub(crate) layers: Vec<ChainId>,
    /// The documents that belong to it, beside the configuration.
    pub(crate) documents: Vec<Digest>,
    /// Grows with every change of any record: of two records with one tag, the later one has it.
    pub(crate) generation: u64,
}

/// The directory `images`. All calls block on the disk.
#[derive(Debug)]
pub(crate) struct Records {
    root: PathBuf,
}

impl Records {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        make_dir(root)?;
        Ok(Self { root: root.to_owned() })
    }

    /// All readable records.
    pub(crate) fn load(&self) -> Result<Vec<Record>, ImageError> {
        let fail = |e| ImageError::local("list", &self.root, e);
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("json") => {}
                Some("tmp") => {
                    // What a crash left before its rename; it is written again by the next change.
                    drop(fs::remove_file(&path));
                    continue;
                }
                _ => continue,
            }
            match self.read(&path) {
                Ok(record) if self.path(&record.id) == path => records.push(record),
                Ok(_) => quarantine(&path, "it describes another image"),
                Err(error) => quarantine(&path, &error.to_string()),
            }
        }
        Ok(records)
    }

    /// Replaces an image's record, durably.
    pub(crate) fn write(&self, record: &Record) -> Result<(), ImageError> {
        let path = self.path(&record.id);
        let fail = |e: io::Error| ImageError::local("record", &path, e);
        let bytes = serde_json::to_vec(record).map_err(|e| fail(e.into()))?;
        sys::durable::write(&path, &bytes).map_err(fail)
    }

    /// Deletes an image's record, durably. Idempotent.
    pub(crate) fn remove(&self, id: &Digest) -> Result<(), ImageError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::local("remove", &path, e))
            }
            _ => sys::durable::sync_dir(&self.root)
                .map_err(|e| ImageError::local("sync", &self.root, e)),
        }
    }

    /// Sets a record aside that the rest of the disk does not bear out.
    pub(crate) fn quarantine(&self, id: &Digest, why: &str) {
        quarantine(&self.path(id), why);
    }

    fn read(&self, path: &Path) -> Result<Record, io::Error> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_RECORD).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    fn path(&self, id: &Digest) -> PathBuf {
        self.root.join(format!("{}.json", id.hex()))
    }
}

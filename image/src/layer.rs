//! From a layer's compressed bytes to its directory, in one pass.
//!
//! ```text
//!  async:      registry ─► verify compressed digest ─► bounded channel
//!  thread 1:   channel ─► decompress ─► count, hash (diff id) ─► two or three recycled buffers
//!  thread 2:   buffers ─► tar entries ─► files, by fd, below the draft's root
//! ```
//!
//! The archive is hostile input. Names are cleaned before use and resolved by the kernel inside the root
//! (`sys::confined`), on a thread for which there is nothing beside that root (`sys::jail`); every size that an archive declares is checked before anything is allocated for it; limits
//! end archives that would fill the disk or the memory.

mod apply;
mod attributes;
mod decompress;
mod fixup;
mod limits;
mod name;
mod pax;
mod pipe;
mod sparse;
mod tarball;
mod unpack;

pub(crate) use fixup::Fixups;
pub(crate) use pipe::{Feed, feed};
pub(crate) use unpack::{Unpacked, unpack};

use std::io;
use std::path::{Path, PathBuf};

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    /// The archive, its compression, or a limit that it breaks.
    #[error("{why}")]
    Malformed { why: String },
    /// It unpacks to something else than the configuration says.
    #[error("it unpacks to {actual}, the image configuration says {expected}")]
    WrongContent { expected: String, actual: String },
    /// A kind of archive that is not read.
    #[error("{why}")]
    Unsupported { why: &'static str },
    /// The bytes stopped coming; the sender knows why.
    #[error("the download ended early")]
    Cut,
    /// The disk.
    #[error("{operation} {path:?}: {source}")]
    Disk { operation: &'static str, path: PathBuf, source: io::Error },
    /// The layers below.
    #[error(transparent)]
    Snapshot(#[from] snapshotter::SnapshotError),
}

impl LayerError {
    fn malformed(why: impl Into<String>) -> Self {
        Self::Malformed { why: why.into() }
    }

    fn disk(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Disk { operation, path: path.to_owned(), source: source.into() }
    }
}

impl From<sys::confined::PathError> for LayerError {
    fn from(error: sys::confined::PathError) -> Self {
        use rustix::io::Errno;
        // What the archive's own links and files make impossible is the archive's fault, not the disk's.
        let own_fault = [Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG, Errno::INVAL];
        if error.errno().is_some_and(|n| own_fault.iter().any(|e| e.raw_os_error() == n)) {
            return Self::Malformed { why: error.to_string() };
        }
        Self::Disk { operation: error.operation, path: error.path, source: error.source }
    }
}

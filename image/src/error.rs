//! What can go wrong with an image, sorted by who has to act.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snapshotter::SnapshotError;

/// Who has to act on an [`ImageError`], and which gRPC code it becomes at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller gave a name that does not parse.
    InvalidReference,
    /// The registry says that there is no such image.
    NotFound,
    /// The registry wants other credentials.
    Unauthorized,
    /// The registry is down, unreachable, too slow, or its TLS does not verify; trying later may help.
    Unavailable,
    /// What the registry sent is not what its digest or size promises, or is malformed.
    Corrupt,
    /// There is nothing for this machine in it, or it is of a kind that is not an image.
    Unsupported,
    /// The disk is full.
    NoSpace,
    /// Something on this node.
    Internal,
}

/// Why an image operation ended, in one sentence that names the operation and the object.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A name outside the grammar.
    #[error("parse image reference {text:?}: {why}")]
    InvalidReference {
        /// The text, cut to a readable length.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Unknown to the registry.
    #[error("fetch {object} from {host}: not found")]
    NotFound {
        /// What was asked for.
        object: String,
        /// Who was asked.
        host: String,
    },
    /// Refused by the registry or its token service.
    #[error("fetch {object} from {host}: {why}")]
    Unauthorized {
        /// What was asked for.
        object: String,
        /// Who was asked.
        host: String,
        /// What it said.
        why: String,
    },
    /// The network or the other side failed.
    #[error("fetch {object} from {host}: {why}")]
    Unavailable {
        /// What was asked for.
        object: String,
        /// Who was asked.
        host: String,
        /// The causes, outermost first.
        why: String,
    },
    /// Not what was promised.
    #[error("verify {object}: {why}")]
    Corrupt {
        /// What was checked.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not for us.
    #[error("use {object}: {why}")]
    Unsupported {
        /// What was looked at.
        object: String,
        /// Why it cannot be used.
        why: String,
    },
    /// A file of ours.
    #[error("{operation} {path:?}: {source}")]
    Local {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The layers' store.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A worker of ours ended before its work did.
    #[error("{operation}: a worker ended early: {why}")]
    Worker {
        /// What it was doing.
        operation: &'static str,
        /// What is known of its end.
        why: String,
    },
    /// The outcome of a pull that several callers waited for.
    #[error(transparent)]
    Joined(Arc<Self>),
}

impl ImageError {
    /// Who has to act.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidReference { .. } => ErrorKind::InvalidReference,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unauthorized { .. } => ErrorKind::Unauthorized,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Local { source, .. } if is_no_space(source) => ErrorKind::NoSpace,
            Self::Snapshot(error) if error.is_no_space() => ErrorKind::NoSpace,
            Self::Local { .. } | Self::Snapshot(_) | Self::Worker { .. } => ErrorKind::Internal,
            Self::Joined(error) => error.kind(),
        }
    }

    pub(crate) fn local(
        operation: &'static str,
        path: &Path,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Local { operation, path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn corrupt(object: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Corrupt { object: object.into(), why: why.into() }
    }

    pub(crate) fn unsupported(object: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { object: object.into(), why: why.into() }
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An error with all its causes; HTTP errors say what happened only in their innermost one.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

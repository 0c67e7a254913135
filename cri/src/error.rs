//! What can go wrong in an RPC, and the one place where it becomes a gRPC status.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cni::NetworkError;
use image::ImageError;
use shim::ShimError;
use snapshotter::SnapshotError;
use sys::netns::NamespaceError;
use tonic::{Code, Status};

/// The failure of an RPC: what was attempted, on what, and why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing.
    #[error("find {object}: there is none with this name")]
    NotFound {
        /// What was looked for, with the name given.
        object: String,
    },
    /// The request cannot be right, whatever the state.
    #[error("{operation}: {reason}")]
    Invalid {
        /// What was attempted, on what.
        operation: String,
        /// What is wrong with the request.
        reason: String,
    },
    /// The thing is not in a state that allows it.
    #[error("{operation}: {reason}")]
    Refused {
        /// What was attempted, on what.
        operation: String,
        /// The state that forbids it.
        reason: String,
    },
    /// Somebody has the name already, with another configuration.
    #[error("{operation}: {reason}")]
    Conflict {
        /// What was attempted, on what.
        operation: String,
        /// Who has the name.
        reason: String,
    },
    /// There are as many of these as there may be.
    #[error("{operation}: {reason}")]
    Exhausted {
        /// What was attempted, on what.
        operation: String,
        /// Of what there are too many.
        reason: String,
    },
    /// Wherry cannot do this yet, and ignoring it would be worse.
    #[error("{operation}: Wherry does not support {what}")]
    Unsupported {
        /// What was attempted, on what.
        operation: String,
        /// What is missing.
        what: String,
    },
    /// The caller does not keep up with what it asked to be told.
    #[error("{operation}: {reason}")]
    Overrun {
        /// What was attempted, on what.
        operation: String,
        /// What the caller has missed.
        reason: String,
    },
    /// This daemon cannot now; the next one will.
    #[error("{operation}: {reason}")]
    Unavailable {
        /// What was attempted, on what.
        operation: String,
        /// Why not now.
        reason: String,
    },
    /// It took longer than the caller allowed.
    #[error("{operation}: not finished after {after:?}")]
    Deadline {
        /// What was attempted, on what.
        operation: String,
        /// The time allowed.
        after: Duration,
    },
    /// The operating system refused.
    #[error("{operation}")]
    Io {
        /// What was attempted, on what.
        operation: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A shim refused or is gone.
    #[error("{operation}")]
    Shim {
        /// What was attempted, on what.
        operation: String,
        /// The shim's reason.
        source: ShimError,
    },
    /// The image side failed.
    #[error("{operation}")]
    Image {
        /// What was attempted, on what.
        operation: String,
        /// The image store's reason.
        source: ImageError,
    },
    /// The network side failed.
    #[error("{operation}")]
    Network {
        /// What was attempted, on what.
        operation: String,
        /// The network's reason.
        source: NetworkError,
    },
    /// A pod's namespaces could not be made.
    #[error("{operation}")]
    Namespace {
        /// What was attempted, on what.
        operation: String,
        /// The step that failed.
        source: NamespaceError,
    },
    /// The root file system could not be had or freed.
    #[error("{operation}")]
    Snapshot {
        /// What was attempted, on what.
        operation: String,
        /// The snapshotter's reason.
        source: SnapshotError,
    },
    /// The work that this call had joined failed.
    #[error(transparent)]
    Joined(Arc<Self>),
}

impl Error {
    /// Whether the failure means that the thing does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Code::NotFound
    }

    fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::Invalid { .. } => Code::InvalidArgument,
            Self::Refused { .. } => Code::FailedPrecondition,
            Self::Conflict { .. } => Code::AlreadyExists,
            Self::Exhausted { .. } => Code::ResourceExhausted,
            Self::Unsupported { .. } => Code::Unimplemented,
            Self::Overrun { .. } => Code::ResourceExhausted,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::Io { source, .. } => io_code(source),
            Self::Shim { source, .. } => shim_code(source),
            Self::Image { source, .. } => image_code(source),
            Self::Network { source, .. } => network_code(source),
            Self::Namespace { source, .. } => namespace_code(source),
            Self::Snapshot { .. } => Code::Internal,
            Self::Joined(shared) => shared.code(),
        }
    }

    /// The whole chain of causes as one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut sentence = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // A transparent layer repeats its source word for word.
            if !sentence.ends_with(&text) {
                sentence.push_str(": ");
                sentence.push_str(&text);
            }
            cause = error.source();
        }
        sentence
    }
}

fn io_code(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        io::ErrorKind::TimedOut => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}

fn shim_code(error: &ShimError) -> Code {
    use shim::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::StartFailed | ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}

fn image_code(error: &ImageError) -> Code {
    use image::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidReference => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unauthorized => Code::PermissionDenied,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Unsupported => Code::FailedPrecondition,
        ErrorKind::NoSpace => Code::ResourceExhausted,
        _ => Code::Internal,
    }
}

fn network_code(error: &NetworkError) -> Code {
    match error {
        NetworkError::InvalidPod { .. } => Code::InvalidArgument,
        NetworkError::InvalidConfig { .. } | NetworkError::PortTaken { .. } => {
            Code::FailedPrecondition
        }
        NetworkError::Deadline { .. } => Code::DeadlineExceeded,
        NetworkError::AddressesExhausted { .. } => Code::ResourceExhausted,
        NetworkError::Namespace(source) => namespace_code(source),
        _ => Code::Internal,
    }
}

fn namespace_code(error: &NamespaceError) -> Code {
    match error {
        NamespaceError::InvalidHostname { .. } | NamespaceError::InvalidSysctl { .. } => {
            Code::InvalidArgument
        }
        _ => Code::Internal,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_the_operation_and_every_cause_once() {
        let source = io::Error::new(io::ErrorKind::StorageFull, "no space left");
        let error = Error::Io { operation: "write the record of sandbox abc".into(), source };
        let joined = Error::Joined(Arc::new(error));
        assert_eq!(joined.sentence(), "write the record of sandbox abc: no space left");
        assert_eq!(Status::from(joined).code(), Code::ResourceExhausted);
    }
}

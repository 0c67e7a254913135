//! Why something could not be done: as the shim says it, and as the daemon hears it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;

use proto::shim::container::{Failure as WireFailure, failure::Kind as WireKind};

use crate::bundle::BundleError;

/// Longest object and cause of a [`Failure`] on the wire, in bytes.
const MAX_WORD: usize = 1024;

/// A refusal: what was attempted, on what, and why it did not succeed.
///
/// The shim's own processes hand it to each other and over the socket, so it has values and no `source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Who must act.
    pub kind: FailureKind,
    /// What was attempted, as a verb.
    pub operation: Cow<'static, str>,
    /// On what.
    pub object: String,
    /// Why it did not succeed.
    pub cause: Cow<'static, str>,
    /// The kernel's answer, if it was the kernel who refused.
    pub errno: Option<i32>,
}

/// Who must act on a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The spec or the request cannot be met as it is written.
    InvalidArgument,
    /// There is no such container or exec.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// The process is in the wrong state for this.
    FailedPrecondition,
    /// The command could not be executed; the message is for whoever wrote it.
    StartFailed,
    /// Known, but this runtime cannot do it.
    Unsupported,
    /// There are as many of these as there may be.
    ResourceExhausted,
    /// Something on the node that the request is not to blame for.
    Internal,
}

impl Failure {
    /// A refusal of our own.
    pub fn new(
        kind: FailureKind,
        operation: &'static str,
        object: impl Into<String>,
        cause: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            kind,
            operation: Cow::Borrowed(operation),
            object: object.into(),
            cause: cause.into(),
            errno: None,
        }
    }

    /// The kernel's refusal of something that should have worked.
    pub fn os(
        operation: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::os_kind(FailureKind::Internal, operation, object, source)
    }

    /// The kernel's refusal of something that the caller asked for.
    pub fn os_kind(
        kind: FailureKind,
        operation: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        let source = source.into();
        let cause = Cow::Owned(cause_of(&source));
        let operation = Cow::Borrowed(operation);
        Self { kind, operation, object: object.into(), cause, errno: source.raw_os_error() }
    }

    /// What travels over a socket, each word cut at [`MAX_WORD`]: a spec may have names of any length, and a report with
    /// one must still fit into a datagram.
    #[must_use]
    pub fn to_wire(&self) -> WireFailure {
        WireFailure {
            kind: self.kind.to_wire().into(),
            operation: self.operation.to_string(),
            object: shortened(&self.object),
            cause: shortened(&self.cause),
            errno: self.errno.unwrap_or(0),
        }
    }

    /// What came over a socket.
    #[must_use]
    pub fn from_wire(wire: WireFailure) -> Self {
        Self {
            kind: FailureKind::from_wire(wire.kind()),
            operation: wire.operation.into(),
            object: wire.object,
            cause: wire.cause.into(),
            errno: (wire.errno != 0).then_some(wire.errno),
        }
    }
}

fn shortened(word: &str) -> String {
    if word.len() <= MAX_WORD {
        return word.to_owned();
    }
    let end = (0..=MAX_WORD).rev().find(|end| word.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &word[..end])
}

/// The kernel's answer without std's "(os error n)".
fn cause_of(source: &io::Error) -> String {
    let mut text = source.to_string();
    if let Some(at) = text.find(" (os error") {
        text.truncate(at);
    }
    text.make_ascii_lowercase();
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.operation)?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        write!(f, ": {}", self.cause)
    }
}

impl std::error::Error for Failure {}

impl FailureKind {
    fn to_wire(self) -> WireKind {
        match self {
            Self::InvalidArgument => WireKind::InvalidArgument,
            Self::NotFound => WireKind::NotFound,
            Self::AlreadyExists => WireKind::AlreadyExists,
            Self::FailedPrecondition => WireKind::FailedPrecondition,
            Self::StartFailed => WireKind::StartFailed,
            Self::Unsupported => WireKind::Unsupported,
            Self::ResourceExhausted => WireKind::ResourceExhausted,
            Self::Internal => WireKind::Internal,
        }
    }

    fn from_wire(wire: WireKind) -> Self {
        match wire {
            WireKind::InvalidArgument => Self::InvalidArgument,
            WireKind::NotFound => Self::NotFound,
            WireKind::AlreadyExists => Self::AlreadyExists,
            WireKind::FailedPrecondition => Self::FailedPrecondition,
            WireKind::StartFailed => Self::StartFailed,
            WireKind::Unsupported => Self::Unsupported,
            WireKind::ResourceExhausted => Self::ResourceExhausted,
            WireKind::Internal => Self::Internal,
        }
    }
}

/// What the daemon's side of a shim can run into.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim answered that it cannot.
    #[error(transparent)]
    Refused(Failure),
    /// A foreign shim answered with a code that is none of ours.
    #[error("{operation} by the shim of {}: {message} (code {code})", bundle.display())]
    Foreign {
        /// The call.
        operation: &'static str,
        /// The container's bundle.
        bundle: PathBuf,
        /// The gRPC status code.
        code: i32,
        /// What the shim says.
        message: String,
    },
    /// Nobody answers on the bundle's socket, or not any longer.
    #[error("{operation} by the shim of {}: {source}", bundle.display())]
    Unavailable {
        /// The call.
        operation: &'static str,
        /// The container's bundle.
        bundle: PathBuf,
        /// Why there is no answer.
        source: io::Error,
    },
    /// The shim did not answer in time; what was asked may still happen.
    #[error("{operation} by the shim of {}: no answer in time", bundle.display())]
    DeadlineExceeded {
        /// The call.
        operation: &'static str,
        /// The container's bundle.
        bundle: PathBuf,
    },
    /// What came over the socket is not what was agreed.
    #[error("{operation} by the shim of {}: malformed answer", bundle.display())]
    Malformed {
        /// The call.
        operation: &'static str,
        /// The container's bundle.
        bundle: PathBuf,
    },
    /// The shim's binary cannot be found or started.
    #[error("{operation} {}: {source}", path.display())]
    Launch {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The bundle on disk.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Who must act on a [`ShimError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such container or exec.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// The spec cannot be met: a mount target that leads out of the rootfs, an unknown user, and the like.
    InvalidArgument,
    /// The command could not be executed; the message is for whoever wrote it.
    StartFailed,
    /// The process is in the wrong state for this.
    FailedPrecondition,
    /// Known, but the runtime cannot do it.
    Unsupported,
    /// There are as many of these as there may be.
    ResourceExhausted,
    /// The shim is gone.
    Unavailable,
    /// The shim did not answer in time.
    DeadlineExceeded,
    /// Anything else on the node.
    Internal,
}

impl ShimError {
    /// Who must act.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(failure) => match failure.kind {
                FailureKind::InvalidArgument => ErrorKind::InvalidArgument,
                FailureKind::NotFound => ErrorKind::NotFound,
                FailureKind::AlreadyExists => ErrorKind::AlreadyExists,
                FailureKind::FailedPrecondition => ErrorKind::FailedPrecondition,
                FailureKind::StartFailed => ErrorKind::StartFailed,
                FailureKind::Unsupported => ErrorKind::Unsupported,
                FailureKind::ResourceExhausted => ErrorKind::ResourceExhausted,
                FailureKind::Internal => ErrorKind::Internal,
            },
            Self::Foreign { code, .. } => match code {
                3 => ErrorKind::InvalidArgument,
                4 => ErrorKind::DeadlineExceeded,
                5 => ErrorKind::NotFound,
                6 => ErrorKind::AlreadyExists,
                8 => ErrorKind::ResourceExhausted,
                9 => ErrorKind::FailedPrecondition,
                12 => ErrorKind::Unsupported,
                14 => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::DeadlineExceeded { .. } => ErrorKind::DeadlineExceeded,
            Self::Malformed { .. } | Self::Launch { .. } => ErrorKind::Internal,
            Self::Bundle(error) => match error.source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
                _ => ErrorKind::Internal,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_wire_and_reads_as_one_sentence() {
        let failure = Failure::os_kind(
            FailureKind::StartFailed,
            "execute",
            "/bin/nothing",
            io::Error::from_raw_os_error(2),
        );
        assert_eq!(failure.to_string(), "execute /bin/nothing: no such file or directory");
        assert_eq!(Failure::from_wire(failure.to_wire()), failure);
        assert_eq!(ShimError::Refused(failure).kind(), ErrorKind::StartFailed);
    }

    #[test]
    fn a_name_of_any_length_is_cut_between_characters() {
        let failure = Failure::new(FailureKind::Internal, "open", "ä".repeat(50_000), "x");
        let wire = failure.to_wire();
        assert_eq!(wire.object, format!("{}…", "ä".repeat(512)));
        let odd = Failure::new(FailureKind::Internal, "open", format!("a{}", "ä".repeat(600)), "x");
        assert_eq!(odd.to_wire().object, format!("a{}…", "ä".repeat(511)));
    }
}

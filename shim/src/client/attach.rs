//! Clients of a container's standard files.

use std::path::PathBuf;

use proto::shim::container as wire;

use super::call::Call;
use super::task::Shim;
use crate::error::ShimError;

/// A client that hears what a container says and may speak to it, through FIFOs that the caller made.
///
/// It hears everything from the attach on, as raw bytes. When it takes nothing for 5 s while there is something for it,
/// it is let go; so it is when nobody reads its FIFOs any longer. The FIFOs are closed after the last byte when the
/// container ends, when it is detached, and when it is let go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Its name among the container's clients.
    pub attach_id: String,
    /// What it says goes to the container's input, if that is open. The caller may open it for writing (without
    /// waiting) once it is attached, or for reading and writing before. Its end is not the end of the container's
    /// input: that is [`Shim::close_stdin`].
    pub stdin: Option<PathBuf>,
    /// The caller reads it already. A terminal's output is all here.
    pub stdout: Option<PathBuf>,
    /// As `stdout`; a terminal has none.
    pub stderr: Option<PathBuf>,
}

const ATTACH: Call = Call::container("Attach", "attach");
const DETACH: Call = Call::container("Detach", "detach");

impl Shim {
    /// Attaches a client.
    ///
    /// # Errors
    /// `FailedPrecondition` when the container has ended, `AlreadyExists` for a name in use, `ResourceExhausted` when
    /// there are 16, `InvalidArgument` when a path is no FIFO or is not read.
    pub async fn attach(&self, options: AttachOptions) -> Result<(), ShimError> {
        let path = |path: Option<PathBuf>| {
            path.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
        };
        let request = wire::AttachRequest {
            attach_id: options.attach_id,
            stdin: path(options.stdin),
            stdout: path(options.stdout),
            stderr: path(options.stderr),
        };
        let _attached: wire::AttachResponse = self.call(ATTACH, &request).await?;
        Ok(())
    }

    /// Lets a client go.
    ///
    /// # Errors
    /// `NotFound` when it has gone already, or the container has.
    pub async fn detach(&self, attach_id: &str) -> Result<(), ShimError> {
        let request = wire::DetachRequest { attach_id: attach_id.to_owned() };
        let _detached: wire::DetachResponse = self.call(DETACH, &request).await?;
        Ok(())
    }
}

//! ReopenContainerLog: after the kubelet has renamed a container's log file.

use proto::cri;

use super::state::State;
use crate::error::Error;
use crate::runtime::Runtime;

/// Lets the shim go on in a new file under the old name; it opens the new one before it closes the old one.
///
/// # Errors
/// `Refused` when the container does not run: then nothing is made. The kubelet renames the file back after an error, so
/// the old one stays in use then.
pub async fn reopen(
    runtime: &Runtime,
    request: &cri::ReopenContainerLogRequest,
) -> Result<(), Error> {
    let container = runtime.containers.find(&request.container_id)?;
    let operation = || format!("reopen the log of {}", container.name());
    let running = matches!(*container.state.borrow(), State::Running { .. });
    let Some(shim) = container.shim.as_ref().filter(|_| running) else {
        let reason = "the container does not run".into();
        return Err(Error::Refused { operation: operation(), reason });
    };
    if container.record.log.is_none() {
        return Err(Error::Refused { operation: operation(), reason: "it has no log".into() });
    }
    shim.reopen_log().await.map_err(|source| Error::Shim { operation: operation(), source })
}

//! StartContainer: lifts the barrier at which the process waits.

use proto::cri;
use shim::Bundle;

use super::Container;
use super::state::{Ended, State};
use crate::clock::Nanos;
use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;

/// Starts a created container.
///
/// # Errors
/// `Refused` when it is not waiting to be started or the command cannot be executed.
pub async fn start(runtime: &Runtime, request: &cri::StartContainerRequest) -> Result<(), Error> {
    let container = runtime.containers.find(&request.container_id)?;
    let _turn = container.turn.lock().await;
    let operation = || format!("start {}", container.name());
    let decision = runtime.move_container(&container, State::begin_start);
    let refused = |reason: &str| Error::Refused { operation: operation(), reason: reason.into() };
    decision.map_err(|why| refused(why.as_str()))?;
    let shim = container.shim.as_ref().ok_or_else(|| refused("it has no shim"))?;
    match shim.start().await {
        Ok(()) => {
            let at = started_at(runtime, &container).await;
            runtime.move_container(&container, |state| state.started(at));
            Ok(())
        }
        Err(source) => {
            let ended = Ended::not_started(source.to_string());
            runtime.move_container(&container, |state| state.ended(ended));
            Err(Error::Shim { operation: operation(), source })
        }
    }
}

/// The time as the shim wrote it down: a later daemon reads the same.
async fn started_at(runtime: &Runtime, container: &Container) -> Nanos {
    let dir = runtime.bundle_dir(container.id());
    let look = move || Ok(Bundle::open(&dir).ok().and_then(|bundle| bundle.started_at()));
    let recorded = record::blocking("read when a container was started", look).await;
    recorded.ok().flatten().map_or_else(Nanos::now, Nanos::of)
}

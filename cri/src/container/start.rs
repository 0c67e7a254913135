//! StartContainer: lifts the barrier at which the process waits.

use proto::cri;

use super::state::{Ended, State};
use crate::clock::Nanos;
use crate::error::Error;
use crate::runtime::Runtime;

/// Starts a created container.
///
/// # Errors
/// `Refused` when it is not waiting to be started or the command cannot be executed.
pub async fn start(runtime: &Runtime, request: &cri::StartContainerRequest) -> Result<(), Error> {
    let container = runtime.containers.find(&request.container_id)?;
    let _turn = container.turn.lock().await;
    let operation = || format!("start {}", container.name());
    let mut decision = Ok(());
    container.state.send_if_modified(|state| {
        decision = state.begin_start();
        decision.is_ok()
    });
    let refused = |reason: &str| Error::Refused { operation: operation(), reason: reason.into() };
    decision.map_err(|why| refused(why.as_str()))?;
    let shim = container.shim.as_ref().ok_or_else(|| refused("it has no shim"))?;
    match shim.start().await {
        Ok(_pid) => {
            container.state.send_modify(|state| state.started(Nanos::now()));
            Ok(())
        }
        Err(source) => {
            let ended = Ended::not_started(source.to_string());
            container.state.send_modify(|state: &mut State| state.ended(ended));
            Err(Error::Shim { operation: operation(), source })
        }
    }
}

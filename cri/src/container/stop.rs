//! StopContainer: the stop signal, a grace period, then SIGKILL to everything in the container.

use std::sync::Arc;
use std::time::Duration;

use proto::cri;

use super::Container;
use super::state::State;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::signal::Signal;

/// How long a killed container may take to end. Only a process that hangs in the kernel takes longer.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Stops a container; one that does not exist or has ended is stopped.
///
/// # Errors
/// It does not end even when killed.
pub async fn stop(runtime: &Runtime, request: &cri::StopContainerRequest) -> Result<(), Error> {
    let container = match runtime.containers.find(&request.container_id) {
        Ok(container) => container,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    };
    let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
    let running = matches!(*container.state.borrow(), State::Running { .. });
    if running && !grace.is_zero() {
        ask(&container).await;
        if ended(&container, grace).await {
            return Ok(());
        }
    }
    kill(&container).await
}

/// Sends the stop signal, once however often the kubelet asks.
async fn ask(container: &Container) {
    let first = container.asked.send_if_modified(|asked| !std::mem::replace(asked, true));
    let Some(shim) = container.shim.as_ref().filter(|_| first) else { return };
    let signal = container.record.stop_signal;
    if let Err(error) = shim.kill(signal.number(), false).await {
        // It may have ended just now; if it has not, SIGKILL follows.
        tracing::debug!(container = %container.id(), %signal, %error, "send the stop signal");
    }
}

/// Kills everything in a container and waits for its end.
///
/// # Errors
/// `Deadline` when it does not end; the kernel goes on trying, and so does the next call.
pub async fn kill(container: &Arc<Container>) -> Result<(), Error> {
    let Some(shim) = container.shim.as_ref().filter(|_| !container.state.borrow().is_exited())
    else {
        return Ok(());
    };
    if let Err(error) = shim.kill(Signal::KILL.number(), true).await {
        tracing::debug!(container = %container.id(), %error, "kill a container");
    }
    if ended(container, KILL_DEADLINE).await {
        return Ok(());
    }
    Err(Error::Deadline { operation: format!("kill {}", container.name()), after: KILL_DEADLINE })
}

/// Waits for the container's end; the answer is whether it came in time.
async fn ended(container: &Container, patience: Duration) -> bool {
    let mut state = container.state.subscribe();
    tokio::time::timeout(patience, state.wait_for(State::is_exited)).await.is_ok()
}

//! StopPodSandbox: kills what runs, gives the network back, lets go of the namespaces. Repeatable at any point.

use std::sync::Arc;

use super::config::PodScope;
use super::{Sandbox, files};
use crate::container::stop::kill;
use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;

/// Stops a sandbox; one that does not exist is stopped.
///
/// # Errors
/// A container cannot be killed or the network cannot be given back; the next call goes on from there.
pub async fn stop(runtime: &Arc<Runtime>, id: &str) -> Result<(), Error> {
    match runtime.sandboxes.find(id) {
        Ok(sandbox) => take_down(runtime, &sandbox).await,
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives back everything but the record.
///
/// # Errors
/// As [`stop`].
pub async fn take_down(runtime: &Arc<Runtime>, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    let _turn = sandbox.teardown.lock().await;
    if !sandbox.change(super::state::State::begin_stop) {
        return Ok(());
    }
    let containers = runtime.containers_of(sandbox.id());
    let kills = containers.iter().map(kill);
    for killed in futures_util::future::join_all(kills).await {
        killed?;
    }
    sandbox.meter.close();
    let paths = runtime.pod_paths(sandbox.id());
    if sandbox.record.config.network == PodScope::Pod {
        let netns = paths.net();
        runtime.network.detach(sandbox.id().as_str(), Some(&netns)).await.map_err(|source| {
            Error::Network {
                operation: format!("detach pod {} from its network", sandbox.record.config.pod()),
                source,
            }
        })?;
    }
    record::blocking("remove the pod's files", move || files::remove(&paths)).await?;
    runtime.sandbox_stopped(sandbox);
    Ok(())
}

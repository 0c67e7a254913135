//! RemovePodSandbox: stops the sandbox if need be, removes its containers, then its record.

use std::sync::Arc;

use super::folder;
use super::stop::take_down;
use crate::container::remove::discard;
use crate::error::Error;
use crate::record;
use crate::runtime::{Runtime, remove_folder};

/// Removes a sandbox; one that does not exist is removed.
///
/// # Errors
/// Something of it cannot be given back; it is still listed then, and the call can be repeated.
pub async fn remove(runtime: &Arc<Runtime>, id: &str) -> Result<(), Error> {
    let sandbox = match runtime.sandboxes.find(id) {
        Ok(sandbox) => sandbox,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    };
    take_down(runtime, &sandbox).await?;
    for container in runtime.containers_of(sandbox.id()) {
        discard(runtime, &container).await?;
    }
    let folder = folder(runtime.root(), sandbox.id());
    record::blocking("remove a sandbox's record", move || remove_folder(&folder)).await?;
    runtime.forget_sandbox(&sandbox);
    Ok(())
}

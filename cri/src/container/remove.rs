//! RemoveContainer: kills it if need be, then its root file system and its record.

use std::sync::Arc;
use std::time::Duration;

use proto::cri;

use super::create::rootfs_key;
use super::stop::kill;
use super::{Container, folder, volume};
use crate::error::Error;
use crate::record;
use crate::runtime::{Runtime, remove_folder};

/// How long the shim of an ended container may take to free what it holds.
const DISMISSAL_DEADLINE: Duration = Duration::from_secs(30);

/// Removes a container; one that does not exist is removed.
///
/// # Errors
/// Something of it cannot be given back; it is still listed then, and the call can be repeated.
pub async fn remove(
    runtime: &Arc<Runtime>,
    request: &cri::RemoveContainerRequest,
) -> Result<(), Error> {
    match runtime.containers.find(&request.container_id) {
        Ok(container) => discard(runtime, &container).await,
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes away everything of a container.
///
/// # Errors
/// As [`remove`].
pub async fn discard(runtime: &Arc<Runtime>, container: &Arc<Container>) -> Result<(), Error> {
    let _turn = container.removal.lock().await;
    kill(container).await?;
    let mut dismissed = container.dismissed.subscribe();
    let waited = dismissed.wait_for(|done| *done);
    if tokio::time::timeout(DISMISSAL_DEADLINE, waited).await.is_err() {
        return Err(Error::Deadline {
            operation: format!("free what {} holds", container.name()),
            after: DISMISSAL_DEADLINE,
        });
    }
    let key = rootfs_key(container.id())?;
    let (snapshots, bundle) = (Arc::clone(&runtime.snapshots), runtime.bundle_dir(container.id()));
    let folder = folder(runtime.root(), container.id());
    record::blocking("remove a container", move || {
        volume::release(snapshots.as_ref(), &key)?;
        remove_folder(&bundle)?;
        remove_folder(&folder)
    })
    .await?;
    runtime.forget_container(container);
    Ok(())
}

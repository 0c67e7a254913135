//! Waits for a container's end, writes it down, and dismisses the shim.

use std::sync::Arc;

use shim::{Bundle, Shim, ShimError};

use super::state::{Ended, State};
use super::{Container, ended_path, folder};
use crate::error::Error;
use crate::record;
use crate::runtime::{Runtime, remove_folder};
use crate::signal::Signal;

/// Watches a container until nothing of it is left in the kernel.
pub fn spawn(runtime: &Arc<Runtime>, container: Arc<Container>) {
    let runtime = Arc::clone(runtime);
    tokio::spawn(async move {
        if let Err(error) = watch(&runtime, &container).await {
            tracing::warn!(container = %container.id(), error = error.sentence(), "watch a container");
        }
        // Whoever waits to remove the container goes on in any case: what is left is found by the next start.
        container.dismissed.send_replace(true);
    });
}

async fn watch(runtime: &Runtime, container: &Container) -> Result<(), Error> {
    let Some(shim) = &container.shim else { return Ok(()) };
    let (how, witness) = end(runtime, container, shim).await;
    {
        // A start that is under way has the first word: it knows why the process never ran.
        let _turn = container.turn.lock().await;
        runtime.move_container(container, |state| state.ended(how));
    }
    container.meter.close();
    let State::Exited(ended) = container.state.borrow().clone() else { return Ok(()) };
    write(runtime, container, ended).await?;
    let failed = |source| Error::Shim {
        operation: format!("dismiss the shim of {}", container.name()),
        source,
    };
    let bundle = runtime.bundle_dir(container.id());
    match (witness, Bundle::open(&bundle)) {
        // Without its shim nobody frees what the container has in the kernel, its processes first of all.
        (Witness::Nobody, Ok(bundle)) => {
            shim::dissolve(&runtime.launcher, bundle).await.map_err(failed)
        }
        _ => {
            dismiss(shim).await.map_err(failed)?;
            record::blocking("remove a bundle", move || remove_folder(&bundle)).await
        }
    }
}

/// Who can tell how a container ended.
enum Witness {
    /// Its shim, which lives.
    Shim,
    /// Nobody but the files that a dead shim left.
    Nobody,
}

/// How the container ended: as its shim says, or as a dead shim left it written.
async fn end(runtime: &Runtime, container: &Container, shim: &Shim) -> (Ended, Witness) {
    let started_at = || container.state.borrow().started_at();
    let error = match shim.wait().await {
        Ok(exit) => return (Ended::seen(started_at(), exit), Witness::Shim),
        Err(error) => error,
    };
    let bundle = Bundle::open(&runtime.bundle_dir(container.id())).ok();
    let ended = match bundle.as_ref().and_then(Bundle::exit) {
        Some(exit) => Ended::seen(started_at(), exit),
        None => {
            tracing::warn!(container = %container.id(), %error, "a shim is gone without a word on its container");
            Ended::unseen(started_at(), "the container's shim is gone")
        }
    };
    (ended, Witness::Nobody)
}

async fn write(runtime: &Runtime, container: &Container, ended: Ended) -> Result<(), Error> {
    let path = ended_path(&folder(runtime.root(), container.id()));
    record::blocking("write how a container ended", move || record::write(&path, &ended)).await
}

/// Kills what is left of a container, frees what it holds in the kernel, and ends its shim.
///
/// # Errors
/// Something cannot be freed. A shim that is gone has been dismissed.
pub async fn dismiss(shim: &Shim) -> Result<(), ShimError> {
    let gone = |error: &ShimError| {
        matches!(error.kind(), shim::ErrorKind::Unavailable | shim::ErrorKind::NotFound)
    };
    if let Err(error) = shim.kill(Signal::KILL.number(), true).await
        && !gone(&error)
    {
        tracing::debug!(%error, "kill what is left of a container");
    }
    match shim.delete().await {
        Err(error) if !gone(&error) => return Err(error),
        _ => {}
    }
    match shim.shutdown().await {
        Err(error) if !gone(&error) => Err(error),
        _ => Ok(()),
    }
}

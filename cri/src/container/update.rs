//! UpdateContainerResources: the intent, the change, the record.
//!
//! What is in force is in the container's durable folder, in a file of its own once it was changed for the first time.
//! An update is written there before it is made. A daemon that dies in between leaves an intent of which nobody knows
//! whether it was carried out: the next one carries it out again, and its answer is the truth.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::cri;
use serde::{Deserialize, Serialize};
use shim::{Shim, ShimError};

use super::{Container, folder};
use crate::error::Error;
use crate::limits::Resources;
use crate::record;
use crate::runtime::Runtime;
use crate::spec;

/// The limits of a container that was updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// What was last known to be in force.
    pub in_force: Resources,
    /// The update that was begun, if it is not known how it ended.
    pub begun: Option<Resources>,
}

/// Where they are in a container's durable folder.
#[must_use]
pub fn limits_path(folder: &Path) -> PathBuf {
    folder.join("limits.json")
}

/// Changes the limits of a container that waits or runs. Goes on to its end even if the caller stops waiting.
///
/// # Errors
/// `NotFound`; `Invalid` for limits that are none; `Refused` when it has ended. A refusal of the kernel's is the shim's
/// error, and everything is what it was then.
pub async fn update(
    runtime: &Arc<Runtime>,
    request: cri::UpdateContainerResourcesRequest,
) -> Result<(), Error> {
    let container = runtime.containers.find(&request.container_id)?;
    let operation = format!("update {}", container.name());
    let asked = Resources::parse(request.linux.unwrap_or_default())
        .map_err(|reason| Error::Invalid { operation: operation.clone(), reason })?;
    let task = tokio::spawn(change(Arc::clone(runtime), container, asked));
    match task.await {
        Ok(changed) => changed,
        Err(error) => Err(Error::Io { operation, source: std::io::Error::other(error) }),
    }
}

async fn change(
    runtime: Arc<Runtime>,
    container: Arc<Container>,
    asked: Resources,
) -> Result<(), Error> {
    let _turn = container.update.lock().await;
    let operation = || format!("update {}", container.name());
    let live = container.shim.as_ref().filter(|_| !container.state.borrow().is_exited());
    let shim = live.ok_or_else(|| Error::Refused {
        operation: operation(),
        reason: "it has ended".to_owned(),
    })?;
    let folder = folder(runtime.root(), container.id());
    let before = container.limits();
    let after = before.updated(&asked);
    write(&folder, Limits { in_force: before.clone(), begun: Some(asked.clone()) }).await?;
    match apply(shim, &asked, &after).await {
        Ok(()) => {
            container.set_limits(after.clone());
            container.meter.renew();
            write(&folder, Limits { in_force: after, begun: None }).await
        }
        Err(source) => {
            // Without an answer it is not known what is in force, and the intent stays.
            if !is_silence(&source) {
                write(&folder, Limits { in_force: before, begun: None }).await?;
            }
            Err(Error::Shim { operation: operation(), source })
        }
    }
}

/// Asks the shim for what an update mentions. `after` has what depends on it: swap is counted with memory.
async fn apply(shim: &Shim, asked: &Resources, after: &Resources) -> Result<(), ShimError> {
    let mut asked = asked.clone();
    if asked.memory_limit.or(asked.memory_swap).is_some() {
        asked.memory_limit = after.memory_limit;
        asked.memory_swap = after.memory_swap;
    }
    let score = Some(asked.oom_score_adj).filter(|score| *score != 0);
    let resources = spec::limits(&asked).map_err(|error| {
        let kind = shim::FailureKind::InvalidArgument;
        let cause = error.to_string();
        ShimError::Refused(shim::Failure::new(kind, "specify", "limits", cause))
    })?;
    shim.update(&resources, score).await
}

fn is_silence(error: &ShimError) -> bool {
    matches!(error.kind(), shim::ErrorKind::Unavailable | shim::ErrorKind::DeadlineExceeded)
}

async fn write(folder: &Path, limits: Limits) -> Result<(), Error> {
    let path = limits_path(folder);
    record::blocking("write a container's limits", move || record::write(&path, &limits)).await
}

/// What is in force of a container that a daemon has found: as recorded, after finishing an update whose end nobody
/// has seen. `None` when it was never updated.
pub async fn settle(folder: &Path, shim: Option<&Shim>) -> Option<Resources> {
    let path = limits_path(folder);
    let read = record::blocking("read a container's limits", move || record::read(&path)).await;
    let limits: Limits = match read {
        Ok(limits) => limits?,
        Err(error) => {
            let error = error.sentence();
            tracing::warn!(folder = %folder.display(), error, "the limits of a container are not known");
            return None;
        }
    };
    let (Some(asked), Some(shim)) = (&limits.begun, shim) else { return Some(limits.in_force) };
    let after = limits.in_force.updated(asked);
    let in_force = match apply(shim, asked, &after).await {
        Ok(()) => after,
        Err(error) => {
            tracing::info!(folder = %folder.display(), %error, "an update that was cut short is not made");
            limits.in_force
        }
    };
    if let Err(error) = write(folder, Limits { in_force: in_force.clone(), begun: None }).await {
        tracing::warn!(folder = %folder.display(), error = error.sentence(), "record a container's limits");
    }
    Some(in_force)
}

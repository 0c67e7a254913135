//! UpdatePodSandboxResources: kept, not applied. The kubelet has written the pod's cgroup before it says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::cri;

use super::config::PodResources;
use super::{Sandbox, folder};
use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;

/// Where they are in a sandbox's durable folder, once they were changed.
fn resources_path(folder: &Path) -> PathBuf {
    folder.join("resources.json")
}

/// Keeps what a pod's containers have together now.
///
/// # Errors
/// `NotFound`; `Invalid` for resources that are none; the disk refuses.
pub async fn update(
    runtime: &Arc<Runtime>,
    request: cri::UpdatePodSandboxResourcesRequest,
) -> Result<(), Error> {
    let sandbox = runtime.sandboxes.find(&request.pod_sandbox_id)?;
    let resources = PodResources::parse(request.overhead, request.resources).map_err(|reason| {
        let operation = format!("update pod {}", sandbox.record.config.pod());
        Error::Invalid { operation, reason }
    })?;
    let _turn = sandbox.update.lock().await;
    let path = resources_path(&folder(runtime.root(), sandbox.id()));
    let written = resources.clone();
    record::blocking("write a pod's resources", move || record::write(&path, &written)).await?;
    sandbox.set_resources(resources);
    sandbox.meter.renew();
    Ok(())
}

/// Reads back what an earlier daemon was told; without it, what the pod was made with stays.
pub async fn recall(runtime: &Runtime, sandbox: &Sandbox) {
    let path = resources_path(&folder(runtime.root(), sandbox.id()));
    match record::blocking("read a pod's resources", move || record::read(&path)).await {
        Ok(Some(resources)) => sandbox.set_resources(resources),
        Ok(None) => {}
        Err(error) => {
            let error = error.sentence();
            tracing::warn!(sandbox = %sandbox.id(), error, "the resources of a pod are not known");
        }
    }
}

//! ImageFsInfo: what images and containers take on the disk, without a look at it.
//!
//! Layers and documents are counted as they come and go; what containers have written is what their last measurement
//! says, which this brings up to date as statistics do.

use std::sync::Arc;

use proto::cri;
use snapshotter::Usage;

use crate::clock::Nanos;
use crate::container::stats::{is_running, places};
use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;
use crate::stats::layer;

/// Tells what images use of the disk, and what containers have written. Both are on the same file system.
///
/// # Errors
/// The runtime is going down.
pub async fn fs_info(runtime: &Arc<Runtime>) -> Result<cri::ImageFsInfoResponse, Error> {
    let images = runtime.images.usage();
    let shared = Arc::clone(runtime);
    let written = record::blocking("measure what containers have written", move || {
        let cpu = |container: &Arc<_>| container_cpu(container);
        let containers = shared.containers.all();
        let seen: Vec<_> = containers.into_iter().map(|c| (Arc::clone(&c), cpu(&c))).collect();
        layer::refresh(&shared, &seen);
        Ok(layer::total(&shared))
    })
    .await?;
    Ok(cri::ImageFsInfoResponse {
        image_filesystems: vec![usage(runtime, images)],
        container_filesystems: vec![usage(runtime, written)],
    })
}

fn container_cpu(container: &crate::container::Container) -> Option<u64> {
    if !is_running(container) {
        return None;
    }
    container.meter.sample(None, || places(container))?.cpu
}

fn usage(runtime: &Runtime, usage: Usage) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: Nanos::now().get(),
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: runtime.root().display().to_string() }),
        used_bytes: Some(cri::UInt64Value { value: usage.bytes }),
        inodes_used: Some(cri::UInt64Value { value: usage.inodes }),
    }
}

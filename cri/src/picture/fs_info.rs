//! ImageFsInfo: from memory, for the kubelet asks it all the time.

use proto::cri;

use crate::clock::Nanos;
use crate::runtime::Runtime;

/// Tells what images use of the disk. Containers' writable layers are on the same file system.
#[must_use]
pub fn fs_info(runtime: &Runtime) -> cri::ImageFsInfoResponse {
    let usage = runtime.images.usage();
    let images = cri::FilesystemUsage {
        timestamp: Nanos::now().get(),
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: runtime.root().display().to_string() }),
        used_bytes: Some(cri::UInt64Value { value: usage.bytes }),
        inodes_used: Some(cri::UInt64Value { value: usage.inodes }),
    };
    cri::ImageFsInfoResponse {
        container_filesystems: vec![images.clone()],
        image_filesystems: vec![images],
    }
}

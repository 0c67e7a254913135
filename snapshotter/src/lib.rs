//! Layers and the root filesystems made of them.
//!
//! A layer is one directory, filled once and never changed after its commit, shared by every image and container
//! that has it. It is named by its chain id, so the same layer over the same ones below is the same layer. A
//! container's rootfs is an overlay mount: its own `upper` and `work` over those shared directories. This crate
//! keeps the directories and says what to mount; the shim mounts it, in a mount namespace of its own.
//!
//! ```text
//!            draft()                commit()                     remove_layer()
//!   nothing ─────────► draft ───────────────────► layer ───────────────────────► nothing
//!                       │  discard(), drop, crash   │   refused while a layer or a rootfs is on it
//!                       ▼                           │ prepare()        release()
//!                    nothing                        └──────────► rootfs ─────────► nothing
//! ```
//!
//! [`Snapshotter`] is the contract, [`Overlay`] keeps it on a disk, and `suite::run` (feature `test-util`) holds any
//! implementor to it. Calls block on the disk: async callers make them on a blocking thread.

#![forbid(unsafe_code)]

mod contract;
mod id;
mod lower;
mod overlay;
mod rootfs;

#[cfg(any(test, feature = "test-util"))]
pub mod fake;
#[cfg(any(test, feature = "test-util"))]
pub mod suite;

pub use contract::{Detached, Draft, LayerInfo, SnapshotError, Snapshotter, Usage};
pub use id::{ChainId, RootfsKey};
pub use lower::{Found, Lower};
pub use overlay::Overlay;
pub use rootfs::{Mount, Rootfs, View};

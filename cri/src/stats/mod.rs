//! What containers and pods use: read when somebody asks, from files that stay open, and not more often than every second.
//!
//! ```text
//!   container/stats, sandbox/stats, metric/     what is asked for
//!        │                │
//!      meter            layer                   a container's or pod's cgroup; what a container has written
//!        │                │
//!      sample             │                     one reading, of what may have changed
//!        │                │
//!    sys::cgroup      snapshotter               the kernel's files, the disk
//! ```
//!
//! Nothing here wakes up by itself. A scrape blocks on files of the kernel's, so it runs where blocking is allowed.

pub mod layer;
pub mod meter;
pub mod metric;
pub mod network;
pub mod sample;
pub mod wire;

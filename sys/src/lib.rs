//! The operating system as safe, typed calls: the only crate of the workspace that may contain `unsafe`.
//!
//! Thin where the kernel's own interface is good, thoughtful where it is not: fds are `OwnedFd`, processes are
//! pidfds, a path below a root that a tenant controls is resolved by fd and cannot leave it. `nix` and `rustix`
//! do what they cover; what they lack is here, one file per subject, and `unsafe` is allowed only in the modules
//! that carry the attribute below.

#[allow(unsafe_code)]
pub mod attribute;
#[allow(unsafe_code)]
pub mod bpf;
pub mod cgroup;
pub mod confined;
pub mod durable;
pub mod jail;
pub mod link;
#[allow(unsafe_code)]
pub mod memory;
#[allow(unsafe_code)]
pub mod mount;
pub mod netns;
#[allow(unsafe_code)]
pub mod process;
#[allow(unsafe_code)]
pub mod seccomp;
#[allow(unsafe_code)]
pub mod users;

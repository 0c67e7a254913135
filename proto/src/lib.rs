//! The wire: CRI v1 (`cri`, with the feature of that name) and what shims speak (`shim`).
//!
//! The definitions are written from the wire facts in `facts/`, with comments of our own, and compiled in the build
//! without a `protoc` binary. Nothing but generated code is in this crate; tests hold the compiled descriptors
//! against the facts row by row, so that no field number can drift.
#![forbid(unsafe_code)]

/// The Kubernetes Container Runtime Interface, v1.
#[cfg(feature = "cri")]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// The part of containerd's own API that agents read (`containerd.services`).
#[cfg(feature = "cri")]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod containerd {
    pub mod version {
        tonic::include_proto!("containerd.services.version.v1");
    }
    pub mod containers {
        tonic::include_proto!("containerd.services.containers.v1");
    }
    pub mod tasks {
        tonic::include_proto!("containerd.services.tasks.v1");
    }
}

/// What is said on a shim's socket.
pub mod shim;

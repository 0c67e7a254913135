//! Where a sandbox's things are below the state folder: every path derives from the id.

use std::path::{Path, PathBuf};

use crate::id::SandboxId;

/// The folder of one sandbox below `/run/wherry/sandboxes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPaths {
    dir: PathBuf,
}

impl PodPaths {
    /// The paths of a sandbox below `state`, the daemon's volatile folder.
    #[must_use]
    pub fn of(state: &Path, id: &SandboxId) -> Self {
        Self { dir: state.join("sandboxes").join(id.as_str()) }
    }

    /// The folder itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of pinned namespaces.
    #[must_use]
    pub fn namespaces(&self) -> PathBuf {
        self.dir.join("ns")
    }

    /// The pinned network namespace.
    #[must_use]
    pub fn net(&self) -> PathBuf {
        self.dir.join("ns/net")
    }

    /// The pinned IPC namespace.
    #[must_use]
    pub fn ipc(&self) -> PathBuf {
        self.dir.join("ns/ipc")
    }

    /// The pinned UTS namespace.
    #[must_use]
    pub fn uts(&self) -> PathBuf {
        self.dir.join("ns/uts")
    }

    /// The pinned user namespace, of pods that have one.
    #[must_use]
    pub fn user(&self) -> PathBuf {
        self.dir.join("ns/user")
    }

    /// The pinned process namespace, of pods that share one.
    #[must_use]
    pub fn pid(&self) -> PathBuf {
        self.dir.join("ns/pid")
    }

    /// The file system behind /dev/shm.
    #[must_use]
    pub fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }

    /// The mark of a complete sandbox.
    #[must_use]
    pub fn ready(&self) -> PathBuf {
        self.dir.join("ready.json")
    }

    /// The file behind /etc/hostname.
    #[must_use]
    pub fn hostname(&self) -> PathBuf {
        self.dir.join("hostname")
    }

    /// The file behind /etc/hosts.
    #[must_use]
    pub fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    /// The file behind /etc/resolv.conf.
    #[must_use]
    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }
}

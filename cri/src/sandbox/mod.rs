//! Pod sandboxes: pinned namespaces, a few files and a network, without a process of their own.

pub mod config;
pub mod files;
pub mod list;
pub mod paths;
pub mod port_forward;
pub mod remove;
pub mod run;
pub mod state;
pub mod stats;
pub mod status;
pub mod stop;
pub mod update;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::Nanos;
use crate::id::SandboxId;
use crate::stats::meter::Meter;
use config::{PodResources, SandboxConfig};
use state::State;

/// What is written down of a sandbox for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name here.
    pub id: SandboxId,
    /// What the kubelet wants of it.
    pub config: SandboxConfig,
    /// When it was made.
    pub created_at: Nanos,
}

/// A sandbox that exists.
#[derive(Debug)]
pub struct Sandbox {
    /// What never changes.
    pub record: Record,
    state: Mutex<State>,
    /// What the kubelet last said its containers have together.
    resources: Mutex<PodResources>,
    /// Held by the one who writes that down.
    pub update: tokio::sync::Mutex<()>,
    /// Held by the one who stops or removes it.
    pub teardown: tokio::sync::Mutex<()>,
    /// Reads the pod's own cgroup.
    pub meter: Meter,
    /// How lists tell of it, since the first one.
    listed: OnceLock<Box<[u8]>>,
    /// How statistics tell of it, since the first ones.
    attributes: OnceLock<Box<[u8]>>,
}

impl Sandbox {
    /// A sandbox in a state.
    #[must_use]
    pub fn new(record: Record, state: State) -> Self {
        Self {
            resources: Mutex::new(record.config.resources.clone()),
            update: tokio::sync::Mutex::default(),
            record,
            state: Mutex::new(state),
            teardown: tokio::sync::Mutex::default(),
            meter: Meter::default(),
            listed: OnceLock::new(),
            attributes: OnceLock::new(),
        }
    }

    /// Its state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at its state.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves its state.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What its containers have together.
    #[must_use]
    pub fn resources(&self) -> PodResources {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says that its containers have something else together now.
    pub fn set_resources(&self, resources: PodResources) {
        *self.resources.lock().unwrap_or_else(PoisonError::into_inner) = resources;
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.record.id
    }
}

/// The durable folder of a sandbox below the daemon's root.
#[must_use]
pub fn folder(root: &Path, id: &SandboxId) -> PathBuf {
    root.join("sandboxes").join(id.as_str())
}

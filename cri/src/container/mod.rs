//! Containers: one shim each, which owns everything of the container that lives in the kernel.

pub mod attach;
pub mod config;
pub mod create;
pub mod exec;
pub mod exec_sync;
pub mod lines;
pub mod list;
pub mod prepare;
pub mod process;
pub mod propagation;
pub mod remove;
pub mod reopen_log;
pub mod security;
pub mod start;
pub mod state;
pub mod stats;
pub mod status;
pub mod stop;
pub mod update;
pub mod volume;
pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use shim::{ResolvedUser, Shim};
use tokio::sync::watch as channel;

use crate::clock::Nanos;
use crate::error::Error;
use crate::id::{ContainerId, SandboxId};
use crate::limits::Resources;
use crate::signal::Signal;
use crate::stats::layer::Layer;
use crate::stats::meter::Meter;
use config::ContainerConfig;
use state::State;

/// Whom a container's first process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All supplementary groups.
    pub groups: Vec<u32>,
}

impl From<ResolvedUser> for User {
    fn from(user: ResolvedUser) -> Self {
        Self { uid: user.uid, gid: user.gid, groups: user.groups }
    }
}

/// What is written down of a container for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name here.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox: SandboxId,
    /// What the kubelet wants of it.
    pub config: ContainerConfig,
    /// Its image's id.
    pub image_id: String,
    /// Its image by repository and digest.
    pub image_ref: String,
    /// Its image as the user knows it.
    #[serde(default)]
    pub image_name: String,
    /// The ids of the images that it has mounted, by where.
    #[serde(default)]
    pub image_volumes: BTreeMap<PathBuf, String>,
    /// When it was made.
    pub created_at: Nanos,
    /// What stops it.
    pub stop_signal: Signal,
    /// Its log file.
    pub log: Option<PathBuf>,
    /// Whom it runs as.
    pub user: User,
    /// Its first process, as the host counts.
    pub pid: u32,
}

/// A container that exists.
#[derive(Debug)]
pub struct Container {
    /// What never changes.
    pub record: Record,
    /// Where it is in its life, for whoever looks and whoever waits.
    pub state: channel::Sender<State>,
    /// Whether its shim has been dismissed and nothing of it is left in the kernel.
    pub dismissed: channel::Sender<bool>,
    /// Its shim, as long as there is one.
    pub shim: Option<Shim>,
    /// The limits in force.
    limits: Mutex<Resources>,
    /// Held by the one who changes them.
    pub update: tokio::sync::Mutex<()>,
    /// Whether the stop signal has been sent.
    pub asked: channel::Sender<bool>,
    /// Held by a start until it knows whether the process runs, and by who writes the end into the state.
    pub turn: tokio::sync::Mutex<()>,
    /// Held by the one who removes it.
    pub removal: tokio::sync::Mutex<()>,
    /// What its execs are made from, since the first one.
    pub(crate) process: tokio::sync::OnceCell<Box<[u8]>>,
    /// How lists tell of it, since the first one.
    listed: OnceLock<Box<[u8]>>,
    /// How statistics tell of it, since the first ones.
    attributes: OnceLock<Box<[u8]>>,
    /// Reads its cgroup.
    pub meter: Meter,
    /// What it has written into its root file system.
    pub layer: Layer,
}

impl Container {
    /// A container with a live shim.
    #[must_use]
    pub fn alive(record: Record, state: State, shim: Shim) -> Self {
        Self::new(record, state, Some(shim))
    }

    /// A container that has ended and has no shim any more.
    #[must_use]
    pub fn past(record: Record, ended: state::Ended) -> Self {
        Self::new(record, State::Exited(ended), None)
    }

    fn new(record: Record, state: State, shim: Option<Shim>) -> Self {
        Self {
            limits: Mutex::new(record.config.resources.clone()),
            update: tokio::sync::Mutex::default(),
            record,
            state: channel::Sender::new(state),
            dismissed: channel::Sender::new(shim.is_none()),
            shim,
            asked: channel::Sender::new(false),
            turn: tokio::sync::Mutex::default(),
            removal: tokio::sync::Mutex::default(),
            process: tokio::sync::OnceCell::new(),
            listed: OnceLock::new(),
            attributes: OnceLock::new(),
            meter: Meter::default(),
            layer: Layer::default(),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.record.id
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Resources {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says that other limits are in force now.
    pub fn set_limits(&self, limits: Resources) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Its shim, while it runs.
    ///
    /// # Errors
    /// `Refused` when it does not.
    pub fn running(&self, operation: &str) -> Result<&Shim, Error> {
        let running = matches!(*self.state.borrow(), State::Running { .. });
        self.shim.as_ref().filter(|_| running).ok_or_else(|| Error::Refused {
            operation: operation.to_owned(),
            reason: "the container does not run".into(),
        })
    }

    /// The container as messages name it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("container {} ({})", self.record.config.metadata.name, &self.id().as_str()[..12])
    }
}

/// The durable folder of a container below the daemon's root.
#[must_use]
pub fn folder(root: &Path, id: &ContainerId) -> PathBuf {
    root.join("containers").join(id.as_str())
}

/// How the container ended, in its durable folder.
#[must_use]
pub fn ended_path(folder: &Path) -> PathBuf {
    folder.join("ended.json")
}

/// The bundle of a container below the daemon's volatile folder.
#[must_use]
pub fn bundle_dir(state: &Path, id: &str) -> PathBuf {
    state.join("containers").join(id)
}

//! Whether the node could give a pod a network now.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::conf::{Choice, Conflist, Folder, Version};
use crate::plugin::Chain;

/// The name under which the built-in network is reported.
const BUILT_IN: &str = "bridge (built in)";
/// How long an answer of the plugins is good for; the kubelet asks every few seconds, and an exec costs much.
const FRESH: Duration = Duration::from_secs(5);
/// How long the plugins may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether pods can be given a network, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Pods can be attached.
    pub ready: bool,
    /// A word for machines; empty if ready.
    pub reason: String,
    /// A sentence for the operator; empty if ready.
    pub message: String,
    /// The network's name, or that it is the built-in one; empty if there is none.
    pub plugin: String,
}

/// What the configuration folder has.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The folder with configurations.
    pub conf_dir: PathBuf,
    /// The folders searched for plugins.
    pub bin_dirs: Vec<PathBuf>,
    /// The list of plugins in use, as JSON; none on the built-in network.
    pub network: Option<serde_json::Value>,
    /// Why none of the configurations can be used.
    pub fault: Option<String>,
}

impl NetworkStatus {
    fn ready(plugin: &str) -> Self {
        Self {
            ready: true,
            reason: String::new(),
            message: String::new(),
            plugin: plugin.to_owned(),
        }
    }

    pub(crate) fn not_ready(plugin: &str, message: String) -> Self {
        let reason = "NetworkPluginNotReady".to_owned();
        Self { ready: false, reason, message, plugin: plugin.to_owned() }
    }
}

/// What can be said without running anything.
#[derive(Debug)]
pub(crate) enum Prospect {
    /// All of it.
    Known(NetworkStatus),
    /// The plugins are there, and have something to say themselves.
    AskPlugins(Arc<Conflist>),
}

impl Prospect {
    /// Looks at the configuration and for the plugins. Reads files.
    pub(crate) fn of(folder: &Folder, bin_dirs: &[PathBuf]) -> Self {
        Self::Known(match folder.choice() {
            Choice::BuiltIn => NetworkStatus::ready(BUILT_IN),
            Choice::Broken { path, reason } => {
                let message = format!("network configuration {}: {reason}", path.display());
                NetworkStatus::not_ready("", message)
            }
            Choice::Plugins(list) => {
                match (Chain { list: &list, bin_dirs, limit: PATIENCE }).check() {
                    Err(error) => NetworkStatus::not_ready(&list.name, error.to_string()),
                    Ok(()) if list.version < Version::V1_1_0 => NetworkStatus::ready(&list.name),
                    Ok(()) => return Self::AskPlugins(list),
                }
            }
        })
    }
}

/// What the plugins of a network last said about themselves.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    last: Mutex<Option<(Arc<Conflist>, Instant, NetworkStatus)>>,
}

impl Readiness {
    /// Asks the plugins, unless they were asked a moment ago.
    pub(crate) async fn ask(&self, list: &Arc<Conflist>, bin_dirs: &[PathBuf]) -> NetworkStatus {
        // Those who ask while the plugins are being asked wait for the same answer.
        let mut last = self.last.lock().await;
        if let Some((of, when, status)) = &*last
            && Arc::ptr_eq(of, list)
            && when.elapsed() < FRESH
        {
            return status.clone();
        }
        let status = match (Chain { list, bin_dirs, limit: PATIENCE }).status().await {
            Ok(()) => NetworkStatus::ready(&list.name),
            Err(error) => NetworkStatus::not_ready(&list.name, error.to_string()),
        };
        *last = Some((Arc::clone(list), Instant::now(), status.clone()));
        status
    }
}

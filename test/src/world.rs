//! What a test may ask for.

use std::path::{Path, PathBuf};

use crate::leftovers::Baseline;
use crate::node::Node;
use crate::registry::Registries;
use crate::runtime::{Runtime, Settings};

/// Everything around a test: registries, at most one node at a time, a folder.
#[derive(Debug)]
pub struct World {
    /// The daemon under test.
    pub runtime: Runtime,
    /// The run's folder.
    pub folder: PathBuf,
    /// The registries.
    pub registries: Registries,
    node: Option<(Node, Baseline)>,
    nodes: u32,
}

impl World {
    /// Starts the registries.
    pub async fn new(runtime: Runtime, folder: &Path) -> std::io::Result<Self> {
        let registries = Registries::start(folder).await?;
        Ok(Self::with(runtime, folder, registries))
    }

    /// The same with registries of our own only.
    pub async fn small(runtime: Runtime, folder: &Path) -> std::io::Result<Self> {
        let registries = Registries::own(folder).await?;
        Ok(Self::with(runtime, folder, registries))
    }

    fn with(runtime: Runtime, folder: &Path, registries: Registries) -> Self {
        Self { runtime, folder: folder.into(), registries, node: None, nodes: 0 }
    }

    /// A running node with the usual settings: the one of the test before, when that left it well.
    pub async fn node(&mut self) -> &mut Node {
        self.node_with(Settings::default()).await
    }

    /// A running node with these settings.
    pub async fn node_with(&mut self, settings: Settings) -> &mut Node {
        self.node_of(self.runtime, settings).await
    }

    /// A running node of this daemon with these settings.
    pub async fn node_of(&mut self, runtime: Runtime, settings: Settings) -> &mut Node {
        let usable = self.node.as_mut().is_some_and(|(node, _)| {
            let same = node.settings == settings && node.runtime == runtime;
            same && node.pid().is_some()
        });
        if !usable {
            self.drop_node();
            self.nodes += 1;
            let base = self.folder.join(format!("node{}", self.nodes));
            std::fs::create_dir(&base).unwrap();
            let baseline = Baseline::now();
            let started = Node::start(runtime, &base, self.registries.certs_dir(), settings);
            let node = match started.await {
                Ok(node) => node,
                Err(error) => {
                    let log = std::fs::read_to_string(base.join("daemon.log")).unwrap_or_default();
                    panic!("the node does not start: {error}\n{log}");
                }
            };
            self.node = Some((node, baseline));
        }
        &mut self.node.as_mut().unwrap().0
    }

    /// The node that runs, if one does.
    pub fn current(&self) -> Option<&Node> {
        self.node.as_ref().map(|(node, _)| node)
    }

    /// A folder of the test's own.
    pub fn new_folder(&mut self) -> PathBuf {
        let folder = self.folder.join(crate::spec::random_hex(4));
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    /// Removes all pods; what is left then.
    pub async fn leftovers(&mut self) -> Vec<String> {
        let Some((node, baseline)) = &mut self.node else { return Vec::new() };
        if node.pid().is_none()
            && let Err(error) = node.up().await
        {
            return vec![format!("the daemon does not start again: {error}")];
        }
        if let Err(error) = node.clear().await {
            return vec![format!("the pods cannot be removed: {error}")];
        }
        baseline.leftovers(node).await
    }

    /// The end of the daemon's log, for whoever looks into a failure.
    pub fn log_tail(&self) -> String {
        let text = self.node.as_ref().map(|(node, _)| node.log_text()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Forgets the node and kills what it leaves behind, so that the next test starts afresh.
    pub fn drop_node(&mut self) {
        let Some((node, baseline)) = self.node.take() else { return };
        drop(node);
        baseline.kill_rest();
    }
}

//! Networks made by programs: the exec protocol of the CNI specification (versions 0.3.0 to 1.1.0).
//!
//! ```text
//! ADD   p1 ──result──► p2 ──result──► p3 ──result──► the pod's attachment
//! DEL   p3, p2, p1, each told the attachment; all are tried, whatever one of them says
//! ```
//!
//! Plugins are the operator's own, run as root, and still not trusted to end, to answer, or to answer briefly.

mod exec;
mod request;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;
use tracing::debug;

use crate::conf::{Conflist, Plugin, Version, parse_json};
use crate::error::NetworkError;
use crate::pod::PodNetwork;

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Add,
    Del,
    Status,
}

impl Command {
    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Status => "STATUS",
        }
    }
}

/// A network's plugins, and how to run them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) list: &'a Conflist,
    pub(crate) bin_dirs: &'a [PathBuf],
    /// How long all plugins together may take to add a pod, and each of them to remove one.
    pub(crate) limit: Duration,
}

/// One plugin, about to be run.
#[derive(Debug)]
struct Call<'a> {
    chain: &'a Chain<'a>,
    plugin: &'a Plugin,
    command: Command,
    deadline: Instant,
}

impl Chain<'_> {
    /// Adds a pod and returns the last plugin's result. What was done until an error is left to be undone.
    pub(crate) async fn add(&self, pod: &PodNetwork, netns: &Path) -> Result<Value, NetworkError> {
        let mut previous = None;
        let deadline = self.deadline();
        for plugin in &self.list.plugins {
            let call = self.call(plugin, Command::Add, deadline);
            let mut input = call.input();
            call.tell_about(pod, &mut input)?;
            if let Some(previous) = previous {
                input.insert("prevResult".to_owned(), previous);
            }
            let output = call.run(&input, request::environment(pod, Some(netns))).await?;
            let mut result =
                parse_json(&output).map_err(|fault| call.error(format!("its result {fault}")))?;
            let Some(fields) = result.as_object_mut() else {
                return Err(call.error("its result is not a JSON object"));
            };
            fields.entry("cniVersion").or_insert_with(|| self.list.version.as_str().into());
            previous = Some(result);
        }
        previous.ok_or_else(|| NetworkError::InvalidConfig {
            path: PathBuf::from(&self.list.name),
            reason: "has no plugins".to_owned(),
        })
    }

    /// Removes a pod: all plugins in reverse, going on past errors. `netns` is `None` if the namespace is gone.
    ///
    /// Each plugin has the whole limit: one that hangs must not keep the others from giving back what they hold.
    pub(crate) async fn del(
        &self,
        pod: &PodNetwork,
        netns: Option<&Path>,
        result: Option<&Value>,
    ) -> Result<(), NetworkError> {
        let mut errors = Vec::new();
        for plugin in self.list.plugins.iter().rev() {
            let call = self.call(plugin, Command::Del, self.deadline());
            let mut input = call.input();
            // An annotation that can no longer be read must not keep the pod's network from being removed.
            if let Err(error) = call.tell_about(pod, &mut input) {
                debug!(%error, "DEL without runtime configuration");
            }
            if let Some(result) = result.filter(|_| self.list.version >= Version::V0_4_0) {
                input.insert("prevResult".to_owned(), result.clone());
            }
            errors.extend(call.run(&input, request::environment(pod, netns)).await.err());
        }
        NetworkError::all(errors)
    }

    /// Asks the plugins whether they could add a pod now (version 1.1.0 and later; earlier ones know no such verb).
    pub(crate) async fn status(&self) -> Result<(), NetworkError> {
        let deadline = self.deadline();
        for plugin in &self.list.plugins {
            let call = self.call(plugin, Command::Status, deadline);
            call.run(&call.input(), Vec::new()).await?;
        }
        Ok(())
    }

    /// Finds out whether all plugins are there to be run.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        self.list.plugins.iter().try_for_each(|plugin| {
            self.call(plugin, Command::Status, Instant::now()).program().map(drop)
        })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }

    fn call<'a>(&'a self, plugin: &'a Plugin, command: Command, deadline: Instant) -> Call<'a> {
        Call { chain: self, plugin, command, deadline }
    }
}

impl Call<'_> {
    /// The plugin's configuration as it gets it, without what differs from pod to pod.
    fn input(&self) -> Map<String, Value> {
        let list = self.chain.list;
        let mut input = self.plugin.conf.clone();
        input.insert("cniVersion".to_owned(), list.version.as_str().into());
        input.insert("name".to_owned(), list.name.as_str().into());
        input
    }

    fn tell_about(
        &self,
        pod: &PodNetwork,
        input: &mut Map<String, Value>,
    ) -> Result<(), NetworkError> {
        let told = request::runtime_config(pod, &self.plugin.capabilities)?;
        if !told.is_empty() {
            input.insert("runtimeConfig".to_owned(), Value::Object(told));
        }
        Ok(())
    }

    async fn run(
        &self,
        input: &Map<String, Value>,
        mut environment: Vec<(&'static str, String)>,
    ) -> Result<Vec<u8>, NetworkError> {
        let dirs: Vec<_> = self.chain.bin_dirs.iter().map(|dir| dir.to_string_lossy()).collect();
        environment.push(("CNI_COMMAND", self.command.as_str().to_owned()));
        environment.push(("CNI_PATH", dirs.join(":")));
        let input = serde_json::to_vec(input).map_err(|error| self.error(error.to_string()))?;
        let run =
            exec::Run { program: self.program()?, environment, input, deadline: self.deadline };
        debug!(plugin = self.plugin.kind, command = self.command.as_str(), "running CNI plugin");
        let ended = run.finish().await.map_err(|failure| match failure {
            exec::Failure::Deadline => NetworkError::Deadline {
                operation: "CNI plugin",
                object: format!("{} ({})", self.plugin.kind, self.command.as_str()),
                limit: self.chain.limit,
            },
            other => self.error(other.to_string()),
        })?;
        ended.into_output().map_err(|message| self.error(message))
    }

    fn program(&self) -> Result<PathBuf, NetworkError> {
        exec::find(self.chain.bin_dirs, &self.plugin.kind).ok_or_else(|| {
            let dirs: Vec<_> = self.chain.bin_dirs.iter().map(|d| d.to_string_lossy()).collect();
            self.error(format!("there is no such program in {}", dirs.join(", ")))
        })
    }

    fn error(&self, message: impl Into<String>) -> NetworkError {
        NetworkError::Plugin {
            network: self.chain.list.name.clone(),
            plugin: self.plugin.kind.clone(),
            command: self.command.as_str(),
            message: message.into(),
        }
    }
}

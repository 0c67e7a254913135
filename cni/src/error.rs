//! What can go wrong between a pod and its network.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sys::netns::NamespaceError;
use thiserror::Error;

/// Why an operation on a pod's network did not succeed.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// A fact about the pod cannot be handed to a network: the caller's request is wrong.
    #[error("pod {id}: {field} {reason}")]
    InvalidPod {
        /// The pod's id, shortened if it is absurd.
        id: String,
        /// Which fact.
        field: &'static str,
        /// What is wrong, to be read after the field.
        reason: &'static str,
    },
    /// The network's configuration cannot be used: the operator has to act.
    #[error("network configuration {path}: {reason}")]
    InvalidConfig {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A plugin is missing, failed, or said something that is not a CNI result.
    #[error("CNI {command} by plugin {plugin} of network {network}: {message}")]
    Plugin {
        /// The network's name.
        network: String,
        /// The plugin's type.
        plugin: String,
        /// `ADD`, `DEL` or `STATUS`.
        command: &'static str,
        /// What the plugin said, or what happened to it.
        message: String,
    },
    /// The time for an operation ran out. A plugin has been killed; a request to the kernel cannot be.
    #[error("{operation} {object} did not end within {limit:?}")]
    Deadline {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        object: String,
        /// How long it was given.
        limit: Duration,
    },
    /// Every address of the built-in network is in use.
    #[error("no address is left in {subnet} for pod {id}")]
    AddressesExhausted {
        /// The range.
        subnet: String,
        /// The pod that gets none.
        id: String,
    },
    /// Another pod of the built-in network has a port of the node that a pod asks for.
    #[error("host port {port} of pod {id} is pod {by}'s already")]
    PortTaken {
        /// The pod that does not get it.
        id: String,
        /// The port and its protocol.
        port: String,
        /// The pod that has it.
        by: String,
    },
    /// The pod has an attachment, whole or begun: detach it first.
    #[error("pod {id} is attached to a network already")]
    AlreadyAttached {
        /// The pod's id.
        id: String,
    },
    /// The pod's network namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refused a change of links, addresses, routes or rules.
    #[error("{operation} {object}: {source}")]
    Kernel {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of our own state cannot be read or written.
    #[error("{operation} {path}: {source}")]
    State {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Several steps of a removal failed; the rest was done.
    #[error("{}", joined(.0))]
    Several(Vec<Self>),
}

impl NetworkError {
    /// Turns the errors of a removal that went on past each of them into a result.
    pub(crate) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }

    pub(crate) fn state(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::State { operation, path, source }
    }

    pub(crate) fn kernel(
        operation: &'static str,
        object: impl ToString,
    ) -> impl FnOnce(io::Error) -> Self {
        let object = object.to_string();
        move |source| Self::Kernel { operation, object, source }
    }
}

fn joined(errors: &[NetworkError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

//! Containers that somebody else's runtime makes. The shim stays what it is for its daemon: it has the log, knows the
//! end, and serves the same calls; only what the runtime in this program would do, another one is asked for.
//!
//! ```text
//!   an OCI command line (runc, crun)                    containerd's Task API (containerd-shim-runc-v2)
//!
//!   shim ── fork ──► builder ── RUNTIME create ─┐       shim ── fork ──► builder ── SHIM start, Create
//!    │ parent of the container's first process ◄┘        │ ttrpc ─────────► foreign shim ── container
//!    │ log ◄── its pipes or terminal                     │ log ◄── FIFOs ──────┘
//! ```
//!
//! With a command line the container's first process becomes a child of the shim, which adopts orphans: it sees the end
//! as it does of its own. Every call of a runtime is made by a process forked for it, so that the shim never waits, and
//! its memory stays that of an event loop.
//!
//! Everything that belongs to the foreign runtime is in one folder of the bundle, and goes with it:
//!
//! ```text
//! foreign/runtime.json   whom to ask for what is left, when this shim is no more ([`free`])
//! foreign/config.json    the spec as that runtime gets it: with the numbers of users that names led to
//! foreign/rootfs/        where the root file system is mounted: for a command line, in a namespace of the builder's
//! foreign/state/         the runtime's own
//! foreign/0, 1, 2        FIFOs to a foreign shim, which has the process, and from it
//! ```

pub mod build;
pub mod call;
pub mod errand;
pub mod exec;
pub mod free;
mod prepare;
pub mod start;
mod volume;
pub mod wire;

use std::path::{Path, PathBuf};

pub use self::prepare::make_folder;

use crate::Failure;
use proto::shim::container::{ForeignRuntime, foreign_runtime::Kind};
use serde::{Deserialize, Serialize};

/// The folder in the bundle.
pub const FOLDER: &str = "foreign";
const RUNTIME_FILE: &str = "runtime.json";
const ROOTFS: &str = "rootfs";
const STATE: &str = "state";
const LOG: &str = "log.json";

/// A runtime with a command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The program.
    pub path: PathBuf,
    /// In front of the arguments of every call.
    pub args: Vec<String>,
    /// The container's name.
    pub id: String,
    /// cgroups are systemd's.
    pub systemd: bool,
}

/// A shim of somebody else's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shim {
    /// The program.
    pub binary: PathBuf,
    /// The container's name.
    pub id: String,
    /// Where it listens, once it does.
    pub address: String,
    /// The type of its options, and their message.
    pub options: (String, Vec<u8>),
}

/// Whom a shim asks in place of its own runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Runtime {
    /// A command line.
    Command(Command),
    /// A shim.
    Shim(Shim),
}

impl Runtime {
    /// What a create names.
    ///
    /// # Errors
    /// `InvalidArgument`: it names nothing.
    pub fn from_wire(runtime: ForeignRuntime, id: &str) -> Result<Self, Failure> {
        match runtime.kind {
            Some(Kind::Command(command)) => Ok(Self::Command(Command {
                path: command.path.into(),
                args: command.args,
                id: id.to_owned(),
                systemd: false,
            })),
            Some(Kind::Shim(shim)) => {
                let options = shim.options.unwrap_or_default();
                Ok(Self::Shim(Shim {
                    binary: shim.binary.into(),
                    id: id.to_owned(),
                    address: String::new(),
                    options: (options.type_url, options.value),
                }))
            }
            None => {
                let kind = crate::FailureKind::InvalidArgument;
                Err(Failure::new(kind, "use runtime", "", "none is named"))
            }
        }
    }
}

impl Command {
    /// The name of the program, for messages.
    fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A path in the folder, absolute: runtimes go to places of their own.
pub fn place(name: &str) -> Result<PathBuf, Failure> {
    let bundle = std::env::current_dir().map_err(|e| Failure::os("find", "bundle", e))?;
    Ok(bundle.join(FOLDER).join(name))
}

/// Writes a file of the folder.
fn write(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(value).map_err(std::io::Error::from);
    bytes
        .and_then(|bytes| sys::durable::write_volatile(path, &bytes))
        .map_err(|e| Failure::os("write", path.display().to_string(), e))
}

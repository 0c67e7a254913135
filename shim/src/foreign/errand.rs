//! What a runtime is asked for beyond making processes: a process is forked for it, whose report ends when it is done.

use std::fs;
use std::time::Duration;

use super::call::Call;
use super::{Command, place};
use crate::runtime::{BuilderFiles, conclude};
use crate::{Failure, FailureKind};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Release the process from its barrier.
    Start,
    /// Send a signal to a process; the first one has no name.
    Kill {
        /// Its number.
        signal: u32,
        /// An exec's name.
        exec_id: String,
        /// Everybody is meant.
        all: bool,
    },
    /// Stop everybody where they stand.
    Pause,
    /// Let everybody go on.
    Resume,
    /// Other limits: an OCI spec's `linux.resources`, as JSON.
    Update(Vec<u8>),
    /// Give a terminal another size.
    Resize {
        /// An exec's name.
        exec_id: String,
        /// Characters in a line.
        width: u32,
        /// Lines.
        height: u32,
    },
    /// End the standard input of a process.
    CloseInput(String),
    /// Free what an ended container holds.
    Delete,
    /// Free what an ended exec holds.
    DeleteExec(String),
}

/// Each is as long as a daemon waits for it, less what it takes to tell.
const START: Duration = Duration::from_secs(55);
const SHORT: Duration = Duration::from_secs(9);
const DELETE: Duration = Duration::from_secs(25);

/// Does it; the forked process's exit code.
pub fn run(runtime: &Command, verb: &Verb, files: BuilderFiles<'_>) -> u8 {
    let (report, _) = match files.keep() {
        Ok(kept) => kept,
        Err(code) => return code,
    };
    let result = match verb {
        Verb::Start => {
            Call::new(runtime, "start", START).failing_as(FailureKind::StartFailed).run()
        }
        Verb::Kill { signal, .. } => signalled(runtime, *signal),
        Verb::Pause => Call::new(runtime, "pause", SHORT).run(),
        Verb::Resume => Call::new(runtime, "resume", SHORT).run(),
        Verb::Update(resources) => update(runtime, resources),
        Verb::Delete => delete(runtime),
        // Terminals, inputs and execs of a command line are this shim's own.
        Verb::Resize { .. } | Verb::CloseInput(_) | Verb::DeleteExec(_) => Ok(()),
    };
    conclude(&report, result)
}

/// Has a runtime free everything of the container, whatever its state.
///
/// # Errors
/// The runtime refuses.
pub fn delete(runtime: &Command) -> Result<(), Failure> {
    Call::new(runtime, "delete", DELETE).arg("--force").run()
}

fn update(runtime: &Command, resources: &[u8]) -> Result<(), Failure> {
    let file = place("resources.json")?;
    fs::write(&file, resources).map_err(|e| Failure::os("write", "resources", e))?;
    Call::new(runtime, "update", SHORT)
        .failing_as(FailureKind::InvalidArgument)
        .arg("--resources")
        .arg(file)
        .run()
}

/// The signal stands behind the name.
fn signalled(runtime: &Command, signal: u32) -> Result<(), Failure> {
    Call::new(runtime, "kill", SHORT).after(signal.to_string()).run()
}

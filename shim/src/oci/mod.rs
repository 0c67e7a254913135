//! `wherry-oci`: runc's command line on this runtime, so that the OCI world's own tools can drive it.
//!
//! There is no shim and no daemon here: every call is a process of its own, the one that creates a container is its
//! builder ([`launch`]), and what has to be known later is in a folder ([`store`], [`record`]). Callers of runc read its
//! words, exit codes and JSON; where they do, these are the same.
//!
//! A container's start is a connection to the socket that its process waits at:
//!
//! ```text
//!  create                     the container's process             start
//!   │ listen, clone ────────────►│ prepares itself
//!   │◄──────────────── Ready ────│ accept
//!   │ record, pid file, exits    │◄──────── connect, one byte ────│
//!                                │ execve                         │
//!                                └── end of file, or Failed{..} ─►│ exits
//! ```

mod args;
mod attach;
mod console;
mod end;
mod global;
mod id;
mod launch;
mod record;
mod seal;
mod start;
mod store;
mod verb;

use std::ffi::OsString;
use std::process::ExitCode;

use sys::process::SingleThreaded;

use self::args::{Flag, Order, Parsed};
use self::global::{Global, Journal};
use self::id::ContainerId;
use self::store::{Folder, Store};
use crate::{Failure, FailureKind};

/// The file name by which this program is the command line.
pub const NAME: &str = "wherry-oci";

/// The specification's version that this runtime knows.
const SPEC_VERSION: &str = "1.3.0";

/// What every verb gets.
#[derive(Debug)]
struct Context {
    thread: SingleThreaded,
    global: Global,
}

impl Context {
    /// The container that is the only argument.
    fn folder(&self, args: &Parsed) -> Result<Folder, Failure> {
        self.open(args.only()?)
    }

    fn open(&self, id: &std::ffi::OsStr) -> Result<Folder, Failure> {
        Store::new(&self.global.root).open(&ContainerId::parse(id)?)
    }

    fn warn(&self, failure: &Failure) {
        self.global.journal.warn(&failure.to_string());
    }
}

/// One verb.
struct Verb {
    name: &'static str,
    /// What its arguments are.
    usage: &'static str,
    flags: &'static [Flag],
    order: Order,
    /// Its exit code when it fails.
    failed: u8,
    run: fn(&Context, &Parsed) -> Result<u8, Failure>,
}

/// Does what the arguments say, the program's name left out.
#[must_use]
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let global = match Global::parse(args) {
        Ok(global) => global,
        Err(failure) => {
            Journal::default().error(&failure);
            return ExitCode::FAILURE;
        }
    };
    if global.version {
        print!("{}", version());
        return ExitCode::SUCCESS;
    }
    let Some(name) = global.rest.first().and_then(|name| name.to_str()) else {
        print!("{}", help());
        return ExitCode::SUCCESS;
    };
    if global.help || matches!(name, "help" | "h") {
        print!("{}", help());
        return ExitCode::SUCCESS;
    }
    let Some(verb) = verb::ALL.iter().find(|verb| verb.name == name) else {
        let failure = Failure::new(FailureKind::InvalidArgument, "find", name, "no such command");
        global.journal.error(&failure);
        return ExitCode::FAILURE;
    };
    let Some(thread) = SingleThreaded::prove() else {
        let cause = "/proc is not there, or this process has more than one thread";
        global.journal.error(&Failure::new(FailureKind::Internal, "start", NAME, cause));
        return ExitCode::FAILURE;
    };
    let context = Context { thread, global };
    let args = context.global.rest.iter().skip(1).cloned();
    let done = verb.parse(args).and_then(|parsed| match parsed {
        Some(parsed) => (verb.run)(&context, &parsed),
        None => Ok(0),
    });
    done.map_or_else(
        |failure| {
            context.global.journal.error(&failure);
            ExitCode::from(verb.failed)
        },
        ExitCode::from,
    )
}

impl Verb {
    /// `None`: asked for help only.
    fn parse(&self, args: impl Iterator<Item = OsString>) -> Result<Option<Parsed>, Failure> {
        let mut flags = self.flags.to_vec();
        flags.push(args::switch(&["help", "h"]));
        let parsed = Parsed::new(args, &flags, self.order)?;
        if parsed.has("help") {
            println!("usage: {NAME} [global flags] {} {}", self.name, self.usage);
            for flag in self.flags {
                println!("  {flag}");
            }
            return Ok(None);
        }
        Ok(Some(parsed))
    }
}

fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("{NAME} version {version}\nspec: {SPEC_VERSION}\n")
}

fn help() -> String {
    let mut text = format!(
        "usage: {NAME} [--root DIR] [--log FILE] [--log-format text|json] [--systemd-cgroup] \
         [--debug] VERB ...\n\nAn OCI runtime. Its verbs:\n"
    );
    for verb in verb::ALL {
        text.push_str(&format!("  {:<10} {}\n", verb.name, verb.usage));
    }
    text
}

//! The shim as containerd starts it: `containerd-shim-wherry-v2 [flags] start|delete`, once per container, in the bundle.
//!
//! | action | what it does | standard output |
//! |---|---|---|
//! | `start` | makes a socket and starts a shim that listens on it | its address |
//! | `delete` | frees what a dead shim has left | how the container ended |
//! | `-info` | | what this runtime is |
//! | `serve` | is the shim: what `start` starts | |
//!
//! A bundle of containerd's has only a spec and a folder for the root file system; `start` adds the record that every
//! shim of ours keeps, so that from there on both kinds are one.

mod delete;
mod flags;
mod info;
mod params;
mod place;
mod start;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use crate::Failure;
use crate::server::{Binary, Destination, Publisher, serve_for, socket_path};

pub use self::delete::write_cgroups;
use self::flags::{Action, Flags};

/// What the binary is called when containerd looks for it.
pub const NAME: &str = "containerd-shim-wherry-v2";

/// The files of a bundle that only containerd's bundles have.
const ADDRESS_FILE: &str = "address";
/// Kind, systemd's scope (or an empty line) and the container's cgroups, one per line: for whoever cleans up after its shim.
const CGROUPS_FILE: &str = "cgroups";

/// More than any parameters or options, in bytes.
const MAX_INPUT: u64 = 1 << 20;

/// Does what the command line asks.
#[must_use]
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let done = Flags::parse(args).and_then(|flags| {
        match flags.action {
            Action::Start => start::start(&flags).and_then(|answer| print(&answer)),
            Action::Delete => delete::delete(&flags).and_then(|answer| print(&answer)),
            Action::Info => info::info().and_then(|answer| print(&answer)),
            Action::Version => print(info::version().as_bytes()),
            Action::Serve => return Ok(serve_for(Some(publisher(flags)))),
        }
        .map(|()| ExitCode::SUCCESS)
    });
    done.unwrap_or_else(|failure| {
        drop(writeln!(io::stderr(), "{NAME}: {failure}"));
        ExitCode::FAILURE
    })
}

/// What there is on standard input, if it is not somebody's terminal.
fn said() -> Result<Vec<u8>, Failure> {
    let mut said = Vec::new();
    if !rustix::termios::isatty(io::stdin()) {
        let read = io::stdin().take(MAX_INPUT).read_to_end(&mut said);
        read.map_err(|e| Failure::os("read", "standard input", e))?;
    }
    Ok(said)
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout();
    let printed = out.write_all(bytes).and_then(|()| out.flush());
    printed.map_err(|e| Failure::os("write", "standard output", e))
}

/// Where the daemon that these flags speak of wants to hear of events.
fn publisher(flags: Flags) -> Publisher {
    let to = match flags.ttrpc_address {
        Some(address) => Destination::Socket(socket_path(&address)),
        None => Destination::Binary(Binary {
            path: flags.publish_binary.unwrap_or_else(|| "containerd".into()),
            address: flags.address,
        }),
    };
    Publisher::new(to, flags.namespace)
}

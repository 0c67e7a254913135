//! `wherry-shim`: owns one container, and is its OCI runtime.
//!
//! Started by a daemon in a container's bundle with a listening socket as its standard input. One thread, one loop
//! ([`shim::server`]), no asynchronous runtime: what it costs is multiplied by the number of containers. Its other
//! roles are chosen by the name that it was called by ([`shim::oci`]), or by the first argument.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    if name == shim::oci::NAME {
        return shim::oci::run(args);
    }
    // By flags, too: containerd may be told the path of a binary of any name.
    let flagged =
        std::env::args_os().nth(1).is_some_and(|flag| flag.as_encoded_bytes().starts_with(b"-"));
    if name == shim::containerd::NAME || flagged {
        return shim::containerd::run(args);
    }
    let folder = |mut args: std::env::ArgsOs| args.next().map(std::path::PathBuf::from);
    match args.next() {
        Some(role) if role == "hold" => {
            folder(args).map_or(ExitCode::FAILURE, |pod| shim::hold::run(&pod))
        }
        Some(role) if role == "free" => {
            folder(args).map_or(ExitCode::FAILURE, |bundle| shim::foreign::free::run(&bundle))
        }
        _ => shim::server::serve(),
    }
}

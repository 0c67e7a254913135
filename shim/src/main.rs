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
    let name = args.next();
    if name.is_some_and(|name| Path::new(&name).file_name() == Some(shim::oci::NAME.as_ref())) {
        return shim::oci::run(args);
    }
    if args.next().is_some_and(|role| role == "hold") {
        return args.next().map_or(ExitCode::FAILURE, |pod| shim::hold::run(Path::new(&pod)));
    }
    shim::server::serve()
}

//! All suites in one program, because each would start a node, registries and namespaces of its own.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    clippy::cloned_ref_to_slice_refs,
    reason = "[a.clone()] reads as the list that is expected"
)]

use std::process::ExitCode;

use e2e::isolate::{Entered, enter};
use e2e::runner;
use tonic::{Code, Status};

mod apparmor;
mod attach;
mod bad_input;
mod cdi;
mod cgroups;
mod containers;
mod crictl;
mod daemon;
mod events;
mod exec;
mod facade;
mod files;
mod forwarding;
mod handlers;
mod hosted;
mod hostile;
mod image_volumes;
mod images;
#[cfg(feature = "interop")]
mod interop;
mod isolation;
mod lists;
mod logs;
mod machine;
mod memory;
mod mounts;
mod network;
mod pods;
mod ports;
mod process;
mod pulls;
mod random_kills;
mod recovery;
mod seccomp;
mod security;
mod stats;
mod status;
mod streaming;
mod updates;
mod userns;

fn main() -> ExitCode {
    let folder = match enter() {
        Entered::Done(code) => return code,
        Entered::Inside(folder) => folder,
    };
    let suites = [
        machine::tests(),
        crictl::tests(),
        pods::tests(),
        containers::tests(),
        lists::tests(),
        updates::tests(),
        status::tests(),
        events::tests(),
        process::tests(),
        files::tests(),
        mounts::tests(),
        isolation::tests(),
        seccomp::tests(),
        stats::tests(),
        facade::tests(),
        userns::tests(),
        image_volumes::tests(),
        security::tests(),
        cdi::tests(),
        apparmor::tests(),
        cgroups::tests(),
        exec::tests(),
        streaming::tests(),
        attach::tests(),
        forwarding::tests(),
        logs::tests(),
        images::tests(),
        pulls::tests(),
        bad_input::tests(),
        hostile::tests(),
        hosted::tests(),
        network::tests(),
        ports::tests(),
        handlers::tests(),
        recovery::tests(),
        random_kills::tests(),
        daemon::tests(),
        memory::tests(),
        #[cfg(feature = "interop")]
        interop::tests(),
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(runner::run(suites.into_iter().flatten().collect(), &folder))
}

/// The code of a call that must fail.
#[track_caller]
fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.expect_err("this call must fail").code()
}

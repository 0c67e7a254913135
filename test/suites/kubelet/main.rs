//! What a user does with pods on a node whose kubelet has Wherry under it. The kubelet is the real one, without a cluster:
//! pods are manifests in a folder.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::process::ExitCode;

use e2e::isolate::{Entered, enter};
use e2e::kubelet::{Settings, suite};

mod hooks;
mod logs;
mod node;
mod pods;
mod probes;
mod resources;
mod restarts;
mod security;
mod stats;
mod streams;
mod volumes;

fn main() -> ExitCode {
    let folder = match enter() {
        Entered::Done(code) => return code,
        Entered::Inside(folder) => folder,
    };
    let suites = [
        logs::tests(),
        restarts::tests(),
        probes::tests(),
        pods::tests(),
        hooks::tests(),
        volumes::tests(),
        resources::tests(),
        security::tests(),
        stats::tests(),
        streams::tests(),
        node::tests(),
    ];
    let tests = suites.into_iter().flatten().collect();
    let prepare = async |_: &std::path::Path| Ok((Settings::default(), None));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(suite::run(tests, &folder, prepare))
}

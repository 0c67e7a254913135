//! What a user does with kubectl on a cluster whose node has Wherry under its kubelet.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::process::ExitCode;

use e2e::isolate::{Entered, enter};
use e2e::kubelet::cluster::{Cluster, Kubectl, missing};
use e2e::kubelet::suite::{self, Stage};

mod changes;
mod objects;
mod streams;

fn main() -> ExitCode {
    let folder = match enter() {
        Entered::Done(code) => return code,
        Entered::Inside(folder) => folder,
    };
    let suites = [objects::tests(), streams::tests(), changes::tests()];
    let tests = suites.into_iter().flatten().collect();
    let prepare = async |folder: &Path| match missing() {
        Some(reason) => Err(reason),
        None => {
            let started = Cluster::start(&folder.join("cluster")).await;
            let (settings, cluster) = started.expect("the cluster starts");
            Ok((settings, Some(cluster)))
        }
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(suite::run(tests, &folder, prepare))
}

/// kubectl for the stage's cluster.
fn kubectl(stage: &Stage) -> Kubectl {
    Kubectl::new(&stage.world.folder.join("cluster"))
}

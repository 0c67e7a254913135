//! What the benchmarks have in common.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::image::catalog::BUSYBOX;
use crate::isolate::{Entered, enter};
use crate::node::Node;
use crate::registry::Registries;
use crate::runtime::{Runtime, Settings};

/// Runs a benchmark in namespaces and on a folder of its own, with the number of the command line's first argument or
/// what is usual.
pub fn run(usual: usize, bench: impl AsyncFnOnce(PathBuf, usize)) -> ExitCode {
    match enter() {
        Entered::Done(code) => code,
        Entered::Inside(folder) => {
            let number = std::env::args().nth(1).map_or(usual, |number| number.parse().unwrap());
            tokio::runtime::Runtime::new().unwrap().block_on(bench(folder, number));
            ExitCode::SUCCESS
        }
    }
}

/// A node with an image for its pods. The log that tests want would be a good part of what is measured, so it has the
/// usual one.
pub async fn node(runtime: Runtime, folder: &Path, registries: &Registries) -> Node {
    let base = folder.join(runtime.name());
    std::fs::create_dir(&base).unwrap();
    let settings = Settings { usual_log: true, ..Settings::default() };
    let node = Node::start(runtime, &base, registries.certs_dir(), settings).await.unwrap();
    node.pull(BUSYBOX).await.unwrap();
    node
}

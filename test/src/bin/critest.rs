//! Runs critest against a node of its own with the images that critest names, for `hack/critest`.
//!
//! Its arguments are critest's, but for `--expect N` (fewer passed specs are a failure), `--known NAME` (a spec that is
//! known to fail on this runtime), `--keep FOLDER` (where the reports and the daemon's log stay) and `--bench N` (its
//! benchmarks instead of its specs).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot run shall say where")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use e2e::critest::{self, Outcome, Spec};
use e2e::image::Store;
use e2e::image::critest::{REGISTRIES, store};
use e2e::isolate::{Entered, enter};
use e2e::leftovers::{self, Baseline};
use e2e::node::Node;
use e2e::registry::describe;
use e2e::registry::server::{Registry, Settings as Serving};
use e2e::runtime::{Runtime, Settings};

/// Below which cgroups a runtime puts pods that name no parent, as these do.
const PARENTS: [&str; 2] = ["wherry", "k8s.io"];

/// What was asked for.
#[derive(Debug, Default)]
struct Options {
    expect: usize,
    known: Vec<String>,
    keep: Option<PathBuf>,
    bench: Option<u32>,
    /// For critest.
    others: Vec<String>,
}

impl Options {
    fn from_args() -> Self {
        let mut options = Self::default();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--expect" => options.expect = args.next().unwrap().parse().unwrap(),
                "--known" => options.known.extend(args.next()),
                "--keep" => options.keep = args.next().map(PathBuf::from),
                "--bench" => options.bench = args.next().map(|times| times.parse().unwrap()),
                _ => options.others.push(arg),
            }
        }
        options
    }

    fn selects(&self) -> bool {
        self.others
            .iter()
            .any(|arg| ["focus", "skip", "label"].iter().any(|word| arg.contains(word)))
    }
}

fn main() -> ExitCode {
    match enter() {
        Entered::Done(code) => code,
        Entered::Inside(folder) => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let succeeded = runtime.block_on(run(&folder, &Options::from_args()));
            if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

async fn run(folder: &Path, options: &Options) -> bool {
    let runtime = Runtime::from_env();
    let programs = std::env::var_os("WHERRY_CRITEST_PROGRAMS").expect("hack/critest names it");
    let registry = serve(folder, store(Path::new(&programs)).unwrap()).await;
    let (base, reports) = (folder.join("node"), folder.join("reports"));
    std::fs::create_dir(&base).unwrap();
    std::fs::create_dir(&reports).unwrap();
    let fresh: Vec<_> = PARENTS.into_iter().filter(|name| !leftovers::has_cgroups(name)).collect();
    let baseline = Baseline::now();
    let certs = folder.join("certs.d");
    let mut node = Node::start(runtime, &base, &certs, Settings::default()).await.unwrap();
    let mut arguments = options.others.clone();
    if let Some(times) = options.bench {
        arguments.extend(critest::benchmarks(times, &reports).unwrap());
    }
    let outcome = critest::run(&node.folders.socket(), &arguments, &reports).await;
    let left = baseline.leftovers(&node).await;
    if outcome.is_err() {
        node.clear().await.ok();
    }
    node.terminate().await.unwrap();
    baseline.kill_rest();
    fresh.into_iter().for_each(leftovers::remove_cgroups);
    drop(registry);
    keep(options, &reports, &node.folders.log());
    if options.bench.is_some() {
        for (name, operation, median) in critest::medians(&reports).unwrap() {
            println!("{name:<24} {operation:<20} {:>9.2} ms", median.as_secs_f64() * 1e3);
        }
    }
    match outcome {
        Ok(outcome) => judge(runtime, &outcome, &left, options),
        Err(error) => {
            println!("{error}\nthe daemon's last words:\n{}", tail(&node.log_text(), 30));
            false
        }
    }
}

/// Serves the images under all the names that critest has for registries.
async fn serve(folder: &Path, content: Store) -> Registry {
    let registry = Registry::start(Arc::new(content), Serving::default()).await.unwrap();
    let url = format!("http://{}", registry.address());
    for name in REGISTRIES {
        describe(&folder.join("certs.d"), name, &url, None).unwrap();
    }
    registry
}

fn keep(options: &Options, reports: &Path, log: &Path) {
    let Some(folder) = &options.keep else { return };
    std::fs::create_dir_all(folder).unwrap();
    let files = ["output", "report.json", "junit.xml"].map(|name| reports.join(name));
    for file in files.iter().map(PathBuf::as_path).chain([log]) {
        std::fs::copy(file, folder.join(file.file_name().unwrap())).ok();
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Prints what happened; whether all is well.
fn judge(runtime: Runtime, outcome: &Outcome, left: &[String], options: &Options) -> bool {
    let known = |spec: &&&Spec| options.known.iter().any(|name| spec.name().contains(name));
    let (passed, failed) = (outcome.passed(), outcome.failed());
    for spec in &failed {
        let verdict = if known(&spec) { "failed, as is known" } else { "FAILED" };
        println!("--- {} ... {verdict} <{:.1}s>", spec.name(), spec.time().as_secs_f64());
        println!("{}\n{}\n---", spec.message().trim(), tail(spec.output(), 25));
    }
    for (reason, names) in outcome.reasons(options.selects()) {
        println!("skipped, {}: {}", names.len(), reason.trim());
        let few = names.len() < 20;
        names.iter().filter(|_| few).for_each(|name| println!("    {name}"));
    }
    let mut slow = passed.clone();
    slow.sort_by_key(|spec| std::cmp::Reverse(spec.time()));
    for spec in slow.iter().take(5) {
        println!("slow: {:.1} s {}", spec.time().as_secs_f64(), spec.name());
    }
    let missing = failed.iter().filter(|spec| !known(spec)).count();
    let mut well = missing == 0;
    if passed.len() < options.expect {
        println!("FAILED: {} specs passed where {} have to", passed.len(), options.expect);
        well = false;
    }
    if !left.is_empty() {
        println!("FAILED: left behind: {left:#?}");
        well = false;
    }
    println!("critest on {}, seed {}", runtime.name(), outcome.seed);
    println!(
        "test result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        if well { "ok" } else { "FAILED" },
        passed.len(),
        failed.len(),
        outcome.skipped().len(),
        outcome.time.as_secs_f64()
    );
    well
}

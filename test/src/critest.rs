//! critest, the conformance suite of CRI runtimes: how it is run, and what its report says.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use crate::{machine, tools};

/// The specs that no runtime can pass here, by a part of their names, and why.
pub const IMPOSSIBLE: [(&str, &str); 1] = [(
    "public image with digest should be pulled",
    "pins the digest of an image that nobody else can build; suites/images.rs tests the same",
)];
/// No run may take longer.
const DEADLINE: Duration = Duration::from_secs(900);

/// One spec of a report.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    /// Nanoseconds.
    #[serde(default)]
    run_time: u64,
    #[serde(default)]
    failure: Failure,
    #[serde(default)]
    captured_ginkgo_writer_output: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    suite_config: SuiteConfig,
    spec_reports: Vec<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuiteConfig {
    random_seed: i64,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// With which seed the specs were shuffled.
    pub seed: i64,
    /// How long critest ran.
    pub time: Duration,
    specs: Vec<Spec>,
}

impl Spec {
    /// Its whole name, without the mark that all of them have.
    pub fn name(&self) -> String {
        let texts = self.container_hierarchy_texts.iter().flatten();
        let texts: Vec<&str> = texts.chain([&self.leaf_node_text]).map(String::as_str).collect();
        texts.join(" ").trim_start_matches("[k8s.io] ").to_owned()
    }

    /// How long it took.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.run_time)
    }

    /// What it says about its end.
    pub fn message(&self) -> &str {
        &self.failure.message
    }

    /// What it wrote meanwhile: its steps, with their times.
    pub fn output(&self) -> &str {
        &self.captured_ginkgo_writer_output
    }
}

impl Outcome {
    /// The specs that passed.
    pub fn passed(&self) -> Vec<&Spec> {
        self.of(|state| state == "passed")
    }

    /// The specs that were not run.
    pub fn skipped(&self) -> Vec<&Spec> {
        self.of(|state| matches!(state, "skipped" | "pending"))
    }

    /// The specs that failed, were interrupted, or took too long.
    pub fn failed(&self) -> Vec<&Spec> {
        self.of(|state| !matches!(state, "passed" | "skipped" | "pending"))
    }

    fn of(&self, is: impl Fn(&str) -> bool) -> Vec<&Spec> {
        self.specs.iter().filter(|spec| is(&spec.state)).collect()
    }

    /// Why specs were skipped: how many, and the names of those that are meant by themselves.
    pub fn reasons(&self, selected: bool) -> BTreeMap<String, Vec<String>> {
        let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for spec in self.skipped() {
            let name = spec.name();
            let impossible = IMPOSSIBLE.iter().find(|(part, _)| name.contains(part));
            let reason = match (impossible, spec.message()) {
                (Some((_, why)), _) => (*why).to_owned(),
                (None, "") if name.contains("enchmark") => "a benchmark".into(),
                (None, "") if selected => "not selected".into(),
                (None, "") => "skipped without a reason".into(),
                (None, message) => message.to_owned(),
            };
            reasons.entry(reason).or_default().push(name);
        }
        reasons
    }
}

/// The arguments that make critest run its benchmarks, each this often, and put the times into the folder.
///
/// # Errors
/// If the folder cannot be written to.
pub fn benchmarks(times: u32, folder: &Path) -> io::Result<Vec<String>> {
    let (settings, results) = (folder.join("benchmarks.yml"), folder.join("benchmarks"));
    std::fs::create_dir_all(&results)?;
    let kinds = ["containers", "pods", "images"];
    let counts = kinds.map(|kind| format!("{kind}Number: {times}\n{kind}NumberParallel: 1\n"));
    let limits = ["container", "pod", "image", "podContainerStart"]
        .map(|kind| format!("{kind}BenchmarkTimeoutSeconds: 600\n"));
    std::fs::write(&settings, counts.concat() + &limits.concat())?;
    let value = |name: &str, path: &Path| format!("-benchmarking-{name}={}", path.display());
    Ok(vec!["-benchmark".into(), value("params-file", &settings), value("output-dir", &results)])
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Benchmark {
    operations_names: Vec<String>,
    datapoints: Vec<Datapoint>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Datapoint {
    operations_durations_ns: Vec<u64>,
}

/// What the benchmarks in this folder have measured: their names, their operations, and the median of each.
///
/// # Errors
/// If they cannot be read.
pub fn medians(folder: &Path) -> io::Result<Vec<(String, String, Duration)>> {
    let mut medians = Vec::new();
    let entries: Result<Vec<_>, _> = std::fs::read_dir(folder.join("benchmarks"))?.collect();
    for entry in entries? {
        let file = entry.file_name().to_string_lossy().into_owned();
        let benchmark: Benchmark = serde_json::from_slice(&std::fs::read(entry.path())?)?;
        for (number, operation) in benchmark.operations_names.iter().enumerate() {
            let times = benchmark.datapoints.iter();
            let times = times.filter_map(|point| point.operations_durations_ns.get(number));
            let mut times: Vec<u64> = times.copied().collect();
            times.sort_unstable();
            let Some(median) = times.get(times.len() / 2) else { continue };
            let name = file.trim_end_matches("_benchmark_data.json").to_owned();
            medians.push((name, operation.clone(), Duration::from_nanos(*median)));
        }
    }
    medians.sort();
    Ok(medians)
}

/// critest, or why it is not there.
///
/// # Errors
/// Says what is missing.
pub fn program() -> Result<PathBuf, String> {
    tools::find("critest")
        .ok_or_else(|| "no critest: hack/setup builds it where there is Go".into())
}

/// Runs critest on the daemon at this socket, with these arguments of its own besides. What it writes (`output`,
/// `report.json`, `junit.xml`) is put into the folder.
///
/// # Errors
/// If it cannot be run, takes too long, or leaves no report.
pub async fn run(socket: &Path, arguments: &[String], folder: &Path) -> io::Result<Outcome> {
    let program = program().map_err(io::Error::other)?;
    let temporary = folder.join("tmp");
    std::fs::create_dir_all(&temporary)?;
    let path = path(&program, &temporary)?;
    let output = std::fs::File::create(folder.join("output"))?;
    let started = Instant::now();
    let mut command = Command::new(program);
    command
        .arg("-runtime-endpoint")
        .arg(format!("unix://{}", socket.display()))
        .args(["-config", "/dev/null", "-ginkgo.no-color"])
        // Relative: in parallel runs ginkgo puts them into more than one folder before it joins them.
        .args(["-ginkgo.json-report=report.json", "-ginkgo.junit-report=junit.xml"])
        .args(IMPOSSIBLE.iter().flat_map(|(name, _)| ["-ginkgo.skip", name]))
        .args(arguments)
        .env("PATH", path)
        .env("TMPDIR", &temporary)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .kill_on_drop(true);
    timeout(DEADLINE, command.spawn()?.wait()).await.map_err(|_| {
        io::Error::other(format!("critest is not done after {} s", DEADLINE.as_secs()))
    })??;
    let time = started.elapsed();
    let report = std::fs::read(folder.join("report.json")).map_err(|_| {
        let text = std::fs::read_to_string(folder.join("output")).unwrap_or_default();
        io::Error::other(format!("critest left no report; it said:\n{text}"))
    })?;
    let suites: Vec<Suite> = serde_json::from_slice(&report)?;
    let seed = suites.first().map_or(0, |suite| suite.suite_config.random_seed);
    let specs = suites.into_iter().flat_map(|suite| suite.spec_reports);
    let specs = specs.filter(|spec| spec.leaf_node_type == "It").collect();
    Ok(Outcome { seed, time, specs })
}

/// Where critest finds what it starts: ginkgo beside itself, and `sudo`, which root does not need.
fn path(program: &Path, temporary: &Path) -> io::Result<String> {
    let own = std::env::var("PATH").unwrap_or_default();
    let beside = program.parent().unwrap_or(Path::new("/"));
    let mut path = format!("{own}:/usr/sbin:/sbin:{}", beside.display());
    if machine::is_guest() {
        let folder = temporary.join("bin");
        std::fs::create_dir_all(&folder)?;
        let sudo = folder.join("sudo");
        std::fs::write(&sudo, "#!/bin/sh\nexec \"$@\"\n")?;
        std::fs::set_permissions(sudo, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        path = format!("{}:{path}", folder.display());
    }
    Ok(path)
}

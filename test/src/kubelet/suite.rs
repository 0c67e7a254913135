//! Runs tests that share one kubelet: most at the same time, because a kubelet has periods of its own that each of them
//! would wait for; then, one by one, those that do something to the kubelet or the daemon.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::cluster::Cluster;
use super::manifest::phase;
use super::{Kubelet, Settings};
use crate::node::Node;
use crate::runner::{Outcome, Report, Selection, guarded, short};
use crate::runtime::{Runtime, Settings as NodeSettings};
use crate::world::World;

/// How many tests run at the same time.
const AT_ONCE: usize = 16;

/// What the tests of a kubelet share.
#[derive(Debug)]
pub struct Stage {
    /// Registries and the node.
    pub world: World,
    /// The kubelet.
    pub kubelet: Kubelet,
}

impl Stage {
    /// The node under the kubelet.
    pub fn node(&self) -> &Node {
        self.world.current().expect("the stage has a node")
    }

    /// Runs a pod of one container, `main`, to its end, which is to be a good one; what it printed.
    pub async fn printed(&self, mut pod: Value) -> String {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        pod["spec"]["restartPolicy"] = json!("Never");
        self.kubelet.apply(&pod);
        let done = |pod: &Value| ["Succeeded", "Failed"].contains(&phase(pod));
        let seen = self.kubelet.until(&name, "done", done).await;
        let log = self.kubelet.api.said(&format!("/containerLogs/default/{name}-node/main")).await;
        assert_eq!(phase(&seen), "Succeeded", "{log} {seen}");
        log
    }
}

/// What a test's body is.
pub type Body<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// How a test wants the stage.
#[allow(missing_debug_implementations, reason = "it is a cell of a table")]
#[derive(Clone, Copy)]
pub enum Play {
    /// Together with others.
    Together(for<'a> fn(&'a Stage) -> Body<'a>),
    /// Alone.
    Alone(for<'a> fn(&'a mut Stage) -> Body<'a>),
}

/// A test as a table has it; written with [`together!`](crate::together) and [`alone!`](crate::alone).
#[allow(missing_debug_implementations, reason = "it is a row of a table")]
#[derive(Clone, Copy)]
pub struct Test {
    /// `suite::what_a_user_does`.
    pub name: &'static str,
    /// The test.
    pub play: Play,
}

/// A table of tests that share the stage.
#[macro_export]
macro_rules! together {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::kubelet::suite::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            play: $crate::kubelet::suite::Play::Together(|stage| Box::pin($name(stage))),
        }),*]
    };
}

/// A table of tests that have the stage to themselves.
#[macro_export]
macro_rules! alone {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::kubelet::suite::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            play: $crate::kubelet::suite::Play::Alone(|stage| Box::pin($name(stage))),
        }),*]
    };
}

/// Runs the selected tests. `prepare` makes the cluster of the kubelet, if it is to have one, and says with which settings
/// it is to start; its error is why nothing can run here.
pub async fn run(
    tests: Vec<Test>,
    folder: &Path,
    prepare: impl AsyncFnOnce(&Path) -> Result<(Settings, Option<Cluster>), String>,
) -> ExitCode {
    let selection = Selection::from_args();
    let all = tests.len();
    let tests: Vec<_> = tests.into_iter().filter(|test| selection.takes(test.name)).collect();
    if selection.list {
        tests.iter().for_each(|test| println!("{}: test", short(test.name)));
        return ExitCode::SUCCESS;
    }
    let runtime = Runtime::from_env();
    println!("\nrunning {} tests of a kubelet on {}", tests.len(), runtime.name());
    let mut report = Report::new(all - tests.len());
    if tests.is_empty() {
        return report.end();
    }
    let made = match missing(runtime) {
        Some(reason) => Err(reason),
        None => prepare(folder).await,
    };
    let (settings, cluster) = match made {
        Ok(made) => made,
        Err(reason) => {
            for test in &tests {
                report.add(test.name, Outcome::Skipped(reason.clone()), Duration::ZERO);
            }
            return report.end();
        }
    };
    match stage(runtime, folder, settings).await {
        Ok(mut stage) => play(&tests, &mut stage, cluster.as_ref(), &mut report).await,
        Err(error) => {
            println!("the kubelet does not start: {error}");
            return ExitCode::FAILURE;
        }
    }
    report.end()
}

fn missing(runtime: Runtime) -> Option<String> {
    if runtime.program().is_none() {
        return Some(format!("no {} program; hack/build makes ours", runtime.name()));
    }
    super::program().err()
}

async fn stage(runtime: Runtime, folder: &Path, settings: Settings) -> std::io::Result<Stage> {
    let mut world = World::small(runtime, folder).await?;
    let node = world.node_with(NodeSettings::default()).await;
    let base = folder.join("kubelet");
    std::fs::create_dir(&base)?;
    let kubelet = Kubelet::start(node, &base, settings).await?;
    Ok(Stage { world, kubelet })
}

async fn play(tests: &[Test], stage: &mut Stage, cluster: Option<&Cluster>, report: &mut Report) {
    let mut running = stream::iter(tests.iter().filter_map(|test| match test.play {
        Play::Together(body) => Some((test.name, body)),
        Play::Alone(_) => None,
    }))
    .map(|(name, body)| {
        let stage = &*stage;
        async move {
            let start = Instant::now();
            (name, guarded(body(stage)).await, start.elapsed())
        }
    })
    .buffer_unordered(AT_ONCE);
    while let Some((name, outcome, time)) = running.next().await {
        report.add(name, outcome, time);
    }
    drop(running);
    for test in tests {
        let Play::Alone(body) = test.play else { continue };
        let start = Instant::now();
        let outcome = guarded(body(stage)).await;
        report.add(test.name, outcome, start.elapsed());
    }
    let start = Instant::now();
    if let Some(cluster) = cluster {
        cluster.kubectl.run(&["delete", "pods", "--all", "--wait"]).await;
    }
    let outcome = match everything_is_gone(stage).await {
        left if left.is_empty() => Outcome::Passed,
        left => Outcome::Failed(format!("left behind: {left:#?}\n{}", stage.kubelet.words(""))),
    };
    report.add("kubelet::nothing_stays_when_all_pods_are_gone", outcome, start.elapsed());
}

/// Takes all manifests away; what is left when the kubelet has cleaned up. The kubelet does it, not this harness.
async fn everything_is_gone(stage: &mut Stage) -> Vec<String> {
    for entry in std::fs::read_dir(stage.kubelet.folders().manifests()).into_iter().flatten() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(100);
    while Instant::now() < deadline {
        match stage.node().cri.pods(None).await {
            Ok(pods) if pods.is_empty() => break,
            _ => sleep(Duration::from_millis(500)).await,
        }
    }
    let pods = stage.node().cri.pods(None).await.unwrap_or_default();
    let mut left: Vec<String> = pods.iter().map(|pod| format!("pod {:?}", pod.metadata)).collect();
    left.extend(cgroups_of_pods(&stage.kubelet.folders().cgroup));
    stage.kubelet.down().await;
    if let Err(error) = stage.kubelet.leave() {
        left.push(format!("mounts of volumes: {error}"));
    }
    left.extend(stage.world.leftovers().await);
    left
}

/// Cgroups of pods that are still there below the kubelet's.
fn cgroups_of_pods(cgroup: &str) -> Vec<String> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(top).into_iter().flatten().flatten();
    let mut folders: Vec<_> =
        hierarchies.map(|hierarchy| hierarchy.path()).chain([top.into()]).collect();
    folders.iter_mut().for_each(|folder| folder.push(cgroup));
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if (name.starts_with("pod") || name.contains("-pod")) && path.is_dir() {
                found.push(path.display().to_string());
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

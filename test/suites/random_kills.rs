//! The daemon is killed at random moments while pods come and go, and the kubelet tries again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::cri::{Answer, Cri};
use e2e::node::{Ids, Node};
use e2e::proc;
use e2e::runner::Test;
use e2e::spec::{container, script};
use e2e::tests;
use e2e::world::World;
use futures_util::future::join_all;
use proto::cri::{ContainerConfig, ContainerState, PodSandboxConfig};
use tokio::time::sleep;
use tonic::{Code, Status};

pub fn tests() -> Vec<Test> {
    tests![Wherry: twenty_kills_at_random_moments_lose_nothing]
}

const KILLS: u32 = 20;
const WORKERS: usize = 4;
const LASTING: u32 = 5;

/// What a kubelet does with a call that broke off: the same again.
async fn again<T, F: Future<Output = Answer<T>>>(what: &str, call: impl Fn() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) if broke_off(&error) && Instant::now() < deadline => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{what}: {error:?}"),
        }
    }
}

/// Whether the daemon went away during the call. Transport errors come as `Unknown` with a source.
fn broke_off(error: &Status) -> bool {
    let transport = std::error::Error::source(error).is_some();
    matches!(error.code(), Code::Unavailable | Code::Cancelled) || transport
}

/// Numbers of little worth but never the same twice in a row.
fn random(below: u64) -> u64 {
    let mut raw = [0; 8];
    getrandom::fill(&mut raw).unwrap();
    u64::from_le_bytes(raw) % below
}

/// A worker: pods come, run one container to its end or stop it, and go.
struct Worker {
    name: String,
    cri: Cri,
    ids: Ids,
    folder: PathBuf,
}

impl Worker {
    /// Works until told to stop: how many pods came and went.
    async fn work(&self, stop: &AtomicBool) -> usize {
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            let config = e2e::spec::pod(&format!("{}-{rounds}", self.name), &self.folder);
            std::fs::create_dir_all(&config.log_directory).unwrap();
            self.round(&config).await;
            rounds += 1;
        }
        rounds
    }

    async fn round(&self, config: &PodSandboxConfig) {
        let cri = &self.cri;
        let code = i32::try_from(1 + random(200)).unwrap();
        let text = format!("echo begin; sleep 0.{}; echo end; exit {code}", random(10));
        let work = script("work", &text);
        let pod = again("run the pod", || cri.run_pod(config)).await;
        self.ids.note(&pod);
        let id = again("create the container", || cri.create(&pod, &work, config)).await;
        self.ids.note(&id);
        start(cri, &id).await;
        let status = loop {
            let status = again("ask for the container", || cri.container(&id)).await;
            match status.state() {
                ContainerState::ContainerExited => break status,
                ContainerState::ContainerRunning => sleep(Duration::from_millis(50)).await,
                state => panic!("{state:?} after a start: {status:?}"),
            }
        };
        assert_eq!((status.exit_code, status.reason.as_str()), (code, "Error"), "{status:?}");
        let log = std::fs::read_to_string(format!("{}/work.log", config.log_directory)).unwrap();
        let lines: Vec<_> = log.lines().filter_map(|line| line.rsplit(' ').next()).collect();
        assert_eq!(lines, ["begin", "end"]);
        if random(2) == 0 {
            again("remove the container", || cri.remove(&id)).await;
        }
        again("stop the pod", || cri.stop_pod(&pod)).await;
        again("remove the pod", || cri.remove_pod(&pod)).await;
    }
}

/// Starts a container. A start that broke off may have happened: the status tells.
async fn start(cri: &Cri, id: &str) {
    loop {
        let Err(error) = cri.start(id).await else { return };
        assert!(broke_off(&error), "start the container: {error:?}");
        let status = again("ask for the container", || cri.container(id)).await;
        if status.state() != ContainerState::ContainerCreated {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn lasting(number: u32) -> ContainerConfig {
    let seconds = (700_000 + number).to_string();
    container("lasting", e2e::image::catalog::BUSYBOX, &["sleep", &seconds])
}

fn lasting_processes() -> Vec<(u32, u64, String)> {
    let mut found: Vec<_> = proc::processes()
        .into_iter()
        .filter(|process| process.command.starts_with("sleep 7000"))
        .map(|process| (process.pid, process.start, process.command))
        .collect();
    found.sort();
    found
}

fn worker(node: &Node, number: usize) -> Worker {
    let folder = node.folders.base.parent().unwrap().to_owned();
    Worker { name: format!("worker{number}"), cri: node.cri.clone(), ids: node.ids.clone(), folder }
}

async fn twenty_kills_at_random_moments_lose_nothing(world: &mut World) {
    let node = world.node().await;
    let mut ids = Vec::new();
    for number in 0..LASTING {
        let pod = node.pod(&format!("lasting{number}")).await;
        ids.push(node.run(&pod, &lasting(number)).await);
    }
    let before = lasting_processes();
    assert_eq!(before.len(), LASTING as usize);

    let workers: Vec<_> = (0..WORKERS).map(|number| worker(node, number)).collect();
    let stop = AtomicBool::new(false);
    let kills = async {
        for _ in 0..KILLS {
            sleep(Duration::from_millis(50 + random(500))).await;
            node.crash().await;
            node.up().await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    };
    let work = join_all(workers.iter().map(|worker| worker.work(&stop)));
    let rounds: usize = tokio::join!(kills, work).1.into_iter().sum();
    println!("    {rounds} pods came and went during {KILLS} kills");

    assert_eq!(lasting_processes(), before, "every container that ran still runs");
    for id in ids {
        let state = node.cri.container(&id).await.unwrap().state();
        assert_eq!(state, ContainerState::ContainerRunning);
        assert_eq!(node.sh(&id, "echo alive").await, "alive");
    }
    assert_eq!(node.cri.pods(None).await.unwrap().len(), LASTING as usize);
    assert_eq!(node.cri.containers(None).await.unwrap().len(), LASTING as usize);
}

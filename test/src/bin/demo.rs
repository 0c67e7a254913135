//! One pod from pull to removal through CRI, against a daemon with its embedded defaults, for `hack/run --demo`.
//!
//! Everything happens in namespaces of its own with private `/run` and `/var/lib`: nothing stays on the machine.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a demonstration that does not work shall say where")]

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use e2e::cri::Cri;
use e2e::image::{Compression, Format, Image, Store, catalog};
use e2e::isolate::{Entered, enter};
use e2e::registry::server::{Registry, Settings};
use e2e::runtime::Runtime;
use e2e::stats::Timings;
use e2e::{proc, spec};
use proto::cri::{ContainerConfig, PodSandboxConfig};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Where the daemon listens when nobody says otherwise.
const SOCKET: &str = "/run/wherry/wherry.sock";

fn main() -> ExitCode {
    match enter() {
        Entered::Done(code) => code,
        Entered::Inside(folder) => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(demo(&folder));
            ExitCode::SUCCESS
        }
    }
}

async fn demo(folder: &Path) {
    let before = Before::now();
    let registry = Registry::start(Arc::new(content()), Settings::default()).await.unwrap();
    let image = format!("{}/demo:1", registry.address());
    let mut daemon = daemon(folder);
    let cri = Cri::new(Path::new(SOCKET));
    let serves = async {
        while cri.version().await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let mut timings = Timings::default();
    let started = timings.time("the daemon serves", timeout(Duration::from_secs(20), serves)).await;
    started.unwrap_or_else(|_| {
        panic!("{}", std::fs::read_to_string(folder.join("daemon.log")).unwrap_or_default())
    });
    let version = cri.version().await.unwrap();
    println!("{} {} serves CRI", version.runtime_name, version.runtime_version);

    let pod = spec::pod("demo", folder);
    std::fs::create_dir_all(&pod.log_directory).unwrap();
    let text = "echo \"hello from $(hostname), I am $(id -un), my address is $(hostname -i)\"; \
        trap 'exit 0' TERM; while :; do sleep 3600 & wait; done";
    let container = spec::container("hello", &image, &["sh", "-c", text]);
    one_pod(&cri, &pod, &container, &mut timings).await;
    timings.time("RemoveImage", cri.remove_image(&image)).await.unwrap();

    println!("\n{:<20} {:>9}", "call", "ms");
    for name in timings.names() {
        println!("{name:<20} {:>9.2}", timings.percentile(name, 50));
    }
    stop(&mut daemon).await;
    before.check().await;
}

async fn one_pod(
    cri: &Cri,
    pod: &PodSandboxConfig,
    container: &ContainerConfig,
    timings: &mut Timings,
) {
    let image = &container.image.as_ref().unwrap().image;
    let pulled = timings.time("PullImage", cri.pull(image, None)).await.unwrap();
    println!("pulled  {image} as {}", &pulled[..19]);
    let pod_id = timings.time("RunPodSandbox", cri.run_pod(pod)).await.unwrap();
    let address = cri.pod_status(&pod_id).await.unwrap().network.unwrap_or_default().ip;
    println!("pod     {} has the address {address}", &pod_id[..12]);
    let create = cri.create(&pod_id, container, pod);
    let id = timings.time("CreateContainer", create).await.unwrap();
    timings.time("StartContainer", cri.start(&id)).await.unwrap();
    let log = format!("{}/{}", pod.log_directory, container.log_path);
    for _ in 0..500 {
        if std::fs::read_to_string(&log).is_ok_and(|text| text.contains('\n')) {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    print!("log     {}", std::fs::read_to_string(&log).unwrap());
    let exec = timings.time("ExecSync", cri.exec(&id, &["echo", "hello", "again"], 10)).await;
    print!("exec    {}", String::from_utf8_lossy(&exec.unwrap().stdout));
    timings.time("StopContainer", cri.stop(&id, 10)).await.unwrap();
    let status = cri.container(&id).await.unwrap();
    println!("exit    {} ({})", status.exit_code, status.reason);
    timings.time("RemoveContainer", cri.remove(&id)).await.unwrap();
    timings.time("StopPodSandbox", cri.stop_pod(&pod_id)).await.unwrap();
    timings.time("RemovePodSandbox", cri.remove_pod(&pod_id)).await.unwrap();
}

/// The image of the demonstration: a static busybox.
fn content() -> Store {
    let mut store = Store::default();
    Image::new(Format::Oci)
        .layer(catalog::busybox_layer().pack(Compression::Gzip))
        .set("Cmd", json!(["sh"]))
        .put(&mut store, "demo", &["1"]);
    store
}

/// The daemon as `wherry serve` starts it, but deaf to the machine's own configuration.
fn daemon(folder: &Path) -> Child {
    let config = folder.join("empty.toml");
    std::fs::write(&config, "").unwrap();
    let log = std::fs::File::create(folder.join("daemon.log")).unwrap();
    Command::new(Runtime::Wherry.program().expect("hack/build has made it"))
        .arg("serve")
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn stop(daemon: &mut Child) {
    let pid = i32::try_from(daemon.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = timeout(Duration::from_secs(15), daemon.wait()).await;
    assert!(ended.expect("the daemon ends when asked to").unwrap().success());
}

/// What was there before the demonstration, which must be all that is there after it.
struct Before {
    processes: Vec<u32>,
    mounts: String,
}

impl Before {
    fn now() -> Self {
        let processes = proc::processes().into_iter().map(|process| process.pid).collect();
        Self { processes, mounts: std::fs::read_to_string("/proc/self/mountinfo").unwrap() }
    }

    async fn check(&self) {
        for _ in 0..100 {
            let now = Self::now();
            if now.mounts == self.mounts && now.processes == self.processes {
                println!("\nno process and no mount is left");
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("something is left: {:?}\n{}", proc::processes(), Self::now().mounts);
    }
}

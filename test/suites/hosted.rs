//! Another daemon with Wherry's shim: Debian's containerd, told that its runtime is `io.containerd.wherry.v2`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use e2e::crictl::Crictl;
use e2e::image::catalog::BUSYBOX;
use e2e::node::Node;
use e2e::runner::{Test, skip};
use e2e::runtime::{Runtime, Settings, bin_dir};
use e2e::world::World;
use e2e::{tests, tools};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::sleep;

pub fn tests() -> Vec<Test> {
    tests![
        Crictl: a_pod_of_containerds_runs_in_our_shims,
        Any: ctr_drives_a_container_through_our_shim,
        Any: a_lack_of_memory_is_told_while_the_container_goes_on,
        Any: containerd_cleans_up_after_a_shim_that_was_killed,
        Any: an_end_that_containerd_was_away_for_is_known_to_the_next_one,
    ]
}

/// What containerd asks for by name.
const SHIM: &str = "containerd-shim-wherry-v2";

async fn node(world: &mut World) -> &mut Node {
    if Runtime::Hosted.program().is_none() {
        skip("no containerd: hack/bench unpacks Debian's");
    }
    if !bin_dir().join(SHIM).exists() {
        skip("no containerd-shim-wherry-v2: hack/build makes it");
    }
    world.node_of(Runtime::Hosted, Settings::default()).await
}

/// Whose shims run: by their names, the pods' ids.
fn shims(ids: &[&str]) -> Vec<String> {
    let lines = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    let ours = lines.filter(|line| line.starts_with(SHIM));
    ours.filter(|line| ids.iter().any(|id| line.contains(id))).collect()
}

/// A shim that was told to shut down first passes its last events on.
async fn all_end(ids: &[&str]) {
    let end = Instant::now() + Duration::from_secs(5);
    while !shims(ids).is_empty() && Instant::now() < end {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shims(ids), Vec::<String>::new());
}

async fn a_pod_of_containerds_runs_in_our_shims(world: &mut World) {
    let folder = world.new_folder();
    let node = node(world).await;
    let config = node.pod_config("hosted");
    let (metadata, linux) = (config.metadata.unwrap(), config.linux.unwrap());
    let pod = json!({
        "metadata": { "name": metadata.name, "uid": metadata.uid, "namespace": "default" },
        "log_directory": folder.join("logs"),
        "linux": { "cgroup_parent": linux.cgroup_parent },
    });
    let script = "echo hello; trap 'exit 5' TERM; while :; do sleep 0.1; done";
    let container = json!({
        "metadata": { "name": "shell" }, "image": { "image": BUSYBOX },
        "command": ["sh", "-c", script], "log_path": "shell.log", "linux": {},
    });
    std::fs::create_dir_all(folder.join("logs")).unwrap();
    let file = |name: &str, content: serde_json::Value| {
        let path = folder.join(name);
        std::fs::write(&path, content.to_string()).unwrap();
        path.display().to_string()
    };
    let (pod_file, container_file) = (file("pod.json", pod), file("container.json", container));
    let crictl = Crictl::new(&node.folders.socket());
    crictl.run(&format!("pull {BUSYBOX}")).await;
    let pod = crictl.run(&format!("runp {pod_file}")).await;
    node.ids.note(&pod);
    let container = crictl.run(&format!("create {pod} {container_file} {pod_file}")).await;
    node.ids.note(&container);
    crictl.run(&format!("start {container}")).await;
    assert_eq!(shims(&[&pod, &container]).len(), 2, "a shim for each");
    while !crictl.run(&format!("logs {container}")).await.contains("hello") {}
    assert_eq!(crictl.run(&format!("exec -s {container} echo inside")).await, "inside");
    assert!(crictl.run(&format!("stats {container}")).await.contains("shell"));
    crictl.run(&format!("stop --timeout 10 {container}")).await;
    let inspected = crictl.run(&format!("inspect {container}")).await;
    assert!(inspected.contains("\"exitCode\": 5"), "{inspected}");
    crictl.run(&format!("rm {container}")).await;
    crictl.run(&format!("stopp {pod}")).await;
    crictl.run(&format!("rmp {pod}")).await;
    all_end(&[&pod, &container]).await;
}

/// containerd's own client.
struct Ctr {
    program: PathBuf,
    socket: PathBuf,
}

impl Ctr {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--address").arg(&self.socket).args(arguments);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {arguments:?}: {said} {complained}");
        said
    }
}

fn root(folder: &Path) -> String {
    let root = folder.join("rootfs");
    for sub in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(sub)).unwrap();
    }
    std::fs::copy(tools::busybox().unwrap(), root.join("bin/busybox")).unwrap();
    for applet in ["sh", "sleep", "cat", "echo"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    root.display().to_string()
}

async fn events(child: &mut Child, file: &Path, wanted: &[&str]) {
    let mut text = String::new();
    for _ in 0..100 {
        text = std::fs::read_to_string(file).unwrap();
        if wanted.iter().all(|topic| text.contains(topic)) {
            child.kill().await.unwrap();
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("not all of {wanted:?}:\n{text}");
}

/// containerd with a container that runs in one of our shims.
struct Hosted<'a> {
    ctr: Ctr,
    node: &'a mut Node,
    folder: PathBuf,
    id: &'static str,
}

impl<'a> Hosted<'a> {
    async fn run(world: &'a mut World, id: &'static str, flags: &[&str], script: &str) -> Self {
        let folder = world.new_folder();
        let root = root(&folder);
        let node = node(world).await;
        let Some(program) = tools::find("ctr") else { skip("no ctr beside containerd") };
        let ctr = Ctr { program, socket: node.folders.socket() };
        let parent = node.pod_config("ctr").linux.unwrap().cgroup_parent;
        let cgroup = format!("{parent}/{id}");
        let head = ["run", "-d", "--runtime", "io.containerd.wherry.v2", "--cgroup", &cgroup];
        let tail = ["--rootfs", &root, id, "sh", "-c", script];
        ctr.run(&[&head, flags, &tail].concat()).await;
        Self { ctr, node, folder, id }
    }

    async fn tasks(&self) -> String {
        let listed = self.ctr.output(&["task", "ls"]).await;
        String::from_utf8_lossy(&listed.stdout).into_owned()
    }

    fn shim(&self) -> i32 {
        let flag = format!("-id {} ", self.id);
        let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let ours = line.starts_with(SHIM) && line.contains(&flag);
            entry.file_name().to_str()?.parse().ok().filter(|_| ours)
        });
        found.unwrap()
    }

    async fn remove(self) {
        let _gone = self.ctr.output(&["task", "rm", "--force", self.id]).await;
        self.ctr.run(&["container", "rm", self.id]).await;
        all_end(&[&format!("-id {} ", self.id)]).await;
    }
}

async fn a_lack_of_memory_is_told_while_the_container_goes_on(world: &mut World) {
    // What is in a tmpfs stays when its writer is killed: so the next one is, too.
    let script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; \
                  (exec busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=60); sleep 1000";
    let limit = ["--memory-limit", "20000000"];
    let hosted = Hosted::run(world, "full", &limit, script).await;
    let told = hosted.folder.join("events");
    let file = std::fs::File::create(&told).unwrap();
    let mut listener = hosted.ctr.command(&["events"]).stdout(file).spawn().unwrap();
    sleep(Duration::from_millis(300)).await;
    std::fs::write(hosted.folder.join("rootfs/tmp/go"), "").unwrap();
    events(&mut listener, &told, &["/tasks/oom"]).await;
    assert!(hosted.tasks().await.contains("RUNNING"));
    hosted.remove().await;
}

async fn containerd_cleans_up_after_a_shim_that_was_killed(world: &mut World) {
    let hosted = Hosted::run(world, "lost", &[], "sleep 4321").await;
    let shim = rustix::process::Pid::from_raw(hosted.shim()).unwrap();
    let mine = || {
        let lines = std::fs::read_dir("/proc").unwrap().flatten();
        lines
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .any(|line| line.starts_with(b"sleep\x004321"))
    };
    let end = Instant::now() + Duration::from_secs(5);
    while !mine() && Instant::now() < end {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(mine(), "the container has begun");
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while (mine() || hosted.tasks().await.contains("RUNNING")) && Instant::now() < end {
        sleep(Duration::from_millis(50)).await;
    }
    assert!(!mine(), "the container of a dead shim is ended");
    assert!(!hosted.tasks().await.contains("RUNNING"), "{}", hosted.tasks().await);
    hosted.remove().await;
}

async fn an_end_that_containerd_was_away_for_is_known_to_the_next_one(world: &mut World) {
    let script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 7";
    let hosted = Hosted::run(world, "alone", &[], script).await;
    hosted.node.crash().await;
    std::fs::write(hosted.folder.join("rootfs/tmp/go"), "").unwrap();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(shims(&["-id alone "]).len(), 1, "the shim keeps what nobody has asked for yet");
    hosted.node.up().await.unwrap();
    let tasks = hosted.tasks().await;
    assert!(tasks.contains("STOPPED"), "{tasks}");
    let removed = hosted.ctr.output(&["task", "rm", hosted.id]).await;
    let said = String::from_utf8_lossy(&removed.stderr);
    assert!(removed.status.success() && said.contains("exit code 7"), "{removed:?}");
    all_end(&["-id alone "]).await;
    hosted.remove().await;
}

async fn ctr_drives_a_container_through_our_shim(world: &mut World) {
    let folder = world.new_folder();
    let root = root(&folder);
    let node = node(world).await;
    let Some(program) = tools::find("ctr") else { skip("no ctr beside containerd") };
    let ctr = Ctr { program, socket: node.folders.socket() };
    let told = folder.join("events");
    let mut listener =
        ctr.command(&["events"]).stdout(std::fs::File::create(&told).unwrap()).spawn().unwrap();
    sleep(Duration::from_millis(300)).await;
    let parent = node.pod_config("ctr").linux.unwrap().cgroup_parent;
    let cgroup = |name: &str| format!("{parent}/{name}");
    let runtime = ["--runtime", "io.containerd.wherry.v2", "--rootfs"];
    let run = |flag: &'static str, id: &'static str, command: [&'static str; 3]| {
        let head = ["run", flag, "--cgroup"].map(str::to_owned);
        let tail = [root.clone(), id.to_owned()].into_iter().chain(command.map(str::to_owned));
        let all = head.into_iter().chain([cgroup(id)]).chain(runtime.map(str::to_owned));
        all.chain(tail).collect::<Vec<_>>()
    };
    let words = |all: &'static str| all.split(' ').collect::<Vec<_>>();

    let short = run("--rm", "short", ["sh", "-c", "echo said; exit 7"]);
    let ended = ctr.output(&short.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!((ended.stdout.as_slice(), ended.status.code()), (&b"said\n"[..], Some(7)));
    let long = run("-d", "long", ["sh", "-c", "sleep 1000"]);
    ctr.run(&long.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let said = ctr.run(&words("task exec --exec-id e long echo inside")).await;
    assert_eq!(said, "inside\n");
    ctr.run(&words("task pause long")).await;
    assert!(ctr.run(&words("task ls")).await.contains("PAUSED"));
    ctr.run(&words("task resume long")).await;
    assert!(ctr.run(&words("task ls")).await.contains("RUNNING"));
    assert!(ctr.run(&words("task metrics long")).await.contains("memory"));
    ctr.run(&words("task kill -s KILL long")).await;
    while !ctr.run(&words("task ls")).await.contains("STOPPED") {}
    let _its_own = ctr.output(&words("task rm long")).await;
    ctr.run(&words("container rm long")).await;
    let wanted = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/exit",
        "/tasks/delete",
    ];
    events(&mut listener, &told, &wanted).await;
    all_end(&["-id long ", "-id short "]).await;
}

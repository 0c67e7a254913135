//! What every test needs: a place of its own, an image, a spec, and a container that is cleaned up.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use shim::{Bundle, CreateOptions, Created, ExecOptions, Exit, Launcher, Mount, Shim, ShimError};

/// A name and what it runs.
pub type Test = (&'static str, fn());

/// A busybox without libraries, wherever it is (package busybox-static).
pub fn busybox() -> PathBuf {
    std::env::var_os("WHERRY_TEST_BUSYBOX").map_or_else(|| "/bin/busybox".into(), PathBuf::from)
}
const INSIDE: &str = "WHERRY_SHIM_TEST_INSIDE";
/// No step of a test may take longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs all tests, or those whose name contains an argument, one after the other; `--skip=WORD` leaves some out.
pub fn run(groups: &[&[Test]]) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let left_out: Vec<String> =
        env::args().filter_map(|a| a.strip_prefix("--skip=").map(str::to_owned)).collect();
    if env::args().any(|argument| argument == "--list") {
        for (name, _) in groups.iter().flat_map(|group| group.iter()) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = reason_to_skip() {
        println!("SKIPPED: {reason}");
        // hack/guest has all that the tests need.
        return if is_guest() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    if env::var_os(INSIDE).is_none() {
        let error = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private", "--"])
            .arg(env::current_exe().unwrap())
            .args(env::args_os().skip(1))
            .env(INSIDE, "1")
            .env("WHERRY_SCOPE", launcher().path().with_file_name("wherry"))
            .exec();
        println!("SKIPPED: unshare: {error}");
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<&Test> = groups
        .iter()
        .flat_map(|group| group.iter())
        .filter(|(name, _)| {
            arguments.is_empty() || arguments.iter().any(|part| name.contains(part.as_str()))
        })
        .filter(|(name, _)| !left_out.iter().any(|part| name.contains(part.as_str())))
        .collect();
    if env::args().any(|argument| argument == "--measure") {
        crate::measure::run();
        remove_cgroup_parent();
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for (name, test) in &chosen {
        let started = std::time::Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", started.elapsed().as_millis());
        if !passed {
            failed.push(*name);
        }
    }
    remove_cgroup_parent();
    let left = leftovers();
    if !left.is_empty() {
        println!("left behind: {left:?}");
        failed.push("nothing is left behind");
    }
    let (verdict, wrong) = (if failed.is_empty() { "ok" } else { "FAILED" }, failed.len());
    failed.iter().for_each(|name| println!("    failed: {name}"));
    let passed = chosen.len().saturating_sub(wrong);
    println!("\ntest result: {verdict}. {passed} passed; {wrong} failed; 0 ignored; 0 measured");
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether this is the throw-away machine of `hack/guest`: cgroup v2, systemd, AppArmor.
pub fn is_guest() -> bool {
    env::var_os("WHERRY_GUEST").is_some()
}

fn reason_to_skip() -> Option<String> {
    if !rustix::process::getuid().is_root() {
        return Some("takes root".to_owned());
    }
    if !busybox().exists() {
        return Some(format!("{} (package busybox-static) is not there", busybox().display()));
    }
    if Command::new("unshare").args(["--mount", "true"]).status().map_or(true, |s| !s.success()) {
        return Some("unshare does not work here".to_owned());
    }
    None
}

/// This process's own cgroup parent.
pub fn cgroup_parent() -> String {
    format!("/wherry-shim-test-{}", std::process::id())
}

fn cgroup_roots() -> Vec<PathBuf> {
    let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let mut roots: Vec<PathBuf> = roots.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    roots.push(PathBuf::from("/sys/fs/cgroup"));
    roots
}

fn remove_cgroup_parent() {
    for root in cgroup_roots() {
        drop(fs::remove_dir(root.join(&cgroup_parent()[1..])));
    }
}

/// Cgroups, mounts and processes of ours that are still there.
fn leftovers() -> Vec<String> {
    let mut left = Vec::new();
    for root in cgroup_roots() {
        let path = root.join(&cgroup_parent()[1..]);
        if path.exists() {
            left.push(path.display().to_string());
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    left.extend(mounts.lines().filter(|l| l.contains("wherry-shim-test")).map(str::to_owned));
    std::thread::sleep(Duration::from_millis(200));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let cwd = fs::read_link(entry.path().join("cwd"));
        let ours = cwd.is_ok_and(|cwd| cwd.to_string_lossy().contains(&base_name()));
        if ours && name.parse::<u32>().is_ok() {
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            left.push(format!("process {name} {}", comm.trim()));
        }
    }
    left
}

/// Everything of this run is below it.
pub fn base() -> PathBuf {
    env::temp_dir().join(base_name())
}

fn base_name() -> String {
    format!("wherry-shim-test-{}", std::process::id())
}

/// A container under test: removed with everything when it goes out of scope.
pub struct Case {
    pub dir: PathBuf,
    pub id: String,
    pub image: PathBuf,
    pub spec: Value,
    pub options: CreateOptions,
    pub bundle_dir: PathBuf,
    runtime: tokio::runtime::Runtime,
    shim: Option<Shim>,
    bundle: Option<Bundle>,
}

impl Case {
    /// An image of busybox and a spec that runs `command` with a shell, as the kubelet's would.
    pub fn new(command: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("c{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = base().join(&id);
        fs::create_dir_all(dir.join("logs")).unwrap();
        let image = dir.join("image");
        for sub in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
            fs::create_dir_all(image.join(sub)).unwrap();
        }
        fs::copy(busybox(), image.join("bin/busybox")).unwrap();
        for applet in ["sh", "id", "cat", "ls", "sleep", "echo", "touch", "grep", "mount", "true"] {
            symlink("busybox", image.join("bin").join(applet)).unwrap();
        }
        fs::write(
            image.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .unwrap();
        fs::write(image.join("etc/group"), "root:x:0:\napp:x:1000:\naudio:x:29:app\n").unwrap();
        let options = CreateOptions {
            rootfs: vec![overlay(&dir, &image)],
            log: Some(dir.join("logs/0.log")),
            ..CreateOptions::default()
        };
        let spec = spec(&id, command);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let bundle_dir = dir.join("bundle");
        Self { dir, id, image, spec, options, bundle_dir, runtime, shim: None, bundle: None }
    }

    pub fn shim(&self) -> Shim {
        self.shim.clone().unwrap()
    }

    /// Closes the connection, as a daemon's death does.
    pub fn forget_shim(&mut self) {
        self.shim = None;
        self.block(async { tokio::time::sleep(Duration::from_millis(20)).await });
    }

    /// Goes on with another connection.
    pub fn adopt(&mut self, shim: Shim) {
        self.shim = Some(shim);
    }

    pub fn bundle(&self) -> &Bundle {
        self.bundle.as_ref().unwrap()
    }

    /// What does not come to an end has failed: a container that never does must not stop all tests.
    pub fn block<T>(&self, future: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(DEADLINE, future).await };
        self.runtime.block_on(limited).expect("the test waits in vain")
    }

    /// The shim's pid: the parent of the container's process.
    pub fn shim_pid(&self, created: &Created) -> u32 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", created.pid)).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// The container's cgroups that there are.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let own = format!("{}/{}", &cgroup_parent()[1..], self.id);
        cgroup_roots().into_iter().map(|root| root.join(&own)).filter(|p| p.exists()).collect()
    }

    /// Launches.
    pub fn prepare(&mut self) {
        let spec: Spec = serde_json::from_value(self.spec.clone()).unwrap();
        let bundle = Bundle::create(&self.bundle_dir, &spec).unwrap();
        self.shim = Some(self.runtime.block_on(launcher().launch(&bundle)).unwrap());
        self.bundle = Some(bundle);
    }

    /// Launches and creates.
    pub fn create(&mut self) -> Result<Created, ShimError> {
        self.prepare();
        self.runtime.block_on(self.shim().create(self.options.clone()))
    }

    /// Creates, starts and waits.
    pub fn run(&mut self) -> Exit {
        self.create().unwrap();
        let shim = self.shim();
        self.block(async {
            shim.start().await.unwrap();
            shim.wait().await.unwrap()
        })
    }

    /// Creates and starts.
    pub fn start(&mut self) -> Created {
        let created = self.create().unwrap();
        self.block(self.shim().start()).unwrap();
        created
    }

    /// What the container has written, without the log's own words.
    pub fn output(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap()).collect();
        lines.join("\n")
    }

    /// The log as it is.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("logs/0.log")).unwrap()
    }

    /// Runs and returns what it wrote.
    pub fn run_for_output(&mut self) -> String {
        let _exit = self.run();
        self.output()
    }

    /// Executes a shell command in the running container: its exit code, output and error.
    pub fn exec(&self, name: &str, command: &str) -> (i32, String, String) {
        let args = json!(["/bin/sh", "-c", command]);
        self.exec_args(name, args).unwrap()
    }

    /// As [`Case::exec`], with arguments.
    pub fn exec_args(&self, name: &str, args: Value) -> Result<(i32, String, String), ShimError> {
        let fifo = |kind: &str| {
            let path = self.dir.join(format!("{name}-{kind}"));
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let kind = rustix::fs::FileType::Fifo;
            drop(fs::remove_file(&path));
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
            path
        };
        let (stdout, stderr) = (fifo("out"), fifo("err"));
        let mut process = self.spec["process"].clone();
        process["args"] = args;
        process["terminal"] = json!(false);
        let options = ExecOptions {
            exec_id: name.to_owned(),
            process: serde_json::from_value(process).unwrap(),
            stdin: None,
            stdout: Some(stdout.clone()),
            stderr: Some(stderr.clone()),
        };
        let shim = self.shim();
        self.block(async {
            let read = |path: PathBuf| {
                let file = tokio::net::unix::pipe::OpenOptions::new().open_receiver(path).unwrap();
                tokio::spawn(async move {
                    use tokio::io::AsyncReadExt;
                    let mut file = file;
                    let mut text = String::new();
                    file.read_to_string(&mut text).await.unwrap();
                    text
                })
            };
            let (out, err) = (read(stdout), read(stderr));
            shim.exec(options).await?;
            let started = shim.start_exec(name).await;
            if started.is_err() {
                shim.delete_exec(name).await.unwrap();
            }
            let _pid = started?;
            let exit = shim.wait_exec(name).await?;
            shim.delete_exec(name).await?;
            Ok((exit.code, out.await.unwrap(), err.await.unwrap()))
        })
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if let Some(shim) = self.shim.take() {
            self.runtime.block_on(async {
                drop(shim.kill(9, true).await);
                drop(tokio::time::timeout(Duration::from_secs(5), shim.wait()).await);
                let deleted = shim.delete().await;
                let shut = shim.shutdown().await;
                if std::thread::panicking() {
                    println!("cleanup: {deleted:?} {shut:?}");
                }
            });
        }
        if std::thread::panicking() {
            let said = fs::read_to_string(self.dir.join("bundle/shim.log"));
            println!("shim.log: {said:?}");
            let log = fs::read(self.dir.join("logs/0.log")).unwrap_or_default();
            let last = log.get(log.len().saturating_sub(2000)..).unwrap_or_default();
            println!("log ({} bytes) ends: {:?}", log.len(), String::from_utf8_lossy(last));
        }
        drop(fs::remove_dir_all(&self.dir));
        drop(fs::remove_dir(base()));
    }
}

/// Knows the shim under test: this build's, or another one to be measured.
pub fn launcher() -> Launcher {
    let built = Path::new(env!("CARGO_BIN_EXE_wherry-shim")).to_owned();
    let path = env::var_os("WHERRY_SHIM").map_or(built, PathBuf::from);
    Launcher::find(Some(&path)).unwrap()
}

/// An overlay over an image, with folders of its own beside it.
pub fn overlay(dir: &Path, image: &Path) -> Mount {
    for sub in ["upper", "work"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![
            format!("lowerdir={}", image.display()),
            format!("upperdir={}", dir.join("upper").display()),
            format!("workdir={}", dir.join("work").display()),
            // Without it the end of a container waits until the host's whole file system is on its disk.
            "volatile".to_owned(),
        ],
    }
}

/// A spec as a kubelet's container has it.
pub fn spec(id: &str, command: &str) -> Value {
    let caps = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "box",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", command],
            "env": ["PATH=/bin:/usr/bin"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true,
            "oomScoreAdj": 500
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=64m"])
        ],
        "linux": {
            "cgroupsPath": format!("{}/{id}", cgroup_parent()),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network"}, {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list",
                "/proc/scsi", "/sys/firmware", "/proc/missing"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

//! What every test needs: a runtime, a bundle, and a look afterwards at what is left.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A name, on which runtimes it makes sense, and what it runs.
pub type Test = (&'static str, On, fn());

/// On which runtimes a test makes sense.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum On {
    Any,
    /// This runtime only: runc does otherwise.
    Own,
}

const INSIDE: &str = "WHERRY_OCI_TEST_INSIDE";
const OTHER: &str = "WHERRY_OCI";
/// What waits for ever has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs all tests, or those whose name contains an argument, one after the other.
pub fn run(groups: &[&[Test]]) -> ExitCode {
    let tests = || groups.iter().flat_map(|group| group.iter());
    if env::args().any(|argument| argument == "--list") {
        tests().for_each(|(name, ..)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::getuid().is_root() || !busybox().exists() {
        println!("SKIPPED: takes root and a busybox without libraries (package busybox-static)");
        return ExitCode::SUCCESS;
    }
    if env::var_os(INSIDE).is_none() {
        let error = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(env::current_exe().unwrap())
            .args(env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        println!("SKIPPED: unshare: {error}");
        return ExitCode::SUCCESS;
    }
    // Who a container leaves behind is ours to reap, as it is its monitor's.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let words: Vec<String> = env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let left_out: Vec<String> =
        env::args().filter_map(|a| a.strip_prefix("--skip=").map(str::to_owned)).collect();
    let chosen = |name: &str| {
        (words.is_empty() || words.iter().any(|word| name.contains(word)))
            && !left_out.iter().any(|part| name.contains(part.as_str()))
    };
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for (name, on, test) in tests().filter(|(name, ..)| chosen(name)) {
        if *on == On::Own && is_other() {
            println!("test {name} ... SKIPPED: about another runtime's ways");
            skipped += 1;
            continue;
        }
        let started = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(test)).is_ok();
        let verdict = if done { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", started.elapsed().as_millis());
        if done { passed += 1 } else { failed.push(*name) }
    }
    drop(fs::remove_dir_all(base()));
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("failed: {failed:?}");
    println!("test result: {verdict}. {passed} passed; {} failed; {skipped} ignored", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

pub fn busybox() -> PathBuf {
    env::var_os("WHERRY_TEST_BUSYBOX").map_or_else(|| "/bin/busybox".into(), PathBuf::from)
}

/// Another runtime is under test.
pub fn is_other() -> bool {
    env::var_os(OTHER).is_some()
}

fn base() -> PathBuf {
    env::temp_dir().join(format!("wherry-oci-test-{}", std::process::id()))
}

/// The runtime under test: this build's, by the name that makes it the command line.
fn program() -> PathBuf {
    if let Some(other) = env::var_os(OTHER) {
        return other.into();
    }
    let link = base().join("wherry-oci");
    if !link.exists() {
        fs::create_dir_all(base()).unwrap();
        symlink(env!("CARGO_BIN_EXE_wherry-shim"), &link).unwrap();
    }
    link
}

/// A container under test; it and the check for what is left go with it.
pub struct Case {
    pub dir: PathBuf,
    pub id: String,
    pub spec: Value,
}

/// What a call has come to.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Case {
    /// A bundle whose container runs `command` in a shell.
    pub fn new(command: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("oci-test-{}-{number}", std::process::id());
        let dir = base().join(&id);
        let rootfs = dir.join("bundle/rootfs");
        for folder in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
            fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        fs::copy(busybox(), rootfs.join("bin/busybox")).unwrap();
        for applet in
            ["sh", "true", "sleep", "cat", "id", "tty", "ls", "pwd", "env", "stty", "kill"]
        {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        let spec = spec(&["/bin/sh", "-c", command]);
        Self { dir, id, spec }
    }

    pub fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("root").join(&self.id)
    }

    pub fn write_spec(&self) {
        fs::write(self.bundle().join("config.json"), self.spec.to_string()).unwrap();
    }

    /// A call that is still to be made; the verb and its flags are `args`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--root").arg(self.dir.join("root")).args(args);
        command.stdin(Stdio::null()).current_dir(self.bundle());
        command
    }

    /// A call without an id.
    pub fn plain(&self, args: &[&str]) -> Done {
        Done::new(&self.command(args).output().unwrap())
    }

    /// A call whose last argument is the container.
    pub fn call(&self, args: &[&str]) -> Done {
        self.plain(&[args, &[&self.id]].concat())
    }

    /// A call that must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.call(args);
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
        done.out
    }

    /// Writes the spec and creates. What the container writes goes to the file `output`.
    #[track_caller]
    pub fn create(&self) {
        let done = self.create_with(&[]);
        assert_eq!(done.code, 0, "{done:?}");
    }

    pub fn create_with(&self, flags: &[&str]) -> Done {
        self.write_spec();
        let out = fs::File::create(self.dir.join("output")).unwrap();
        let mut command = self.command(&[&["create"], flags, &[&self.id]].concat());
        // A pipe would stay open with the container.
        let err = fs::File::create(self.dir.join("stderr")).unwrap();
        let status = command.stdout(out).stderr(err).status().unwrap();
        let err = fs::read_to_string(self.dir.join("stderr")).unwrap();
        Done { code: status.code().unwrap_or(-1), out: String::new(), err }
    }

    #[track_caller]
    pub fn start(&self) {
        self.create();
        self.ok(&["start"]);
    }

    /// Writes the spec and runs.
    pub fn run(&self) -> Done {
        self.write_spec();
        self.call(&["run"])
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn output(&self) -> String {
        fs::read_to_string(self.dir.join("output")).unwrap()
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state"])).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn wait_for(&self, status: &str) {
        wait_until(&format!("{} is {status}", self.id), || {
            reap();
            self.status() == status
        });
    }

    /// Cgroups, processes, mounts and states that are there.
    pub fn leftovers(&self) -> Vec<String> {
        reap();
        let mut left: Vec<String> =
            cgroups(&self.id).into_iter().map(|path| path.display().to_string()).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(&self.id)).map(str::to_owned));
        let states = fs::read_dir(self.dir.join("root")).into_iter().flatten().flatten();
        left.extend(states.map(|entry| entry.path().display().to_string()));
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let read = |name| fs::read_to_string(process.path().join(name)).unwrap_or_default();
            let root = fs::read_link(process.path().join("cwd")).unwrap_or_default();
            let ours = read("cgroup").contains(&self.id) || root.starts_with(&self.dir);
            if ours && process.file_name() != "self" && process.file_name() != "thread-self" {
                left.push(format!("process {:?} {}", process.file_name(), read("comm").trim()));
            }
        }
        left.extend(self.bundle().join("seccomp.bpf").exists().then(|| "seccomp.bpf".to_owned()));
        left
    }

    /// Nothing is left, after a moment's patience.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut left = self.leftovers();
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            left = self.leftovers();
        }
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        // A PID namespace does not end before those are reaped whom a detached exec has left to us.
        let mut delete = self.command(&["delete", "--force", &self.id]);
        let mut delete = delete.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while delete.try_wait().unwrap().is_none() {
            reap_but(delete.id());
            std::thread::sleep(Duration::from_millis(2));
        }
        if std::thread::panicking() {
            for file in ["output", "stderr"] {
                println!("{file}: {:?}", fs::read_to_string(self.dir.join(file)));
            }
        } else {
            self.assert_nothing_left();
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

impl Done {
    pub fn new(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The container's cgroups that there are.
pub fn cgroups(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().contains(id) {
                found.push(entry.path());
            } else if depth < 3 {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// Takes the children that have ended and that nobody waits for: orphans of containers.
pub fn reap() {
    reap_but(0);
}

pub fn reap_but(spared: u32) {
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        let zombie = fields.next() == Some("Z");
        let ours = fields.next() == Some(std::process::id().to_string().as_str());
        if zombie && ours && pid.unsigned_abs() != spared {
            let pid = rustix::process::Pid::from_raw(pid);
            let _reaped = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG);
        }
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A file's text once it ends with a line's end.
#[track_caller]
pub fn read_line(path: &Path) -> String {
    let text = || fs::read_to_string(path).unwrap_or_default();
    wait_until(&format!("a line in {}", path.display()), || text().ends_with('\n'));
    text().trim().to_owned()
}

fn spec(args: &[&str]) -> Value {
    let caps = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin", "FROM=spec"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "annotations": {"org.example.a": "b"},
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network"}],
            "maskedPaths": ["/proc/kcore", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys"]
        }
    })
}

//! A real caller: Debian's containerd with its shim for runc, told to call this runtime instead. SKIPPED where it is not
//! installed.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Case, Done, On, Test, is_other, reap_but, wait_until};

pub const TESTS: &[Test] = &[("containerds_shim_for_runc_drives_a_container", On::Own, drive)];

/// Where hack/setup unpacks it.
fn find(name: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("WHERRY_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/wherry")
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([cache.join("tools/deb/usr/bin")]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

struct Containerd {
    case: Case,
    ctr: PathBuf,
    daemon: Child,
}

impl Containerd {
    fn new() -> Option<Self> {
        let (Some(program), Some(ctr), false) = (find("containerd"), find("ctr"), is_other())
        else {
            println!("SKIPPED: containerd is not installed");
            return None;
        };
        let case = Case::new("");
        let dir = case.dir.join("d");
        fs::create_dir(&dir).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("sock"),
            path("ttrpc")
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let bin = program.parent().unwrap().to_owned();
        let old = std::env::var_os("PATH").unwrap_or_default();
        let search = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&old)));
        let log = fs::File::create(dir.join("log")).unwrap();
        let daemon = Command::new(program)
            .arg("--config")
            .arg(dir.join("config.toml"))
            .env("PATH", search.unwrap())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("containerd listens", || dir.join("sock").exists());
        Some(Self { case, ctr, daemon })
    }

    fn call(&self, args: &[&str]) -> Done {
        let mut command = Command::new(&self.ctr);
        command.arg("--address").arg(self.case.dir.join("d/sock")).args(args);
        Done::new(&command.stdin(Stdio::null()).output().unwrap())
    }

    fn run(&self, flags: &[&str], id: &str, command: &[&str]) -> Done {
        let program = self.case.command(&[]).get_program().to_owned();
        let rootfs = self.case.rootfs();
        let own = ["--rootfs", "--runtime=io.containerd.runc.v2", "--runc-binary"];
        let rest = [program.to_str().unwrap(), rootfs.to_str().unwrap(), id];
        self.call(&[&["run"], flags, &own, &rest, command].concat())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.call(&["task", "rm", "--force", "c"]);
        self.call(&["container", "rm", "c"]);
        let pid = rustix::process::Pid::from_child(&self.daemon);
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        self.daemon.wait().unwrap();
        reap_but(0);
    }
}

fn drive() {
    let Some(containerd) = Containerd::new() else { return };
    let done = containerd.run(&["--rm"], "a", &["/bin/sh", "-c", "echo out; exit 7"]);
    assert_eq!((done.code, done.out.as_str()), (7, "out\n"), "{done:?}");
    let done = containerd.run(&["--rm"], "b", &["nosuch"]);
    assert!(done.err.contains("executable file not found in $PATH"), "{done:?}");
    assert_eq!(containerd.run(&["-d"], "c", &["/bin/sleep", "60"]).code, 0);
    let exec = ["task", "exec", "--exec-id=e", "c", "/bin/sh", "-c", "echo in; exit 5"];
    let done = containerd.call(&exec);
    assert_eq!((done.code, done.out.as_str()), (5, "in\n"), "{done:?}");
    assert_eq!(containerd.call(&["task", "pause", "c"]).code, 0);
    assert!(containerd.call(&["task", "ls"]).out.contains("PAUSED"));
    assert_eq!(containerd.call(&["task", "resume", "c"]).code, 0);
    assert!(containerd.call(&["task", "metrics", "c"]).out.contains("pids.current"));
    assert_eq!(containerd.call(&["task", "kill", "-s", "9", "c"]).code, 0);
    wait_until("it has ended", || containerd.call(&["task", "ls"]).out.contains("STOPPED"));
}

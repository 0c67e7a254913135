//! A real caller: Debian's podman with conmon, on storage and containers of its own. SKIPPED where it is not installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::harness::{Case, Done, On, Test, is_other, reap_but, wait_until};

pub const TESTS: &[Test] = &[
    ("podman_runs_a_container_and_gets_output_and_exit_code", On::Own, run),
    ("podman_knows_a_command_that_is_not_there_from_one_that_may_not_be", On::Own, refused),
    ("podman_drives_a_container_from_start_to_end", On::Own, drive),
    ("podman_gives_terminals", On::Own, terminal),
    ("podman_runs_privileged_and_limited_containers", On::Own, shapes),
];

const IMAGE: &str = "localhost/oci-test:1";

struct Podman {
    case: Case,
}

impl Podman {
    /// `None` where there is no podman.
    fn new() -> Option<Self> {
        let found = Command::new("podman").arg("--version").output().is_ok();
        if !found || is_other() {
            println!("SKIPPED: podman is not installed");
            return None;
        }
        let podman = Self { case: Case::new("") };
        // A flag of podman's for the runtime is not known to whom it has clean up after a container.
        let script = podman.case.dir.join("runtime");
        let program = podman.case.command(&[]).get_program().to_owned();
        let root = podman.case.dir.join("root");
        let text = format!(
            "#!/bin/sh\nexec {} --root {} \"$@\"\n",
            program.to_str().unwrap(),
            root.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let image = podman.case.dir.join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(podman.case.rootfs()).arg("-cf").arg(&image).arg(".");
        assert!(tar.status().unwrap().success());
        let done = podman.call(&["import", image.to_str().unwrap(), IMAGE]);
        assert_eq!(done.code, 0, "{done:?}");
        Some(podman)
    }

    fn command(&self, args: &[&str]) -> Command {
        let dir = &self.case.dir;
        let mut command = Command::new("podman");
        // Short names: podman takes no runroot of more than 50 characters.
        for (flag, folder) in [("--root", "p"), ("--runroot", "r"), ("--tmpdir", "t")] {
            command.arg(flag).arg(dir.join(folder));
        }
        command.args([
            "--cgroup-manager=cgroupfs",
            "--storage-driver=vfs",
            "--events-backend=file",
        ]);
        command.arg("--runtime").arg(dir.join("runtime"));
        command.args(args).stdin(Stdio::null());
        command
    }

    fn call(&self, args: &[&str]) -> Done {
        // Its monitors stay: pipes would never end.
        let file = |name| fs::File::create(self.case.dir.join(name)).unwrap();
        let mut command = self.command(args);
        let mut child = command.stdout(file("out")).stderr(file("err")).spawn().unwrap();
        let mut status = None;
        wait_until(&format!("podman {args:?}"), || {
            reap_but(child.id());
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let read = |name| fs::read_to_string(self.case.dir.join(name)).unwrap();
        let code = status.and_then(|status| status.code()).unwrap_or(-1);
        Done { code, out: read("out"), err: read("err") }
    }

    /// A call that must succeed.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let done = self.call(args);
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
        done.out
    }

    fn run(&self, flags: &[&str], command: &[&str]) -> Done {
        self.call(&[&["run", "--rm", "--network=none"], flags, &[IMAGE], command].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.call(&["rm", "--all", "--force", "--time=0"]);
        let run = self.case.dir.join("p");
        wait_until("podman's own clean-up", || {
            reap_but(0);
            !fs::read_to_string("/proc/self/mounts").unwrap().contains(run.to_str().unwrap()) || {
                let _busy = Command::new("umount").arg(run.join("root/vfs")).output();
                false
            }
        });
    }
}

fn run() {
    let Some(podman) = Podman::new() else { return };
    let done = podman.run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (7, "out\n", "err\n"));
}

fn refused() {
    let Some(podman) = Podman::new() else { return };
    assert_eq!(podman.run(&[], &["nosuch"]).code, 127);
    assert_eq!(podman.run(&[], &["/no/such"]).code, 127);
    assert_eq!(podman.run(&[], &["/tmp"]).code, 126);
}

fn drive() {
    let Some(podman) = Podman::new() else { return };
    let script = "trap 'exit 5' TERM; while :; do sleep 0.1; done";
    podman.ok(&["run", "-d", "--network=none", "--name=c", IMAGE, "sh", "-c", script]);
    let status = |podman: &Podman| {
        podman.ok(&["inspect", "c", "--format={{.State.Status}} {{.State.ExitCode}}"])
    };
    assert_eq!(status(&podman), "running 0\n");
    let done = podman.call(&["exec", "c", "sh", "-c", "echo in; exit 9"]);
    assert_eq!((done.code, done.out.as_str()), (9, "in\n"));
    assert_eq!(podman.call(&["exec", "c", "nosuch"]).code, 127);
    assert!(podman.ok(&["top", "c"]).contains("sh -c"));
    assert!(podman.ok(&["stats", "--no-stream", "c"]).contains(" c "));
    podman.ok(&["pause", "c"]);
    assert_eq!(status(&podman), "paused 0\n");
    podman.ok(&["unpause", "c"]);
    podman.ok(&["stop", "c"]);
    assert_eq!(status(&podman), "exited 5\n");
    podman.ok(&["start", "c"]);
    podman.ok(&["kill", "c"]);
    assert_eq!(podman.ok(&["wait", "c"]), "137\n");
    podman.ok(&["rm", "c"]);
    podman.ok(&[
        "run",
        "--name=c",
        "--network=none",
        "--log-driver=k8s-file",
        IMAGE,
        "sh",
        "-c",
        "echo logged",
    ]);
    assert_eq!(podman.ok(&["logs", "c"]), "logged\n");
}

fn terminal() {
    let Some(podman) = Podman::new() else { return };
    let done = podman.run(&["-t"], &["tty"]);
    assert_eq!((done.code, done.out.as_str()), (0, "/dev/pts/0\r\n"));
    podman.ok(&["run", "-d", "--network=none", "--name=c", IMAGE, "sleep", "60"]);
    assert_eq!(podman.call(&["exec", "-t", "c", "tty"]).out, "/dev/pts/0\r\n");
}

fn shapes() {
    let Some(podman) = Podman::new() else { return };
    assert_eq!(podman.run(&["--privileged"], &["true"]).code, 0);
    let done =
        podman.run(&["--user=1000", "--read-only", "-w=/tmp"], &["sh", "-c", "id; echo x >/y"]);
    assert!(done.code == 1 && done.out.contains("uid=1000"), "{done:?}");
    let flags = ["--memory=64m", "--pids-limit=50"];
    assert_eq!(podman.run(&flags, &["true"]).code, 0);
}

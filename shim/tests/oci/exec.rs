//! Further processes in a container.

use std::fs;
use std::os::fd::AsRawFd;

use serde_json::json;

use crate::harness::{Case, On, Test, read_line, wait_until};

pub const TESTS: &[Test] = &[
    ("an_exec_is_as_its_flags_say_and_gives_its_exit_code", On::Any, flags),
    ("an_exec_is_in_the_containers_namespaces_and_cgroups", On::Any, place),
    ("an_exec_from_a_file_is_detached_and_tells_its_pid", On::Any, file),
    ("an_exec_that_cannot_be_is_255_and_says_why", On::Any, refused),
    ("files_are_passed_on_when_they_are_asked_for_and_no_others", On::Any, files),
];

fn running() -> Case {
    let case = Case::new("echo ready; exec sleep 60");
    case.start();
    read_line(&case.dir.join("output"));
    case
}

fn flags() {
    let case = running();
    let exec = |args: &[&str]| case.plain(&[&["exec"], args].concat());
    let id = case.id.as_str();
    let done = exec(&[id, "sh", "-c", "echo $FROM; exit 9"]);
    assert_eq!((done.code, done.out.as_str()), (9, "spec\n"));
    let done = exec(&["-e", "FROM=flag", "--cwd", "/tmp", id, "sh", "-c", "echo $FROM; pwd"]);
    assert_eq!(done.out, "flag\n/tmp\n");
    let done = exec(&["--user", "1000:1001", "-g", "7", id, "id"]);
    let own = ["uid=1000 gid=1001 groups=7,1001", "uid=1000 gid=1001 groups=1001,7"];
    assert!(own.contains(&done.out.trim()), "{done:?}");
    let done = exec(&[id, "sh", "-c", "kill -9 $$"]);
    assert_eq!(done.code, 137);
    let done = exec(&["--cap", "CAP_SYS_TIME", id, "sh", "-c", "cat /proc/self/status"]);
    let bounding = done.out.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    assert_eq!(u64::from_str_radix(bounding, 16).unwrap() >> 25 & 1, 1, "{bounding}");
}

fn place() {
    let case = running();
    let pid = case.state()["pid"].as_u64().unwrap();
    let script =
        "for n in mnt pid net ipc uts; do ls -l /proc/self/ns/$n; done; cat /proc/1/cgroup";
    let inside = case.plain(&["exec", &case.id, "sh", "-c", script]).out;
    for name in ["mnt", "pid", "net", "ipc", "uts"] {
        let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert!(inside.contains(link.to_str().unwrap()), "{name}: {inside}");
    }
    let mut child = case.spawn(&["exec", &case.id, "sleep", "60"]);
    let pids = || case.plain(&["ps", "-f", "json", &case.id]).out;
    wait_until("the exec is in the cgroup", || pids().contains(','));
    case.plain(&["kill", &case.id, "KILL"]);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

fn file() {
    let case = running();
    let process = json!({
        "args": ["sleep", "61"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 5, "gid": 5}
    });
    let (path, pid_file) = (case.dir.join("process.json"), case.dir.join("exec-pid"));
    fs::write(&path, process.to_string()).unwrap();
    let (path, pid_file) = (path.to_str().unwrap(), pid_file.to_str().unwrap());
    let null = || fs::File::options().write(true).open("/dev/null").unwrap();
    let mut exec = case.command(&["exec", "-d", "-p", path, "--pid-file", pid_file, &case.id]);
    assert!(exec.stdout(null()).stderr(null()).status().unwrap().success());
    let pid: u32 = fs::read_to_string(pid_file).unwrap().parse().unwrap();
    let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    wait_until("the command runs", || status().contains("Name:\tsleep"));
    assert!(status().contains("Uid:\t5\t5\t5\t5"));
}

fn refused() {
    let case = running();
    for (command, why) in [
        ("nosuch", "executable file not found in $PATH"),
        ("/nosuch", "no such file or directory"),
        ("/etc", "permission denied"),
    ] {
        let done = case.plain(&["exec", &case.id, command]);
        assert!(done.code == 255 && done.err.contains(why), "{command}: {done:?}");
        assert!(done.err.contains(command), "{done:?}");
    }
    assert_eq!(case.call(&["exec"]).code, 255);
    case.plain(&["kill", &case.id, "KILL"]);
    case.wait_for("stopped");
    assert_eq!(case.plain(&["exec", &case.id, "true"]).code, 255);
}

fn files() {
    let case = running();
    let secret = fs::File::open("/etc/passwd").unwrap();
    // As a careless caller has it: open for whoever is executed.
    rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).unwrap();
    let inside = case.plain(&["exec", &case.id, "sh", "-c", "ls -l /proc/self/fd"]).out;
    assert!(!inside.contains("passwd"), "{inside}");
    let missing = secret.as_raw_fd() + 50;
    let done = case.plain(&["exec", "--preserve-fds", &missing.to_string(), &case.id, "true"]);
    assert_eq!(done.code, 255, "{done:?}");
    let shell = format!(
        "exec 3</etc/hostname; exec \"$0\" --root {} exec --preserve-fds 1 {} ls -l /proc/self/fd",
        case.dir.join("root").display(),
        case.id
    );
    let program = case.command(&[]).get_program().to_owned();
    let done = std::process::Command::new("sh").arg("-c").arg(shell).arg(program).output().unwrap();
    let inside = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(inside.contains("3 -> ") && !inside.contains("passwd"), "{inside}");
}

//! From create to delete.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{StatVfsMountFlags, statvfs};
use serde_json::json;

use crate::harness::{Case, On, Test, cgroups, is_other, read_line, wait_until};

pub const TESTS: &[Test] = &[
    ("a_container_waits_for_its_start_and_is_deleted_after_its_end", On::Any, life),
    ("run_gives_the_exit_code_and_leaves_nothing", On::Any, run),
    ("run_keeps_the_container_when_it_is_asked_to", On::Any, keep),
    ("a_name_is_given_only_once_even_when_many_ask_at_once", On::Any, names),
    ("a_running_container_is_deleted_only_by_force", On::Any, force),
    ("a_created_container_is_deleted_without_having_run", On::Any, delete_created),
    ("what_does_not_exist_is_an_error_except_for_a_forced_delete", On::Any, missing),
    ("a_signal_reaches_the_process_and_an_ended_one_cannot_be_signalled", On::Any, kill),
    ("everybody_in_a_container_without_its_own_pids_is_killed", On::Any, kill_all),
    ("a_paused_container_stands_still_until_it_is_resumed", On::Any, pause),
    ("limits_are_changed_while_it_runs", On::Any, update),
    ("systemd_makes_the_cgroups_where_it_is_asked_to", On::Any, scope),
    ("hooks_hear_of_the_start_and_of_the_end", On::Any, hooks),
    ("a_pid_that_became_another_process_is_not_the_containers", On::Own, reused_pid),
    ("the_waiting_process_runs_from_a_read_only_mount", On::Own, sealed),
    ("a_seccomp_filter_holds_for_execs_and_leaves_no_file", On::Any, seccomp),
];

fn life() {
    let case = Case::new("echo started; exit 3");
    case.create();
    assert_eq!(case.status(), "created");
    assert_eq!(case.output(), "");
    case.ok(&["start"]);
    case.wait_for("stopped");
    assert_eq!(case.output(), "started\n");
    let again = case.call(&["start"]);
    assert_eq!(again.code, 1, "{again:?}");
    case.ok(&["delete"]);
    case.assert_nothing_left();
}

fn run() {
    let case = Case::new("echo out; echo err >&2; exit 7");
    let done = case.run();
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (7, "out\n", "err\n"));
    case.assert_nothing_left();
}

fn keep() {
    let case = Case::new("true");
    case.write_spec();
    case.ok(&["run", "--keep"]);
    assert_eq!(case.status(), "stopped");
}

fn names() {
    let case = Arc::new(Case::new("sleep 60"));
    case.write_spec();
    let made = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let (case, made) = (Arc::clone(&case), Arc::clone(&made));
            std::thread::spawn(move || {
                let null = || fs::File::options().write(true).open("/dev/null").unwrap();
                let mut create = case.command(&["create", &case.id]);
                if create.stdout(null()).stderr(null()).status().unwrap().success() {
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(made.load(Ordering::Relaxed), 1);
    assert_eq!(case.status(), "created");
    let second = case.create_with(&[]);
    assert!(second.code == 1 && second.err.contains("exist"), "{second:?}");
}

fn force() {
    let case = Case::new("sleep 60");
    case.start();
    let refused = case.call(&["delete"]);
    assert!(refused.code == 1 && refused.err.contains("not stopped"), "{refused:?}");
    assert_eq!(case.status(), "running");
    case.ok(&["delete", "--force"]);
    case.assert_nothing_left();
}

fn delete_created() {
    let case = Case::new("echo ran");
    case.create();
    case.ok(&["delete"]);
    assert_eq!(case.output(), "");
    case.assert_nothing_left();
}

fn missing() {
    let case = Case::new("true");
    for verb in ["state", "start", "kill", "delete", "pause", "resume", "ps"] {
        let done = case.call(&[verb]);
        assert!(done.code == 1 && done.err.contains("does not exist"), "{verb}: {done:?}");
    }
    case.ok(&["delete", "--force"]);
}

fn kill() {
    let case = Case::new("trap 'echo term; exit 4' TERM; echo ready; while :; do sleep 0.05; done");
    case.start();
    read_line(&case.dir.join("output"));
    let unknown = case.plain(&["kill", &case.id, "NOTHING"]);
    assert_eq!(unknown.code, 1);
    assert_eq!(case.plain(&["kill", &case.id, "TERM"]).code, 0);
    case.wait_for("stopped");
    assert!(case.output().ends_with("term\n"));
    let late = case.plain(&["kill", &case.id, "KILL"]);
    assert!(late.code == 1 && late.err.contains("container not running"), "{late:?}");
}

fn kill_all() {
    let mut case = Case::new("sleep 60 & echo ready; exec sleep 60");
    let namespaces = case.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    case.start();
    read_line(&case.dir.join("output"));
    let pids = case.plain(&["ps", "--format", "json", &case.id]).out;
    assert_eq!(serde_json::from_str::<Vec<u32>>(&pids).unwrap().len(), 2);
    assert_eq!(case.plain(&["kill", "--all", &case.id, "KILL"]).code, 0);
    case.wait_for("stopped");
    case.ok(&["delete"]);
    case.assert_nothing_left();
}

fn pause() {
    let case = Case::new("while :; do echo x; sleep 0.01; done");
    case.start();
    read_line(&case.dir.join("output"));
    case.ok(&["pause"]);
    assert_eq!(case.status(), "paused");
    let before = case.output().len();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(case.output().len(), before);
    let refused = case.plain(&["exec", &case.id, "true"]);
    assert!(refused.code == 255 && refused.err.contains("paused"), "{refused:?}");
    case.ok(&["resume"]);
    assert_eq!(case.status(), "running");
    wait_until("it goes on", || case.output().len() > before);
    case.ok(&["pause"]);
    case.ok(&["delete", "--force"]);
    case.assert_nothing_left();
}

fn update() {
    let case = Case::new("sleep 60");
    case.start();
    case.ok(&["update", "--pids-limit", "77"]);
    let read = |path: &std::path::PathBuf| fs::read_to_string(path.join("pids.max")).ok();
    let limits = || cgroups(&case.id).iter().filter_map(read).collect::<Vec<_>>();
    assert!(limits().contains(&"77\n".to_owned()));
    let resources = case.dir.join("resources");
    fs::write(&resources, json!({"pids": {"limit": 78}}).to_string()).unwrap();
    case.ok(&["update", "--resources", resources.to_str().unwrap()]);
    assert!(limits().contains(&"78\n".to_owned()));
    // The kernel takes no quota of less than a millisecond.
    let refused = case.call(&["update", "--cpu-period", "100000", "--cpu-quota", "10"]);
    assert_eq!(refused.code, 1, "{refused:?}");
}

fn scope() {
    let scopes = std::env::var_os("WHERRY_SCOPE").is_some_and(|path| Path::new(&path).is_file());
    if !Path::new("/run/systemd/system").is_dir() || !(scopes || is_other()) {
        println!("SKIPPED: takes systemd, and WHERRY_SCOPE");
        return;
    }
    let mut case = Case::new("cat /proc/self/cgroup; sleep 60");
    case.spec["linux"]["cgroupsPath"] = json!(format!("wherry-test.slice:oci:{}", case.id));
    case.spec["linux"]["resources"]["pids"] = json!({"limit": 77});
    let unit = format!("oci-{}.scope", case.id);
    let active = || {
        let said = Command::new("systemctl").args(["is-active", &unit]).output().unwrap();
        String::from_utf8(said.stdout).unwrap().trim() == "active"
    };
    case.write_spec();
    // A pipe would stay open with the container.
    let mut run = case.command(&["--systemd-cgroup", "run", "--detach", &case.id]);
    assert!(run.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let [folder] = &cgroups(&case.id)[..] else { panic!("{:?}", cgroups(&case.id)) };
    assert!(active() && folder.ends_with(format!("wherry-test.slice/{unit}")), "{folder:?}");
    assert_eq!(fs::read_to_string(folder.join("pids.max")).unwrap(), "77\n");
    case.ok(&["--systemd-cgroup", "update", "--pids-limit", "78"]);
    assert_eq!(fs::read_to_string(folder.join("pids.max")).unwrap(), "78\n");
    let done = case.plain(&["--systemd-cgroup", "exec", &case.id, "cat", "/proc/self/cgroup"]);
    assert!(done.out.contains(&unit) || done.out == "0::/\n", "{done:?}");
    case.ok(&["--systemd-cgroup", "delete", "--force"]);
    wait_until("the scope is gone", || !active());
    case.assert_nothing_left();
}

fn hooks() {
    let mut case = Case::new("true");
    let log = case.dir.join("hooks");
    let hook = |name: &str| {
        let script = format!("cat >>{0}; echo ' {name}' >>{0}", log.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    case.spec["hooks"] = json!({"poststart": hook("poststart"), "poststop": hook("poststop")});
    case.start();
    case.wait_for("stopped");
    case.ok(&["delete"]);
    let told = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].ends_with(" poststart") && lines[0].contains("\"pid\""), "{told}");
    assert!(lines[1].ends_with(" poststop") && lines[1].contains("stopped"), "{told}");
    assert!(lines.iter().all(|line| line.contains(&case.id)), "{told}");
}

fn reused_pid() {
    let case = Case::new("true");
    case.start();
    case.wait_for("stopped");
    // As if another process had got the container's number.
    let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let path = case.state_dir().join("state.json");
    let mut record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    record["init"]["pid"] = json!(other.id());
    fs::write(&path, record.to_string()).unwrap();
    assert_eq!(case.status(), "stopped");
    assert_eq!(case.plain(&["kill", &case.id, "KILL"]).code, 1);
    case.ok(&["delete"]);
    assert!(other.try_wait().unwrap().is_none(), "it is nobody's business");
    other.kill().unwrap();
    other.wait().unwrap();
}

fn sealed() {
    let case = Case::new("true");
    case.create();
    let pid = case.state()["pid"].as_u64().unwrap();
    let found = statvfs(format!("/proc/{pid}/exe")).unwrap();
    assert!(found.f_flag.contains(StatVfsMountFlags::RDONLY), "CVE-2019-5736");
}

fn seccomp() {
    let mut case = Case::new("echo ready; sleep 60");
    case.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]
    });
    case.start();
    read_line(&case.dir.join("output"));
    let done = case.plain(&["exec", &case.id, "/bin/busybox", "mkdir", "/tmp/x"]);
    assert!(done.code == 1 && done.err.contains("not supported"), "{done:?}");
}

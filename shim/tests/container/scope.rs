//! Containers in systemd's scopes: where systemd runs the host (hack/guest), and the daemon's binary is known, as the
//! runtime finds it (`WHERRY_SCOPE`, or `wherry` beside the shim).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use shim::runtime::cgroup::Watch;
use shim::runtime::report::Cloned;

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("a_container_in_a_slice_is_a_scope_with_its_limits", limits_of_a_scope),
    ("a_scope_goes_with_its_container", the_end_of_a_scope),
    ("a_scope_that_systemd_refuses_leaves_nothing_behind", refused_scope),
    ("where_systemd_does_not_run_a_scope_is_refused", without_systemd),
];

const SLICE: &str = "wherry-test.slice";

fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Whether scopes can be made here; says so if not.
fn possible() -> bool {
    let beside = Path::new(env!("CARGO_BIN_EXE_wherry-shim")).with_file_name("wherry");
    let possible = has_systemd() && beside.is_file();
    if !possible {
        println!("SKIPPED: takes systemd and {}", beside.display());
    }
    possible
}

fn case(name: &str, command: &str) -> (Case, String) {
    let mut case = Case::new(command);
    let id = format!("{name}{}", std::process::id());
    case.spec["linux"]["cgroupsPath"] = json!(format!("{SLICE}:cri-wherry:{id}"));
    (case, format!("cri-wherry-{id}.scope"))
}

fn folder(unit: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup/wherry.slice").join(SLICE).join(unit)
}

fn property(unit: &str, name: &str) -> String {
    let said = Command::new("systemctl").args(["show", "-P", name, unit]).output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

#[track_caller]
fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come to pass");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn limits_of_a_scope() {
    if !possible() {
        return;
    }
    let (mut case, unit) = case("limits", "exec sleep 60");
    case.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    case.spec["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 50000});
    case.spec["linux"]["resources"]["pids"] = json!({"limit": 33});
    let started = Instant::now();
    let created = case.start();
    println!("    created and started in {} ms", started.elapsed().as_millis());
    let folder = folder(&unit);
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap().trim().to_owned();
    assert_eq!(read("cgroup.procs"), created.pid.to_string());
    assert_eq!(read("memory.max"), "67108864");
    assert_eq!(read("cpu.weight"), "59");
    assert_eq!(read("cpu.max"), "50000 100000");
    assert_eq!(property(&unit, "MemoryMax"), "67108864");
    assert_eq!(property(&unit, "TasksMax"), "33");
    assert_eq!(property(&unit, "CPUQuotaPerSecUSec"), "500ms");
    assert_eq!(property(&unit, "Delegate"), "yes");
    let cgroups = vec![folder.display().to_string()];
    let watch =
        Watch::new(&Cloned { cgroups, unified: true, unit: unit.clone(), ..Cloned::default() });
    let resources =
        json!({"memory": {"limit": 32 << 20}, "cpu": {"cpus": "0"}, "pids": {"limit": 44}});
    watch.update(&serde_json::from_value(resources).unwrap()).unwrap();
    assert_eq!(
        (read("memory.max"), property(&unit, "MemoryMax")),
        ("33554432".into(), "33554432".into())
    );
    // systemd writes its values again, and they are the same; what it does not know stays.
    assert!(Command::new("systemctl").arg("daemon-reload").status().unwrap().success());
    assert_eq!(
        (read("memory.max"), read("pids.max"), read("cpu.weight")),
        ("33554432".into(), "44".into(), "59".into())
    );
    // The filter of devices has survived, too; CAP_MKNOD is there.
    let (_, said, _) = case
        .exec("mem", "busybox mknod /tmp/mem c 1 1; cat /tmp/mem 2>&1 | grep -o 'not permitted'");
    assert_eq!(said, "not permitted\n");
}

fn the_end_of_a_scope() {
    if !possible() {
        return;
    }
    for command in ["true", "exit 3", "kill -9 $$"] {
        let (mut case, unit) = case("end", command);
        let _exit = case.run();
        drop(case);
        assert!(!folder(&unit).exists());
        wait_for(|| property(&unit, "LoadState") == "not-found");
    }
    // As does one that was never started, and one whose memory ran out.
    let (mut created, unit) = case("never", "true");
    created.create().unwrap();
    drop(created);
    wait_for(|| !folder(&unit).exists() && property(&unit, "LoadState") == "not-found");
    let (mut full, unit) = case("oom", "exec busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=60");
    full.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    assert!(full.run().oom_killed);
    drop(full);
    wait_for(|| !folder(&unit).exists() && property(&unit, "LoadState") == "not-found");
}

fn refused_scope() {
    if !possible() {
        return;
    }
    let (mut case, unit) = case("bad", "true");
    case.spec["linux"]["resources"]["cpu"] = json!({"cpus": "999"});
    let refused = case.create().unwrap_err();
    assert_eq!(refused.kind(), shim::ErrorKind::InvalidArgument, "{refused}");
    drop(case);
    wait_for(|| !folder(&unit).exists() && property(&unit, "LoadState") == "not-found");
}

fn without_systemd() {
    if has_systemd() {
        println!("SKIPPED: systemd runs here");
        return;
    }
    let (mut case, _) = case("none", "true");
    let refused = case.create().unwrap_err();
    assert_eq!(refused.kind(), shim::ErrorKind::Unsupported, "{refused}");
    assert!(refused.to_string().contains("systemd does not run this host"), "{refused}");
}

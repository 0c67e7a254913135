//! Containers that use up what there is: memory, output, processes, calls.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("a_container_that_eats_memory_dies_alone_again_and_again", memory),
    ("a_flood_of_output_costs_the_shim_no_memory", flood),
    ("a_line_without_an_end_costs_the_shim_no_memory", endless_line),
    ("a_fork_bomb_ends_with_its_container", fork_bomb),
    ("execs_that_fail_leave_nothing_in_the_shim", failing_execs),
    ("create_that_fails_leaves_nothing_in_the_shim", failing_creates),
];

/// Resident memory of a process, KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// CVE-2019-14891: twenty times, and the shim is there to say so.
fn memory() {
    for round in 0..20 {
        let mut case = Case::new("exec busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=60");
        case.spec["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
        let created = case.create().unwrap();
        let shim = case.shim_pid(&created);
        case.block(case.shim().start()).unwrap();
        let exit = case.block(case.shim().wait()).unwrap();
        assert_eq!((exit.code, exit.oom_killed), (137, true), "round {round}");
        let name = fs::read_to_string(format!("/proc/{shim}/comm")).unwrap();
        assert_eq!(name, "wherry-shim\n", "round {round}");
        assert!(case.block(case.shim().state()).is_ok());
    }
}

/// Runs `command`, which writes until it is killed, and looks at the shim meanwhile.
fn write_for_ever(command: &str) {
    let mut case = Case::new(command);
    // On a file system of its own that is full at once: the disk is not the point.
    let created = case.start();
    let shim = case.shim_pid(&created);
    let before = resident(shim);
    let until = Instant::now() + Duration::from_millis(700);
    let mut highest = before;
    while Instant::now() < until {
        highest = highest.max(resident(shim));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(case.block(case.shim().state()).is_ok());
    case.block(case.shim().kill(9, true)).unwrap();
    case.block(case.shim().wait()).unwrap();
    let written = fs::metadata(case.dir.join("logs/0.log")).unwrap().len();
    assert!(written > 1 << 20, "only {written} bytes came");
    assert!(highest < before + 512, "{before} KiB before, {highest} KiB after {written} bytes");
}

fn flood() {
    write_for_ever("exec busybox yes a line of a flood that does not end");
}

fn endless_line() {
    write_for_ever("exec cat /dev/zero");
}

fn fork_bomb() {
    let mut case = Case::new("b() { b | b & }; b; sleep 60");
    case.spec["linux"]["resources"]["pids"] = json!({"limit": 200});
    let created = case.start();
    let shim = case.shim_pid(&created);
    std::thread::sleep(Duration::from_millis(300));
    let started = Instant::now();
    case.block(case.shim().kill(9, true)).unwrap();
    assert_eq!(case.block(case.shim().wait()).unwrap().code, 137);
    case.block(case.shim().delete()).unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(case.cgroups(), Vec::<std::path::PathBuf>::new());
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    assert_eq!(children, "");
}

/// CVE-2022-23471, CVE-2025-64329.
fn failing_execs() {
    let mut case = Case::new("sleep 60");
    let created = case.start();
    let shim = case.shim_pid(&created);
    let fail = |number: u32| {
        let commands = [json!(["/bin/nothing"]), json!(["/etc/passwd"]), json!([""])];
        let args = commands[(number % 3) as usize].clone();
        case.exec_args(&format!("x{number}"), args).unwrap_err();
    };
    (0..30).for_each(fail);
    assert_eq!(case.exec("settled", "true").0, 0);
    let before = (open_files(shim), resident(shim));
    (30..530).for_each(fail);
    assert_eq!(case.exec("settled", "true").0, 0);
    let after = (open_files(shim), resident(shim));
    assert_eq!(after.0, before.0);
    assert!(after.1 <= before.1 + 64, "{} KiB before, {} KiB after", before.1, after.1);
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "{children}");
}

fn failing_creates() {
    let mut case = Case::new("true");
    case.spec["process"]["cwd"] = json!("/proc/self/fd/7");
    case.create().unwrap_err();
    let shim = case.shim();
    for _ in 0..100 {
        let refused = case.block(shim.create(case.options.clone())).unwrap_err();
        assert_eq!(refused.kind(), shim::ErrorKind::InvalidArgument, "{refused}");
    }
    assert_eq!(case.cgroups(), Vec::<std::path::PathBuf>::new());
}

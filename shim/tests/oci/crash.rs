//! The command line is killed at any moment: what it leaves is cleared by a forced delete.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Case, On, Test, wait_until};

pub const TESTS: &[Test] = &[
    ("a_creation_that_is_killed_anywhere_leaves_nothing_after_a_forced_delete", On::Own, create),
    ("a_start_that_is_killed_anywhere_starts_or_ends_the_container", On::Own, start),
    ("a_deletion_that_is_killed_anywhere_can_be_repeated", On::Own, delete),
    ("a_damaged_record_does_not_keep_the_folder", On::Own, damaged),
];

/// How long a call takes here, about.
const CALL: Duration = Duration::from_millis(40);
const ROUNDS: u32 = 40;

fn spawn_and_kill(case: &Case, args: &[&str], round: u32) {
    let null = || fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut child = case.command(args).stdout(null()).stderr(Stdio::from(null())).spawn().unwrap();
    std::thread::sleep(CALL * round / ROUNDS);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn create() {
    for round in 0..ROUNDS {
        let case = Case::new("sleep 60");
        case.write_spec();
        spawn_and_kill(&case, &["create", &case.id], round);
        case.ok(&["delete", "--force"]);
        case.assert_nothing_left();
        // The name is free again.
        case.create();
    }
}

fn start() {
    for round in 0..ROUNDS / 2 {
        let case = Case::new("echo ran; sleep 60");
        case.create();
        spawn_and_kill(&case, &["start", &case.id], round);
        wait_until("it is settled", || {
            crate::harness::reap();
            matches!(case.status().as_str(), "created" | "running" | "stopped")
        });
        case.ok(&["delete", "--force"]);
        case.assert_nothing_left();
    }
}

fn delete() {
    for round in 0..ROUNDS / 2 {
        let case = Case::new("sleep 60");
        case.start();
        spawn_and_kill(&case, &["delete", "--force", &case.id], round);
        case.ok(&["delete", "--force"]);
        case.assert_nothing_left();
    }
}

fn damaged() {
    let case = Case::new("true");
    case.write_spec();
    case.ok(&["run", "--keep"]);
    fs::write(case.state_dir().join("state.json"), "{").unwrap();
    assert_eq!(case.call(&["state"]).code, 1);
    // The others are listed all the same.
    assert_eq!(case.plain(&["list"]).code, 0);
    for cgroup in crate::harness::cgroups(&case.id) {
        fs::remove_dir(cgroup).unwrap();
    }
    case.ok(&["delete", "--force"]);
    case.assert_nothing_left();
}

//! What cannot be made is refused in one sentence, with runc's exit codes, and leaves nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::{Case, On, Test, is_other};

pub const TESTS: &[Test] = &[
    ("a_spec_of_another_version_is_refused", On::Own, version),
    ("a_spec_that_is_none_is_refused", On::Any, no_spec),
    ("a_missing_root_is_refused", On::Any, no_root),
    ("a_command_that_is_not_found_is_refused", On::Any, not_found),
    ("a_command_that_may_not_be_executed_is_refused", On::Any, not_executable),
    ("a_command_of_another_architecture_is_refused", On::Own, architecture),
    ("a_mount_that_cannot_be_made_is_refused", On::Any, mount),
    ("a_limit_that_the_kernel_does_not_take_is_refused", On::Any, limit),
    ("a_namespace_path_of_another_kind_is_refused", On::Any, namespace),
    ("a_hook_that_fails_makes_the_creation_fail", On::Any, hook),
    ("a_pid_file_that_cannot_be_written_makes_the_creation_fail", On::Any, pid_file),
];

/// Neither `create` nor `run` makes it, both say `words`, and nothing is left.
#[track_caller]
fn refused(case: &Case, words: &[&str]) {
    let done = case.create_with(&[]);
    check(case, &done, words);
    let done = case.run();
    check(case, &done, words);
}

#[track_caller]
fn check(case: &Case, done: &crate::harness::Done, words: &[&str]) {
    assert_eq!(done.code, 1, "{done:?}");
    for word in words {
        assert!(done.err.contains(word), "{word:?} is not in {done:?}");
    }
    assert!(is_other() || done.err.trim().lines().count() == 1, "{done:?}");
    case.assert_nothing_left();
}

fn version() {
    for version in ["2.0.0", "0.9.0", "", "one"] {
        let mut case = Case::new("true");
        case.spec["ociVersion"] = json!(version);
        refused(&case, &[version]);
    }
}

fn no_spec() {
    let mut case = Case::new("true");
    case.spec = json!([]);
    refused(&case, &[]);
    case.spec = json!({"ociVersion": "1.0.0"});
    refused(&case, &[]);
    fs::remove_file(case.bundle().join("config.json")).unwrap();
    check(&case, &case.call(&["create"]), &["config.json"]);
    fs::write(case.bundle().join("config.json"), "{").unwrap();
    check(&case, &case.call(&["create"]), &[]);
    let nowhere = case.dir.join("nowhere");
    let done = case.call(&["create", "--bundle", nowhere.to_str().unwrap()]);
    check(&case, &done, &["nowhere", "no such file or directory"]);
}

fn no_root() {
    let mut case = Case::new("true");
    case.spec["root"]["path"] = json!("nothing");
    refused(&case, &["nothing", "no such file or directory"]);
}

fn command(args: Value) -> Case {
    let mut case = Case::new("");
    case.spec["process"]["args"] = args;
    case
}

fn not_found() {
    refused(&command(json!(["nosuch"])), &["nosuch", "executable file not found in $PATH"]);
    refused(&command(json!(["/no/such"])), &["/no/such", "no such file or directory"]);
}

fn not_executable() {
    let case = command(json!(["/file"]));
    fs::write(case.rootfs().join("file"), "x").unwrap();
    refused(&case, &["/file", "permission denied"]);
    refused(&command(json!(["/tmp"])), &["/tmp", "permission denied"]);
}

fn architecture() {
    let case = command(json!(["/file"]));
    let file = case.rootfs().join("file");
    // An ELF file of no machine that there is.
    fs::write(&file, [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 57]].concat()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    check(&case, &case.run(), &["/file", "exec format error"]);
    case.create();
    let done = case.call(&["start"]);
    assert!(done.code == 1 && done.err.contains("exec format error"), "{done:?}");
    case.wait_for("stopped");
}

fn mount() {
    let mut case = Case::new("true");
    let mounts = case.spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({
        "destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]
    }));
    refused(&case, &["/no/such/source"]);
    let mounts = case.spec["mounts"].as_array_mut().unwrap();
    mounts.pop();
    mounts.push(json!({"destination": "/x", "type": "nosuchfs", "source": "x"}));
    refused(&case, &["/x", "no such device"]);
}

fn limit() {
    let mut case = Case::new("true");
    // Less than a millisecond of time is nothing to the kernel.
    case.spec["linux"]["resources"]["cpu"] = json!({"quota": 10, "period": 100_000});
    // `cpu.cfs_quota_us`, or `cpu.max`.
    refused(&case, &["cpu.", "invalid argument"]);
}

fn namespace() {
    let mut case = Case::new("true");
    let set = |case: &mut Case, path: &str| {
        for namespace in case.spec["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "network" {
                namespace["path"] = json!(path);
            }
        }
    };
    set(&mut case, "/proc/self/ns/uts");
    refused(&case, &[]);
    set(&mut case, "/etc/passwd");
    refused(&case, &[]);
    set(&mut case, "/no/such/namespace");
    refused(&case, &["/no/such/namespace"]);
}

fn hook() {
    let mut case = Case::new("true");
    for kind in ["createRuntime", "createContainer"] {
        case.spec["hooks"] = json!({kind: [{"path": "/bin/false"}]});
        refused(&case, &["hook"]);
    }
}

fn pid_file() {
    let case = Case::new("sleep 60");
    let done = case.create_with(&["--pid-file", "/no/such/folder/pid"]);
    check(&case, &done, &["/no/such/folder"]);
}

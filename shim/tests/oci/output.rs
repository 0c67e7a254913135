//! What is printed, and where errors go.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Case, On, Test, read_line};

pub const TESTS: &[Test] = &[
    ("state_and_list_say_what_there_is", On::Any, state),
    ("ps_lists_the_processes", On::Any, ps),
    ("events_print_what_is_used", On::Any, events),
    ("errors_go_to_the_log_in_the_form_that_is_asked_for", On::Any, log),
    ("features_and_spec_print_what_callers_read", On::Any, features),
    ("the_pid_file_holds_the_process_of_the_state", On::Any, pid_file),
    ("unknown_verbs_flags_and_ids_are_refused", On::Any, arguments),
];

fn state() {
    let case = Case::new("sleep 60");
    case.start();
    let state = case.state();
    assert_eq!(state["id"], case.id.as_str());
    assert_eq!(state["ociVersion"].as_str().map(|version| &version[..2]), Some("1."));
    assert_eq!(state["status"], "running");
    assert_eq!(state["bundle"], case.bundle().to_str().unwrap());
    assert_eq!(state["rootfs"], case.rootfs().to_str().unwrap());
    assert_eq!(state["annotations"]["org.example.a"], "b");
    let pid = state["pid"].as_u64().unwrap();
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert!(["sh\n", "sleep\n"].contains(&comm.as_str()), "{comm}");
    let list: Value = serde_json::from_str(&case.plain(&["list", "-f", "json"]).out).unwrap();
    assert_eq!(list[0]["id"], case.id.as_str());
    assert_eq!(list[0]["pid"], pid);
    assert_eq!(list[0]["owner"], "root");
    assert_eq!(case.plain(&["list", "-q"]).out, format!("{}\n", case.id));
    let table = case.plain(&["list"]).out;
    assert!(table.starts_with("ID ") && table.contains(" running "), "{table}");
    case.plain(&["kill", &case.id, "KILL"]);
    case.wait_for("stopped");
    assert_eq!(case.state()["pid"], 0);
}

fn ps() {
    let case = Case::new("sleep 61 & echo ready; wait");
    case.start();
    read_line(&case.dir.join("output"));
    let pids: Vec<u64> =
        serde_json::from_str(&case.plain(&["ps", "-f", "json", &case.id]).out).unwrap();
    assert_eq!(pids.len(), 2);
    assert!(pids.contains(&case.state()["pid"].as_u64().unwrap()));
    let table = case.plain(&["ps", &case.id, "-e", "-o", "pid,args"]).out;
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("sleep 61"), "{table}");
    let table = case.call(&["ps"]);
    // Not every kernel has what the system's own ps wants to know.
    if !Command::new("ps").arg("-ef").output().unwrap().status.success() {
        assert!(table.code == 1 && table.out.is_empty(), "{table:?}");
        return;
    }
    assert_eq!(table.out.lines().count(), 3, "{table:?}");
    assert!(table.out.contains("sleep 61"), "{table:?}");
}

fn events() {
    let case = Case::new("sleep 60");
    case.start();
    let event: Value = serde_json::from_str(&case.ok(&["events", "--stats"])).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&"stats".into(), &case.id.as_str().into()));
    assert!(event["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{event}");
    assert!(event["data"]["pids"]["current"].as_u64().unwrap() >= 1, "{event}");
    assert!(event["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{event}");
}

fn log() {
    let case = Case::new("true");
    let file = case.dir.join("log");
    let path = file.to_str().unwrap();
    let json = case.plain(&["--log", path, "--log-format", "json", "state", &case.id]);
    assert!(json.code == 1 && json.err.contains("does not exist"), "{json:?}");
    let line: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("does not exist"));
    assert!(line["time"].as_str().unwrap().starts_with("20"));
    fs::remove_file(&file).unwrap();
    case.plain(&["--log", path, "state", &case.id]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("time=\"20") && text.contains(" level=error msg="), "{text}");
    let bare = case.call(&["state"]);
    assert!(bare.err.contains("level=error msg="), "{bare:?}");
}

fn features() {
    let case = Case::new("true");
    let features: Value = serde_json::from_str(&case.plain(&["features"]).out).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    let namespaces = features["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&"user".into()));
    assert_eq!(case.plain(&["spec"]).code, 0);
    let path = case.bundle().join("config.json");
    let spec: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(
        (&spec["root"]["path"], &spec["process"]["args"][0]),
        (&"rootfs".into(), &"sh".into())
    );
    let again = case.plain(&["spec"]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(case.plain(&["--version"]).out.contains("spec: 1."));
}

fn pid_file() {
    let case = Case::new("sleep 60");
    let path = case.dir.join("pid");
    assert_eq!(case.create_with(&["--pid-file", path.to_str().unwrap()]).code, 0);
    let pid: u64 = fs::read_to_string(&path).unwrap().parse().unwrap();
    assert_eq!(case.state()["pid"], pid);
}

fn arguments() {
    let case = Case::new("true");
    case.write_spec();
    for args in [
        &["nonsense"] as &[&str],
        &["run", "--nonsense", "x"],
        &["run"],
        &["run", "a/b"],
        &["run", ".."],
        &["run", ""],
        &["--log-format", "xml", "list"],
        &["list", "-f", "xml"],
    ] {
        let done = case.plain(args);
        assert_ne!(done.code, 0, "{args:?}: {done:?}");
    }
}

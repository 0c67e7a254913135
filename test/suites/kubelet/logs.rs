//! Logs, as they are read through the kubelet.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use e2e::kubelet::manifest::{phase, pod, ready, server, shell};
use e2e::kubelet::suite::{Stage, Test};
use e2e::node::LogLine;
use e2e::together;
use flate2::read::GzDecoder;
use serde_json::json;

pub fn tests() -> Vec<Test> {
    together![
        a_log_that_is_rotated_under_load_loses_nothing,
        the_end_of_a_log_can_be_read_with_times,
        a_log_can_be_followed,
    ]
}

async fn a_log_that_is_rotated_under_load_loses_nothing(stage: &Stage) {
    const LINES: u32 = 40_000;
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do echo \"line $i of many\"; i=$((i + 1)); \
         [ $((i % 200)) != 0 ] || sleep 0.1; done"
    );
    let mut pod = pod("talking", &[shell("main", &script)]);
    pod["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet.apply(&pod);
    let seen = stage.kubelet.until("talking", "done", |pod| phase(pod) == "Succeeded").await;
    let folder = stage.kubelet.logs(&seen).join("main");
    let files = oldest_first(&folder);
    assert!(files.len() > 3, "not rotated: {files:?}");
    let mut expected = 0;
    for file in &files {
        for line in text(file).lines() {
            let line = LogLine::parse(line).unwrap_or_else(|| panic!("{file}: torn: {line}"));
            assert_eq!(line.text, format!("line {expected} of many"), "{file} of {files:?}");
            expected += 1;
        }
    }
    assert_eq!(expected, LINES);
}

/// The rotated files have the time in their names, the current one does not.
fn oldest_first(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path().display().to_string()).collect();
    files.sort_by_key(|file| (file.ends_with(".log"), file.clone()));
    files
}

fn text(file: &str) -> String {
    let bytes = std::fs::read(file).unwrap();
    let mut text = String::new();
    let read = if file.ends_with(".gz") {
        GzDecoder::new(bytes.as_slice()).read_to_string(&mut text)
    } else {
        bytes.as_slice().read_to_string(&mut text)
    };
    read.unwrap();
    text
}

async fn the_end_of_a_log_can_be_read_with_times(stage: &Stage) {
    let script = "for i in 1 2 3 4 5; do echo out $i; done; echo err >&2";
    stage.kubelet.apply(&pod("ending", &[server("main", script)]));
    stage.kubelet.until("ending", "ready", ready).await;
    let path = "/containerLogs/default/ending-node/main?tailLines=3&timestamps=true";
    for _ in 0..50 {
        let log = stage.kubelet.api.text(path).await;
        let lines: Vec<_> = log.lines().filter_map(|line| line.split_once(' ')).collect();
        let texts: Vec<_> = lines.iter().map(|(_, text)| *text).collect();
        if texts == ["out 4", "out 5", "err"] {
            assert!(lines.iter().all(|(time, _)| time.ends_with('Z') || time.contains('+')));
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{}", stage.kubelet.api.text(path).await);
}

async fn a_log_can_be_followed(stage: &Stage) {
    let script = "for i in 1 2 3 4 5 6; do echo step $i; sleep 0.5; done";
    let mut pod = pod("followed", &[shell("main", script)]);
    pod["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet.apply(&pod);
    stage.kubelet.until("followed", "there", |pod| phase(pod) == "Running").await;
    // It answers when the container has ended.
    let path = "/containerLogs/default/followed-node/main?follow=true";
    let log = stage.kubelet.api.text(path).await;
    assert_eq!(log, "step 1\nstep 2\nstep 3\nstep 4\nstep 5\nstep 6\n");
}

//! Limits: written, changed as a whole, held against what is in use; and stopping, counting and ending a whole cgroup.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use prost::Message;
use proto::shim::cgroups::{v1, v2};
use serde_json::{Value, json};
use shim::ErrorKind;
use shim::runtime::cgroup::Watch;
use shim::runtime::cgroup::stats::{to_events, to_metrics};
use shim::runtime::report::Cloned;

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("every_limit_is_in_its_file", every_limit_is_in_its_file),
    ("a_limit_that_the_kernel_refuses_leaves_nothing_behind", refused_limits),
    ("limits_go_up_and_down_whatever_depends_on_what", limits_go_up_and_down),
    ("an_update_that_fails_changes_nothing", an_update_that_fails),
    ("a_memory_limit_below_what_is_in_use_is_an_error_and_no_kill", below_usage),
    ("a_frozen_container_stands_still_and_goes_on", freezing),
    ("a_frozen_container_can_be_killed", killing_the_frozen),
    ("everybody_in_the_cgroup_and_below_is_known_and_killed", everybody_below),
    ("what_a_container_uses_is_counted", statistics),
    ("only_the_devices_of_the_spec_can_be_used", devices),
    ("the_cgroup_file_system_cannot_be_written_to", read_only_cgroups),
];

/// The container's cgroups, as its shim looks after them.
fn watch(case: &Case) -> Watch {
    let mut folders = case.cgroups();
    let is_unified = |folder: &PathBuf| folder.join("cgroup.freeze").exists();
    folders.sort_by_key(|folder| !is_unified(folder));
    let unified = folders.first().is_some_and(is_unified);
    let cgroups = folders.iter().map(|folder| folder.display().to_string()).collect();
    Watch::new(&Cloned { cgroups, unified, ..Cloned::default() })
}

/// The content of the first of these files that one of the container's cgroups has.
fn value(case: &Case, names: &[&str]) -> Option<String> {
    let folders = case.cgroups();
    let read = |name: &str| folders.iter().find_map(|f| fs::read_to_string(f.join(name)).ok());
    names.iter().find_map(|name| read(name)).map(|text| text.trim().to_owned())
}

#[track_caller]
fn assert_value(case: &Case, names: [&str; 2], expected: [&str; 2]) {
    let legacy = value(case, &names[..1]);
    let (found, expected) = match legacy {
        Some(found) => (Some(found), expected[0]),
        None => (value(case, &names[1..]), expected[1]),
    };
    assert_eq!(found.as_deref(), Some(expected), "{names:?}");
}

fn update(case: &Case, resources: Value) -> Result<(), shim::Failure> {
    watch(case).update(&serde_json::from_value(resources).unwrap())
}

fn every_limit_is_in_its_file() {
    let mut case = Case::new("exec sleep 60");
    case.spec["linux"]["resources"]["cpu"] =
        json!({"shares": 512, "quota": 50000, "period": 100_000, "burst": 1000, "cpus": "0"});
    case.spec["linux"]["resources"]["memory"] =
        json!({"limit": 64 << 20, "reservation": 32 << 20, "swap": 64 << 20, "swappiness": 10});
    case.spec["linux"]["resources"]["pids"] = json!({"limit": 33});
    case.start();
    assert_value(&case, ["cpu.shares", "cpu.weight"], ["512", "59"]);
    assert_value(&case, ["cpu.cfs_quota_us", "cpu.max"], ["50000", "50000 100000"]);
    assert_value(&case, ["cpu.cfs_burst_us", "cpu.max.burst"], ["1000", "1000"]);
    assert_value(&case, ["cpuset.cpus", "cpuset.cpus"], ["0", "0"]);
    assert_value(&case, ["memory.limit_in_bytes", "memory.max"], ["67108864", "67108864"]);
    assert_value(&case, ["memory.soft_limit_in_bytes", "memory.low"], ["33554432", "33554432"]);
    if let Some(both) = value(&case, &["memory.memsw.limit_in_bytes"]) {
        assert_eq!(both, "67108864");
    }
    if let Some(swap) = value(&case, &["memory.swap.max"]) {
        assert_eq!(swap, "0");
    }
    if let Some(swappiness) = value(&case, &["memory.swappiness"]) {
        assert_eq!(swappiness, "10");
    }
    assert_value(&case, ["pids.max", "pids.max"], ["33", "33"]);
}

fn refused_limits() {
    for (resources, words) in [
        (json!({"memory": {"limit": 64 << 20, "swap": 32 << 20}}), "memory+swap limit"),
        (json!({"cpu": {"cpus": "999"}}), "cpuset.cpus"),
        (json!({"cpu": {"quota": 10}}), "cpu."),
        (json!({"unified": {"cgroup.procs": "0"}}), "cgroup.procs"),
        (json!({"hugepageLimits": [{"pageSize": "../../2MB", "limit": 1}]}), "page size"),
        (json!({"devices": [{"allow": true, "type": "p"}]}), "device rule"),
    ] {
        let mut case = Case::new("true");
        case.spec["linux"]["resources"] = resources;
        let refused = case.create().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.to_string().contains(words), "{refused}");
        assert_eq!(case.cgroups(), Vec::<PathBuf>::new());
    }
}

fn limits_go_up_and_down() {
    let mut case = Case::new("exec sleep 60");
    case.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
    case.spec["linux"]["resources"]["cpu"] = json!({"quota": 20000, "burst": 20000});
    case.start();
    // Up: memory with swap has to be first in version 1, and the quota before its burst; down: the other way round.
    for (megabytes, quota) in [(128, 50000), (32, 10000), (96, 30000), (16, 5000)] {
        let bytes: u64 = megabytes << 20;
        update(
            &case,
            json!({"memory": {"limit": bytes, "swap": bytes}, "cpu": {"quota": quota, "burst": quota}}),
        )
        .unwrap();
        let bytes = bytes.to_string();
        assert_value(&case, ["memory.limit_in_bytes", "memory.max"], [&bytes, &bytes]);
        let both = format!("{quota} 100000");
        assert_value(&case, ["cpu.cfs_quota_us", "cpu.max"], [&quota.to_string(), &both]);
        let burst = quota.to_string();
        assert_value(&case, ["cpu.cfs_burst_us", "cpu.max.burst"], [&burst, &burst]);
    }
    // A period alone leaves the quota, and nothing else is touched.
    update(&case, json!({"cpu": {"period": 50000}})).unwrap();
    assert_value(&case, ["cpu.cfs_quota_us", "cpu.max"], ["5000", "5000 50000"]);
    assert_value(&case, ["memory.limit_in_bytes", "memory.max"], ["16777216", "16777216"]);
    update(&case, json!({"memory": {"limit": -1}, "pids": {"limit": 5}})).unwrap();
    let unlimited = value(&case, &["memory.limit_in_bytes", "memory.max"]).unwrap();
    assert!(unlimited == "max" || unlimited.len() > 18, "{unlimited}");
    assert_value(&case, ["pids.max", "pids.max"], ["5", "5"]);
    if let Some(high) = value(&case, &["memory.high"]) {
        assert_eq!(high, "max");
    }
}

fn an_update_that_fails() {
    let mut case = Case::new("exec sleep 60");
    case.spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
    case.spec["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 20000});
    case.spec["linux"]["resources"]["pids"] = json!({"limit": 33});
    case.start();
    let names = [
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.max",
        "memory.swap.max",
        "memory.high",
        "cpu.shares",
        "cpu.weight",
        "cpu.cfs_quota_us",
        "cpu.max",
        "pids.max",
        "cpuset.cpus",
    ];
    let all = || names.map(|name| value(&case, &[name]));
    let before = all();
    let refused = update(
        &case,
        json!({"memory": {"limit": 32 << 20, "swap": 48 << 20}, "pids": {"limit": 7},
            "cpu": {"shares": 100, "quota": 30000, "cpus": "999"}}),
    );
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, shim::FailureKind::InvalidArgument);
    assert!(refused.to_string().contains("cpuset.cpus"), "{refused}");
    assert_eq!(all(), before);
}

fn below_usage() {
    // Shared memory cannot be given back.
    let mut case =
        Case::new("busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=40; echo full; exec sleep 60");
    case.spec["linux"]["resources"]["memory"] = json!({"limit": 128 << 20, "swap": 128 << 20});
    case.start();
    wait_for(|| case.output().contains("full"));
    let refused = update(
        &case,
        json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}, "pids": {"limit": 9}}),
    );
    assert_eq!(refused.unwrap_err().kind, shim::FailureKind::FailedPrecondition);
    assert_value(&case, ["memory.limit_in_bytes", "memory.max"], ["134217728", "134217728"]);
    assert_ne!(value(&case, &["pids.max"]).unwrap(), "9");
    assert_eq!(watch(&case).stats().memory.oom_kills, 0);
    assert_eq!(case.exec("alive", "echo alive").1, "alive\n");
    update(&case, json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}})).unwrap();
}

fn freezing() {
    let mut case = Case::new("i=0; while :; do i=$((i+1)); echo $i > /tmp/count; done");
    case.start();
    let upper = case.dir.join("upper/tmp/count");
    wait_for(|| upper.exists());
    let watch = watch(&case);
    for _ in 0..5 {
        watch.freeze().unwrap();
        assert!(watch.is_frozen().unwrap());
        let stopped = fs::read_to_string(&upper).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(fs::read_to_string(&upper).unwrap(), stopped);
        watch.thaw().unwrap();
        assert!(!watch.is_frozen().unwrap());
        let went_on =
            || fs::read_to_string(&upper).is_ok_and(|now| now != stopped && !now.is_empty());
        wait_for(went_on);
    }
}

fn killing_the_frozen() {
    let mut case = Case::new("while :; do sleep 0.01; done");
    case.start();
    watch(&case).freeze().unwrap();
    case.block(case.shim().kill(9, true)).unwrap();
    let exit = case.block(async {
        tokio::time::timeout(Duration::from_secs(5), case.shim().wait()).await.unwrap().unwrap()
    });
    assert_eq!(exit.code, 137);
}

fn everybody_below() {
    let mut case = Case::new("sleep 61 & sleep 62 & echo up; exec sleep 63");
    case.start();
    wait_for(|| case.output().contains("up"));
    let folder = {
        let mut folders = case.cgroups();
        folders.sort_by_key(|folder| !folder.join("cgroup.freeze").exists());
        folders.remove(0).join("below")
    };
    fs::create_dir(&folder).unwrap();
    let watch = watch(&case);
    let all = watch.processes().unwrap();
    assert_eq!(all.len(), 3, "{all:?}");
    fs::write(folder.join("cgroup.procs"), all[1].to_string()).unwrap();
    let mut moved = watch.processes().unwrap();
    moved.sort_unstable();
    let mut all = all;
    all.sort_unstable();
    assert_eq!(moved, all);
    watch.signal_all(rustix::process::Signal::KILL).unwrap();
    let gone = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    wait_for(|| all.iter().all(gone));
}

fn statistics() {
    let mut case = Case::new(
        "busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=20; echo full; \
         i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; exec sleep 60",
    );
    case.spec["linux"]["resources"]["memory"] = json!({"limit": 128 << 20});
    case.spec["linux"]["resources"]["pids"] = json!({"limit": 33});
    case.start();
    wait_for(|| case.output().contains("done"));
    let stats = watch(&case).stats();
    assert!(stats.cpu.usage > 1_000_000, "{:?}", stats.cpu);
    assert!((20 << 20..128 << 20).contains(&stats.memory.memory.usage), "{:?}", stats.memory);
    assert_eq!(stats.memory.memory.limit, 128 << 20);
    assert!(stats.memory.working_set() >= 20 << 20 && stats.memory.cache() >= 20 << 20);
    assert_eq!((stats.pids.current, stats.pids.limit), (1, 33));
    let any = to_metrics(&stats);
    let (usage, pids) = if stats.legacy {
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::decode(&any.value[..]).unwrap();
        (metrics.memory.unwrap().usage.unwrap().usage, metrics.pids.unwrap().limit)
    } else {
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::decode(&any.value[..]).unwrap();
        assert!(metrics.memory_events.is_some());
        (metrics.memory.unwrap().usage, metrics.pids.unwrap().limit)
    };
    assert_eq!((usage, pids), (stats.memory.memory.usage, 33));
    let events = to_events(&stats);
    assert_eq!(events["memory"]["usage"]["usage"], json!(usage));
    assert_eq!(events["cpu"]["usage"]["total"], json!(stats.cpu.usage));
    let started = Instant::now();
    for _ in 0..100 {
        drop(watch(&case).stats());
    }
    println!("    statistics: {} us each", started.elapsed().as_micros() / 100);
}

fn devices() {
    // A node of its own can be made, and is of no use; the standard ones and the granted one are.
    let command = "busybox mknod /tmp/mem c 1 1; busybox mknod /tmp/loop b 7 200; \
        busybox mknod /tmp/fuse c 10 229; busybox mknod /tmp/null c 1 3; \
        cat /tmp/mem 2>&1 | grep -o 'not permitted'; \
        cat /tmp/loop 2>&1 | grep -o 'not permitted'; \
        busybox dd if=/tmp/fuse bs=1 count=0 2>&1 | grep -c 'not permitted'; \
        cat /tmp/null && echo null; echo x > /dev/zero && echo zero; exec sleep 60";
    let mut case = Case::new(command);
    case.spec["linux"]["resources"]["devices"] = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}
    ]);
    case.start();
    wait_for(|| case.output().contains("zero"));
    assert_eq!(case.output(), "not permitted\nnot permitted\n0\nnull\nzero");
    // An exec is in the same cgroup.
    let (_, said, _) = case.exec("exec", "cat /tmp/mem 2>&1 | grep -o 'not permitted'");
    assert_eq!(said, "not permitted\n");
    // Writing was not granted; after an update reading is not any more, and the rest still is.
    let (_, said, _) = case.exec("write", "(echo x > /tmp/fuse) 2>&1 | grep -o 'not permitted'");
    assert_eq!(said, "not permitted\n");
    update(&case, json!({"devices": [{"allow": false, "access": "rwm"}]})).unwrap();
    let read = "busybox dd if=/tmp/fuse bs=1 count=0 2>&1 | grep -o 'not permitted'; cat /tmp/null && echo null";
    assert_eq!(case.exec("after", read).1, "not permitted\nnull\n");
}

fn read_only_cgroups() {
    // A release agent, a limit, a cgroup of its own: nothing of it (CVE-2022-0492).
    let command = "for f in $(busybox find /sys/fs/cgroup -name release_agent -o -name '*.max' \
            -o -name cgroup.procs -o -name tasks -o -name notify_on_release); do \
            (echo 1 > $f) 2>/dev/null && echo written $f; done; \
        busybox mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x 2>/dev/null && echo made; \
        busybox mount -t cgroup -o memory none /tmp 2>/dev/null && echo mounted; \
        busybox mount -t cgroup2 none /tmp 2>/dev/null && echo mounted; \
        busybox cut -d: -f3 /proc/self/cgroup | busybox sort -u";
    assert_eq!(Case::new(command).run_for_output(), "/");
}

#[track_caller]
fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come to pass");
        std::thread::sleep(Duration::from_millis(5));
    }
}

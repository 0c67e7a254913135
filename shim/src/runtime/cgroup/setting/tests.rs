use super::cpu::weight;
use super::*;

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// The files and values, the first choice of each.
fn written(json: &str, version: Version) -> Vec<(String, String)> {
    let all = settings(&resources(json), version).unwrap();
    all.into_iter().map(|mut setting| setting.choices.remove(0)).collect()
}

fn refused(json: &str, version: Version) -> String {
    let failure = settings(&resources(json), version).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidArgument, "{json}");
    failure.to_string()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn shares_become_weights_whose_ends_and_middle_meet() {
    let known = [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)];
    for (shares, expected) in known {
        assert_eq!(weight(shares), expected, "{shares}");
    }
    let mut last = 0;
    for shares in 2..10_000 {
        assert!(weight(shares) >= last, "{shares}");
        last = weight(shares);
    }
}

#[test]
fn block_weights_become_those_of_the_wider_scale() {
    for (own, expected) in [(0, 1), (10, 1), (500, 4950), (1000, 10_000)] {
        assert_eq!(block::convert(own), expected, "{own}");
    }
}

#[test]
fn one_spec_is_written_in_the_words_of_either_version() {
    let spec = r#"{
        "memory": {"limit": 1000, "reservation": 500, "swap": 1500, "swappiness": 10,
            "disableOOMKiller": true, "kernel": 7, "kernelTCP": 7},
        "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "burst": 1000, "cpus": "0-1",
            "realtimeRuntime": 5, "realtimePeriod": 6},
        "pids": {"limit": 7},
        "network": {"classID": 9, "priorities": [{"name": "lo", "priority": 3}]}
    }"#;
    assert_eq!(
        written(spec, Version::V1),
        pairs(&[
            ("memory.limit_in_bytes", "1000"),
            ("memory.soft_limit_in_bytes", "500"),
            ("memory.memsw.limit_in_bytes", "1500"),
            ("memory.swappiness", "10"),
            ("memory.oom_control", "1"),
            ("cpu.shares", "1024"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.cfs_burst_us", "1000"),
            ("cpu.rt_period_us", "6"),
            ("cpu.rt_runtime_us", "5"),
            ("cpuset.cpus", "0-1"),
            ("pids.max", "7"),
            ("net_cls.classid", "9"),
            ("net_prio.ifpriomap", "lo 3"),
        ])
    );
    assert_eq!(
        written(spec, Version::V2),
        pairs(&[
            ("memory.max", "1000"),
            ("memory.low", "500"),
            ("memory.swap.max", "500"),
            ("cpu.weight", "100"),
            ("cpu.max", "50000 100000"),
            ("cpu.max.burst", "1000"),
            ("cpuset.cpus", "0-1"),
            ("pids.max", "7"),
        ])
    );
}

#[test]
fn block_devices_have_weights_and_throttles_in_both_versions() {
    let spec = r#"{"blockIO": {"weight": 500,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 100}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]}}"#;
    assert_eq!(
        written(spec, Version::V1),
        pairs(&[
            ("blkio.bfq.weight", "500"),
            ("blkio.bfq.weight_device", "8:0 100"),
            ("blkio.throttle.read_bps_device", "8:0 1000"),
            ("blkio.throttle.write_iops_device", "8:16 0"),
        ])
    );
    assert_eq!(
        written(spec, Version::V2),
        pairs(&[
            ("io.bfq.weight", "500"),
            ("io.bfq.weight", "8:0 100"),
            ("io.max", "8:0 rbps=1000"),
            ("io.max", "8:16 wiops=max"),
        ])
    );
    let all = settings(&resources(spec), Version::V2).unwrap();
    assert_eq!(all[0].choices[1], ("io.weight".to_owned(), "4950".to_owned()));
    assert_eq!(all[1].choices[1], ("io.weight".to_owned(), "8:0 910".to_owned()));
}

#[test]
fn huge_pages_and_rdma_have_limits_for_each_kind() {
    let spec = r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
        "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "a": {"hcaObjects": 1}}}"#;
    assert_eq!(
        written(spec, Version::V2),
        pairs(&[
            ("hugetlb.2MB.max", "4194304"),
            ("hugetlb.2MB.rsvd.max", "4194304"),
            ("rdma.max", "a hca_object=1"),
            ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
        ])
    );
    assert_eq!(written(spec, Version::V1)[1].0, "hugetlb.2MB.rsvd.limit_in_bytes");
    for size in ["../x", "2MB/..", "", "MB", "2mb"] {
        let spec = format!(r#"{{"hugepageLimits": [{{"pageSize": "{size}", "limit": 1}}]}}"#);
        assert!(refused(&spec, Version::V1).contains("no such page size"));
    }
    let name = r#"{"rdma": {"a\nb": {"hcaHandles": 3}}}"#;
    assert!(refused(name, Version::V1).contains("no such name"));
}

#[test]
fn zero_is_unset_and_minus_one_unlimited() {
    let nothing = r#"{"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0},
        "pids": {"limit": 0}, "blockIO": {"weight": 0}}"#;
    assert_eq!(written(nothing, Version::V1), []);
    assert_eq!(written(nothing, Version::V2), []);
    let all = r#"{"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#;
    assert_eq!(
        written(all, Version::V2),
        pairs(&[
            ("memory.max", "max"),
            ("memory.swap.max", "max"),
            ("cpu.max", "max"),
            ("pids.max", "max"),
        ])
    );
    assert_eq!(
        written(all, Version::V1),
        pairs(&[
            ("memory.limit_in_bytes", "-1"),
            ("memory.memsw.limit_in_bytes", "-1"),
            ("cpu.cfs_quota_us", "-1"),
            ("pids.max", "max"),
        ])
    );
}

#[test]
fn who_is_idle_has_no_weight() {
    let idle = r#"{"cpu": {"shares": 512, "idle": 1}}"#;
    assert_eq!(written(idle, Version::V2), pairs(&[("cpu.idle", "1")]));
    let busy = r#"{"cpu": {"shares": 1024, "idle": 0}}"#;
    assert_eq!(written(busy, Version::V1), pairs(&[("cpu.idle", "0"), ("cpu.shares", "1024")]));
}

#[test]
fn swap_is_counted_with_memory_and_cannot_be_less() {
    for version in [Version::V1, Version::V2] {
        let less = refused(r#"{"memory": {"limit": 1000, "swap": 900}}"#, version);
        assert!(less.contains("memory+swap limit should be >= memory limit"), "{less}");
    }
    let alone = refused(r#"{"memory": {"swap": 900}}"#, Version::V2);
    assert!(alone.contains("unable to set swap limit without memory limit"), "{alone}");
    let none = written(r#"{"memory": {"limit": 1000, "swap": 1000}}"#, Version::V2);
    assert_eq!(none[1], ("memory.swap.max".to_owned(), "0".to_owned()));
    assert!(refused(r#"{"memory": {"swappiness": 101}}"#, Version::V1).contains("0 to 100"));
}

#[test]
fn unified_files_are_a_controllers_and_come_last() {
    let spec =
        r#"{"memory": {"limit": 9}, "unified": {"memory.oom.group": "1", "io.max": "8:0 rbps=1"}}"#;
    let expected =
        pairs(&[("memory.max", "9"), ("io.max", "8:0 rbps=1"), ("memory.oom.group", "1")]);
    assert_eq!(written(spec, Version::V2), expected);
    for file in ["cgroup.procs", "memory.x/../../y", "memory", "nothing.max", ""] {
        refused(&format!(r#"{{"unified": {{"{file}": "1"}}}}"#), Version::V2);
    }
    refused(r#"{"unified": {"memory.max": "1\n2"}}"#, Version::V2);
}

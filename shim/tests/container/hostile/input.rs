//! Strings, numbers and files of a tenant's that are not what they should be.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use shim::{ErrorKind, UserRequest};

use super::outside::Outside;
use crate::harness::{Case, Test, cgroup_parent};

pub const TESTS: &[Test] = &[
    ("a_user_is_a_number_in_range_or_a_name_and_nothing_between", users),
    ("a_number_is_never_looked_up_as_a_name", numeric_names),
    ("user_files_of_any_kind_cost_neither_time_nor_memory", user_files),
    ("a_user_file_that_is_the_kernels_is_refused", kernel_files),
    ("a_sysctls_value_is_one_value", sysctl_values),
    ("a_unified_setting_cannot_be_of_the_cgroup_core", unified),
    ("a_cgroup_path_cannot_leave_its_parent", cgroup_paths),
    ("paths_and_strings_of_any_length_are_answered", long_strings),
    ("annotations_change_nothing", annotations),
    ("a_home_with_a_line_break_makes_no_line", line_breaks),
];

fn user(text: &str) -> UserRequest {
    UserRequest { user: text.to_owned(), ..UserRequest::default() }
}

/// crun's CVE-2026-30892, CVE-2024-40635.
fn users() {
    let good = [
        ("1", "1 0"),
        ("1:", "1 0"),
        ("1:2", "1 2"),
        ("app", "1000 1000"),
        ("2147483647", "2147483647 0"),
    ];
    for (text, ids) in good {
        let mut case = Case::new("echo $(id -u) $(id -g)");
        case.options.user = user(text);
        assert_eq!(case.run_for_output(), ids, "{text:?}");
    }
    let bad = [
        "4294967296",
        "4294967295",
        "2147483648",
        "4294967296:0",
        "0:4294967296",
        "9999999999999",
        "-1",
        "+1",
        " 1",
        "1 ",
        "0x1",
        "01x",
        "1:2:3",
        "app:-1",
        "a\nb",
        "root\0",
        "root\n",
        "::",
        "\u{661}",
    ];
    for text in bad {
        let mut case = Case::new("true");
        case.options.user = user(text);
        let refused = case.create().map(|created| created.user).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{text:?}: {refused}");
    }
}

/// CVE-2026-46680.
fn numeric_names() {
    for text in ["4294967296", "-1", "+1", "1001", "0777"] {
        let mut case = Case::new("id -u");
        let lines = format!("{text}:x:0:0::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n");
        fs::write(case.image.join("etc/passwd"), lines).unwrap();
        case.options.user = user(text);
        match text.parse::<u32>() {
            Ok(uid) if !text.starts_with('+') => {
                assert_eq!(case.run_for_output(), uid.to_string());
            }
            _ => assert_eq!(case.create().unwrap_err().kind(), ErrorKind::InvalidArgument),
        }
    }
}

/// CVE-2025-4437, CVE-2026-47262: at create and in an exec, and the highest memory of the shim and its helpers.
fn user_files() {
    for name in ["etc/passwd", "etc/group"] {
        for kind in ["sparse", "fifo", "zero", "lines"] {
            let mut case = Case::new("sleep 60");
            // A root that is seen at once, so that the file can come later, too.
            case.options.rootfs = Vec::new();
            case.spec["root"]["path"] = json!(case.image);
            case.options.user = user("app:audio");
            // The memory that anybody may use, the shim's forked builder included.
            case.spec["linux"]["resources"]["memory"] =
                json!({"limit": 48 << 20, "swap": 48 << 20});
            let path = case.image.join(name);
            plant(&path, kind);
            let started = Instant::now();
            let refused = case.create().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{name} {kind}: {refused}");
            assert!(refused.to_string().contains(name), "{refused}");
            assert!(
                started.elapsed() < Duration::from_secs(1),
                "{name} {kind}: {:?}",
                started.elapsed()
            );
        }
    }
    for kind in ["sparse", "fifo", "zero", "lines"] {
        let mut case = Case::new("sleep 60");
        case.options.rootfs = Vec::new();
        case.spec["root"]["path"] = json!(case.image);
        case.spec["linux"]["resources"]["memory"] = json!({"limit": 48 << 20, "swap": 48 << 20});
        case.start();
        plant(&case.image.join("etc/passwd"), kind);
        let started = Instant::now();
        let refused = case.exec_args("late", json!(["/bin/true"])).unwrap_err();
        assert!(refused.to_string().contains("/etc/passwd"), "{kind}: {refused}");
        assert!(started.elapsed() < Duration::from_secs(1), "{kind}: {:?}", started.elapsed());
    }
}

fn plant(path: &Path, kind: &str) {
    fs::remove_file(path).unwrap();
    match kind {
        "sparse" => fs::File::create(path).unwrap().set_len(8 << 30).unwrap(),
        "zero" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        "lines" => fs::write(path, "a:x:1:1::/:/\n".repeat(1 << 20)).unwrap(),
        _ => {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        }
    }
}

/// Reading some of them does something: `/proc/kmsg` takes the kernel's messages away from whoever reads them.
fn kernel_files() {
    let targets = ["/proc/kmsg", "/proc/self/environ", "/proc/kallsyms", "/sys/kernel/vmcoreinfo"];
    // Not every kernel has all of them.
    for target in targets.into_iter().filter(|target| Path::new(target).exists()) {
        let mut case = Case::new("true");
        let path = case.image.join("etc/passwd");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
        case.options.user = user("7");
        let refused = case.create().map(|created| created.user).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{target}: {refused}");
        assert!(refused.to_string().contains("/etc/passwd"), "{target}: {refused}");
    }
}

/// CVE-2022-0811: whatever separates one parameter from the next for somebody else.
fn sysctl_values() {
    let mut outside = Outside::new("outside");
    let values = [
        "1+kernel.core_pattern=|/x",
        "1\nkernel.core_pattern=|/x",
        "1 kernel.core_pattern=|/x",
        "1,kernel.core_pattern=|/x",
        "1;kernel.core_pattern=|/x",
        "1\0",
        "1\u{b}2",
        "",
    ];
    for value in values {
        let mut case = Case::new("true");
        case.spec["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": value});
        let refused = case.create().map(|created| created.pid);
        // Nothing at all changes nothing, and after a space the kernel looks no further.
        match refused {
            Err(refused) => {
                assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{value:?}: {refused}");
            }
            Ok(_) => assert!(value.is_empty() || value.contains(' '), "{value:?}"),
        }
    }
    for key in [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "net/../kernel/core_pattern",
        "net.ipv4.../x",
        "net/ipv4",
        "net.",
    ] {
        let mut case = Case::new("true");
        case.spec["linux"]["sysctl"] = json!({key: "|/x"});
        let refused = case.create().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{key}: {refused}");
    }
    assert_eq!(outside.changes(), Vec::<String>::new());
}

/// CVE-2023-6476: on version 1 there is nothing that it could change.
fn unified() {
    for file in [
        "cgroup.procs",
        "cgroup.type",
        "cgroup.subtree_control",
        "../cgroup.procs",
        "memory.max/../cgroup.procs",
    ] {
        let mut case = Case::new("sleep 60");
        case.spec["linux"]["resources"]["unified"] = json!({file: "1"});
        if let Ok(created) = case.create() {
            let of = fs::read_to_string(format!("/proc/{}/cgroup", created.pid)).unwrap();
            assert!(of.lines().all(|line| line.ends_with(&case.id)), "{file}: {of}");
            let own = fs::read_to_string("/proc/self/cgroup").unwrap();
            assert!(!own.contains(&case.id), "{file}: {own}");
        }
    }
}

fn cgroup_paths() {
    for path in ["..", "/..", "/../x", "a/../../x", "/a/./../..", "", "/"] {
        let mut case = Case::new("true");
        let whole = format!("{}/{path}", cgroup_parent());
        let path = if path.contains("..") { whole.as_str() } else { path };
        case.spec["linux"]["cgroupsPath"] = json!(path);
        let refused = case.create().map(|created| created.pid);
        assert_eq!(refused.map_err(|e| e.kind()), Err(ErrorKind::InvalidArgument), "{path:?}");
    }
}

/// CVE-2021-43784: lengths that overflow something.
fn long_strings() {
    let long = format!("/{}", "x".repeat(70_000));
    let deep = "/x".repeat(35_000);
    for path in [&long, &deep] {
        let mounts = [
            json!({"destination": path, "type": "tmpfs", "source": "tmpfs"}),
            json!({"destination": "/x", "type": "bind", "source": path, "options": ["rbind"]}),
        ];
        for mount in mounts {
            let mut case = Case::new("true");
            case.spec["mounts"].as_array_mut().unwrap().push(mount);
            let refused = case.create().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
        }
        for kind in ["network", "ipc", "uts", "pid"] {
            let mut case = Case::new("true");
            case.spec["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .retain(|ns| ns["type"] != kind);
            case.spec["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": kind, "path": path}));
            assert_eq!(case.create().unwrap_err().kind(), ErrorKind::InvalidArgument, "{kind}");
        }
        let mut case = Case::new("true");
        case.spec["process"]["cwd"] = json!(path);
        assert_eq!(case.create().unwrap_err().kind(), ErrorKind::InvalidArgument);
        let mut case = Case::new("true");
        case.options.user = user(path);
        assert_eq!(case.create().unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    let mut case = Case::new("true");
    case.spec["process"]["args"] = json!([long]);
    case.create().unwrap();
    let refused = case.block(case.shim().start()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StartFailed, "{refused}");
}

/// CVE-2024-3154, CVE-2023-6476, and the keys that other runtimes obey.
fn annotations() {
    let ask = "cat /proc/self/status /proc/self/cgroup; cat /proc/self/mountinfo | busybox wc -l; ls /dev";
    let clean = |text: String| {
        let keep = ["Cap", "Uid", "Gid", "Groups", "Seccomp:", "NoNewPrivs", "Cpus_allowed:"];
        let lines = text
            .lines()
            .filter(|line| keep.iter().any(|k| line.starts_with(k)) || !line.contains('\t'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let without = clean(Case::new(ask).run_for_output());
    let mut case = Case::new(ask);
    case.spec["annotations"] = json!({
        "org.systemd.property.ExecStopPost": "['/bin/touch', '/tmp/pwned']",
        "run.oci.keep_original_groups": "1",
        "run.oci.hooks.stdout": "/tmp/pwned",
        "run.oci.seccomp_fail_unknown_syscall": "1",
        "run.oci.systemd.subgroup": "x",
        "run.oci.delegate-cgroup": "x",
        "run.oci.mount_context_type": "context",
        "io.containerd.runc.v2.group": "x",
        "io.kubernetes.cri-o.UnifiedCgroup.box": "memory.max=1",
        "io.kubernetes.cri-o.Devices": "/dev/kmsg",
        "io.kubernetes.cri.untrusted-workload": "true",
        "cpu-load-balancing.crio.io": "disable",
    });
    assert_eq!(clean(case.run_for_output()), without);
}

/// CVE-2022-4318, CVE-2026-15809: nothing is ever written into the image's files, and no variable becomes two.
fn line_breaks() {
    let mut case = Case::new("cat /etc/passwd /etc/group; busybox env | grep -c ^EVIL");
    let before = fs::read_to_string(case.image.join("etc/passwd")).unwrap()
        + &fs::read_to_string(case.image.join("etc/group")).unwrap();
    case.spec["process"]["env"] = json!([
        "PATH=/bin",
        "HOME=/root\nevil:x:0:0::/:/bin/sh",
        "USER=a\nb:x:0:0::/:/bin/sh",
        "A=b\r\nc"
    ]);
    case.options.user = user("4242");
    assert_eq!(case.run_for_output(), format!("{before}0"));
    for name in ["HOME=/\0EVIL=1", "A\0=b"] {
        let mut case = Case::new("true");
        case.spec["process"]["env"] = json!(["PATH=/bin", name]);
        assert_eq!(case.create().unwrap_err().kind(), ErrorKind::InvalidArgument, "{name:?}");
    }
}

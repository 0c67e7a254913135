//! Nothing of the runtime's or the host's can be got hold of from inside: files, programs, processes, cgroups.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;
use shim::UserRequest;

use crate::harness::{Case, Test, busybox};

pub const TESTS: &[Test] = &[
    ("an_execs_process_cannot_be_looked_at_before_it_is_the_containers_own", looking),
    ("a_process_that_shares_pids_cannot_be_looked_at_while_it_is_created", looking_at_create),
    ("a_runtime_that_is_executed_inside_cannot_be_written_to", writing),
    ("no_file_of_the_host_is_open_in_any_process_of_a_container", files),
    ("a_working_folder_behind_one_of_our_files_is_refused_in_an_exec", exec_folder),
    ("nobody_can_write_into_cgroups_or_mount_others", cgroups),
    ("the_shim_is_in_no_cgroup_of_its_container_and_spared_by_the_kernel", shim_outside),
    ("no_capability_is_inherited_or_ambient_that_was_not_asked_for", capabilities),
    ("a_programs_own_capabilities_add_nothing_without_new_privileges", file_capabilities),
    ("a_members_only_file_knows_the_primary_group", negative_group),
];

/// CVE-2016-9962.
fn looking() {
    let mut case = Case::new("");
    case.attack("look");
    case.start();
    let said = case.exec_beside_attacker(200, &json!(["/bin/busybox", "true"]));
    assert!(!said.contains("FOUND"), "{said}");
    // Otherwise it never met a process of ours, and the test says nothing.
    assert!(!said.contains(" 0 refused"), "{said}");
}

/// CVE-2016-9962, for the first process of a container in a pod whose containers see each other.
fn looking_at_create() {
    let mut attacker = Case::new("");
    attacker.attack("look");
    let created = attacker.start();
    while !attacker.output().contains("ready") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pids = format!("/proc/{}/ns/pid", created.pid);
    for _ in 0..40 {
        let mut case = Case::new("");
        case.spec["process"]["args"] = json!(["/bin/busybox", "true"]);
        let all = case.spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|namespace| namespace["type"] != "pid");
        all.push(json!({"type": "pid", "path": pids}));
        assert_eq!(case.run().code, 0);
    }
    let said = attacker.exec_beside_attacker(0, &json!([]));
    assert!(!said.contains("FOUND"), "{said}");
    assert!(!said.contains(" 0 refused"), "{said}");
}

/// CVE-2019-5736: a program whose interpreter is `/proc/self/exe` is the runtime, run inside.
fn writing() {
    let path = crate::harness::launcher().path().to_owned();
    let before = fs::read(&path).unwrap();
    let mut case = Case::new("");
    case.attack("write");
    let script = case.image.join("bin/again");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    symlink("/proc/self/exe", case.image.join("bin/link")).unwrap();
    case.start();
    let said = case.exec_beside_attacker(200, &json!(["/bin/again"]));
    assert!(!said.contains("FOUND"), "{said}");
    assert!(!said.contains("\n0 programs held"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

/// CVE-2024-21626.
fn files() {
    let list = "for p in /proc/[0-9]*; do for f in $p/fd/*; do \
        busybox readlink $f; done; busybox readlink $p/cwd; busybox readlink $p/root; done | busybox sort -u; \
        ls /proc/self/fd";
    for terminal in [false, true] {
        let mut case = Case::new(&format!("sleep 60 & {list}; echo end; sleep 60"));
        case.options.terminal = terminal;
        case.options.stdin = !terminal;
        case.spec["process"]["terminal"] = json!(terminal);
        case.start();
        let (code, from_exec, _) = case.exec("list", list);
        while !case.output().contains("end") {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let from_start = case.output().replace('\r', "");
        assert_eq!(code, 0, "{from_exec}");
        for line in from_exec.lines().chain(from_start.lines().filter(|line| *line != "end")) {
            let number = line.split_whitespace().all(|word| ["0", "1", "2", "3"].contains(&word));
            // An exec's output is a FIFO of its caller's. The shell keeps its terminal's file under a number above all others, and lists a folder itself.
            let ours = case.dir.to_string_lossy();
            let own =
                [&ours, "pipe:", "/dev/pts/0", "/dev/tty", "/proc/", "/dev/null", "10", "255"];
            let own = own.iter().any(|own| line.starts_with(*own));
            assert!(
                number || own || line == "/" || line.is_empty(),
                "{line:?} is open: {from_exec}{from_start}"
            );
        }
    }
}

/// CVE-2024-21626: in an exec, also through a link.
fn exec_folder() {
    let mut case = Case::new("sleep 60");
    for number in 3..20 {
        symlink(format!("/proc/self/fd/{number}"), case.image.join(format!("cwd{number}")))
            .unwrap();
    }
    case.start();
    for number in 3..20 {
        for folder in
            [format!("/proc/self/fd/{number}"), format!("/cwd{number}"), format!("/cwd{number}/x")]
        {
            case.spec["process"]["cwd"] = json!(folder);
            let refused = case.exec_args("cwd", json!(["/bin/true"])).unwrap_err();
            assert_eq!(refused.kind(), shim::ErrorKind::InvalidArgument, "{refused}");
        }
    }
}

/// CVE-2022-0492, CVE-2023-25809.
fn cgroups() {
    let mut case = Case::new("sleep 60");
    case.start();
    let (_, said, _) = case.exec(
        "write",
        "busybox find /sys/fs/cgroup -type f | while read f; do (echo 1 > $f) 2>/dev/null && echo wrote $f; done; \
         busybox find /sys/fs/cgroup -type d | while read d; do busybox mkdir $d/made 2>/dev/null && echo made $d; done; \
         busybox mkdir /tmp/cg; for c in memory rdma cpu devices; do \
         mount -t cgroup -o $c none /tmp/cg 2>/dev/null && echo mounted $c; done; \
         mount -t cgroup2 none /tmp/cg 2>/dev/null && echo mounted 2; \
         (echo /x > /sys/fs/cgroup/*/release_agent) 2>/dev/null && echo agent; echo end",
    );
    assert_eq!(said, "end\n");
    // What is above its own cgroups is not to be seen.
    let (_, said, _) =
        case.exec("above", "cat /proc/self/cgroup /proc/1/cgroup; ls /sys/fs/cgroup");
    assert!(!said.contains("wherry-shim-test"), "{said}");
}

/// CVE-2019-14891.
fn shim_outside() {
    let mut case = Case::new("sleep 60");
    let created = case.start();
    let shim = case.shim_pid(&created);
    let of = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = format!("/{}", case.id);
    assert!(of(created.pid).lines().all(|line| line.ends_with(&own)), "{}", of(created.pid));
    assert!(!of(shim).contains(&own), "{}", of(shim));
    assert!(case.exec("pids", "echo $$").0 == 0);
    let score = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    assert!(score(shim) < score(created.pid), "{} {}", score(shim), score(created.pid));
}

/// CVE-2022-24769, CVE-2022-27652, CVE-2022-29162, CVE-2022-27650.
fn capabilities() {
    let ask = "grep -E '^Cap(Inh|Amb)' /proc/self/status | busybox cut -f2 | busybox sort -u";
    let none = "0000000000000000";
    for user in ["", "app"] {
        let mut case = Case::new(&format!("{ask}; sleep 60"));
        case.options.user = UserRequest { user: user.to_owned(), ..UserRequest::default() };
        // What a spec says that was made by an old engine: inheritable as permitted.
        case.start();
        let (code, said, _) = case.exec("ask", ask);
        assert_eq!((code, said.trim_end()), (0, none), "exec as {user:?}");
        while case.output().is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(case.output(), none, "start as {user:?}");
    }
}

fn file_capabilities() {
    let mut case = Case::new("sleep 60");
    let program = case.image.join("bin/busybox-raised");
    fs::copy(busybox(), &program).unwrap();
    // Version 2, effective; permitted: what the container may have at most (linux/capability.h, struct vfs_cap_data).
    let all = [1, 0, 0, 2, 0xfb, 0x25, 0x04, 0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::CREATE;
    rustix::fs::setxattr(&program, "security.capability", &all, flags).unwrap();
    case.options.user = UserRequest { user: "app".to_owned(), ..UserRequest::default() };
    let ask = json!(["/bin/busybox-raised", "grep", "CapEff", "/proc/self/status"]);
    case.start();
    case.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    for set in ["permitted", "effective"] {
        case.spec["process"]["capabilities"][set] = json!(["CAP_KILL"]);
    }
    let said = case.exec_args("raised", ask.clone()).unwrap().1;
    assert_eq!(said, "CapEff:\t0000000000000020\n", "what it was given, and no more");
    // Proof that the file has them: without the rule they count.
    case.spec["process"]["noNewPrivileges"] = json!(false);
    let said = case.exec_args("control", ask).unwrap().1;
    assert_eq!(said, "CapEff:\t00000000a80425fb\n");
}

/// CVE-2023-25173, CVE-2022-36109, CVE-2022-2995: who is in a group must not get what the group is denied.
fn negative_group() {
    for strict in [false, true] {
        let mut case = Case::new("grep Groups /proc/self/status; cat /secret && echo read");
        let secret = case.image.join("secret");
        fs::write(&secret, "secret").unwrap();
        std::os::unix::fs::chown(&secret, Some(0), Some(1000)).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o604)).unwrap();
        case.options.user = UserRequest {
            user: "4242".to_owned(),
            group: Some(1000),
            supplemental: vec![7],
            strict,
        };
        let said = case.run_for_output();
        assert!(said.starts_with("Groups:\t7 1000 ") && !said.contains("\nread"), "{said}");
    }
}

//! What a process is to the kernel beyond its rights: labels, scheduling, memory, clocks, names; and specs that are wrong.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shim::ErrorKind;

use crate::harness::{Case, Test};

/// What makes a spec another one.
type Change = fn(&mut Value);

pub const TESTS: &[Test] = &[
    ("scheduler_io_priority_and_personality_are_those_of_the_spec", schedulers),
    ("an_exec_runs_on_the_cpus_of_its_affinity", affinity),
    ("the_domain_name_is_the_containers", domain_name),
    ("a_label_without_its_security_module_is_refused_and_says_so", missing_modules),
    ("an_apparmor_profile_is_in_force_in_the_container_and_its_execs", apparmor),
    ("a_spec_that_is_wrong_is_refused_in_one_sentence", wrong_specs),
    ("a_namespace_of_another_kind_is_refused_whatever_its_path_says", wrong_namespaces),
    (
        "a_mount_namespace_that_is_there_is_joined_and_its_root_becomes_the_containers",
        joined_mounts,
    ),
    ("a_network_device_is_moved_with_its_addresses_and_gets_its_name", net_device),
    ("a_network_device_that_cannot_be_moved_leaves_no_container", wrong_net_devices),
    ("an_exec_has_the_containers_personality_and_memory_policy", exec_attributes),
    ("what_is_mounted_over_the_hosts_procfs_is_not_written", covered_procfs),
    ("a_mount_is_changed_where_it_is", remount),
    ("a_tmpfs_can_begin_with_what_it_covers", copy_up),
    ("recursive_options_reach_the_leaves_and_others_do_not", recursive),
    ("annotations_change_nothing", annotations),
];

fn schedulers() {
    let mut case = Case::new(
        "busybox cut -d' ' -f19 /proc/self/stat; busybox ionice; cat /proc/self/personality; busybox cut -d' ' -f41 /proc/self/stat",
    );
    case.spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    case.spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    if cfg!(target_arch = "x86_64") {
        case.spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    }
    let said = case.run_for_output();
    // PER_LINUX32 of personality(2).
    let personality = if cfg!(target_arch = "x86_64") { "00000008" } else { "00000000" };
    assert_eq!(said, format!("7\nidle\n{personality}\n3"));
    let changes: [fn(&mut Value); 4] = [
        |spec| spec["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 20}),
        |spec| spec["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": 100}),
        |spec| spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
        |spec| spec["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["X"]}),
    ];
    for change in changes {
        let mut case = Case::new("true");
        change(&mut case.spec);
        let refused = case.create().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    }
}

fn affinity() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        println!("SKIPPED: this machine has one CPU");
        return;
    }
    let mut case = Case::new("sleep 60");
    case.start();
    case.spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "1"});
    let said = case.exec("x", "grep Cpus_allowed_list /proc/self/status").1;
    assert_eq!(said, "Cpus_allowed_list:\t1\n");
    case.spec["process"]["execCPUAffinity"] = json!({"initial": "0"});
    let said = case.exec("y", "grep Cpus_allowed_list /proc/self/status").1;
    assert_eq!(said, "Cpus_allowed_list:\t0\n");
}

fn domain_name() {
    let mut case = Case::new("cat /proc/sys/kernel/domainname");
    case.spec["domainname"] = json!("boxes");
    assert_eq!(case.run_for_output(), "boxes");
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/domainname").unwrap(), "boxes\n");
}

fn has(path: &str) -> bool {
    std::fs::read(path).is_ok_and(|text| text.first() == Some(&b'Y'))
}

fn missing_modules() {
    let changes: [(Change, bool); 3] = [
        (
            |spec| spec["process"]["apparmorProfile"] = json!("x"),
            has("/sys/module/apparmor/parameters/enabled"),
        ),
        (
            |spec| spec["process"]["selinuxLabel"] = json!("a:b:c:d"),
            std::path::Path::new("/sys/fs/selinux/enforce").exists(),
        ),
        (
            |spec| spec["linux"]["mountLabel"] = json!("a:b:c:d"),
            std::path::Path::new("/sys/fs/selinux/enforce").exists(),
        ),
    ];
    for (change, there) in changes {
        if there {
            continue;
        }
        let mut case = Case::new("true");
        change(&mut case.spec);
        let refused = case.create().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
        assert!(refused.to_string().ends_with("is not enabled on this node"), "{refused}");
    }
}

/// Takes a node with AppArmor; in the guest it must not be skipped.
fn apparmor() {
    if !has("/sys/module/apparmor/parameters/enabled") {
        assert!(std::env::var_os("WHERRY_GUEST").is_none(), "the guest has no AppArmor");
        println!("SKIPPED: this node has no AppArmor");
        return;
    }
    let name = format!("wherry-test-{}", std::process::id());
    let profile = format!(
        "profile {name} flags=(attach_disconnected) {{\n file,\n capability,\n signal,\n ptrace,\n deny /tmp/denied w,\n}}\n"
    );
    let path = std::env::temp_dir().join(&name);
    std::fs::write(&path, profile).unwrap();
    let parser = |verb: &str| {
        std::process::Command::new("apparmor_parser").arg(verb).arg(&path).status().unwrap()
    };
    assert!(parser("--replace").success());
    let script = "cat /proc/self/attr/current; echo x > /tmp/denied; sleep 60";
    let mut case = Case::new(script);
    case.spec["process"]["apparmorProfile"] = json!(name);
    case.start();
    let (_, said, _) = case.exec("x", "cat /proc/self/attr/current");
    assert_eq!(said, format!("{name} (enforce)\n"));
    let denied = format!("{name} (enforce)\n");
    let end = Instant::now() + Duration::from_secs(10);
    while !case.output().contains("/tmp/denied: Permission denied") && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = case.output();
    assert!(said.starts_with(&denied) && said.contains("/tmp/denied: Permission"), "{said}");
    drop(case);
    assert!(parser("--remove").success());
    std::fs::remove_file(&path).unwrap();
    // One that is not loaded is found out at the creation.
    let mut case = Case::new("true");
    case.spec["process"]["apparmorProfile"] = json!(name);
    let refused = case.create().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.to_string().ends_with("it is not loaded on this node"), "{refused}");
}

fn wrong_specs() {
    let changes: [(Change, &str); 12] = [
        (
            |spec| spec["ociVersion"] = json!("2.0.0"),
            "use specification 2.0.0: only version 1 is supported",
        ),
        (
            |spec| spec["ociVersion"] = json!("nonsense"),
            "use specification nonsense: not a version",
        ),
        (
            |spec| spec["root"]["path"] = json!("/no/such/rootfs"),
            "use rootfs /no/such/rootfs: no such file or directory",
        ),
        (|spec| spec["root"] = Value::Null, "read spec config.json: it has no root"),
        (|spec| spec["process"] = Value::Null, "read spec config.json: it has no process"),
        (|spec| spec["process"]["args"] = json!([]), "read process args: there is no command"),
        (|spec| spec["process"]["cwd"] = json!("tmp"), "read process tmp: cwd must be absolute"),
        (|spec| spec["linux"] = Value::Null, "read spec config.json: it is not for Linux"),
        (
            |spec| spec["mounts"][0]["type"] = json!("nosuchfs"),
            "mount nosuchfs on /proc: no such device",
        ),
        (|spec| spec["mounts"][1]["options"] = json!(["size=x"]), "mount tmpfs on /dev: "),
        (
            |spec| spec["linux"]["rootfsPropagation"] = json!("x"),
            "use rootfs propagation x: no such propagation",
        ),
        (
            |spec| spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "ipc"})),
            "use namespace ipc: it is there twice",
        ),
    ];
    for (change, sentence) in changes {
        let mut case = Case::new("true");
        case.spec["root"]["path"] = json!(case.image);
        change(&mut case.spec);
        let ran = case.run_bundle_here(&json!({"check_command": true}));
        let failure = ran.told["failure"].as_str().unwrap();
        assert!(failure.starts_with(sentence), "{failure}");
        assert_eq!(ran.told["kind"], "InvalidArgument", "{failure}");
        assert_eq!(case.cgroups(), Vec::<std::path::PathBuf>::new());
    }
    // An executable of another machine is found out when it is executed.
    let mut case = Case::new("");
    let mut elf = std::fs::read(crate::harness::busybox()).unwrap();
    elf[18] = 0xf7;
    std::fs::write(case.image.join("bin/foreign"), elf).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(case.image.join("bin/foreign"), mode).unwrap();
    case.spec["process"]["args"] = json!(["foreign"]);
    let ran = case.run_here(&json!({"check_command": true}));
    assert_eq!((&ran.told["errno"], &ran.told["kind"]), (&json!(8), &json!("StartFailed")));
}

fn wrong_namespaces() {
    let kinds = [
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
        ("pid", "pid"),
        ("cgroup", "cgroup"),
        ("user", "user"),
        ("time", "time"),
    ];
    for (kind, file) in kinds {
        for (other, wrong) in kinds {
            if kind == other {
                continue;
            }
            let mut case = Case::new("true");
            let all = case.spec["linux"]["namespaces"].as_array_mut().unwrap();
            all.retain(|namespace| namespace["type"] != kind);
            all.push(json!({"type": kind, "path": format!("/proc/self/ns/{wrong}")}));
            let ran = case.run_here(&json!({}));
            let failure = ran.told["failure"].as_str().unwrap();
            assert!(failure.ends_with("a namespace of another kind"), "{file}: {failure}");
            assert_eq!(ran.told["kind"], "InvalidArgument");
        }
    }
}

fn joined_mounts() {
    let mut holder = Command::new("unshare").args(["-m", "sleep", "60"]).spawn().unwrap();
    let path = format!("/proc/{}/ns/mnt", holder.id());
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::fs::read_link(&path).unwrap() == own && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let theirs = std::fs::read_link(&path).unwrap();
    let join = |case: &mut Case, path: &str| {
        let all = case.spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|namespace| namespace["type"] != "mount");
        all.push(json!({"type": "mount", "path": path}));
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut case = Case::new("ls /; exec sleep 60");
    join(&mut case, &path);
    let created = case.start();
    let found = std::fs::read_link(format!("/proc/{}/ns/mnt", created.pid)).unwrap();
    assert_eq!(found, theirs);
    assert_eq!(
        case.exec("x", "busybox readlink /proc/self/ns/mnt").1.trim(),
        theirs.to_str().unwrap()
    );
    assert_eq!(case.exec("y", "ls /").1, "bin\ndev\netc\nproc\nroot\nsys\ntmp\n");
    drop(case);
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
    // The runtime's own is not to become the container's.
    let mut case = Case::new("true");
    join(&mut case, "/proc/self/ns/mnt");
    let refused = case.create().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    assert!(refused.to_string().ends_with("is the runtime's own"), "{refused}");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

fn ip(args: &str) {
    assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success(), "ip {args}");
}

/// A device of the test's own network namespace.
fn make_device(name: &str) {
    ip(&format!("link add {name} type veth peer name {name}p"));
    ip(&format!("addr add 192.0.2.7/24 dev {name}"));
    ip(&format!("-6 addr add 2001:db8::7/64 dev {name} nodad"));
}

/// Runs a test in a network namespace of its own: whom a thread starts is where the thread is.
fn on_own_network(test: fn()) {
    let run = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn there_is(name: &str) -> bool {
    Command::new("ip").args(["link", "show", name]).output().unwrap().status.success()
}

fn net_device() {
    if has_ip() {
        on_own_network(move_device);
    }
}

fn move_device() {
    let name = "wd0";
    make_device(name);
    for hooked in [false, true] {
        let mut case = Case::new("busybox ip addr show dev data0; exec sleep 60");
        case.spec["linux"]["netDevices"] = json!({name: {"name": "data0"}});
        if hooked {
            let hook = json!([{"path": "/bin/true", "args": ["true"]}]);
            case.spec["hooks"] = json!({"createRuntime": hook});
            make_device(name);
        }
        let created = case.start();
        let said = case.exec("x", "busybox ip addr show dev data0").1;
        for wanted in ["UP", "inet 192.0.2.7/24", "inet6 2001:db8::7/64"] {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
        assert!(!there_is(name));
        drop((created, case));
        // What is virtual ends with its namespace.
        let deadline = Instant::now() + Duration::from_secs(10);
        while there_is("wd0p") {
            assert!(Instant::now() < deadline, "the other end of the device is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn wrong_net_devices() {
    on_own_network(refuse_devices);
}

fn refuse_devices() {
    let changes: [(&str, Value); 4] = [
        ("no such device", json!({"wherrynone": {}})),
        ("not a name", json!({"a/b": {}})),
        ("the name of two", json!({"wa": {"name": "x"}, "wb": {"name": "x"}})),
        // Every namespace has its own one, and it stays there.
        ("lo", json!({"lo": {"name": "lo1"}})),
    ];
    for (what, devices) in changes {
        let mut case = Case::new("true");
        case.spec["linux"]["netDevices"] = devices;
        let refused = case.create().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{what}: {refused}");
        assert!(refused.to_string().contains("network device"), "{refused}");
    }
    let mut case = Case::new("true");
    case.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|ns| ns["type"] != "network");
    case.spec["linux"]["netDevices"] = json!({"wa": {}});
    assert!(case.create().unwrap_err().to_string().contains("network namespace"));
}

fn has_ip() -> bool {
    let there = Command::new("ip").arg("link").output().is_ok_and(|said| said.status.success());
    if !there {
        println!("SKIPPED: takes ip (package iproute2)");
    }
    there
}

fn exec_attributes() {
    let mut case = Case::new("exec sleep 60");
    if cfg!(target_arch = "x86_64") {
        case.spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    }
    case.spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
    if let Err(refused) = case.create() {
        // A kernel without NUMA has no memory policies.
        assert!(refused.to_string().contains("memory policy"), "{refused}");
        println!("SKIPPED: this kernel has no memory policies");
        return;
    }
    case.block(case.shim().start()).unwrap();
    let said = case.exec("x", "cat /proc/self/personality; busybox head -n1 /proc/self/numa_maps");
    let mut lines = said.1.lines();
    let personality = if cfg!(target_arch = "x86_64") { "00000008" } else { "00000000" };
    assert_eq!(lines.next(), Some(personality));
    assert!(lines.next().is_some_and(|line| line.contains(" bind:0 ")), "{said:?}");
}

fn covered_procfs() {
    let mut case = Case::new("true");
    let folder = case.dir.join("covered");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("shm_rmid_forced");
    std::fs::write(&file, "untouched").unwrap();
    let place = "/proc/sys/kernel";
    rustix::mount::mount_bind(&folder, place).unwrap();
    case.spec["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1"});
    let refused = case.create().map(|_| ());
    rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "untouched");
}

fn remount() {
    let mut case = Case::new("touch /dev/shm/x; touch /tmp/y && echo y");
    let remount = json!({"destination": "/dev/shm", "options": ["remount", "bind", "ro"]});
    case.spec["mounts"].as_array_mut().unwrap().push(remount);
    let said = case.run_for_output();
    assert!(said.contains("/dev/shm/x: Read-only file system"), "{said}");
    assert!(said.lines().any(|line| line == "y"), "{said}");
    let mut case = Case::new("true");
    let remount = json!({"destination": "/etc", "options": ["remount", "ro"]});
    case.spec["mounts"].as_array_mut().unwrap().push(remount);
    let refused = case.create().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.to_string().starts_with("remount /etc: "), "{refused}");
}

fn copy_up() {
    let mut case = Case::new(
        "cat /etc/passwd | busybox head -c 4; cat /etc/sub/file; busybox readlink /etc/link; busybox stat -c '%a %u' /etc/sub /etc /etc/sub/file; \
         touch /etc/new; grep -c ' /etc tmpfs' /proc/mounts",
    );
    std::fs::create_dir(case.image.join("etc/sub")).unwrap();
    std::fs::write(case.image.join("etc/sub/file"), "inner").unwrap();
    std::os::unix::fs::symlink("/proc/1/environ", case.image.join("etc/link")).unwrap();
    std::os::unix::fs::chown(case.image.join("etc/sub/file"), Some(5), None).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4711);
    std::fs::set_permissions(case.image.join("etc/sub/file"), mode).unwrap();
    let mount = json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]});
    case.spec["mounts"].as_array_mut().unwrap().push(mount);
    let said = case.run_for_output();
    assert!(
        said.contains("rootinner/proc/1/environ")
            || said.replace('\n', "").contains("rootinner/proc/1/environ"),
        "{said}"
    );
    assert!(said.ends_with("755 0\n755 0\n4711 5\n1"), "{said}");
    assert!(!case.dir.join("upper/etc/new").exists());
    // What does not fit is refused.
    let mut case = Case::new("true");
    std::fs::write(case.image.join("etc/large"), vec![0; 200_000]).unwrap();
    let mount = json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=64k"]});
    case.spec["mounts"].as_array_mut().unwrap().push(mount);
    let refused = case.create().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.to_string().starts_with("copy into the tmpfs at /etc: no space"), "{refused}");
}

fn recursive() {
    let words = [
        ("rnoexec", "noexec"),
        ("rnosuid", "nosuid"),
        ("rnodev", "nodev"),
        ("rro", "ro"),
        ("rnoatime", "noatime"),
        ("rnosymfollow", "nosymfollow"),
    ];
    for (option, word) in words {
        for (option, deep) in [(option, true), (word, false)] {
            let mut case = Case::new("grep ' /v' /proc/self/mountinfo | busybox cut -d' ' -f5,6");
            let volume = case.dir.join("volume");
            std::fs::create_dir_all(volume.join("sub")).unwrap();
            rustix::mount::mount_bind(case.dir.join("logs"), volume.join("sub")).unwrap();
            let mount = json!({"destination": "/v", "type": "bind", "source": volume, "options": ["rbind", option]});
            case.spec["mounts"].as_array_mut().unwrap().push(mount);
            let said = case.run_for_output();
            rustix::mount::unmount(volume.join("sub"), rustix::mount::UnmountFlags::DETACH)
                .unwrap();
            let has = |line: &str| line.split([' ', ',']).any(|part| part == word);
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(lines.len(), 2, "{said}");
            assert!(has(lines[0]) && has(lines[1]) == deep, "{option}: {said}");
        }
    }
}

fn annotations() {
    let mut case = Case::new(
        "cat /proc/self/oom_score_adj; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null",
    );
    let plain = Case::new("").spec["annotations"].clone();
    assert_eq!(plain, Value::Null);
    let expected = {
        let mut same = Case::new("");
        same.spec["process"]["args"] = case.spec["process"]["args"].clone();
        same.run_for_output()
    };
    case.spec["annotations"] = json!({
        "run.oci.handler": "wasm", "run.oci.keep_original_groups": "1", "run.oci.systemd.subgroup": "x",
        "org.systemd.property.MemoryMax": "1", "io.containerd.runc.v2.group": "x",
        "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel": "true", "run.oci.hooks.stdout": "/tmp/x",
        "cgroup.memory.max": "4096"
    });
    assert_eq!(case.run_for_output(), expected);
}

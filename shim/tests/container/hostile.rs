//! Images and specs that want more than they may have.
//!
//! Which test keeps what once went wrong elsewhere from going wrong here (`matrix` stands for the tests of
//! `hostile/matrix.rs`, `e2e` for `test/suites/hostile.rs`):
//!
//! | what happened | named | the tests |
//! |---|---|---|
//! | an exec's process could be traced, its files taken | CVE-2016-9962 | `an_execs_process_cannot_be_looked_at…`, `a_process_that_shares_pids_cannot_be_looked_at…` |
//! | the runtime's binary was overwritten | CVE-2019-5736 | `a_runtime_that_is_executed_inside_cannot_be_written_to`, `the_shims_binary_cannot_be_written_from_inside` |
//! | a volume covered `/proc` | CVE-2019-16884 | `procfs_cannot_be_covered` |
//! | `/proc`, `/sys` of an image were links | CVE-2019-19921, CVE-2023-27561, CVE-2023-28642 | `proc_sys_and_dev_of_an_image_must_be_folders`, matrix |
//! | a mount's target was exchanged for a link | CVE-2021-30465, CVE-2024-45310 | matrix (`/shared/…`, races) |
//! | a length overflowed between runtime's processes | CVE-2021-43784 | `paths_and_strings_of_any_length_are_answered`, fuzz target `shim_requests` |
//! | release_agent was writable | CVE-2022-0492, CVE-2023-25809 | `nobody_can_write_into_cgroups_or_mount_others` |
//! | capabilities were inheritable | CVE-2022-24769, -27650, -27652, -29162 | `no_capability_is_inherited_or_ambient…`, `capabilities_are_those_of_the_spec` |
//! | a folder's fd leaked, and was the working folder | CVE-2024-21626 | `no_file_of_the_host_is_open…`, `a_working_folder_…` (two), e2e |
//! | a masked path was covered with a false `/dev/null` | CVE-2025-31133 (youki: -62161) | `devices_of_an_image_must_be_what_they_are_called`, matrix |
//! | `/dev/console` got another terminal | CVE-2025-52565 | matrix (`/dev/console`, `/dev/pts`, `/dev/pts/ptmx`) |
//! | writes to procfs went elsewhere | CVE-2025-52881 (youki: -62596) | `procfs_cannot_be_covered`, `sysctls_of_own_namespaces_are_set`, matrix (the host's parameters are compared) |
//! | `/dev` was a link, device nodes were made on the host | CVE-2026-41579 (crun: -47766) | `proc_sys_and_dev_…`, matrix, e2e |
//! | `/dev/console` was a link, a file was made on the host | CVE-2026-88264 | `devices_of_an_image_…`, matrix |
//! | `/dev/null` was a link, the host's file got another owner | CVE-2026-88265 | matrix (owners are compared) |
//! | `/proc/self/fd` of an image decided what became read-only | CVE-2026-115521 | `a_read_only_root_cannot_be_written`, matrix |
//! | a user's string was 0 when it could not be read | CVE-2026-30892 | `a_user_is_a_number_in_range_or_a_name_and_nothing_between` |
//! | the root file system was a link | youki | `a_root_that_is_no_folder_itself_is_refused` |
//! | a user's number wrapped | CVE-2024-40635 | as above, e2e |
//! | a number was looked up as a name | CVE-2026-46680 | `a_number_is_never_looked_up_as_a_name`, e2e |
//! | supplementary groups without the primary one | CVE-2023-25173, CVE-2022-36109, CVE-2022-2995 | `a_members_only_file_knows_the_primary_group` |
//! | a line break in a variable was a line of passwd | CVE-2022-4318, CVE-2026-15809 | `a_home_with_a_line_break_makes_no_line`, e2e |
//! | huge user files | CVE-2025-4437, CVE-2026-47262 | `user_files_of_any_kind_cost_neither_time_nor_memory`, fuzz target `user_files` |
//! | a sysctl's value held a second one; a safe one was the host's | CVE-2022-0811, CVE-2022-0532 | `a_sysctls_value_is_one_value`, e2e, fuzz target `spec_json` |
//! | annotations were properties, limits, devices | CVE-2024-3154, CVE-2023-6476 | `annotations_change_nothing`, `a_unified_setting_cannot_be_of_the_cgroup_core`, e2e |
//! | labels and volumes of an image were obeyed | CVE-2026-53488, CVE-2022-23648 | e2e |
//! | host files were made through links of an image | CVE-2024-5154 | matrix (`/etc/…`), e2e |
//! | log paths and names climbed | CVE-2025-0750 | `a_log_in_place_of_something_else_is_refused`, e2e |
//! | state that others could read; abstract sockets | CVE-2021-41103, CVE-2024-25621, CVE-2020-15257 | e2e |
//! | an exec's output filled memory or disk | CVE-2022-31030, CVE-2022-1708 | `a_flood_of_output…`, e2e |
//! | failed execs left something | CVE-2022-23471, CVE-2025-64329 | `execs_that_fail_leave_nothing_in_the_shim` |
//! | the monitor died of its container's memory | CVE-2019-14891 | `a_container_that_eats_memory_…`, `the_shim_is_in_no_cgroup_…`, e2e |
//!
//! Checkpoints (CVE-2026-119101 and its kin) are not supported, so that there is nothing to restore.

pub mod attacker;
pub mod exhaust;
pub mod input;
mod kind;
pub mod leak;
pub mod matrix;
mod outside;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shim::{ErrorKind, UserRequest};

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("a_mount_target_that_leads_out_is_refused_by_name", targets),
    ("proc_sys_and_dev_of_an_image_must_be_folders", plain_folders),
    ("devices_of_an_image_must_be_what_they_are_called", false_devices),
    ("procfs_cannot_be_covered", covered_proc),
    ("user_files_that_are_no_files_or_too_long_are_refused", user_files),
    ("a_working_folder_cannot_be_a_file_of_ours", working_folder),
    ("a_log_in_place_of_something_else_is_refused", logs),
    ("what_is_not_supported_is_refused_and_not_ignored", unsupported),
    ("namespaces_that_are_none_are_refused", namespaces),
    ("a_host_without_a_watch_left_still_makes_containers", no_watches),
    ("an_exec_shows_nothing_of_the_host_to_who_may_trace_it", traced_execs),
    ("the_shims_binary_cannot_be_written_from_inside", binary),
];

impl Case {
    fn refuse(mut self, words: &str) {
        let host = self.folder_of_host();
        let refused = self.create().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.to_string().contains(words), "{refused}");
        assert_eq!(fs::read_dir(&host).unwrap().count(), 1, "the host's folder was touched");
        assert_eq!(self.cgroups(), Vec::<std::path::PathBuf>::new());
    }

    fn folder_of_host(&self) -> std::path::PathBuf {
        let path = self.dir.join("outside");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("marker"), "").unwrap();
        path
    }
}

fn tmpfs(destination: &str) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"})
}

fn targets() {
    for (link, target, destination) in [
        ("", "", "/../../outside/x"),
        ("out", "../../../../outside", "/out/x"),
        ("a", "bin/../../outside", "/a"),
        ("loop", "loop", "/loop"),
    ] {
        let mut case = Case::new("true");
        if !link.is_empty() {
            symlink(target, case.image.join(link)).unwrap();
        }
        case.spec["mounts"].as_array_mut().unwrap().push(tmpfs(destination));
        case.refuse(destination);
    }
    // An absolute link stays inside.
    let mut case = Case::new("ls -d /outside/x; grep -c ' /outside/x ' /proc/mounts");
    let host = case.folder_of_host();
    symlink(&host, case.image.join("abs")).unwrap();
    symlink("/outside", case.image.join("inside")).unwrap();
    case.spec["mounts"].as_array_mut().unwrap().push(tmpfs("/inside/x"));
    case.spec["mounts"].as_array_mut().unwrap().push(tmpfs("/abs/y"));
    assert_eq!(case.run_for_output(), "/outside/x\n1");
    assert_eq!(fs::read_dir(&host).unwrap().count(), 1);
}

fn plain_folders() {
    for name in ["proc", "sys", "dev"] {
        for target in ["/tmp", "tmp", "../../outside", "/nowhere"] {
            let case = Case::new("true");
            fs::remove_dir(case.image.join(name)).unwrap();
            symlink(target, case.image.join(name)).unwrap();
            case.refuse(&format!("/{name}"));
        }
        let case = Case::new("true");
        fs::remove_dir(case.image.join(name)).unwrap();
        fs::write(case.image.join(name), "").unwrap();
        case.refuse(&format!("/{name}"));
    }
}

fn false_devices() {
    let pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for target in ["/proc/sys/kernel/core_pattern", "../../outside/marker", "nowhere"] {
        let mut case = Case::new("true");
        case.spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        symlink(target, case.image.join("dev/null")).unwrap();
        case.refuse("/dev/null");
    }
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    // A terminal's console must not make a file elsewhere.
    let mut case = Case::new("true");
    case.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
    case.options.terminal = true;
    symlink("../../outside/x", case.image.join("dev/console")).unwrap();
    case.refuse("/dev/console");
}

fn covered_proc() {
    for destination in ["/proc", "/proc/self/attr", "/proc/sys", "/proc/1"] {
        let mut case = Case::new("true");
        let source = case.folder_of_host();
        let bind = json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]});
        case.spec["mounts"].as_array_mut().unwrap().push(bind);
        case.refuse(destination);
    }
    let mut case = Case::new("cat /proc/uptime");
    let file = case.folder_of_host().join("marker");
    fs::write(&file, "never").unwrap();
    let bind =
        json!({"destination": "/proc/uptime", "type": "bind", "source": file, "options": ["bind"]});
    case.spec["mounts"].as_array_mut().unwrap().push(bind);
    assert_eq!(case.run_for_output(), "never");
}

fn user_files() {
    let named = || UserRequest { user: "app".to_owned(), ..UserRequest::default() };
    for kind in ["fifo", "device", "huge", "folder"] {
        let mut case = Case::new("true");
        case.options.user = named();
        let path = case.image.join("etc/passwd");
        fs::remove_file(&path).unwrap();
        let node = |file_type, number| {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            rustix::fs::mknodat(rustix::fs::CWD, &path, file_type, mode, number).unwrap();
        };
        match kind {
            "fifo" => node(rustix::fs::FileType::Fifo, 0),
            "device" => symlink("/dev/zero", &path).unwrap(),
            "huge" => fs::File::create(&path).unwrap().set_len(8 << 30).unwrap(),
            _ => fs::create_dir(&path).unwrap(),
        }
        let started = Instant::now();
        case.refuse("/etc/passwd");
        assert!(started.elapsed() < Duration::from_secs(1), "{kind}: {:?}", started.elapsed());
    }
    let mut case = Case::new("id -u");
    fs::remove_file(case.image.join("etc/passwd")).unwrap();
    symlink(case.folder_of_host(), case.image.join("etc/passwd")).unwrap();
    case.options.user = UserRequest { user: "7".to_owned(), ..UserRequest::default() };
    assert_eq!(case.run_for_output(), "7", "a dangling link is no file");
}

fn working_folder() {
    for number in 0..20 {
        for link in [false, true] {
            let mut case = Case::new("true");
            let magic = format!("/proc/self/fd/{number}");
            if link {
                symlink(&magic, case.image.join("cwd")).unwrap();
            }
            case.spec["process"]["cwd"] = json!(if link { "/cwd" } else { magic.as_str() });
            let refused = case.create().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
        }
    }
}

fn logs() {
    let mut case = Case::new("true");
    let marker = case.folder_of_host().join("marker");
    symlink(&marker, case.dir.join("logs/link.log")).unwrap();
    case.options.log = Some(case.dir.join("logs/link.log"));
    case.refuse("logs/link.log");
    let mut case = Case::new("true");
    case.options.log = Some(case.dir.join("missing/0.log"));
    case.refuse("missing/0.log");
    let mut case = Case::new("true");
    let fifo = case.dir.join("logs/fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    case.options.log = Some(fifo);
    case.refuse("logs/fifo");
}

fn unsupported() {
    let of_others: [fn(&mut Value); 2] = [
        |spec| spec["process"]["apparmorProfile"] = json!("x"),
        |spec| spec["linux"]["cgroupsPath"] = json!("a.slice:b:c"),
    ];
    let changes: [fn(&mut Value); 2] = [
        |spec| spec["process"]["selinuxLabel"] = json!("x"),
        |spec| spec["linux"]["intelRdt"] = json!({"closID": "x"}),
    ];
    // The guest has AppArmor and systemd.
    let of_others = of_others.into_iter().filter(|_| !crate::harness::is_guest());
    for change in changes.into_iter().chain(of_others) {
        let mut case = Case::new("true");
        change(&mut case.spec);
        let refused = case.create().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    }
}

fn no_watches() {
    use rustix::fs::inotify::{CreateFlags, init};
    // All that a user has: 128 unless somebody has raised it.
    let mut taken = Vec::new();
    while taken.len() < 10_000
        && let Ok(watch) = init(CreateFlags::CLOEXEC)
    {
        taken.push(watch);
    }
    let mut case = Case::new("echo made; exit 3");
    assert_eq!(case.run().code, 3);
    assert_eq!(case.output(), "made");
    drop(taken);
}

fn traced_execs() {
    // Whoever sees the test's own folder below a process's root sees the host's root.
    let search =
        "while :; do for root in /proc/[0-9]*/root; do [ -e $root/MARK ] && echo host; done; done";
    let mut case = Case::new("");
    let mark = case.dir.display().to_string();
    let search = search.replace("/MARK", &mark);
    let command = format!("({search}) & ({search}) & {search}");
    case.spec["process"]["args"] = json!(["/bin/sh", "-c", command]);
    for set in ["bounding", "effective", "permitted"] {
        let all = case.spec["process"]["capabilities"][set].as_array_mut().unwrap();
        all.push(json!("CAP_SYS_PTRACE"));
    }
    case.start();
    for number in 0..150 {
        let (code, out, err) = case.exec(&format!("e{number}"), "echo inside; exit 5");
        assert_eq!((code, out.as_str()), (5, "inside\n"), "{err}");
    }
    let seen = case.output().lines().count();
    assert_eq!(seen, 0, "the host's root was seen so often");
}

fn namespaces() {
    for path in ["/etc/passwd", "/no/such/file", "/proc/self/ns/uts"] {
        let mut case = Case::new("true");
        let all = case.spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|namespace| namespace["type"] != "network");
        all.push(json!({"type": "network", "path": path}));
        case.refuse(path);
    }
    let mut case = Case::new("busybox readlink /proc/self/ns/net");
    let all = case.spec["linux"]["namespaces"].as_array_mut().unwrap();
    all.retain(|namespace| namespace["type"] != "network");
    all.push(json!({"type": "network", "path": "/proc/self/ns/net"}));
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    // The shim was started here: its own network is ours.
    assert_eq!(case.run_for_output(), own.to_str().unwrap());
}

fn binary() {
    let before = fs::read(env!("CARGO_BIN_EXE_wherry-shim")).unwrap();
    // An interpreter of "/proc/self/exe" is the runtime itself, run by the container's exec.
    let mut case = Case::new("sleep 60");
    let script = case.image.join("bin/again");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    case.start();
    for round in 0..5 {
        drop(case.exec_args(&format!("again{round}"), json!(["/bin/again"])));
    }
    let (_, said, _) =
        case.exec("write", "for p in /proc/[0-9]*; do echo x > $p/exe; done 2>&1 | grep -v -c xyz");
    assert_ne!(said, "0\n");
    assert_eq!(fs::read(env!("CARGO_BIN_EXE_wherry-shim")).unwrap(), before);
}

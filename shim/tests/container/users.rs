//! User and time namespaces, and mounts with mapped ids.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};
use shim::ErrorKind;

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("a_container_in_a_user_namespace_has_its_own_ids_and_files", own_ids),
    ("an_exec_is_in_the_containers_user_namespace", exec),
    ("its_other_namespaces_belong_to_its_user_namespace", ownership),
    ("the_root_of_a_user_namespace_has_no_right_outside", powerless),
    ("a_user_namespace_that_is_there_is_joined_with_others", joined),
    ("a_folder_is_mapped_unless_it_is_the_containers_already", folders),
    ("volumes_are_mapped_when_asked_and_never_chowned", volumes),
    ("a_mount_can_be_mapped_without_a_user_namespace", mapped_mounts),
    ("mappings_that_make_no_sense_are_refused", refused),
    ("limits_are_raised_before_the_right_is_gone", limits),
    ("the_clocks_of_a_time_namespace_are_moved", clocks),
    ("a_terminal_works_in_a_user_namespace", terminal),
];

const BASE: u32 = 200_000;

fn maps() -> Value {
    json!([{"containerID": 0, "hostID": BASE, "size": 65536}])
}

impl Case {
    /// Puts the container into a user namespace of its own, or into the one at `path`.
    fn in_users(&mut self, path: Option<&Path>) {
        let mut users = json!({"type": "user"});
        match path {
            Some(path) => users["path"] = json!(path),
            None => {
                self.spec["linux"]["uidMappings"] = maps();
                self.spec["linux"]["gidMappings"] = maps();
            }
        }
        self.spec["linux"]["namespaces"].as_array_mut().unwrap().push(users);
    }

    fn add_mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }
}

fn own_ids() {
    let mut case = Case::new(
        "id -u; id -G; cat /proc/self/uid_map | busybox tr -s ' '; busybox stat -c '%u %g' /bin/busybox; \
         touch /new && busybox stat -c '%u' /new; busybox chown app /new; echo 'more:x:7:7::/:/bin/sh' >> /etc/passwd; \
         echo x > /dev/null && echo null; ls /dev/pts /sys/class >/dev/null && echo sys; \
         echo y > /tmp/y; busybox hostname; ls -l /dev/zero | busybox cut -c1",
    );
    fs::set_permissions(
        case.image.join("etc/passwd"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    case.in_users(None);
    let exit = case.run();
    let said = case.output();
    assert_eq!(said, format!("0\n0\n 0 {BASE} 65536\n0 0\n0\nnull\nsys\nbox\nc"),);
    assert_eq!(exit.code, 0);
    // On the disk everything is as any other container's.
    let owner = |path: PathBuf| {
        let found = fs::metadata(path).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(owner(case.image.join("bin/busybox")), (0, 0));
    assert_eq!(owner(case.dir.join("upper/new")), (1000, 0));
    assert_eq!(owner(case.dir.join("upper/etc/passwd")), (0, 0));
    assert_eq!(owner(case.dir.join("upper/tmp/y")), (0, 0));
}

fn exec() {
    let mut case = Case::new("sleep 60");
    let options = &mut case.options.rootfs[0].options;
    options.extend(["uidmap=0:200000:65536", "gidmap=0:200000:65536"].map(str::to_owned));
    case.in_users(None);
    let created = case.start();
    let users = fs::read_link(format!("/proc/{}/ns/user", created.pid)).unwrap();
    case.spec["process"]["cwd"] = json!("/made/by/exec");
    let script = "busybox readlink /proc/self/ns/user; id -u; touch x; busybox stat -c %u x /made; grep CapEff /proc/self/status";
    let (code, said, err) = case.exec("x", script);
    let expected = format!("{}\n0\n0\n0\nCapEff:\t00000000a80425fb\n", users.display());
    assert_eq!((code, said), (0, expected), "{err}");
    case.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [29]});
    assert_eq!(case.exec("y", "id -u; id -G").1, "1000\n1000 29\n");
}

fn ownership() {
    let mut case = Case::new("sleep 60");
    case.in_users(None);
    let created = case.start();
    let status = fs::read_to_string(format!("/proc/{}/status", created.pid)).unwrap();
    assert!(status.contains(&format!("Uid:\t{BASE}\t{BASE}\t{BASE}\t{BASE}")), "{status}");
    let pid = created.pid.to_string();
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        // Who has entered nothing but the user namespace may enter all that are its own.
        let entered = Command::new("nsenter")
            .args(["--target", &pid, "--user", "--preserve-credentials", "--"])
            .args(["nsenter", &format!("--{}=/proc/{pid}/ns/{kind}", long(kind)), "--", "true"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&entered.stderr);
        assert!(!said.contains("Operation not permitted"), "{kind}: {said}");
    }
}

fn long(kind: &str) -> &str {
    match kind {
        "mnt" => "mount",
        other => other,
    }
}

fn powerless() {
    let script = "busybox mknod /tmp/null c 1 3; echo 1 > /proc/sys/vm/swappiness; \
                  mount -t tmpfs none /tmp && echo mounted; busybox mount -o remount,rw /sys 2>&1";
    let mut case = Case::new(script);
    let all = json!(["CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    for set in ["bounding", "effective", "permitted"] {
        case.spec["process"]["capabilities"][set] = all.clone();
    }
    case.spec["linux"]["readonlyPaths"] = json!([]);
    case.in_users(None);
    case.run();
    let said = case.output();
    assert!(said.contains("mknod: /tmp/null: Operation not permitted"), "{said}");
    assert!(said.contains("swappiness: Permission denied"), "{said}");
    assert!(said.contains("mounted"), "{said}");
}

/// A process that holds a user namespace with the usual mappings.
struct Holder(Child);

impl Holder {
    fn new() -> Self {
        let child = Command::new("unshare").args(["--user", "--", "sleep", "60"]).spawn().unwrap();
        let holder = Self(child);
        let own = fs::read_link("/proc/self/ns/user").unwrap();
        while fs::read_link(holder.path()).map_or(true, |users| users == own) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        for file in ["gid_map", "uid_map"] {
            let path = format!("/proc/{}/{file}", holder.0.id());
            fs::write(path, format!("0 {BASE} 65536")).unwrap();
        }
        holder
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/user", self.0.id()).into()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        let _status = self.0.wait().unwrap();
    }
}

fn joined() {
    let holder = Holder::new();
    let users = fs::read_link(holder.path()).unwrap();
    let script = "busybox readlink /proc/self/ns/user; id -u; touch /x; busybox stat -c %u /x /bin/busybox; sleep 60";
    let mut first = Case::new(script);
    first.in_users(Some(&holder.path()));
    let created = first.start();
    // The second one shares the first one's network, as in a pod.
    let mut second = Case::new(script.trim_end_matches("; sleep 60"));
    second.in_users(Some(&holder.path()));
    for namespace in second.spec["linux"]["namespaces"].as_array_mut().unwrap() {
        if let kind @ ("network" | "ipc" | "uts") = namespace["type"].as_str().unwrap() {
            let kind = if kind == "network" { "net" } else { kind };
            namespace["path"] = json!(format!("/proc/{}/ns/{kind}", created.pid));
        }
    }
    let expected = format!("{}\n0\n0\n0", users.display());
    assert_eq!(second.run_for_output(), expected);
    assert_eq!(first.output(), expected);
}

fn folders() {
    // The host's root's: mapped.
    let mut case =
        Case::new("id -u; busybox stat -c %u /bin/busybox; touch /x; busybox stat -c %u /x");
    case.in_users(None);
    let ran = case.run_here(&json!({"check_command": true}));
    assert_eq!((ran.code, ran.out.as_str()), (0, "0\n0\n0\n"), "{}", ran.told);
    assert_eq!(fs::metadata(case.image.join("x")).unwrap().uid(), 0);
    // The container's: as it is.
    let mut case = Case::new("busybox stat -c %u /bin/busybox; touch /x; busybox stat -c %u /x");
    let status = Command::new("chown")
        .args(["-R", "--no-dereference"])
        .arg(format!("{BASE}:{BASE}"))
        .arg(&case.image)
        .status()
        .unwrap();
    assert!(status.success());
    case.in_users(None);
    let ran = case.run_here(&json!({}));
    assert_eq!((ran.code, ran.out.as_str()), (0, "0\n0\n"), "{}", ran.told);
    assert_eq!(fs::metadata(case.image.join("x")).unwrap().uid(), BASE);
}

fn volumes() {
    let mut case = Case::new(
        "busybox stat -c %u /mapped/file /plain/file; touch /mapped/new /deep/sub/new; touch /plain/new; \
         busybox stat -c %u /deep/sub/file",
    );
    let volume = |name: &str| {
        let path = case.dir.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("file"), "").unwrap();
        path
    };
    let (mapped, plain, deep) = (volume("mapped"), volume("plain"), volume("deep"));
    let sub = volume("deep/sub");
    rustix::mount::mount_bind(volume("data"), &sub).unwrap();
    let bind = |source: &Path, target: &str, options: Value| json!({"destination": target, "type": "bind", "source": source, "options": options});
    let mut with_maps = bind(&mapped, "/mapped", json!(["rbind"]));
    with_maps["uidMappings"] = maps();
    with_maps["gidMappings"] = maps();
    case.in_users(None);
    case.add_mount(with_maps);
    case.add_mount(bind(&plain, "/plain", json!(["rbind"])));
    case.add_mount(bind(&deep, "/deep", json!(["rbind", "ridmap"])));
    case.run();
    let said = case.output();
    // Output and error are two streams: their order among each other is nobody's.
    let (refused, owners): (Vec<&str>, Vec<&str>) =
        said.lines().partition(|line| line.starts_with("touch"));
    assert_eq!(refused, ["touch: /plain/new: Permission denied"]);
    assert_eq!(owners, ["0", "65534", "0"]);
    assert_eq!(fs::metadata(mapped.join("new")).unwrap().uid(), 0);
    assert_eq!(fs::metadata(sub.join("new")).unwrap().uid(), 0);
    rustix::mount::unmount(&sub, rustix::mount::UnmountFlags::DETACH).unwrap();
}

fn mapped_mounts() {
    let mut case = Case::new("busybox stat -c '%u %g' /v/file /w/file");
    let volume = case.dir.join("volume");
    fs::create_dir_all(&volume).unwrap();
    fs::write(volume.join("file"), "").unwrap();
    for (target, options) in [("/v", json!(["bind", "idmap"])), ("/w", json!(["bind"]))] {
        case.add_mount(
            json!({"destination": target, "type": "bind", "source": volume, "options": options,
            "uidMappings": [{"containerID": 0, "hostID": 7, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 8, "size": 1}]}),
        );
    }
    assert_eq!(case.run_for_output(), "7 8\n7 8");
}

fn refused() {
    let changes: [fn(&mut Value); 8] = [
        |linux| linux["uidMappings"] = Value::Null,
        |linux| linux["uidMappings"] = json!([]),
        |linux| linux["uidMappings"][0]["size"] = json!(0),
        |linux| linux["uidMappings"][0]["hostID"] = json!(4_294_960_000_u32),
        |linux| linux["gidMappings"][0]["containerID"] = json!(1),
        |linux| linux["namespaces"].as_array_mut().unwrap().retain(|ns| ns["type"] != "user"),
        |linux| linux["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"})),
        |linux| {
            linux["uidMappings"]
                .as_array_mut()
                .unwrap()
                .push(json!({"containerID": 70000, "hostID": BASE + 5, "size": 1}))
        },
    ];
    for (at, change) in changes.iter().enumerate() {
        let mut case = Case::new("true");
        case.in_users(None);
        change(&mut case.spec["linux"]);
        let refused = case.create().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{at}: {refused}");
        assert_eq!(case.cgroups(), Vec::<PathBuf>::new());
    }
    // The host's node of that name has to be that device.
    let mut case = Case::new("true");
    case.in_users(None);
    case.spec["linux"]["devices"] =
        json!([{"path": "/dev/zero", "type": "c", "major": 1, "minor": 3}]);
    let refused = case.create().unwrap_err().to_string();
    assert_eq!(refused, "use device /dev/zero: no such device");
    let mut case = Case::new("true");
    case.add_mount(json!({"destination": "/v", "type": "bind", "source": "/tmp", "options": ["rbind", "idmap"]}));
    let refused = case.create().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
}

fn limits() {
    let mut case = Case::new("ulimit -Hn; ulimit -Sn; cat /proc/self/oom_score_adj");
    case.in_users(None);
    case.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 1000}]);
    assert_eq!(case.run_for_output(), "1000\n100\n500");
}

fn clocks() {
    let mut case = Case::new("cat /proc/uptime; cat /proc/self/timens_offsets | busybox tr -s ' '");
    case.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    case.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 10_000_000, "nanosecs": 5}});
    let said = case.run_for_output();
    let uptime: f64 = said.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime >= 1e7, "{said}");
    assert!(said.contains("boottime 10000000 5"), "{said}");
    // With a user namespace, and without a shim.
    let mut case = Case::new("cat /proc/uptime");
    case.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    case.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 20_000_000}});
    case.in_users(None);
    let ran = case.run_here(&json!({}));
    assert!(
        ran.out.split('.').next().unwrap().parse::<u64>().unwrap() >= 20_000_000,
        "{}",
        ran.told
    );
    let mut wrong = Case::new("true");
    wrong.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1}});
    assert_eq!(wrong.create().unwrap_err().kind(), ErrorKind::InvalidArgument);
}

fn terminal() {
    let mut case = Case::new("busybox tty; busybox stat -c %u /dev/console; busybox stty size");
    case.options.terminal = true;
    case.spec["process"]["terminal"] = json!(true);
    case.spec["process"]["consoleSize"] = json!({"height": 33, "width": 44});
    case.in_users(None);
    assert_eq!(case.run_for_output(), "/dev/pts/0\n0\n33 44");
}

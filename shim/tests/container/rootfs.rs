//! What a container sees of files: mounts, devices, masks.

use std::fs;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change, unmount};
use serde_json::{Value, json};
use shim::{ErrorKind, Mount};

use crate::harness::{Case, Test, busybox};

pub const TESTS: &[Test] = &[
    ("volumes_are_mounted_with_their_options", volumes),
    ("a_volume_that_is_not_there_is_refused_by_name", missing_volume),
    ("masked_and_read_only_paths_are_so", masks),
    ("a_read_only_root_cannot_be_written", read_only_root),
    ("the_usual_devices_are_there_and_no_others_can_be_used", devices),
    ("mounts_of_the_host_arrive_and_only_bidirectional_ones_leave", propagation),
    ("a_read_only_tree_is_read_only_to_its_leaves", recursive_read_only),
    ("a_folder_can_be_the_root_as_it_is", plain_root),
    ("many_and_long_layers_can_be_mounted", many_layers),
    ("nothing_of_the_host_is_mounted_inside", nothing_else),
    ("sysctls_of_own_namespaces_are_set", sysctls),
];

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

impl Case {
    fn mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    fn folder(&self, name: &str) -> std::path::PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("file"), name).unwrap();
        path
    }
}

fn volumes() {
    let mut case = Case::new(
        "cat /data/file /ro/file /etc/hosts; echo; touch /data/new; touch /ro/new; echo no > /etc/hosts; \
         cat /var/run/link/file; /data/prog",
    );
    let (data, ro) = (case.folder("data"), case.folder("ro"));
    fs::copy(busybox(), data.join("prog")).unwrap();
    std::os::unix::fs::symlink(&ro, case.dir.join("link")).unwrap();
    fs::create_dir(case.image.join("var")).unwrap();
    std::os::unix::fs::symlink("/run", case.image.join("var/run")).unwrap();
    case.mount(bind(&data, "/data", &["rbind", "rprivate", "rw", "noexec"]));
    case.mount(bind(&ro, "/ro", &["rbind", "rprivate", "ro"]));
    case.mount(bind(&ro.join("file"), "/etc/hosts", &["bind", "ro"]));
    case.mount(bind(&case.dir.join("link"), "/var/run/link", &["rbind"]));
    case.run();
    let said = case.output();
    assert!(said.starts_with("datarorro\n") || said.starts_with("dataroro\n"), "{said}");
    assert!(said.contains("touch: /ro/new: Read-only file system"), "{said}");
    assert!(said.contains("/etc/hosts: Read-only file system"), "{said}");
    assert!(said.contains("/data/prog: Permission denied"), "{said}");
    assert!(data.join("new").exists() && case.dir.join("upper/run/link").exists());
}

fn missing_volume() {
    let mut case = Case::new("true");
    case.mount(bind(Path::new("/no/such/folder"), "/data", &["rbind"]));
    let refused = case.create().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert_eq!(refused.to_string(), "mount /data from /no/such/folder: no such file or directory");
    let mut case = Case::new("true");
    case.mount(json!({"destination": "/x", "type": "tmpfs", "options": ["size=nonsense"]}));
    let refused = case.create().unwrap_err().to_string();
    assert!(refused.contains("tmpfs on /x") && refused.contains("size"), "{refused}");
}

fn masks() {
    let mut case = Case::new(
        "cat /proc/timer_list | busybox wc -c; cat /proc/keys; ls /sys/firmware | busybox wc -l; \
         touch /sys/firmware/x; echo 1 > /proc/sys/kernel/core_uses_pid; echo rest",
    );
    case.run();
    let said = case.output();
    assert_eq!(said.matches("0\n").count(), 2, "{said}");
    assert_eq!(said.matches("Read-only file system").count(), 2, "{said}");
}

fn read_only_root() {
    let mut case = Case::new("touch /x; touch /dev/shm/y && echo shm; ls /x");
    case.spec["root"]["readonly"] = json!(true);
    case.run();
    let said = case.output();
    assert!(said.contains("touch: /x: Read-only file system") && said.contains("shm"), "{said}");
}

fn devices() {
    let mut case = Case::new(
        "ls -l /dev | busybox awk '{print $1,$5,$6,$NF}' | busybox sort; echo ok > /dev/null; \
         busybox head -c 4 /dev/zero | busybox wc -c; busybox mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg; ls /dev/pts",
    );
    case.spec["linux"]["devices"] = json!([{"path": "/dev/own", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8}]);
    case.run();
    let said = case.output();
    for line in [
        "crw-rw-rw- 1, 3 null",
        "crw-rw-rw- 5, 0 tty",
        "crw-rw-rw- 1, 8 random",
        "crw-r----- 1, 3 own",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    assert!(said.contains("pts/ptmx") && said.contains("/proc/self/fd"), "{said}");
    assert!(
        said.contains("\n4\n") && said.contains("/tmp/kmsg': Operation not permitted"),
        "{said}"
    );
}

fn propagation() {
    let outer = |case: &Case| {
        let volume = case.folder("volume");
        mount_bind(&volume, &volume).unwrap();
        mount_change(&volume, MountPropagationFlags::SHARED).unwrap();
        fs::create_dir_all(volume.join("in")).unwrap();
        fs::create_dir_all(volume.join("out")).unwrap();
        volume
    };
    let script =
        "echo ready; while [ ! -e /v/in/file ]; do sleep 0.02; done; echo arrived; sleep 60";
    for (option, root, leaves) in [("rslave", "rslave", false), ("rshared", "rshared", true)] {
        let mut case = Case::new(script);
        let volume = outer(&case);
        let caps = &mut case.spec["process"]["capabilities"];
        for set in ["bounding", "effective", "permitted"] {
            caps[set].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
        }
        case.spec["linux"]["rootfsPropagation"] = json!(root);
        case.mount(bind(&volume, "/v", &["rbind", option]));
        case.start();
        let data = case.folder("data");
        mount_bind(&data, volume.join("in")).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !case.output().contains("arrived") {
            assert!(std::time::Instant::now() < deadline, "{option}: {}", case.output());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let (code, _, said) = case.exec("mount", "mount -t tmpfs none /v/out && touch /v/out/file");
        assert_eq!(code, 0, "{said}");
        assert_eq!(volume.join("out/file").exists(), leaves, "{option}");
        case.block(case.shim().kill(9, true)).unwrap();
        case.block(case.shim().wait()).unwrap();
        for name in ["in", "out", ""] {
            while unmount(volume.join(name), rustix::mount::UnmountFlags::DETACH).is_ok() {}
        }
    }
}

fn recursive_read_only() {
    for (options, leaf) in [(["rbind", "ro"], true), (["rbind", "rro"], false)] {
        let mut case = Case::new("touch /v/x; touch /v/sub/x && echo leaf");
        let volume = case.folder("volume");
        let sub = case.folder("volume/sub");
        mount_bind(case.folder("data"), &sub).unwrap();
        case.mount(bind(&volume, "/v", &options));
        case.run();
        let said = case.output();
        assert!(said.contains("touch: /v/x: Read-only file system"), "{said}");
        assert_eq!(said.contains("leaf"), leaf, "{said}");
        unmount(&sub, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

fn plain_root() {
    let mut case = Case::new("touch /here; echo fine");
    case.options.rootfs = Vec::new();
    case.spec["root"]["path"] = json!(case.image);
    assert_eq!(case.run_for_output(), "fine");
    assert!(case.image.join("here").exists());

    let mut linked = Case::new("true");
    std::os::unix::fs::symlink(&linked.image, linked.dir.join("link")).unwrap();
    linked.options.rootfs = Vec::new();
    linked.spec["root"]["path"] = json!(linked.dir.join("link"));
    assert_eq!(linked.create().unwrap_err().kind(), ErrorKind::InvalidArgument);

    let mut bound = Case::new("touch /x; echo ran");
    bound.options.rootfs = vec![Mount {
        kind: "bind".to_owned(),
        source: bound.image.display().to_string(),
        options: vec!["rbind".to_owned(), "ro".to_owned()],
    }];
    assert!(bound.run_for_output().ends_with("touch: /x: Read-only file system\nran"));
}

fn many_layers() {
    let mut case = Case::new("cat /n/1 /n/150");
    let base = case.dir.join("l".repeat(200));
    let mut lower = vec![case.image.display().to_string()];
    for number in 1..=150 {
        let layer = base.join(format!("layer-{number}-{}", "x".repeat(60)));
        fs::create_dir_all(layer.join("n")).unwrap();
        fs::write(layer.join(format!("n/{number}")), format!("{number};")).unwrap();
        lower.push(layer.display().to_string());
    }
    case.options.rootfs[0].options[0] = format!("lowerdir={}", lower.join(":"));
    assert_eq!(case.run_for_output(), "1;150;");
}

fn nothing_else() {
    let mut case = Case::new("cat /proc/self/mountinfo");
    case.run();
    let said = case.output();
    let allowed = ["/", "/proc", "/dev", "/sys"];
    for line in said.lines() {
        let place = line.split(' ').nth(4).unwrap();
        assert!(
            allowed.iter().any(|a| place == *a || place.starts_with(&format!("{a}/"))),
            "{line}"
        );
    }
    assert!(said.lines().count() < 40, "{said}");
}

fn sysctls() {
    let mut case = Case::new("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced");
    case.spec["linux"]["sysctl"] =
        json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"});
    assert_eq!(case.run_for_output(), "1\n1");
    let mut host = Case::new("true");
    host.spec["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/x"});
    assert_eq!(host.create().unwrap_err().kind(), ErrorKind::InvalidArgument);
    let mut host = Case::new("true");
    host.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|ns| ns["type"] != "network");
    host.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    assert_eq!(host.create().unwrap_err().kind(), ErrorKind::InvalidArgument);
}

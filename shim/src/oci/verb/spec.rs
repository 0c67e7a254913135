//! `spec`: a spec to begin with.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::oci::args::{Flag, Order, Parsed, switch, value};
use crate::oci::launch::enter_bundle;
use crate::oci::{Context, SPEC_VERSION, Verb};
use crate::{Failure, SPEC_FILE};

const FLAGS: &[Flag] = &[value(&["bundle", "b"]), switch(&["rootless"])];

pub const VERB: Verb =
    Verb { name: "spec", usage: "[--bundle DIR]", flags: FLAGS, order: Order::Any, failed: 1, run };

fn run(_context: &Context, args: &Parsed) -> Result<u8, Failure> {
    enter_bundle(args.value("bundle").map(Path::new))?;
    let mut spec = default();
    if args.has("rootless") {
        make_rootless(&mut spec);
    }
    let fail = |error| Failure::os("write", SPEC_FILE, error);
    // One that is there is somebody's work.
    let file = OpenOptions::new().write(true).create_new(true).open(SPEC_FILE);
    writeln!(file.map_err(fail)?, "{spec:#}").map_err(fail).map(|()| 0)
}

/// A shell on a terminal, as runc's.
fn default() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut namespaces = json!([
        {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}
    ]);
    if let (true, Some(list)) =
        (Path::new("/sys/fs/cgroup/cgroup.controllers").exists(), namespaces.as_array_mut())
    {
        list.push(json!({"type": "cgroup"}));
    }
    json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm"
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "wherry",
        "mounts": mounts(),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi"
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"
            ]
        }
    })
}

fn mounts() -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    json!([
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"]
        )
    ])
}

/// With a user namespace in which the caller is root, and without what takes more than that.
fn make_rootless(spec: &mut Value) {
    let own = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = own(rustix::process::geteuid().as_raw());
    linux["gidMappings"] = own(rustix::process::getegid().as_raw());
    linux["resources"] = Value::Null;
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys", "options": options
            });
        }
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_a_spec() {
        let mut spec = default();
        let read: oci_spec::runtime::Spec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(read.mounts().as_ref().unwrap().len(), 7);
        make_rootless(&mut spec);
        spec["linux"].as_object_mut().unwrap().remove("resources");
        let read: oci_spec::runtime::Spec = serde_json::from_value(spec).unwrap();
        assert!(read.linux().as_ref().unwrap().uid_mappings().is_some());
    }
}

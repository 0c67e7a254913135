//! Create, start, wait and delete of `/bin/true` through the command lines of Wherry, crun and runc, turn by turn in one
//! run, for `hack/bench oci`.
//!
//! crun does not run where version 2's hierarchy stands beside version 1's with controllers; in a mount namespace of our
//! own it is taken away for all of them alike.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a measurement that fails shall say where")]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
use serde_json::{Value, json};

const INSIDE: &str = "WHERRY_OCI_BENCH";
const VERBS: [&str; 4] = ["create", "start", "wait", "delete"];
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// One way to run a container.
struct Side {
    name: &'static str,
    program: PathBuf,
    flags: &'static [&'static str],
    bundle: PathBuf,
    root: PathBuf,
    samples: [Vec<Duration>; 5],
}

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_none() {
        let error = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        eprintln!("unshare: {error}");
        return ExitCode::FAILURE;
    }
    let count = std::env::args().nth(1).map_or(200, |count| count.parse().unwrap());
    if Path::new(UNIFIED).is_dir() {
        unmount(UNIFIED, UnmountFlags::DETACH).unwrap();
    }
    set_child_subreaper(Some(getpid())).unwrap();
    let folder = std::env::temp_dir().join(format!("wherry-oci-bench-{}", std::process::id()));
    let mut sides = sides(&folder);
    // One that does not count: what is made once is made now.
    for side in &sides {
        let _first = side.life(0);
    }
    for number in 1..=count {
        // Each has each other before it equally often: the kernel is still taking down the namespaces of the last.
        shuffle(&mut sides, number);
        for side in &mut sides {
            let times = side.life(number);
            let total = times.iter().sum();
            let all = times.into_iter().chain([total]);
            side.samples.iter_mut().zip(all).for_each(|(samples, time)| samples.push(time));
        }
    }
    print(&mut sides, count);
    std::fs::remove_dir_all(&folder).unwrap();
    ExitCode::SUCCESS
}

/// Another order for every number, the same in every run.
fn shuffle(sides: &mut [Side], number: usize) {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    for last in (1..sides.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        sides.swap(last, (state >> 33) % (last + 1));
    }
}

fn sides(folder: &Path) -> Vec<Side> {
    let dist = std::env::var_os("WHERRY_BIN_DIR").map(PathBuf::from).unwrap_or_default();
    let sides: [(&str, &str, &[&str]); 5] = [
        ("wherry-oci", "wherry-oci", &[]),
        ("crun", "crun", &[]),
        ("runc", "runc", &[]),
        ("wherry-oci, no cgroups", "wherry-oci", &["--cgroup-manager=disabled"]),
        ("crun, no cgroups", "crun", &["--cgroup-manager=disabled"]),
    ];
    let mut found = Vec::new();
    for (number, (name, program, flags)) in sides.into_iter().enumerate() {
        let program = find(&dist, program);
        let Some(program) = program else {
            println!("SKIPPED: {name} is not installed");
            continue;
        };
        let place = folder.join(number.to_string());
        let bundle = place.join("bundle");
        make_bundle(&bundle);
        found.push(Side {
            name,
            program,
            flags,
            bundle,
            root: place.join("root"),
            samples: Default::default(),
        });
    }
    found
}

fn find(dist: &Path, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(dist.to_owned()).chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A busybox and the default spec of `runc spec`, with another command.
fn make_bundle(bundle: &Path) {
    let rootfs = bundle.join("rootfs");
    for folder in ["bin", "proc", "sys", "dev"] {
        std::fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    let busybox = std::env::var_os("WHERRY_TEST_BUSYBOX").unwrap_or_else(|| "/bin/busybox".into());
    std::fs::copy(busybox, rootfs.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", rootfs.join("bin/true")).unwrap();
    std::fs::write(bundle.join("config.json"), spec().to_string()).unwrap();
}

fn spec() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

impl Side {
    /// One container from nothing to nothing.
    fn life(&self, number: usize) -> [Duration; 4] {
        let id = format!("bench-{}-{number}", std::process::id());
        let pid_file = self.bundle.join("pid");
        let started = Instant::now();
        let bundle = ["--bundle".as_ref(), self.bundle.as_os_str()];
        let file = ["--pid-file".as_ref(), pid_file.as_os_str()];
        self.call("create", &id, &[bundle, file].concat());
        let created = started.elapsed();
        self.call("start", &id, &[]);
        let running = started.elapsed();
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap());
        let (_, status) = waitpid(pid, WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0), "{}", self.name);
        let ended = started.elapsed();
        self.call("delete", &id, &[]);
        [created, running - created, ended - running, started.elapsed() - ended]
    }

    fn call(&self, verb: &str, id: &str, args: &[&std::ffi::OsStr]) {
        let status = Command::new(&self.program)
            .arg("--root")
            .arg(&self.root)
            .args(self.flags)
            .arg(verb)
            .args(args)
            .arg(id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{} {verb}", self.name);
    }
}

fn print(sides: &mut [Side], count: usize) {
    println!("{count} times /bin/true, turn by turn; medians in ms\n");
    let verbs = VERBS.map(|verb| format!("{verb:>8}")).concat();
    println!("{:<24}{verb}{:>8}{:>8}", "", "all", "p90", verb = verbs);
    let mut medians = Vec::new();
    for side in sides {
        side.samples.iter_mut().for_each(|samples| samples.sort_unstable());
        let at = |samples: &[Duration], percent: usize| {
            samples[(samples.len() - 1) * percent / 100].as_secs_f64() * 1e3
        };
        let cells: String =
            side.samples.iter().map(|samples| format!("{:>8.2}", at(samples, 50))).collect();
        println!("{:<24}{cells}{:>8.2}", side.name, at(&side.samples[4], 90));
        medians.push((side.name, at(&side.samples[4], 50)));
    }
    let of = |name: &str| medians.iter().find(|(own, _)| *own == name).map(|(_, time)| *time);
    println!();
    for (own, other) in [
        ("wherry-oci", "crun"),
        ("wherry-oci", "runc"),
        ("wherry-oci, no cgroups", "crun, no cgroups"),
    ] {
        if let (Some(own_time), Some(time)) = (of(own), of(other)) {
            println!("{other} takes {:.2} times as long as {own}", time / own_time);
        }
    }
}

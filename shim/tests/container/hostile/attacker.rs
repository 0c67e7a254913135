//! What runs inside a container to get at a runtime's process: this program itself, started there with another role.
//!
//! It looks for processes that come into the container's PID namespace and tries, as often as it can, what a runtime's
//! process must never allow. Every line it says that begins with `FOUND` is a hole.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde_json::{Value, json};

use crate::harness::Case;

/// The argument that chooses the role.
const ROLE: &str = "--attack";
/// How far ahead of the youngest process it looks.
const AHEAD: u32 = 4;

/// Runs the role if this process has one.
pub fn role() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next()? != ROLE {
        return None;
    }
    match args.next()?.as_str() {
        "look" => look(&args.next()?),
        "write" => write(),
        role => println!("FOUND no role {role}"),
    }
    Some(ExitCode::SUCCESS)
}

impl Case {
    /// Makes the container's first process an attacker, which goes on until there is a file `/stop`.
    pub fn attack(&mut self, role: &str) {
        let mut bind = |path: &Path, to: &str| {
            let options = ["rbind", "ro"];
            let mount =
                json!({"destination": to, "type": "bind", "source": path, "options": options});
            self.spec["mounts"].as_array_mut().unwrap().push(mount);
        };
        bind(&std::env::current_exe().unwrap(), "/attacker");
        // The libraries that it needs, as the host has them.
        bind(Path::new("/usr"), "/usr");
        for name in ["lib", "lib64"] {
            let host = Path::new("/").join(name);
            match fs::read_link(&host) {
                Ok(target) => {
                    std::os::unix::fs::symlink(target, self.image.join(name)).unwrap();
                }
                Err(_) if host.exists() => bind(&host, &format!("/{name}")),
                Err(_) => {}
            }
        }
        let host =
            fs::metadata("/").map(|found| format!("{}:{}", found.dev(), found.ino())).unwrap();
        self.spec["process"]["args"] = json!(["/attacker", ROLE, role, host]);
    }

    /// Execs `args` so many times beside the attacker, ends it, and gives what it has said.
    pub fn exec_beside_attacker(&self, times: u32, args: &Value) -> String {
        while !self.output().contains("ready") {
            std::thread::sleep(Duration::from_millis(5));
        }
        for number in 0..times * 10 {
            // A busy machine may give the attacker no turn at the right moment: then there are more moments.
            if number >= times && self.output().contains("met") {
                break;
            }
            // What cannot be executed is as good: its process was there.
            drop(self.exec_args(&format!("x{number}"), args.clone()));
        }
        // The attacker may have seen it and taken the exec with it before that has ended by itself.
        let stopped = self.exec("stop", "touch /stop").0;
        assert!([0, 137].contains(&stopped), "{stopped}");
        let _exit = self.block(self.shim().wait()).unwrap();
        let said = self.output();
        println!("{}", said.lines().last().unwrap_or_default());
        said
    }
}

/// The number given last in this PID namespace (proc_loadavg(5)).
fn youngest() -> Option<u32> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().last()?.parse().ok()
}

fn stopped(started: Instant) -> bool {
    Path::new("/stop").exists() || started.elapsed() > Duration::from_secs(60)
}

/// Tries to look at new processes: their files, folders, program and memory.
fn look(host: &str) {
    let (mut last, mut tried, mut refused) = (std::process::id(), 0_u64, 0_u64);
    let started = Instant::now();
    println!("ready");
    while !stopped(started) {
        last = youngest().unwrap_or(last);
        for pid in last.saturating_sub(1).max(2)..last + AHEAD {
            let at = format!("/proc/{pid}");
            // The cheapest question first: is there somebody, and may one ask at all?
            match fs::read_link(format!("{at}/exe")) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(_) => {
                    if refused == 0 {
                        println!("met {pid}");
                    }
                    refused += 1;
                }
                Ok(program)
                    if !["/bin/", "/attacker"].iter().any(|own| program.starts_with(own)) =>
                {
                    println!("FOUND program {}", program.display());
                }
                Ok(_) => {}
            }
            tried += 1;
            let root = fs::metadata(format!("{at}/root"));
            if root.is_ok_and(|root| format!("{}:{}", root.dev(), root.ino()) == host) {
                println!("FOUND root of {pid}");
            }
            for entry in fs::read_dir(format!("{at}/fd")).into_iter().flatten().flatten() {
                let target = fs::read_link(entry.path()).unwrap_or_default();
                let target = target.to_string_lossy();
                let standard =
                    entry.file_name().to_str().is_some_and(|n| ["0", "1", "2"].contains(&n));
                let plain =
                    ["/dev/null", "pipe:", "/tmp/", ""].iter().any(|p| target.starts_with(p));
                if !(target.is_empty() || standard && plain) {
                    println!("FOUND file {} {target}", entry.path().display());
                }
            }
            // What may be traced may be written to; a program of the container's own may.
            let memory = OpenOptions::new().write(true).open(format!("{at}/mem"));
            let program = fs::read_link(format!("{at}/exe"));
            if memory.is_ok() && program.is_ok_and(|program| !program.starts_with("/bin/")) {
                println!("FOUND memory of {pid}");
            }
        }
    }
    println!("{tried} looks, {refused} refused");
}

/// Takes hold of the programs of new processes that are none of the container's, and tries to write to them later,
/// when nobody executes them any more.
fn write() {
    let (mut last, mut held) = (std::process::id(), Vec::<OwnedFd>::new());
    let started = Instant::now();
    println!("ready");
    while !stopped(started) {
        last = youngest().unwrap_or(last);
        for pid in last.saturating_sub(1).max(2)..last + AHEAD {
            let exe = format!("/proc/{pid}/exe");
            let Ok(program) = fs::read_link(&exe) else { continue };
            if ["/bin/", "/attacker"].iter().any(|own| program.starts_with(own)) || held.len() > 100
            {
                continue;
            }
            let Ok(file) = openat(CWD, &exe, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
                continue;
            };
            if held.is_empty() {
                println!("met {}", program.display());
            }
            held.push(file);
        }
        try_to_write(&held);
    }
    // Those that were busy until now.
    std::thread::sleep(Duration::from_millis(50));
    try_to_write(&held);
    println!("{} programs held", held.len());
}

fn try_to_write(held: &[OwnedFd]) {
    for file in held {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let opened: std::io::Result<File> = OpenOptions::new().write(true).open(&path);
        if opened.is_ok() {
            println!("FOUND writable {}", fs::read_link(&path).unwrap_or_default().display());
        }
    }
}

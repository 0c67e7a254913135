//! Creation without a shim, as the command line does it: this test's own binary in a role of its own.
//!
//! The role makes the container of a bundle with [`create_here`], says so in a line of JSON on standard error, starts it
//! over the socket that it waits at, and ends with its exit code.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{bind, connect, listen, recv, send, socket_with};
use serde_json::{Value, json};
use shim::Failure;
use shim::runtime::{Barrier, CreateRequest, HookKind, HookState, Parent, Stdio, create_here};
use shim::runtime::{hook, report};
use sys::process::{SingleThreaded, Wait, wait};

use crate::harness::Case;

/// Chooses the role.
pub const ROLE: &str = "WHERRY_TEST_CREATE_HERE";

/// What the role found out, and what the container wrote.
pub struct Ran {
    /// `created`, or the failure's sentence with its errno.
    pub told: Value,
    pub code: i32,
    pub out: String,
}

impl Case {
    /// Creates, starts, waits; `options` are read by [`role`].
    pub fn run_here(&mut self, options: &Value) -> Ran {
        self.options.rootfs = Vec::new();
        self.spec["root"]["path"] = json!(self.image);
        self.run_bundle_here(options)
    }

    /// As [`Case::run_here`], with the spec as it is.
    pub fn run_bundle_here(&self, options: &Value) -> Ran {
        if !self.bundle_dir.exists() {
            std::fs::create_dir_all(&self.bundle_dir).unwrap();
        }
        let text = serde_json::to_vec(&self.spec).unwrap();
        std::fs::write(self.bundle_dir.join("config.json"), text).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .env(ROLE, options.to_string())
            .env("WHERRY_TEST_ID", &self.id)
            .current_dir(&self.bundle_dir)
            .output()
            .unwrap();
        Ran::new(&output)
    }
}

impl Ran {
    fn new(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = text.lines().find_map(|line| serde_json::from_str(line).ok());
        Self {
            told: told.unwrap_or_else(|| panic!("{text}")),
            code: output.status.code().unwrap(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
        }
    }
}

/// Runs in the bundle. Options: `check_command`, `no_pivot`, `preserve_fds`, `after` (hooks that follow).
pub fn role(options: &str) -> ExitCode {
    let options: Value = serde_json::from_str(options).unwrap();
    let thread = SingleThreaded::prove().unwrap();
    let path = Path::new("start.sock");
    let listener = socket();
    bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&listener, 1).unwrap();
    let state = HookState::here(&std::env::var("WHERRY_TEST_ID").unwrap());
    let request = CreateRequest {
        parent: Parent::Caller,
        barrier: Barrier::Socket(listener),
        check_command: options["check_command"] == json!(true),
        no_pivot: options["no_pivot"] == json!(true),
        preserve_fds: u32::try_from(options["preserve_fds"].as_u64().unwrap_or(0)).unwrap(),
        env: vec!["ADDED=1".to_owned()],
        state: state.clone(),
        ..CreateRequest::default()
    };
    let namespaces = || {
        let names = ["mnt", "net", "pid", "pid_for_children", "user", "uts", "ipc"];
        names.map(|name| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap())
    };
    let before = namespaces();
    let created = create_here(&thread, request, Stdio::inherited(), |_, _| Ok(()));
    assert_eq!(namespaces(), before);
    let created = match created {
        Ok(created) => created,
        Err(failure) => {
            tell(&failure);
            return ExitCode::FAILURE;
        }
    };
    let line = socket();
    connect(&line, &SocketAddrUnix::new(path).unwrap()).unwrap();
    send(&line, &[1], rustix::net::SendFlags::empty()).unwrap();
    let _length = recv(&line, &mut [0; 1], rustix::net::RecvFlags::PEEK).unwrap();
    let started = match report::receive(&line).unwrap() {
        report::Received::Event(report::Event::Failed(failure), _) => {
            tell(&Failure::from_wire(failure));
            false
        }
        _ => {
            eprintln!("{}", json!({"created": created.cloned.pid, "start": created.start_time}));
            true
        }
    };
    let pid = created.cloned.pid;
    if started && options["after"] == json!(true) {
        let done = hook::run_after(&thread, HookKind::Poststart, &state, pid).unwrap();
        assert!(done);
    }
    let child = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
    let code = wait(child, Wait::Block).unwrap().code;
    shim::runtime::cgroup::Watch::new(&created.cloned).remove().unwrap();
    if options["after"] == json!(true) {
        let done = hook::run_after(&thread, HookKind::Poststop, &state, 0).unwrap();
        assert!(done);
    }
    ExitCode::from(u8::try_from(code).unwrap())
}

fn tell(failure: &Failure) {
    eprintln!(
        "{}",
        json!({"failure": failure.to_string(), "errno": failure.errno,
        "kind": format!("{:?}", failure.kind)})
    );
}

fn socket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

//! The builder of a container that a foreign shim makes: the shim is started as containerd starts it, and told to create.
//!
//! What a shim is told when it starts: flags, `TTRPC_ADDRESS` for its events (this shim's own socket), and its options as
//! an `Any` on standard input. What it answers: its address, as it is or in a JSON envelope (containerd's
//! core/runtime/v2/README.md).

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use prost::Message;
use prost_types::Any;
use proto::shim::runc;
use proto::shim::task::v2::{CreateTaskRequest, CreateTaskResponse};
use proto::shim::types::Mount;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;

use super::build::tell;
use super::call::attend;
use super::prepare::{self, Prepared};
use super::wire::Wire;
use super::{RUNTIME_FILE, Runtime, STATE, Shim, free, place, write};
use crate::runtime::{BuilderFiles, CreateRequest, Layer, conclude};
use crate::slice::ScopeName;
use crate::{Failure, FailureKind, SOCKET_FILE, type_name};

/// containerd's namespace, which parts what several daemons have of one shim.
pub const NAMESPACE: &str = "wherry";
/// A shim has to listen by then.
const START: Duration = Duration::from_secs(20);
/// And to have created by then.
const CREATE: Duration = Duration::from_secs(85);
/// Longest answer of a start.
const MAX_ANSWER: u64 = 64 << 10;
/// Longest path that a socket address can hold, without its final zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Annotations by which shims put the containers of a pod together. Here each has its own.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// What a shim answers that is asked for a newer protocol than we ask for.
#[derive(Debug, Deserialize)]
struct Envelope {
    address: String,
    #[serde(default)]
    protocol: String,
}

/// Where a foreign shim finds a container's standard files; empty for none.
#[derive(Debug, Default, Clone)]
pub struct Fifos {
    /// Standard input.
    pub input: String,
    /// Standard output, or a terminal.
    pub output: String,
    /// Standard error.
    pub error: String,
}

/// Makes the container and reports as the builder of a container of our own does, with a connection to the foreign shim
/// in place of a terminal; the builder's exit code.
pub fn build(
    mut shim: Shim,
    request: &CreateRequest,
    fifos: &Fifos,
    files: BuilderFiles<'_>,
) -> u8 {
    let (report, _) = match files.keep() {
        Ok(kept) => kept,
        Err(code) => return code,
    };
    let result = create(&mut shim, request, fifos).and_then(|(prepared, pid, socket)| {
        tell(&report, &prepared, pid, Some(&socket)).inspect_err(|_| drop(free::shim(&shim)))
    });
    conclude(&report, result)
}

fn create(
    shim: &mut Shim,
    request: &CreateRequest,
    fifos: &Fifos,
) -> Result<(Prepared, u32, OwnedFd), Failure> {
    let mut spec = crate::runtime::read_spec()?;
    complete_options(shim, &spec)?;
    ungroup(&mut spec);
    write(&place(RUNTIME_FILE)?, &Runtime::Shim(shim.clone()))?;
    // Only to look for the users: the shim mounts it for itself, and then writes.
    let layers: Vec<_> = request.layers.iter().map(read_only).collect();
    let prepared = prepare::prepare(request, spec, &layers)?;
    shim.address = start(shim)?;
    write(&place(RUNTIME_FILE)?, &Runtime::Shim(shim.clone()))?;
    let created = ask(shim, request, fifos);
    let (pid, socket) = created.inspect_err(|_| drop(free::shim(shim)))?;
    Ok((prepared, pid, socket))
}

fn ask(shim: &Shim, request: &CreateRequest, fifos: &Fifos) -> Result<(u32, OwnedFd), Failure> {
    let mut wire = Wire::connect(&shim.address)?;
    let mount = |layer: &Layer| Mount {
        r#type: layer.kind.clone(),
        source: layer.source.clone(),
        target: String::new(),
        options: layer.options.clone(),
    };
    let create = CreateTaskRequest {
        id: shim.id.clone(),
        bundle: place("")?.display().to_string().trim_end_matches('/').to_owned(),
        rootfs: request.layers.iter().map(mount).collect(),
        terminal: request.terminal,
        stdin: fifos.input.clone(),
        stdout: fifos.output.clone(),
        stderr: fifos.error.clone(),
        options: Some(shim.options()),
        ..CreateTaskRequest::default()
    };
    let created: CreateTaskResponse =
        wire.call("Create", &create, CREATE).map_err(|failure| match failure.kind {
            // Shims say "unknown" for whatever their runtime refuses.
            FailureKind::Internal => Failure { kind: FailureKind::StartFailed, ..failure },
            _ => failure,
        })?;
    Ok((created.pid, wire.into_socket()))
}

/// The layers as one to read from, under which the shim can have its own: an overlay's upper folder cannot be in use twice.
fn read_only(layer: &Layer) -> Layer {
    let mut layer = layer.clone();
    let value = |key: &str| {
        let prefix = format!("{key}=");
        layer.options.iter().find_map(|option| option.strip_prefix(&prefix).map(str::to_owned))
    };
    if let (Some(upper), Some(lower)) = (value("upperdir"), value("lowerdir")) {
        let written = ["upperdir=", "workdir=", "lowerdir=", "volatile"];
        layer.options.retain(|option| !written.iter().any(|begin| option.starts_with(begin)));
        layer.options.push(format!("lowerdir={upper}:{lower}"));
    }
    layer
}

/// Each container has a shim of its own, so that none is held up by another's.
fn ungroup(spec: &mut Spec) {
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    annotations.retain(|name, _| !GROUPS.contains(&name.as_str()));
    let _changed = spec.set_annotations(Some(annotations));
}

/// What the spec decides of what containerd's shim for runc is told.
fn complete_options(shim: &mut Shim, spec: &Spec) -> Result<(), Failure> {
    if !shim.options.0.ends_with(type_name::RUNC_OPTIONS) {
        return Ok(());
    }
    let mut options = runc::Options::decode(&*shim.options.1).map_err(|error| {
        let kind = FailureKind::InvalidArgument;
        Failure::new(kind, "read options of", "shim", error.to_string())
    })?;
    if options.root.is_empty() {
        options.root = place(STATE)?.display().to_string();
    }
    let cgroup = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    options.systemd_cgroup |= cgroup.and_then(Path::to_str).is_some_and(ScopeName::is_meant);
    shim.options.1 = options.encode_to_vec();
    Ok(())
}

/// Starts the shim: the address that it listens at.
fn start(shim: &Shim) -> Result<String, Failure> {
    // Shims write there and wait for a reader.
    let log = std::os::unix::fs::symlink("/dev/null", place("log")?);
    log.map_err(|e| Failure::os("make log of", "shim", e))?;
    let answer = shim.run(&["start"], Some(shim.options().encode_to_vec()), START)?;
    let text = String::from_utf8_lossy(&answer).trim().to_owned();
    let address = if text.starts_with('{') {
        let envelope: Option<Envelope> = serde_json::from_str(&text).ok();
        let spoken = |one: &Envelope| one.protocol.is_empty() || one.protocol == "ttrpc";
        envelope.filter(spoken).map(|envelope| envelope.address)
    } else {
        Some(text).filter(|text| !text.is_empty())
    };
    address.ok_or_else(|| {
        let (kind, cause) = (FailureKind::Internal, "it says no address that can be used");
        Failure::new(kind, "start", shim.name(), cause)
    })
}

impl Shim {
    /// What it is told with a create, and when it is started.
    pub fn options(&self) -> Any {
        Any { type_url: self.options.0.clone(), value: self.options.1.clone() }
    }

    /// The name of the program, for messages.
    fn name(&self) -> String {
        self.binary.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Runs the program to its end as containerd does: what it has written.
    ///
    /// # Errors
    /// It cannot be executed, takes too long, or says why it did not succeed.
    pub fn run(
        &self,
        action: &[&str],
        input: Option<Vec<u8>>,
        patience: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let fail = |error| Failure::os("run", self.name(), error);
        let folder = place("")?;
        let events = events_socket(&folder);
        let memory = || Ok(File::from(memfd_create(c"shim", MemfdFlags::CLOEXEC)?));
        let [mut said, mut output, mut error] =
            [memory(), memory(), memory()].map(|made: std::io::Result<File>| made.map_err(fail));
        let input = input.unwrap_or_default();
        let mut said = said.as_mut().map_err(|failure| failure.clone())?;
        std::io::Write::write_all(&mut said, &input).and_then(|()| said.rewind()).map_err(fail)?;
        let copy = |file: &Result<File, Failure>| match file {
            Ok(file) => file.try_clone().map_err(fail),
            Err(failure) => Err(failure.clone()),
        };
        let mut child = Program::new(&self.binary)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("TTRPC_ADDRESS", &events)
            .env("GRPC_ADDRESS", &events)
            .env("MAX_SHIM_VERSION", "2")
            .env("GOMAXPROCS", "2")
            .args(["-namespace", NAMESPACE, "-address"])
            .arg(&events)
            .args(["-publish-binary", "/bin/false", "-id", &self.id, "-bundle"])
            .arg(&folder)
            .args(action)
            .current_dir(&folder)
            .stdin(Stdio::from(said.try_clone().map_err(fail)?))
            .stdout(Stdio::from(copy(&output)?))
            .stderr(Stdio::from(copy(&error)?))
            .spawn()
            .map_err(fail)?;
        let _ended = attend(&mut child, Instant::now() + patience, None).map_err(fail)?;
        let status = child.wait().map_err(fail)?;
        let read = |file: &mut Result<File, Failure>| {
            let mut bytes = Vec::new();
            if let Ok(file) = file
                && file.rewind().is_ok()
            {
                drop(file.take(MAX_ANSWER).read_to_end(&mut bytes));
            }
            bytes
        };
        if status.success() {
            return Ok(read(&mut output));
        }
        let words = String::from_utf8_lossy(&read(&mut error)).trim().to_owned();
        let cause = if words.is_empty() { status.to_string() } else { words };
        Err(Failure::new(FailureKind::Internal, "run", self.name(), cause))
    }
}

/// This shim's own socket, by a name that fits into an address: shims stay in the folder that they are started in.
fn events_socket(folder: &Path) -> PathBuf {
    let whole = folder.parent().map(|bundle| bundle.join(SOCKET_FILE));
    let short = whole.filter(|path| path.as_os_str().len() <= MAX_SOCKET_PATH);
    short.unwrap_or_else(|| Path::new("..").join(SOCKET_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_go_to_the_socket_of_the_bundle() {
        let socket = events_socket(Path::new("/run/wherry/containers/x/foreign/"));
        assert_eq!(socket, Path::new("/run/wherry/containers/x/shim.sock"));
        let long = format!("/{}/foreign/", "y".repeat(200));
        assert_eq!(events_socket(Path::new(&long)), Path::new("../shim.sock"));
    }

    #[test]
    fn an_overlay_to_read_has_all_layers_and_nothing_to_write() {
        let layer = Layer {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: ["lowerdir=/2:/1", "upperdir=/u", "workdir=/w", "volatile", "nodev"]
                .map(str::to_owned)
                .to_vec(),
        };
        assert_eq!(read_only(&layer).options, ["nodev", "lowerdir=/u:/2:/1"]);
        let bind = Layer { kind: "bind".to_owned(), source: "/x".to_owned(), options: Vec::new() };
        assert!(read_only(&bind).options.is_empty());
    }
}

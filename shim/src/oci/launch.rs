//! A container from its bundle: what `create` and `run` have in common.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{Access, access};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use sys::process::SingleThreaded;

use super::args::{Flag, Parsed, switch, value};
use super::console;
use super::global::{Cgroups, Global};
use super::id::ContainerId;
use super::record::{Init, Record};
use super::store::{Folder, Store};
use crate::log::Stamp;
use crate::runtime::{Barrier, CreateRequest, HookState, Parent, Stdio, create_here};
use crate::{Failure, FailureKind};

/// Flags of both verbs.
pub const FLAGS: [Flag; 7] = [
    value(&["bundle", "b"]),
    value(&["console-socket"]),
    value(&["pidfd-socket"]),
    value(&["pid-file"]),
    switch(&["no-pivot"]),
    switch(&["no-new-keyring"]),
    value(&["preserve-fds"]),
];

/// A container whose process waits for its start. Its folder is locked.
#[derive(Debug)]
pub struct Launched {
    /// Its folder.
    pub folder: Folder,
    /// What is written down of it.
    pub record: Record,
    /// Its process.
    pub init: Init,
    /// Its terminal's master, if nobody else was given it.
    pub terminal: Option<OwnedFd>,
}

/// Whether the caller stays with the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It does: a terminal is the caller's own.
    Attached,
    /// It does not: a terminal goes to somebody else.
    Detached,
}

/// Creates a container.
///
/// # Errors
/// As the arguments, the spec or the kernel has it; then nothing is left.
pub fn launch(
    thread: &SingleThreaded,
    global: &Global,
    args: &Parsed,
    stay: Stay,
) -> Result<Launched, Failure> {
    let id = ContainerId::parse(args.only()?)?;
    let preserve_fds = inherited_files(args)?;
    let pid_file = args.value("pid-file").map(std::path::absolute).transpose();
    let pid_file = pid_file.map_err(|e| Failure::os("find", "pid file", e))?;
    let console = args.value("console-socket").map(Path::new).map(console::connect).transpose()?;
    let pidfd = args.value("pidfd-socket").map(Path::new).map(console::connect).transpose()?;
    let root = std::path::absolute(&global.root).map_err(|e| Failure::os("find", "root", e))?;
    let bundle = enter_bundle(args.value("bundle").map(Path::new))?;
    let folder = Store::new(&root).create(&id)?;
    let made = Launch { thread, global, stay, console, folder: &folder, bundle }
        .make(args, preserve_fds)
        .and_then(|(record, init, terminal)| {
            let told = tell(&init, pid_file.as_deref(), pidfd.as_ref());
            told.inspect_err(|_| super::end::clear(&init)).map(|()| (record, init, terminal))
        });
    match made {
        Ok((record, init, terminal)) => Ok(Launched { folder, record, init, terminal }),
        Err(failure) => {
            // What is told is why the container was not made.
            let _left = folder.remove();
            Err(failure)
        }
    }
}

/// Changes into the bundle, and says where that is.
///
/// # Errors
/// There is no such folder, or no spec in it.
pub fn enter_bundle(bundle: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(bundle) = bundle {
        rustix::process::chdir(bundle)
            .map_err(|e| Failure::os("change folder to", bundle.display().to_string(), e))?;
    }
    std::env::current_dir().map_err(|e| Failure::os("find", "bundle", e))
}

struct Launch<'a> {
    thread: &'a SingleThreaded,
    global: &'a Global,
    stay: Stay,
    console: Option<OwnedFd>,
    folder: &'a Folder,
    bundle: PathBuf,
}

impl Launch<'_> {
    fn make(
        self,
        args: &Parsed,
        (preserve_fds, env): (u32, Vec<String>),
    ) -> Result<(Record, Init, Option<OwnedFd>), Failure> {
        let Self { thread, global, stay, console, folder, bundle } = self;
        let mut record = Record {
            id: folder.id().to_string(),
            created: String::from_utf8_lossy(Stamp::now().as_bytes()).into_owned(),
            bundle: bundle.clone(),
            ..Record::default()
        };
        let request = CreateRequest {
            parent: Parent::Caller,
            barrier: Barrier::Socket(start_socket(folder)?),
            console,
            preserve_fds,
            no_pivot: args.has("no-pivot"),
            new_keyring: !args.has("no-new-keyring"),
            check_command: true,
            env,
            state: HookState { id: folder.id().to_string(), bundle },
            private: folder.path().to_owned(),
            oom_score_adj: own_oom_score_adj(),
            ..CreateRequest::default()
        };
        let created = create_here(thread, request, Stdio::inherited(), |spec, request| {
            request.terminal = wants_terminal(spec, stay, request.console.is_some())?;
            place(spec, folder.id(), global.cgroups);
            record.learn(spec);
            // Whatever happens from here on, who deletes the container knows what to look for.
            folder.write(&record)
        })?;
        let init = Init::new(created.cloned, created.start_time);
        record.init = Some(init.clone());
        match folder.write(&record) {
            Ok(()) => Ok((record, init, created.terminal)),
            Err(failure) => {
                super::end::clear(&init);
                Err(failure)
            }
        }
    }
}

impl Record {
    /// What of the spec is needed later on.
    fn learn(&mut self, spec: &Spec) {
        let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        spec.version().clone_into(&mut self.oci_version);
        self.rootfs = self.bundle.join(root);
        self.annotations =
            spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
        self.cgroup_path = path.map(|path| path.display().to_string());
        let is_some = |list: Option<&Vec<_>>| list.is_some_and(|list| !list.is_empty());
        let hooks = spec.hooks().as_ref();
        self.poststart = is_some(hooks.and_then(|hooks| hooks.poststart().as_ref()));
        self.poststop = is_some(hooks.and_then(|hooks| hooks.poststop().as_ref()));
    }
}

/// The socket that the process waits at. Bound in a folder that is closed to others.
fn start_socket(folder: &Folder) -> Result<OwnedFd, Failure> {
    let fail = |error: rustix::io::Errno| Failure::os("listen for", "start", error);
    let kind = SocketType::SEQPACKET;
    let socket =
        socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map_err(fail)?;
    let address = SocketAddrUnix::new(folder.start_socket()).map_err(fail)?;
    bind(&socket, &address).and_then(|()| listen(&socket, 1)).map_err(fail)?;
    Ok(socket)
}

/// The files above standard error that the container is to have, and the variables that tell it of them
/// (sd_listen_fds(3)).
///
/// # Errors
/// `InvalidArgument`: one is not open.
pub fn inherited_files(args: &Parsed) -> Result<(u32, Vec<String>), Failure> {
    let mut count: u32 = args.number("preserve-fds")?.unwrap_or(0);
    let mut env = Vec::new();
    let listen: Option<u32> =
        std::env::var("LISTEN_FDS").ok().and_then(|text| text.parse().ok()).filter(|n| *n > 0);
    if let Some(listen) = listen {
        count = count.saturating_add(listen);
        env = vec![format!("LISTEN_FDS={listen}"), "LISTEN_PID=1".to_owned()];
        env.extend(std::env::var("LISTEN_FDNAMES").map(|names| format!("LISTEN_FDNAMES={names}")));
    }
    for number in 3..count.saturating_add(3) {
        if access(format!("/proc/self/fd/{number}"), Access::EXISTS).is_err() {
            let object = format!("file {number}");
            let cause = "it is not open";
            return Err(Failure::new(FailureKind::InvalidArgument, "preserve", object, cause));
        }
    }
    Ok((count, env))
}

fn wants_terminal(spec: &Spec, stay: Stay, socket: bool) -> Result<bool, Failure> {
    let process = spec.process().as_ref();
    let terminal = process.and_then(|process| process.terminal()).unwrap_or(false);
    console::check(terminal, stay, socket)?;
    Ok(terminal)
}

/// Where its cgroups are to be: a container has its own, asked for or not.
fn place(spec: &mut Spec, id: &ContainerId, cgroups: Cgroups) {
    let Some(linux) = spec.linux_mut() else { return };
    let asked = linux.cgroups_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    match cgroups {
        Cgroups::None => {
            linux.set_cgroups_path(None);
        }
        Cgroups::Folders if !asked => {
            linux.set_cgroups_path(Some(Path::new("/").join(id.as_str())));
        }
        Cgroups::Systemd if !asked => {
            linux.set_cgroups_path(Some(format!("system.slice:wherry:{id}").into()));
        }
        _ => {}
    }
}

/// Tells those who asked which process it is.
fn tell(init: &Init, pid_file: Option<&Path>, pidfd: Option<&OwnedFd>) -> Result<(), Failure> {
    if let Some(path) = pid_file {
        write_pid_file(path, init.pid)?;
    }
    let Some(socket) = pidfd else { return Ok(()) };
    match init.open()? {
        Some(process) => console::send_file(socket, b"pidfd", &process.handle),
        None => Ok(()),
    }
}

/// Writes a process's number, as one step for whoever watches the file.
///
/// # Errors
/// The kernel refuses.
pub fn write_pid_file(path: &Path, pid: u32) -> Result<(), Failure> {
    let fail = |error| Failure::os("write", path.display().to_string(), error);
    let mut draft = path.file_name().unwrap_or_default().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(draft);
    fs::write(&draft, pid.to_string())
        .and_then(|()| fs::rename(&draft, path))
        .inspect_err(|_| drop(fs::remove_file(&draft)))
        .map_err(fail)
}

/// What whoever calls has: what containers and execs get that do not say.
pub fn own_oom_score_adj() -> i32 {
    let text = fs::read_to_string("/proc/self/oom_score_adj").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_cgroups_of_its_own_asked_for_or_not() {
        let id = ContainerId::parse("c".as_ref()).unwrap();
        let path = |cgroups| {
            let mut spec = Spec::default();
            place(&mut spec, &id, cgroups);
            spec.linux().as_ref().unwrap().cgroups_path().clone()
        };
        assert_eq!(path(Cgroups::Folders), Some("/c".into()));
        assert_eq!(path(Cgroups::Systemd), Some("system.slice:wherry:c".into()));
        assert_eq!(path(Cgroups::None), None);
    }
}

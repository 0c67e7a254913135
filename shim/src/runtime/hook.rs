//! Hooks: programs of whoever configures the node, run at fixed points of a container's life (OCI runtime-spec,
//! config.md, "POSIX-platform Hooks").
//!
//! | kind | run by | sees |
//! |---|---|---|
//! | prestart, createRuntime | the builder, while the process waits | the runtime's namespaces |
//! | createContainer | the container's process before the root changes | its namespaces, the host's files too |
//! | startContainer | the same, as the container's user, just before its command | the container only |
//! | poststart, poststop | [`start_after`] | the runtime's namespaces |

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{Failure, FailureKind};
use oci_spec::runtime::{Hook, Hooks as SpecHooks, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use sys::process::{SingleThreaded, StandardFile, Wait, close_on_exec_from, reset_signals};
use sys::process::{set_standard, wait};

use super::create::read_spec;
use super::limit::warn;

/// How much of a failed hook's last words are told.
const MAX_WORDS: u64 = 512;

/// What hooks are told of a container beyond its spec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HookState {
    /// The container's name.
    pub id: String,
    /// Its bundle, absolute.
    pub bundle: PathBuf,
}

impl HookState {
    /// Of the bundle that is this process's folder.
    #[must_use]
    pub fn here(id: &str) -> Self {
        let bundle = std::env::current_dir().unwrap_or_default();
        Self { id: id.to_owned(), bundle }
    }
}

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// As `CreateRuntime`, before it; deprecated.
    Prestart,
    /// When the container's namespaces and mounts are there, and before its root changes.
    CreateRuntime,
    /// After `CreateRuntime`, inside the container's namespaces.
    CreateContainer,
    /// At the start, before the command.
    StartContainer,
    /// After the start.
    Poststart,
    /// After the container was deleted.
    Poststop,
}

impl HookKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart hook",
            Self::CreateRuntime => "createRuntime hook",
            Self::CreateContainer => "createContainer hook",
            Self::StartContainer => "startContainer hook",
            Self::Poststart => "poststart hook",
            Self::Poststop => "poststop hook",
        }
    }

    const fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }

    fn list(self, hooks: &SpecHooks) -> &[Hook] {
        match self {
            Self::Prestart => {
                // The only place that still reads the deprecated list.
                #[allow(deprecated)]
                hooks.prestart()
            }
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        }
        .as_deref()
        .unwrap_or_default()
    }
}

/// A container's hooks and what they are told.
#[derive(Debug, Clone)]
pub struct Hooks {
    spec: SpecHooks,
    state: Value,
}

impl Hooks {
    /// The hooks of a spec, if it has any.
    ///
    /// # Errors
    /// `InvalidArgument`: a path that is not absolute, or a time that is none.
    pub fn new(spec: &Spec, state: &HookState) -> Result<Option<Box<Self>>, Failure> {
        let Some(hooks) = spec.hooks() else { return Ok(None) };
        let kinds = [
            HookKind::Prestart,
            HookKind::CreateRuntime,
            HookKind::CreateContainer,
            HookKind::StartContainer,
            HookKind::Poststart,
            HookKind::Poststop,
        ];
        for kind in kinds {
            kind.list(hooks).iter().try_for_each(|hook| check(kind, hook))?;
        }
        let mut all = json!({
            "ociVersion": spec.version(),
            "id": state.id,
            "bundle": state.bundle,
        });
        if let Some(annotations) = spec.annotations() {
            all["annotations"] = json!(annotations);
        }
        Ok(Some(Box::new(Self { spec: hooks.clone(), state: all })))
    }

    /// Whether there are hooks for the builder.
    pub fn has_runtime(&self) -> bool {
        self.has(HookKind::Prestart) || self.has(HookKind::CreateRuntime)
    }

    /// Whether there are hooks inside the container's namespaces.
    pub fn has_container(&self) -> bool {
        self.has(HookKind::CreateContainer)
    }

    /// Whether there are hooks at the start.
    pub fn has_start(&self) -> bool {
        self.has(HookKind::StartContainer)
    }

    /// Whether there are hooks that follow the start or the end.
    pub fn has_later(&self) -> bool {
        self.has(HookKind::Poststart) || self.has(HookKind::Poststop)
    }

    fn has(&self, kind: HookKind) -> bool {
        !kind.list(&self.spec).is_empty()
    }

    /// Runs the hooks of a kind, one after the other, up to the first that fails.
    ///
    /// # Errors
    /// One could not be run, ended with anything but zero, or took too long.
    pub fn run(&self, thread: &SingleThreaded, kind: HookKind, pid: u32) -> Result<(), Failure> {
        let hooks = kind.list(&self.spec);
        if hooks.is_empty() {
            return Ok(());
        }
        let state = self.state(kind, pid);
        hooks.iter().try_for_each(|hook| run_one(thread, kind, hook, &state))
    }

    /// Runs all hooks of a kind, whatever becomes of each, and tells the first failure.
    fn run_all(&self, thread: &SingleThreaded, kind: HookKind, pid: u32) -> Result<(), Failure> {
        let state = self.state(kind, pid);
        let mut result = Ok(());
        for hook in kind.list(&self.spec) {
            let done = run_one(thread, kind, hook, &state);
            if let Err(failure) = &done {
                warn(format_args!("{failure}"));
            }
            result = result.and(done);
        }
        result
    }

    /// The state as JSON, as `state` of the command line gives it.
    fn state(&self, kind: HookKind, pid: u32) -> Vec<u8> {
        let mut state = self.state.clone();
        state["status"] = json!(kind.status());
        if pid != 0 {
            state["pid"] = json!(pid);
        }
        state.to_string().into_bytes()
    }
}

/// Forks a child that reads the spec in this process's folder, runs the hooks that follow a start or an end, and ends
/// with 0 when none failed. The caller waits for it; what failed is on standard error already. `pid` is the container's
/// process, 0 when it is no more.
///
/// # Errors
/// There cannot be another process.
pub fn start_after(
    thread: &SingleThreaded,
    kind: HookKind,
    state: &HookState,
    pid: u32,
) -> std::io::Result<Pid> {
    thread.fork(|| {
        let hooks = read_spec().and_then(|spec| Hooks::new(&spec, state));
        let done =
            hooks.and_then(|hooks| hooks.map_or(Ok(()), |hooks| hooks.run_all(thread, kind, pid)));
        u8::from(done.is_err())
    })
}

/// As [`start_after`], and waits for the end: whether none of the hooks failed.
///
/// # Errors
/// There cannot be another process.
pub fn run_after(
    thread: &SingleThreaded,
    kind: HookKind,
    state: &HookState,
    pid: u32,
) -> std::io::Result<bool> {
    let child = start_after(thread, kind, state, pid)?;
    Ok(wait(Some(child), Wait::Block).is_some_and(|ended| ended.code == 0))
}

fn check(kind: HookKind, hook: &Hook) -> Result<(), Failure> {
    let invalid = |cause| {
        let object = format!("{} {}", kind.name(), hook.path().display());
        Failure::new(FailureKind::InvalidArgument, "use", object, cause)
    };
    if !hook.path().is_absolute() {
        return Err(invalid("its path is not absolute"));
    }
    if hook.timeout().is_some_and(|timeout| timeout <= 0) {
        return Err(invalid("its timeout is not above zero"));
    }
    Ok(())
}

fn run_one(
    thread: &SingleThreaded,
    kind: HookKind,
    hook: &Hook,
    state: &[u8],
) -> Result<(), Failure> {
    let object = || format!("{} {}", kind.name(), hook.path().display());
    let fail = |error: std::io::Error| Failure::os("run", object(), error);
    let refuse = |cause: String| Failure::new(FailureKind::Internal, "run", object(), cause);
    let command = Command::new(hook).ok_or_else(|| refuse("contains a zero byte".to_owned()))?;
    let file = |name| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
    let mut input = file(c"state").map_err(|e| fail(e.into()))?;
    input.write_all(state).and_then(|()| input.rewind()).map_err(fail)?;
    let mut output = file(c"output").map_err(|e| fail(e.into()))?;
    let child = thread.fork(|| command.execute(&input, &output)).map_err(fail)?;
    let deadline = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let in_time = deadline.map_or(Ok(true), |seconds| watch(child, Duration::from_secs(seconds)));
    let ended = wait(Some(child), Wait::Block);
    match (in_time.map_err(|e| fail(e.into()))?, ended.map(|ended| ended.code)) {
        (true, Some(0)) => Ok(()),
        (false, _) => Err(refuse(format!("it was killed after {} s", hook.timeout().unwrap_or(0)))),
        (true, code) => {
            let code = code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
            Err(refuse(format!("exit code {code}{}", last_words(&mut output))))
        }
    }
}

/// Waits for the child's end, and kills it when it takes too long. Whether it ended by itself.
fn watch(child: Pid, limit: Duration) -> Result<bool, Errno> {
    let process = pidfd_open(child, PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                pidfd_send_signal(&process, Signal::KILL)?;
                return Ok(false);
            }
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn last_words(output: &mut File) -> String {
    let mut words = Vec::new();
    let length = output.metadata().map_or(0, |found| found.len());
    let from = SeekFrom::Start(length.saturating_sub(MAX_WORDS));
    let read = output.seek(from).and_then(|_| output.take(MAX_WORDS).read_to_end(&mut words));
    let words = String::from_utf8_lossy(&words);
    match (read, words.trim()) {
        (Ok(_), words) if !words.is_empty() => format!(": {words}"),
        _ => String::new(),
    }
}

/// A hook's program in the kernel's form.
struct Command {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    fn new(hook: &Hook) -> Option<Self> {
        let texts = |list: &Option<Vec<String>>| {
            let texts = list.iter().flatten().map(|text| CString::new(text.as_str()).ok());
            texts.collect::<Option<Vec<_>>>()
        };
        let path = path(hook.path())?;
        let mut args = texts(hook.args())?;
        if args.is_empty() {
            args.push(path.clone());
        }
        Some(Self { path, args, env: texts(hook.env())? })
    }

    /// In the fresh child. Returns only when it cannot be executed.
    fn execute(&self, input: &File, output: &File) -> u8 {
        let files = [
            (input, StandardFile::Input),
            (output, StandardFile::Output),
            (output, StandardFile::Error),
        ];
        for (file, number) in files {
            if set_standard(file.as_fd(), number).is_err() {
                return 126;
            }
        }
        let _old = rustix::process::umask(Mode::from_raw_mode(0o022));
        reset_signals();
        if close_on_exec_from(3).is_err() {
            return 126;
        }
        let error = match nix::unistd::execve(&self.path, &self.args, &self.env) {
            Err(error) => error,
            Ok(never) => match never {},
        };
        eprintln!("{}", error.desc());
        127
    }
}

fn path(path: &Path) -> Option<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(json: Value) -> Result<Option<Box<Hooks>>, Failure> {
        let spec = json!({"ociVersion": "1.3.0", "hooks": json, "annotations": {"a": "b"}});
        let spec = serde_json::from_value(spec).unwrap();
        Hooks::new(&spec, &HookState { id: "x".to_owned(), bundle: "/b".into() })
    }

    #[test]
    fn a_hook_is_told_the_state_of_its_container() {
        let hooks = hooks(json!({"poststop": [{"path": "/bin/true"}]})).unwrap().unwrap();
        assert!(!hooks.has_runtime() && !hooks.has_container() && !hooks.has_start());
        let state: Value = serde_json::from_slice(&hooks.state(HookKind::Poststop, 0)).unwrap();
        assert_eq!(
            state,
            json!({"ociVersion": "1.3.0", "id": "x", "bundle": "/b",
            "status": "stopped", "annotations": {"a": "b"}})
        );
        let state: Value = serde_json::from_slice(&hooks.state(HookKind::Prestart, 7)).unwrap();
        assert_eq!((&state["pid"], &state["status"]), (&json!(7), &json!("creating")));
    }

    #[test]
    fn hooks_that_cannot_be_run_are_refused_before_anything_is_done() {
        for wrong in [json!({"path": "true"}), json!({"path": "/bin/true", "timeout": 0})] {
            let refused = hooks(json!({"createRuntime": [wrong]})).unwrap_err();
            assert_eq!(refused.kind, FailureKind::InvalidArgument);
        }
    }
}

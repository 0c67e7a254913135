//! One call of a runtime's command line: started, waited for within a deadline, and its refusal turned into an error.
//!
//! The form is the one that containerd relies on (`--root`, `--log`, `--log-format json`, and the verbs with their flags).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;

use super::{Command, FOLDER, LOG, STATE, place};
use crate::runtime::stdio::Stdio as Files;
use crate::{Failure, FailureKind};

/// What of a runtime's log is read: the end, where the reason is.
const MAX_LOG: u64 = 64 << 10;
/// Where runtimes look for their helpers, and hooks for programs.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A call in the making.
#[derive(Debug)]
pub struct Call<'a> {
    runtime: &'a Command,
    verb: &'static str,
    args: Vec<OsString>,
    after: Vec<OsString>,
    files: Files,
    kind: FailureKind,
    patience: Duration,
}

/// One line of a runtime's log.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

impl<'a> Call<'a> {
    /// A call of a verb, which may take so long.
    pub fn new(runtime: &'a Command, verb: &'static str, patience: Duration) -> Self {
        Self {
            runtime,
            verb,
            args: Vec::new(),
            after: Vec::new(),
            files: Files::default(),
            kind: FailureKind::Internal,
            patience,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds an argument behind the container's name.
    pub fn after(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.after.push(arg.as_ref().to_owned());
        self
    }

    /// What the runtime has as its standard files, and passes on.
    pub fn files(mut self, files: Files) -> Self {
        self.files = files;
        self
    }

    /// Who must act when the runtime refuses.
    pub fn failing_as(mut self, kind: FailureKind) -> Self {
        self.kind = kind;
        self
    }

    /// Makes the call and waits for its end.
    ///
    /// # Errors
    /// What the runtime says, that it cannot be executed, or that it takes too long.
    pub fn run(self) -> Result<(), Failure> {
        self.start()?.finish()
    }

    /// Begins the call.
    ///
    /// # Errors
    /// The runtime cannot be executed.
    pub fn start(mut self) -> Result<Running<'a>, Failure> {
        let runtime = self.runtime;
        let log = place(LOG)?;
        drop(fs::remove_file(&log));
        let mut command = std::process::Command::new(&runtime.path);
        command.env_clear().env("PATH", SEARCH_PATH).current_dir(place("")?).args(&runtime.args);
        command
            .arg("--root")
            .arg(place(STATE)?)
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json"]);
        if runtime.systemd {
            command.arg("--systemd-cgroup");
        }
        command.arg(self.verb).args(&self.args).arg(&runtime.id).args(&self.after);
        let Files { input, output, error } = std::mem::take(&mut self.files);
        let file = |file: Option<OwnedFd>| file.map_or_else(Stdio::null, Stdio::from);
        command.stdin(file(input)).stdout(file(output)).stderr(file(error));
        let fail = |error| Failure::os("execute", runtime.path.display().to_string(), error);
        let child = command.spawn().map_err(fail)?;
        let deadline = Instant::now() + self.patience;
        Ok(Running { runtime, verb: self.verb, kind: self.kind, child, deadline })
    }
}

/// A call that was begun.
#[derive(Debug)]
pub struct Running<'a> {
    runtime: &'a Command,
    verb: &'static str,
    kind: FailureKind,
    child: Child,
    deadline: Instant,
}

impl Running<'_> {
    /// Waits until the runtime has ended, or until `other` can be read: whether it can.
    ///
    /// # Errors
    /// The kernel refuses, or it takes too long.
    pub fn wait_for(&mut self, other: Option<&OwnedFd>) -> Result<bool, Failure> {
        let object = self.object();
        attend(&mut self.child, self.deadline, other)
            .map_err(|error| Failure::os(self.verb, object, error))
    }

    /// Waits for the end of the call.
    ///
    /// # Errors
    /// As [`Call::run`].
    pub fn finish(mut self) -> Result<(), Failure> {
        let _ended = self.wait_for(None)?;
        let status = self.child.wait().map_err(|e| Failure::os("wait for", "runtime", e))?;
        if status.success() {
            return Ok(());
        }
        let cause = reason(&Path::new(FOLDER).join(LOG)).unwrap_or_else(|| status.to_string());
        Err(Failure::new(self.kind, self.verb, self.object(), cause))
    }

    fn object(&self) -> String {
        format!("container with {}", self.runtime.name())
    }
}

/// Waits until a child has ended, or until `other` can be read: whether it can. A child that takes too long is killed.
///
/// # Errors
/// `TimedOut`, or the kernel refuses.
pub fn attend(child: &mut Child, deadline: Instant, other: Option<&OwnedFd>) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(false) };
    // It is our child and nobody else takes it: the number is its own.
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(patience) = Timespec::try_from(left).ok().filter(|_| !left.is_zero()) else {
            drop(child.kill());
            drop(child.wait());
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the runtime takes too long"));
        };
        let mut files = vec![PollFd::new(&handle, PollFlags::IN)];
        files.extend(other.map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)));
        match poll(&mut files, Some(&patience)) {
            Err(Errno::INTR) | Ok(0) => {}
            Err(error) => return Err(error.into()),
            // What the other has to say counts also when the runtime has ended meanwhile.
            Ok(_) => return Ok(files.get(1).is_some_and(|file| !file.revents().is_empty())),
        }
    }
}

/// The last error in a runtime's log.
fn reason(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG))).ok()?;
    let mut text = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut text).ok()?;
    last_error(&String::from_utf8_lossy(&text))
}

fn last_error(text: &str) -> Option<String> {
    let mut lines = text.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let error = lines.find(|line| line.level == "error" || line.level == "fatal")?;
    let plain = error.msg.split_whitespace().collect::<Vec<_>>().join(" ");
    (!plain.is_empty()).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_the_reason() {
        let log = "{\"level\":\"warning\",\"msg\":\"x\"}\n\
            {\"level\":\"error\",\"msg\":\"runc create failed: no\\nsuch file\",\"time\":\"t\"}\nnot json\n";
        assert_eq!(last_error(log).unwrap(), "runc create failed: no such file");
        assert_eq!(last_error("{\"level\":\"info\",\"msg\":\"x\"}"), None);
        assert_eq!(last_error(""), None);
    }
}

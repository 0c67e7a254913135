//! The process itself: what it is to be, and the last steps until it is.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::{Failure, FailureKind};
use oci_spec::runtime::{PosixRlimit, Process as SpecProcess};
use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::termios::Winsize;
use sys::confined::Root;
use sys::process::{close_on_exec_from, restore_signals};

use super::capability::Capabilities;
use super::label::Labels;
use super::limit;
use super::procfs::Procfs;
use super::schedule::{Affinity, Attributes};
use super::seccomp::Filter;
use super::stdio::Stdio;
use super::target;
use super::user::{Identity, Request, Resolved};

/// Where a command without a slash is looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a process is to be, as its spec says.
#[derive(Debug)]
pub struct Plan {
    args: Vec<CString>,
    env: Vec<String>,
    cwd: PathBuf,
    user: Request,
    capabilities: Capabilities,
    limits: Vec<PosixRlimit>,
    no_new_privileges: bool,
    /// How soon the kernel kills it when memory runs out; inherited from whoever sets it.
    pub oom_score_adj: Option<i32>,
    /// The system calls that it may make.
    pub seccomp: Option<Filter>,
    umask: u32,
    /// Files above standard error that stay open.
    pub preserve_fds: u32,
    /// Standard error is the process's own already: no word of the runtime's may go there.
    pub quiet: bool,
    /// What its command is labelled with.
    pub labels: Labels,
    /// What it is to the schedulers.
    pub attributes: Attributes,
    /// On which CPUs it runs, if it is an exec.
    pub affinity: Affinity,
    /// The terminal's size in characters, if the spec says one.
    pub console_size: Option<Winsize>,
}

/// A process with everything found in the image: only the command itself is left.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    env: Vec<CString>,
    /// Whom it will run as.
    pub identity: Identity,
}

impl Plan {
    /// Reads a process's spec; `user` replaces the one in it.
    ///
    /// # Errors
    /// `InvalidArgument`, or `Unsupported` for what this runtime cannot do.
    pub fn new(spec: &SpecProcess, user: Option<Request>) -> Result<Self, Failure> {
        let invalid = |object: &str, cause: &'static str| {
            Failure::new(FailureKind::InvalidArgument, "read process", object, cause)
        };
        let text = |text: &String| {
            CString::new(text.as_str()).map_err(|_| invalid(text, "contains a zero byte"))
        };
        let args: Vec<_> = spec.args().iter().flatten().map(text).collect::<Result<_, _>>()?;
        if args.first().is_none_or(|command| command.is_empty()) {
            return Err(invalid("args", "there is no command"));
        }
        let cwd = spec.cwd().clone();
        if !cwd.is_absolute() {
            return Err(invalid(&cwd.display().to_string(), "cwd must be absolute"));
        }
        let own = Request::Numbers(Identity {
            uid: spec.user().uid(),
            gid: spec.user().gid(),
            groups: spec.user().additional_gids().clone().unwrap_or_default(),
        });
        Ok(Self {
            args,
            env: spec.env().clone().unwrap_or_default(),
            cwd,
            user: user.unwrap_or(own),
            capabilities: Capabilities::new(spec.capabilities().as_ref())?,
            limits: spec.rlimits().clone().unwrap_or_default(),
            no_new_privileges: spec.no_new_privileges().unwrap_or(false),
            oom_score_adj: spec.oom_score_adj(),
            seccomp: None,
            umask: spec.user().umask().unwrap_or(0o022),
            preserve_fds: 0,
            quiet: false,
            labels: Labels::new(spec)?,
            attributes: Attributes::of_process(spec)?,
            affinity: Affinity::new(spec.exec_cpu_affinity().as_ref())?,
            console_size: spec.console_size().as_ref().map(size),
        })
    }

    /// The resource limits.
    pub fn limits(&self) -> &[PosixRlimit] {
        &self.limits
    }

    /// Labels this process's next command, or that of a child: labels are inherited.
    ///
    /// # Errors
    /// `InvalidArgument`: the kernel refuses.
    pub fn label(&self, procfs: &Procfs) -> Result<(), Failure> {
        self.labels.apply(procfs)
    }

    /// Adds variables to the environment.
    pub fn add_env(&mut self, variables: &[String]) {
        self.env.extend_from_slice(variables);
    }

    /// Finds in the image what the process needs of it: its user and its home.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn prepare(mut self, root: &Root) -> Result<Prepared, Failure> {
        let Resolved { identity, home } = self.user.resolve(root)?;
        let mut env = std::mem::take(&mut self.env);
        if !env.iter().any(|variable| variable.starts_with("HOME=")) {
            env.push(format!("HOME={}", home.as_deref().unwrap_or("/")));
        }
        let variable = |text: String| {
            CString::new(text).map_err(|_| {
                let cause = "contains a zero byte";
                Failure::new(FailureKind::InvalidArgument, "read process", "env", cause)
            })
        };
        let env = env.into_iter().map(variable).collect::<Result<_, _>>()?;
        Ok(Prepared { plan: self, env, identity })
    }
}

impl Prepared {
    /// Enters the process's folder. After the masks are on: what is masked must not be stood in.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn enter(&self, root: &Root) -> Result<(), Failure> {
        enter(root, &self.plan.cwd)
    }

    /// Looks whether there is a command that could be executed, from the process's folder.
    ///
    /// # Errors
    /// `StartFailed`, with the errno that execve(2) would have.
    pub fn find_command(&self) -> Result<(), Failure> {
        let found = self.try_paths(|path| {
            let found = match rustix::fs::stat(path) {
                Ok(found) => found,
                Err(error) => return Some(error),
            };
            let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
            let may = rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS);
            if regular { may.err() } else { Some(Errno::ACCESS) }
        });
        found.map_or(Ok(()), Err)
    }

    /// Sets what takes rights that the process itself may not have: labels, and what it is to the schedulers.
    ///
    /// # Errors
    /// `InvalidArgument`: the kernel refuses.
    pub fn dress(&self, procfs: &Procfs) -> Result<(), Failure> {
        self.plan.label(procfs)?;
        self.schedule()
    }

    /// The part of [`Self::dress`] that is about the schedulers.
    ///
    /// # Errors
    /// `InvalidArgument`: the kernel refuses.
    pub fn schedule(&self) -> Result<(), Failure> {
        self.plan.attributes.apply()
    }

    /// Becomes the process; `last` is done as the process's user just before the command takes over. Returns only when
    /// that is not possible.
    pub fn execute(self, stdio: Stdio, last: impl FnOnce() -> Result<(), Failure>) -> Failure {
        match self.become_user(stdio).and_then(|()| last()) {
            Err(failure) => failure,
            Ok(()) => self.execute_command(),
        }
    }

    fn become_user(&self, stdio: Stdio) -> Result<(), Failure> {
        let plan = &self.plan;
        let identity = &self.identity;
        limit::apply(&plan.limits, plan.quiet)?;
        // From here on a word on standard error would be the container's own.
        stdio.install(identity)?;
        let _old = rustix::process::umask(Mode::from_raw_mode(plan.umask));
        restore_signals();
        close_on_exec_from(plan.preserve_fds.saturating_add(3))
            .map_err(|e| Failure::os("close files", "", e))?;
        // Without no_new_privs it takes CAP_SYS_ADMIN, and a profile must allow what follows, as with runc.
        if !plan.no_new_privileges {
            self.load_filter()?;
        }
        plan.capabilities.bound()?;
        // Otherwise the change of user below takes the capabilities that are to be kept, too.
        rustix::thread::set_keep_capabilities(true)
            .map_err(|e| Failure::os("keep capabilities", "", e))?;
        let fail = |error: Errno| {
            Failure::os("become user", format!("{}:{}", identity.uid, identity.gid), error)
        };
        let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
        rustix::thread::set_thread_groups(&groups).map_err(fail)?;
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(fail)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(fail)?;
        plan.capabilities.apply()?;
        if plan.no_new_privileges {
            rustix::thread::set_no_new_privs(true)
                .map_err(|e| Failure::os("set no_new_privs", "", e))?;
            self.load_filter()?;
        }
        Ok(())
    }

    fn load_filter(&self) -> Result<(), Failure> {
        self.plan.seccomp.as_ref().map_or(Ok(()), Filter::load)
    }

    fn execute_command(&self) -> Failure {
        let refused = self.try_paths(|path| Some(self.execve(path)));
        // Executed, it does not come back.
        refused.unwrap_or_else(|| started(self.command_name(), Errno::NOENT))
    }

    fn command_name(&self) -> String {
        self.plan.args[0].to_string_lossy().into_owned()
    }

    /// Tries the paths that the command may stand for until one is not refused; the refusal when all are. As execvp(3):
    /// what may not be executed is passed over, but told when nothing else is found.
    fn try_paths(&self, mut attempt: impl FnMut(&CString) -> Option<Errno>) -> Option<Failure> {
        let command = &self.plan.args[0];
        if command.to_bytes().contains(&b'/') {
            return attempt(command).map(|error| started(self.command_name(), error));
        }
        let mut refusal = Errno::NOENT;
        for dir in self.search_path().split(':') {
            let dir = if dir.is_empty() { "." } else { dir };
            let mut path = Vec::from(dir);
            path.push(b'/');
            path.extend_from_slice(command.to_bytes());
            let Ok(path) = CString::new(path) else { continue };
            match attempt(&path)? {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => refusal = Errno::ACCESS,
                error => return Some(started(self.command_name(), error)),
            }
        }
        if refusal == Errno::NOENT {
            let cause = "executable file not found in $PATH";
            let mut failure =
                Failure::new(FailureKind::StartFailed, "execute", self.command_name(), cause);
            failure.errno = Some(refusal.raw_os_error());
            return Some(failure);
        }
        Some(started(self.command_name(), refusal))
    }

    fn search_path(&self) -> &str {
        let variable =
            self.env.iter().rev().find_map(|text| text.to_str().ok()?.strip_prefix("PATH="));
        variable.filter(|path| !path.is_empty()).unwrap_or(DEFAULT_PATH)
    }

    fn execve(&self, path: &CString) -> Errno {
        match nix::unistd::execve(path, &self.plan.args, &self.env) {
            Err(error) => Errno::from_raw_os_error(error as i32),
            Ok(never) => match never {},
        }
    }
}

/// Changes into the process's folder, made when it is missing. By handle, and then the kernel is asked where that is:
/// a folder outside the root has no path (CVE-2024-21626).
fn enter(root: &Root, cwd: &Path) -> Result<(), Failure> {
    let dir = target::open_or_make(root, cwd, target::Wanted::Dir)?;
    let fail = |error: Errno| {
        let kind = FailureKind::InvalidArgument;
        Failure::os_kind(kind, "change folder to", cwd.display().to_string(), error)
    };
    rustix::process::fchdir(dir.as_fd()).map_err(fail)?;
    let place = rustix::process::getcwd(Vec::new()).map_err(fail)?;
    if place.as_bytes().starts_with(b"/") {
        return Ok(());
    }
    let cause = "is outside the root file system";
    let path = cwd.display().to_string();
    Err(Failure::new(FailureKind::InvalidArgument, "change folder to", path, cause))
}

/// What does not fit is as large as can be.
fn size(size: &oci_spec::runtime::Box) -> Winsize {
    let number = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    Winsize {
        ws_row: number(size.height()),
        ws_col: number(size.width()),
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn started(command: String, error: Errno) -> Failure {
    Failure::os_kind(FailureKind::StartFailed, "execute", command, error)
}

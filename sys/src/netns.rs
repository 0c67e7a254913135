//! Network, IPC and UTS namespaces that live without a process: pinned as bind mounts, entered by closures.
//!
//! ```text
//!  pin()    thread of its own: unshare -> lo up -> hostname -> sysctls -> bind ns/* on files -> thread ends
//!           in a user namespace: member -> bind ns/* on files -> member ends; thread: setns -> lo up -> ...
//!  inside() thread of its own: setns -> closure -> thread ends
//!  unpin()  any thread: umount + unlink, whatever is there
//! ```
//!
//! A namespace is a property of a thread, and a thread of a pool is handed to the next task without being asked
//! where it is. So whatever changes a namespace here does it on a thread that ends right after: there is no way
//! back to forget, and none to fail (namespaces(7), `setns(2)`).
//!
//! The bind mounts are made in the caller's mount namespace. A caller killed between any two lines leaves at
//! most empty files and some of the mounts, which is what [`unpin`] is made to clear.

mod count;
mod sysctl;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags, fstatfs};
use thiserror::Error;

pub use count::{Interface, Traffic, interfaces};

use crate::link::{LOOPBACK, Links};
use sysctl::Sysctl;

use crate::users::{IdMaps, Member};

/// `NSFS_MAGIC`, what statfs(2) says of a namespace file.
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// `HOST_NAME_MAX`, what the kernel takes (gethostname(2)).
const HOSTNAME_MAX: usize = 64;

/// Why a namespace could not be made, entered or removed.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// The host name is longer than the kernel takes, or has bytes that do not belong in one.
    #[error("hostname {hostname:?} is not 1 to {HOSTNAME_MAX} letters, digits, dots or hyphens")]
    InvalidHostname {
        /// The name asked for.
        hostname: String,
    },
    /// The sysctl is not one that belongs to a namespace being made here, or is malformed.
    #[error("sysctl {key:?} {reason}")]
    InvalidSysctl {
        /// The key asked for.
        key: String,
        /// What is wrong, to be read after the key.
        reason: &'static str,
    },
    /// The file is not a namespace.
    #[error("{path} is not a namespace file")]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// The kernel refused a step.
    #[error("{operation} {object}: {source}")]
    Step {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The files at which namespaces are pinned; `None` for those that were not asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The network namespace.
    pub net: Option<PathBuf>,
    /// The IPC namespace (System V IPC and POSIX message queues).
    pub ipc: Option<PathBuf>,
    /// The UTS namespace (host name).
    pub uts: Option<PathBuf>,
    /// The user namespace that the others belong to.
    pub user: Option<PathBuf>,
}

/// What [`pin`] is to make.
#[derive(Debug, Clone, Copy)]
pub struct PinRequest<'a> {
    /// An existing folder of mode 0700 that nobody else changes; the files `net`, `ipc`, `uts`, `user` are made in
    /// it.
    pub dir: &'a Path,
    /// Make a user namespace with these mappings, and the others in it: they belong to it then.
    pub users: Option<IdMaps<'a>>,
    /// Make a network namespace, with its loopback up.
    pub net: bool,
    /// Make an IPC namespace.
    pub ipc: bool,
    /// Make a UTS namespace.
    pub uts: bool,
    /// The host name in the new UTS namespace, at most 64 bytes.
    pub hostname: Option<&'a str>,
    /// Keys and values, applied inside the new namespaces. A key of a namespace that is not being made is refused:
    /// it would change the host.
    pub sysctls: &'a [(String, String)],
}

/// One kind of namespace that [`pin`] can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Net,
    Ipc,
    Uts,
    User,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Net, Self::Ipc, Self::Uts, Self::User];

    fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::User => "user",
        }
    }

    fn flag(self) -> CloneFlags {
        match self {
            Self::Net => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
            Self::User => CloneFlags::CLONE_NEWUSER,
        }
    }

    fn wanted(self, request: &PinRequest<'_>) -> bool {
        match self {
            Self::Net => request.net,
            Self::Ipc => request.ipc,
            Self::Uts => request.uts,
            Self::User => request.users.is_some(),
        }
    }
}

/// Makes the namespaces asked for and pins each at a file of `dir`. Blocks for about a millisecond.
///
/// Where an earlier run may have been killed, [`unpin`] the folder first.
///
/// # Errors
/// A malformed request, before anything is done; or the kernel's refusal of a step, after what was made has been
/// removed again. A file that is already there is such a refusal, and is left alone.
pub fn pin(request: &PinRequest<'_>) -> Result<Pinned, NamespaceError> {
    if let Some(hostname) = request.hostname {
        check_hostname(hostname)?;
    }
    let sysctls = request
        .sysctls
        .iter()
        .map(|(key, value)| Sysctl::parse(key, value, request))
        .collect::<Result<Vec<_>, _>>()?;
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.wanted(request)).collect();

    let mut made = Vec::with_capacity(kinds.len());
    let outcome = match &request.users {
        None => on_own_thread("pin", || {
            unshare_into(&kinds)?;
            furnish(request, &sysctls)?;
            let own = Path::new("/proc/thread-self");
            kinds.iter().try_for_each(|kind| bind(*kind, own, request.dir, &mut made))
        })
        .and_then(|result| result),
        Some(users) => pin_owned(request, users, &kinds, &sysctls, &mut made),
    };
    if let Err(error) = outcome {
        for path in &made {
            // The first error is the one worth telling; unpin of the folder finds what stays here.
            drop(remove_pin(path));
        }
        return Err(error);
    }
    let path_of = |kind: Kind| kind.wanted(request).then(|| request.dir.join(kind.name()));
    Ok(Pinned {
        net: path_of(Kind::Net),
        ipc: path_of(Kind::Ipc),
        uts: path_of(Kind::Uts),
        user: path_of(Kind::User),
    })
}

/// What is set in the new namespaces, by a thread that is in them.
fn furnish(request: &PinRequest<'_>, sysctls: &[Sysctl]) -> Result<(), NamespaceError> {
    if request.net {
        Links::open().and_then(|links| links.raise(LOOPBACK)).map_err(step("bring up", "lo"))?;
    }
    if let Some(hostname) = request.hostname.filter(|_| request.uts) {
        nix::unistd::sethostname(hostname).map_err(refused("set hostname", hostname))?;
    }
    let root = request.users.and_then(|users| users.root());
    sysctls.iter().try_for_each(|sysctl| sysctl.apply(root))
}

/// Pins namespaces that belong to a user namespace: only a process without threads can enter one, so they are made
/// with a process that does nothing else, and furnished by a thread that enters all of them but that one.
fn pin_owned(
    request: &PinRequest<'_>,
    users: &IdMaps<'_>,
    kinds: &[Kind],
    sysctls: &[Sysctl],
    made: &mut Vec<PathBuf>,
) -> Result<(), NamespaceError> {
    let flags = kinds.iter().fold(CloneFlags::empty(), |flags, kind| flags | kind.flag());
    let flags = u64::from(flags.bits().unsigned_abs());
    let member = Member::make(flags, users).map_err(step("make", "a user namespace"))?;
    for kind in kinds {
        bind(*kind, &member.file(""), request.dir, made)?;
    }
    drop(member);
    let others = kinds.iter().filter(|kind| **kind != Kind::User);
    on_own_thread("furnish", || {
        for kind in others {
            let path = request.dir.join(kind.name());
            let file = fs::File::open(&path).map_err(step("open namespace", path.display()))?;
            setns(&file, kind.flag()).map_err(refused("enter namespace", path.display()))?;
        }
        furnish(request, sysctls)
    })
    .and_then(|result| result)
}

/// Removes what [`pin`] made in `dir`, all of it or the part that is there. Idempotent; the folder itself stays.
///
/// The kernel frees a namespace, with the links in it, some time after its last reference is gone.
///
/// # Errors
/// The first refusal, after everything was tried.
pub fn unpin(dir: &Path) -> Result<(), NamespaceError> {
    let mut first = Ok(());
    for kind in Kind::ALL {
        let removed = remove_pin(&dir.join(kind.name()));
        if first.is_ok() {
            first = removed;
        }
    }
    first
}

/// Tells whether a namespace is mounted at `path` (and not just a file left there). Follows no link.
#[must_use]
pub fn is_pinned(path: &Path) -> bool {
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .is_ok_and(|file| is_namespace(&file))
}

/// Runs `f` on a thread of its own that has entered the network namespace at `ns`, and returns what it returns.
///
/// Sockets opened by `f` stay in that namespace wherever they are used later. A panic of `f` is the caller's.
///
/// # Errors
/// `ns` cannot be opened, is not a network namespace, or cannot be entered; `f` has not run then.
pub fn inside<T: Send>(ns: &Path, f: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    // A FIFO put in this place must not block us, hence O_NONBLOCK.
    let file =
        rustix::fs::open(ns, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| step("open namespace", ns.display())(errno.into()))?;
    if !is_namespace(&file) {
        return Err(NamespaceError::NotANamespace { path: ns.to_owned() });
    }
    on_own_thread("inside", move || {
        // setns(2) itself compares the kind of the namespace with the flag.
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(refused("enter namespace", ns.display()))?;
        drop(file);
        Ok(f())
    })
    .and_then(|result| result)
}

fn on_own_thread<T: Send>(
    purpose: &str,
    f: impl FnOnce() -> T + Send,
) -> Result<T, NamespaceError> {
    thread::scope(|scope| {
        let running = thread::Builder::new()
            .name(format!("netns-{purpose}"))
            .spawn_scoped(scope, f)
            .map_err(step("start a thread to", purpose))?;
        Ok(running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn step(
    operation: &'static str,
    object: impl ToString,
) -> impl FnOnce(io::Error) -> NamespaceError {
    let object = object.to_string();
    move |source| NamespaceError::Step { operation, object, source }
}

fn refused(operation: &'static str, object: impl ToString) -> impl FnOnce(Errno) -> NamespaceError {
    let step = step(operation, object);
    move |errno| step(errno.into())
}

fn is_namespace(file: &OwnedFd) -> bool {
    // The width of f_type differs between architectures; a value that does not fit is not the one sought.
    #[allow(clippy::unnecessary_fallible_conversions, clippy::useless_conversion)]
    fstatfs(file).is_ok_and(|stat| i64::try_from(stat.f_type).is_ok_and(|kind| kind == NSFS_MAGIC))
}

fn unshare_into(kinds: &[Kind]) -> Result<(), NamespaceError> {
    let flags = kinds.iter().fold(CloneFlags::empty(), |flags, kind| flags | kind.flag());
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    unshare(flags).map_err(refused("make namespaces", names.join(", ")))
}

/// Pins a namespace of the process whose folder in procfs is `member`.
fn bind(
    kind: Kind,
    member: &Path,
    dir: &Path,
    made: &mut Vec<PathBuf>,
) -> Result<(), NamespaceError> {
    let path = dir.join(kind.name());
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(step("create", path.display()))?;
    made.push(path.clone());
    let source = member.join("ns").join(kind.name());
    mount(Some(&source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(refused("pin a namespace at", path.display()))
}

fn remove_pin(path: &Path) -> Result<(), NamespaceError> {
    // Mounts can be stacked on one file; EINVAL says that none is left. The bound is there to end in any case.
    for _ in 0..16 {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(refused("unmount", path.display())(errno)),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(step("remove", path.display())(error))
        }
        _ => Ok(()),
    }
}

fn check_hostname(hostname: &str) -> Result<(), NamespaceError> {
    let fits = (1..=HOSTNAME_MAX).contains(&hostname.len());
    // Underscores are not in RFC 1123, but host names with them exist, and nothing breaks out with one.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if fits && hostname.bytes().all(plain) {
        return Ok(());
    }
    Err(NamespaceError::InvalidHostname { hostname: hostname.chars().take(128).collect() })
}

#[cfg(test)]
mod tests;

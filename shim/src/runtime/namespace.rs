//! Which namespaces a container gets: new ones, those of its pod, or the host's.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::{Failure, FailureKind};
use oci_spec::runtime::{LinuxNamespaceType as Kind, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sys::process as sys_process;

/// The magic number of nsfs (statfs(2)).
const NSFS_MAGIC: u64 = 0x6e73_6673;
const OWN_PIDS: &str = "/proc/self/ns/pid";
const OWN_MOUNTS: &str = "/proc/self/ns/mnt";

/// A container's namespaces: which are made, which are joined. What is in neither stays the host's.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// `CLONE_NEW*` flags for the process to be born with.
    pub new: u64,
    /// A cgroup namespace, which can only be made once the process is in its cgroup.
    pub new_cgroup: bool,
    /// A user namespace, made before the others so that they are its own.
    pub new_users: bool,
    /// A user namespace to be joined before the others are made.
    pub users: Option<OwnedFd>,
    /// A time namespace, which can only be made for a process to be born in it.
    pub new_time: bool,
    /// A time namespace, made or joined.
    pub has_time: bool,
    /// A mount namespace to be joined in place of a new one.
    mounts: Option<Joined>,
    joined: Vec<Joined>,
}

/// A namespace to be joined.
#[derive(Debug)]
struct Joined {
    file: OwnedFd,
    kind: LinkNameSpaceType,
    path: String,
}

/// The PID namespace that a process's children were born in before.
#[derive(Debug)]
#[must_use = "later children would be the container's"]
pub struct Return(Option<OwnedFd>);

impl Return {
    /// Makes later children what they would have been.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn restore(self) -> Result<(), Failure> {
        let Some(own) = self.0 else { return Ok(()) };
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .map_err(|e| Failure::os("return to namespace", OWN_PIDS, e))
    }
}

impl Joined {
    /// A process never changes its own PID namespace.
    fn is_of_children(&self) -> bool {
        self.kind == LinkNameSpaceType::ProcessID
    }

    fn join(&self) -> Result<(), Failure> {
        move_into_link_name_space(self.file.as_fd(), Some(self.kind)).map_err(|error| {
            let kind = FailureKind::InvalidArgument;
            Failure::os_kind(kind, "join namespace", self.path.as_str(), error)
        })
    }
}

impl Namespaces {
    /// Reads what the spec asks for and opens what is to be joined.
    ///
    /// # Errors
    /// A kind that is not supported, or a path that is no namespace.
    pub fn open(spec: &Spec) -> Result<Self, Failure> {
        // A mount namespace there always is: without it the container's mounts would be the host's.
        let mut namespaces = Self { new: sys_process::NEW_MOUNTS, ..Self::default() };
        let asked = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let asked = asked.map(Vec::as_slice).unwrap_or_default();
        for (at, namespace) in asked.iter().enumerate() {
            if asked.iter().take(at).any(|other| other.typ() == namespace.typ()) {
                let name = format!("{:?}", namespace.typ()).to_lowercase();
                let kind = FailureKind::InvalidArgument;
                return Err(Failure::new(kind, "use namespace", name, "it is there twice"));
            }
            namespaces.add(namespace.typ(), namespace.path().as_deref())?;
        }
        Ok(namespaces)
    }

    /// Whether the container is in another namespace of this kind (`CLONE_NEW*`) than the host.
    pub fn is_isolated(&self, flag: u64) -> bool {
        self.new & flag != 0 || self.joined.iter().any(|joined| joined.kind as u64 == flag)
    }

    /// The network namespace to be joined, if one is.
    ///
    /// # Errors
    /// The kernel refuses another handle of it.
    pub fn network_to_join(&self) -> Result<Option<OwnedFd>, Failure> {
        let found = self.joined.iter().find(|joined| joined.kind == LinkNameSpaceType::Network);
        let copy = |joined: &Joined| {
            joined.file.try_clone().map_err(|e| Failure::os("open namespace", &joined.path, e))
        };
        found.map(copy).transpose()
    }

    /// Makes children that this process makes from now on members of the PID namespace to be joined. Only they will be:
    /// what is returned makes it undone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn join_pids(&self) -> Result<Return, Failure> {
        let Some(pids) = self.joined.iter().find(|joined| joined.is_of_children()) else {
            return Ok(Return(None));
        };
        let own = rustix::fs::open(OWN_PIDS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Failure::os("open namespace", OWN_PIDS, e))?;
        pids.join()?;
        Ok(Return(Some(own)))
    }

    /// Moves this process into the other namespaces to be joined.
    ///
    /// # Errors
    /// A path was a namespace of another kind, or the kernel refuses.
    pub fn join(&self) -> Result<(), Failure> {
        self.joined.iter().filter(|joined| !joined.is_of_children()).try_for_each(Joined::join)
    }

    /// Whether [`Namespaces::join_mounts`] has something to join.
    pub fn has_foreign_mounts(&self) -> bool {
        self.mounts.is_some()
    }

    /// Moves this process into the mount namespace to be joined, if there is one, and into the folder that it is in now
    /// by that folder's path: setns(2) leaves it at the namespace's root. The process must share its folders with nobody.
    ///
    /// # Errors
    /// `InvalidArgument`: the folder is not there in that namespace, or the kernel refuses.
    pub fn join_mounts(&self) -> Result<(), Failure> {
        let Some(mounts) = &self.mounts else { return Ok(()) };
        let folder = rustix::process::getcwd(Vec::new())
            .map_err(|e| Failure::os("find", "the bundle's path", e))?;
        mounts.join()?;
        rustix::process::chdir(&folder).map_err(|error| {
            let (kind, folder) = (FailureKind::InvalidArgument, folder.to_string_lossy());
            Failure::os_kind(kind, "find in the joined mount namespace", folder, error)
        })
    }

    /// Nothing of the host's own mount namespace is changed: its root would become the container's.
    fn join_mounts_of(path: &Path) -> Result<Joined, Failure> {
        let file = open_namespace(path, sys_process::NEW_MOUNTS)?;
        let name = path.display().to_string();
        let own = rustix::fs::stat(OWN_MOUNTS)
            .map_err(|e| Failure::os("look at namespace", OWN_MOUNTS, e))?;
        let asked = rustix::fs::fstat(&file)
            .map_err(|e| Failure::os("look at namespace", name.as_str(), e))?;
        if (own.st_dev, own.st_ino) == (asked.st_dev, asked.st_ino) {
            let (kind, cause) = (FailureKind::InvalidArgument, "is the runtime's own");
            return Err(Failure::new(kind, "join mount namespace", name, cause));
        }
        Ok(Joined { file, kind: LinkNameSpaceType::Mount, path: name })
    }

    fn add(&mut self, kind: Kind, path: Option<&Path>) -> Result<(), Failure> {
        let (flag, link) = match kind {
            Kind::Pid => (sys_process::NEW_PIDS, LinkNameSpaceType::ProcessID),
            Kind::Network => (sys_process::NEW_NETWORK, LinkNameSpaceType::Network),
            Kind::Ipc => (sys_process::NEW_IPC, LinkNameSpaceType::InterProcessCommunication),
            Kind::Uts => (sys_process::NEW_UTS, LinkNameSpaceType::HostNameAndNISDomainName),
            Kind::Mount => {
                self.mounts = path.map(Self::join_mounts_of).transpose()?;
                if self.mounts.is_some() {
                    self.new &= !sys_process::NEW_MOUNTS;
                }
                return Ok(());
            }
            Kind::Cgroup => {
                self.new_cgroup = path.is_none();
                (sys_process::NEW_CGROUPS, LinkNameSpaceType::ControlGroup)
            }
            Kind::Time => {
                (self.has_time, self.new_time) = (true, path.is_none());
                (sys_process::NEW_TIME, LinkNameSpaceType::Time)
            }
            Kind::User => {
                self.new_users = path.is_none();
                let open = |path| open_namespace(path, sys_process::NEW_USERS);
                self.users = path.map(open).transpose()?;
                return Ok(());
            }
        };
        // These are not made by the clone(2) that makes the process.
        if path.is_none() && matches!(kind, Kind::Cgroup | Kind::Time) {
            return Ok(());
        }
        match path {
            None => self.new |= flag,
            Some(path) => {
                let name = path.display().to_string();
                self.joined.push(Joined {
                    file: open_namespace(path, flag)?,
                    kind: link,
                    path: name,
                });
            }
        }
        Ok(())
    }
}

/// What this runtime cannot do, so that nobody believes it was done.
pub fn unsupported(
    operation: &'static str,
    object: impl Into<String>,
    cause: &'static str,
) -> Failure {
    Failure::new(FailureKind::Unsupported, operation, object, cause)
}

/// Opens a namespace that is of the kind that it should be.
fn open_namespace(path: &Path, wanted: u64) -> Result<OwnedFd, Failure> {
    let fail = |error: rustix::io::Errno| {
        let path = path.display().to_string();
        Failure::os_kind(FailureKind::InvalidArgument, "open namespace", path, error)
    };
    // A FIFO in its place must not hold us up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(fail)?;
    let magic = rustix::fs::fstatfs(&file).map_err(fail)?.f_type;
    let invalid = |cause| {
        let path = path.display().to_string();
        Err(Failure::new(FailureKind::InvalidArgument, "open namespace", path, cause))
    };
    if u64::try_from(magic) != Ok(NSFS_MAGIC) {
        return invalid("not a namespace");
    }
    match sys::attribute::namespace_kind(&file) {
        Ok(kind) if kind == wanted => Ok(file),
        Ok(_) => invalid("a namespace of another kind"),
        Err(error) => Err(Failure::os("open namespace", path.display().to_string(), error)),
    }
}

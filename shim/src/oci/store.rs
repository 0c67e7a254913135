//! The folder of all containers, and a container's folder in it.
//!
//! ```text
//! <root>/<id>/          mode 0700; its making is what reserves the name
//!   lock                held by whoever changes the container; the kernel frees it with its holder
//!   state.json          the record; replaced as a whole
//!   seccomp.bpf         the compiled filter, for execs
//!   start               the socket that the container's process waits at; gone once it was started
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, fcntl_lock, fstat, openat, renameat};
use rustix::fs::{statat, unlinkat};
use rustix::io::Errno;

use super::id::ContainerId;
use super::record::{Record, Status};
use crate::{Failure, FailureKind};

const RECORD: &str = "state.json";
const DRAFT: &str = ".state.json.tmp";
const LOCK: &str = "lock";
const START: &str = "start";
const FILTER: &str = crate::runtime::seccomp::STORED_FILE;

/// All containers of one root.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// A container's folder.
#[derive(Debug)]
pub struct Folder {
    id: ContainerId,
    path: PathBuf,
    dir: OwnedFd,
    lock: Option<OwnedFd>,
}

impl Store {
    /// The containers below `root`, which need not exist yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Reserves a name: makes and locks its folder.
    ///
    /// # Errors
    /// `AlreadyExists`, or the kernel refuses.
    pub fn create(&self, id: &ContainerId) -> Result<Folder, Failure> {
        let path = self.root.join(id.as_str());
        let fail = |error| Failure::os("create folder", path.display().to_string(), error);
        let make = || DirBuilder::new().mode(0o700).create(&path);
        let made = match make() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let root = DirBuilder::new().recursive(true).mode(0o700).create(&self.root);
                root.map_err(|e| Failure::os("create folder", self.root.display().to_string(), e))?;
                make()
            }
            other => other,
        };
        match made {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let cause = "container with given ID already exists";
                let object = format!("container {id}");
                Err(Failure::new(FailureKind::AlreadyExists, "create", object, cause))
            }
            other => {
                other.map_err(fail)?;
                self.open(id)?.locked()
            }
        }
    }

    /// Finds a container.
    ///
    /// # Errors
    /// `NotFound`, in words that callers of runc look for.
    pub fn open(&self, id: &ContainerId) -> Result<Folder, Failure> {
        let path = self.root.join(id.as_str());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(dir) => Ok(Folder { id: id.clone(), path, dir, lock: None }),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(missing(id)),
            Err(error) => Err(Failure::os("open folder", path.display().to_string(), error)),
        }
    }

    /// The names of all containers, sorted.
    ///
    /// # Errors
    /// The root cannot be read; one that is not there has none.
    pub fn ids(&self) -> Result<Vec<ContainerId>, Failure> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => {
                other.map_err(|e| Failure::os("list folder", self.root.display().to_string(), e))?
            }
        };
        let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
        let mut ids: Vec<ContainerId> =
            folders.filter_map(|entry| ContainerId::parse(&entry.file_name()).ok()).collect();
        ids.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        Ok(ids)
    }
}

impl Folder {
    /// Where it is, absolute when the root is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it this process's folder: what a creation has kept for execs is found there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self) -> Result<(), Failure> {
        let fail = |error: Errno| Failure::os("enter", self.path.display().to_string(), error);
        rustix::process::fchdir(&self.dir).map_err(fail)
    }

    /// The container's name.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Waits until nobody else changes the container.
    ///
    /// # Errors
    /// It was deleted meanwhile.
    pub fn locked(mut self) -> Result<Self, Failure> {
        let fail = |error: Errno| Failure::os("lock", self.path.display().to_string(), error);
        // A lock of the process, not of the open file: what it forks does not hold it.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = match openat(&self.dir, LOCK, flags, Mode::from_raw_mode(0o600)) {
            Err(Errno::NOENT) => return Err(missing(&self.id)),
            other => other.map_err(fail)?,
        };
        fcntl_lock(&lock, FlockOperation::LockExclusive).map_err(fail)?;
        if fstat(&lock).map_err(fail)?.st_nlink == 0 {
            return Err(missing(&self.id));
        }
        self.lock = Some(lock);
        Ok(self)
    }

    /// Lets others change the container.
    pub fn unlock(&mut self) {
        self.lock = None;
    }

    /// Reads the record; `None` when there is none yet.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn record(&self) -> Result<Option<Record>, Failure> {
        let name = || self.path.join(RECORD).display().to_string();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(&self.dir, RECORD, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|e| Failure::os("open", name(), e))?,
        };
        let mut bytes = Vec::new();
        File::from(file).read_to_end(&mut bytes).map_err(|e| Failure::os("read", name(), e))?;
        let read = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(FailureKind::Internal, "read", name(), error.to_string())
        });
        read.map(Some)
    }

    /// Reads the record of a container that there must be, and what it is doing.
    ///
    /// # Errors
    /// As [`Self::record`]; `NotFound` when it is not made yet.
    pub fn known(&self) -> Result<(Record, Status), Failure> {
        match self.record()? {
            Some(record) => {
                let status = self.status(&record);
                Ok((record, status))
            }
            None => Err(missing(&self.id)),
        }
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn write(&self, record: &Record) -> Result<(), Failure> {
        let name = || self.path.join(RECORD).display().to_string();
        let fail = |error: std::io::Error| Failure::os("write", name(), error);
        let bytes = serde_json::to_vec(record).map_err(|e| fail(e.into()))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(&self.dir, DRAFT, flags, Mode::from_raw_mode(0o600));
        let file = file.map_err(|e| fail(e.into()))?;
        File::from(file).write_all(&bytes).map_err(fail)?;
        renameat(&self.dir, DRAFT, &self.dir, RECORD).map_err(|e| fail(e.into()))
    }

    /// What the container is doing.
    pub fn status(&self, record: &Record) -> Status {
        match &record.init {
            None => Status::Creating,
            Some(init) if !init.lives() => Status::Stopped,
            Some(_) if self.waits() => Status::Created,
            Some(init) if init.is_frozen() => Status::Paused,
            Some(_) => Status::Running,
        }
    }

    /// The socket's name, short enough for an address however long the folder's is.
    pub fn start_socket(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{START}", self.dir.as_raw_fd()))
    }

    /// Takes the start socket's name away: the container counts as started.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_start_socket(&self) -> Result<(), Failure> {
        match unlinkat(&self.dir, START, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => {
                Err(Failure::os("remove", self.path.join(START).display().to_string(), error))
            }
        }
    }

    fn waits(&self) -> bool {
        statat(&self.dir, START, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Removes the folder with what is in it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(self) -> Result<(), Failure> {
        for name in [START, DRAFT, FILTER, RECORD, LOCK] {
            let _missing = unlinkat(&self.dir, name, AtFlags::empty());
        }
        let removed = match rustix::fs::rmdir(&self.path) {
            // Something that an earlier or later version left.
            Err(Errno::NOTEMPTY) => fs::remove_dir_all(&self.path),
            other => other.map_err(Into::into),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Failure::os("remove folder", self.path.display().to_string(), error))
            }
            _ => Ok(()),
        }
    }
}

fn missing(id: &ContainerId) -> Failure {
    let object = format!("container {id}");
    Failure::new(FailureKind::NotFound, "find", object, "container does not exist")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    struct Place(PathBuf);

    impl Drop for Place {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn place(name: &str) -> Place {
        Place(std::env::temp_dir().join(format!("oci-store-{name}-{}", std::process::id())))
    }

    #[test]
    fn a_name_is_given_once_and_again_after_its_folder_is_removed() {
        let place = place("once");
        let (store, id) = (Store::new(&place.0), ContainerId::parse(OsStr::new("c")).unwrap());
        let missing = store.open(&id).unwrap_err();
        assert!(missing.to_string().contains("does not exist"));
        let folder = store.create(&id).unwrap();
        assert_eq!(store.create(&id).unwrap_err().kind, FailureKind::AlreadyExists);
        assert_eq!(store.ids().unwrap(), std::slice::from_ref(&id));
        assert_eq!(folder.record().unwrap(), None);
        let record = Record { id: "c".into(), ..Record::default() };
        folder.write(&record).unwrap();
        assert_eq!(folder.known().unwrap(), (record, Status::Creating));
        folder.remove().unwrap();
        assert!(store.ids().unwrap().is_empty());
        store.create(&id).unwrap().remove().unwrap();
    }

    #[test]
    fn a_damaged_record_is_an_error_that_names_it() {
        let place = place("damaged");
        let store = Store::new(&place.0);
        let folder = store.create(&ContainerId::parse(OsStr::new("c")).unwrap()).unwrap();
        fs::write(place.0.join("c/state.json"), "{").unwrap();
        assert!(folder.record().unwrap_err().to_string().contains("c/state.json"));
    }
}

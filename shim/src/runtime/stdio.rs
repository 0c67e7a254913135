//! A process's standard files.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::{Failure, FailureKind};
use rustix::fs::{AtFlags, FileType, Gid, OFlags, Uid, chownat};
use rustix::io::Errno;
use sys::confined::Root;
use sys::process::{StandardFile, set_standard};

use super::idmap::Maps;
use super::target;
use super::user::Identity;

/// Standard input, output and error; what is absent is the null device.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub input: Option<OwnedFd>,
    /// Standard output.
    pub output: Option<OwnedFd>,
    /// Standard error.
    pub error: Option<OwnedFd>,
}

impl Stdio {
    /// This process's own; one that is closed becomes the null device.
    #[must_use]
    pub fn inherited() -> Self {
        fn copy(file: impl AsFd) -> Option<OwnedFd> {
            rustix::io::fcntl_dupfd_cloexec(file, 3).ok()
        }
        Self {
            input: copy(std::io::stdin()),
            output: copy(std::io::stdout()),
            error: copy(std::io::stderr()),
        }
    }

    /// The same terminal for all three.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn terminal(terminal: &OwnedFd) -> Result<Self, Failure> {
        let copy = || {
            let copied = rustix::io::fcntl_dupfd_cloexec(terminal, 3);
            copied.map(Some).map_err(|e| Failure::os("use terminal", "", e))
        };
        Ok(Self { input: copy()?, output: copy()?, error: copy()? })
    }

    /// Puts the container's own null device where a file is missing.
    ///
    /// # Errors
    /// `/dev/null` is not the null device.
    pub fn complete(&mut self, root: &Root) -> Result<(), Failure> {
        let mut null = None;
        for file in [&mut self.input, &mut self.output, &mut self.error] {
            if file.is_some() {
                continue;
            }
            if null.is_none() {
                null = Some(open_null(root)?);
            }
            let copied = null.as_ref().map(|null| rustix::io::fcntl_dupfd_cloexec(null, 3));
            *file = copied.transpose().map_err(|e| Failure::os("open", "/dev/null", e))?;
        }
        Ok(())
    }

    /// Gives pipes to the root of a user namespace: nobody in it could open `/dev/stdout` otherwise, nor pass it on.
    ///
    /// # Errors
    /// The namespace has no root, or the kernel refuses.
    pub fn give(&self, to: &Maps) -> Result<(), Failure> {
        let (uid, gid) = to.root()?;
        let fail = |error: Errno| Failure::os("give to the container", "standard files", error);
        for file in [&self.input, &self.output, &self.error].into_iter().flatten() {
            let found = rustix::fs::fstat(file).map_err(fail)?;
            let kind = FileType::from_raw_mode(found.st_mode);
            if kind == FileType::Fifo && !to.has_user(found.st_uid) {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                chownat(file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(fail)?;
            }
        }
        Ok(())
    }

    /// Makes them this process's own; pipes get a new owner.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn install(&self, identity: &Identity) -> Result<(), Failure> {
        let files = [
            (&self.input, StandardFile::Input),
            (&self.output, StandardFile::Output),
            (&self.error, StandardFile::Error),
        ];
        for (file, number) in files {
            let Some(file) = file else { continue };
            own_pipe(file, identity)?;
            set_standard(file, number).map_err(|e| Failure::os("set up", "standard files", e))?;
        }
        Ok(())
    }
}

/// The first and the last major number of the slaves of pseudo-terminals (devices.txt).
const TERMINALS: std::ops::RangeInclusive<u32> = 136..=143;

/// Gives a pipe or a terminal to the user, so that `/dev/stdout` can be opened; the null device stays who it is.
fn own_pipe(file: &OwnedFd, identity: &Identity) -> Result<(), Failure> {
    let fail = |error: Errno| Failure::os("give to the user", "standard files", error);
    let found = rustix::fs::fstat(file).map_err(fail)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    let is_terminal =
        kind == FileType::CharacterDevice && TERMINALS.contains(&rustix::fs::major(found.st_rdev));
    if !(kind == FileType::Fifo || is_terminal) || identity.uid == found.st_uid {
        return Ok(());
    }
    let uid = Some(Uid::from_raw(identity.uid));
    chownat(file, c"", uid, None, AtFlags::EMPTY_PATH).map_err(fail)
}

fn open_null(root: &Root) -> Result<OwnedFd, Failure> {
    let handle = super::device::null(root)?;
    let opened = root.open_with(Path::new("/dev/null"), OFlags::RDWR | OFlags::NOFOLLOW, 0);
    let opened = opened.map_err(|e| target::invalid(Path::new("/dev/null"), e))?;
    let same =
        |file: &OwnedFd| target::stat(file).map(|found| (found.stx_ino, found.stx_rdev_minor));
    if same(&handle).ok() == same(&opened).ok() {
        return Ok(opened);
    }
    let kind = FailureKind::InvalidArgument;
    Err(Failure::new(kind, "use", "/dev/null", "is not the null device"))
}

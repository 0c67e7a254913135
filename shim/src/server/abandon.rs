//! A bundle that is deleted while its shim lives: nobody will come and ask for the container any more, so the shim
//! cleans up by itself once the container has ended. It never ends one that runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::Server;
use super::process::{INIT, Phase};

/// Watches the bundle, which is this process's working folder.
#[derive(Debug)]
pub struct BundleWatch {
    inotify: OwnedFd,
    gone: bool,
}

impl BundleWatch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The kernel refuses another watch.
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // The folder itself cannot be seen to go as long as we are in it, but what is in it goes first.
        let _watch = inotify::add_watch(&inotify, c".", WatchFlags::DELETE)?;
        Ok(Self { inotify, gone: false })
    }

    /// Looks whether what was deleted was all of it.
    pub fn look(&mut self) {
        let mut events = [0; 1024];
        while rustix::io::read(&self.inotify, &mut events).is_ok_and(|read| read > 0) {}
        self.gone |= !Path::new(crate::RECORD_FILE).exists();
    }
}

impl AsFd for BundleWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Server {
    /// Frees what an ended container of a deleted bundle still holds, and ends the shim.
    pub(super) fn clean_up_when_abandoned(&mut self) {
        if !self.bundle.gone || self.ending {
            return;
        }
        let ended = match &mut self.container {
            None => true,
            Some(container) => {
                container.by_key(INIT).is_some_and(|init| matches!(init.phase, Phase::Stopped(_)))
            }
        };
        if ended {
            if let Err(failure) = self.delete_stopped(INIT) {
                crate::runtime::warn(format_args!("clean up: {failure}"));
            }
            self.container = None;
            self.ending = true;
        }
    }
}

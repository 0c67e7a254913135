//! A bundle that is deleted while its shim lives: nobody will come and ask for the container any more, so the shim
//! cleans up by itself once the container has ended. It never ends one that runs.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::Server;
use super::container::Container;
use super::process::INIT;

/// How often a shim that got no watch looks for the bundle of an ended container.
const LOOK: Duration = Duration::from_secs(10);

/// Watches the bundle, which is this process's working folder.
#[derive(Debug)]
pub struct BundleWatch {
    /// A host has few of them, 128 for each user where nobody has raised it (`fs.inotify.max_user_instances`): a shim that
    /// gets none looks from time to time.
    inotify: Option<OwnedFd>,
    gone: bool,
}

impl BundleWatch {
    /// Begins to watch, if the kernel has a watch left.
    pub fn new() -> Self {
        let watch = || {
            let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            // The folder itself cannot be seen to go as long as we are in it, but what is in it goes first.
            let _watch = inotify::add_watch(&inotify, c".", WatchFlags::DELETE)?;
            Ok::<_, Errno>(inotify)
        };
        Self { inotify: watch().ok(), gone: false }
    }

    /// What to wait for.
    pub fn file(&self) -> Option<&OwnedFd> {
        self.inotify.as_ref()
    }

    /// Looks whether what was deleted was all of it.
    pub fn look(&mut self) {
        let mut events = [0; 1024];
        while let Some(inotify) = &self.inotify
            && rustix::io::read(inotify, &mut events).is_ok_and(|read| read > 0)
        {}
        self.gone |= !Path::new(crate::RECORD_FILE).exists();
    }
}

impl Server {
    /// When to look for the bundle, if nobody tells.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let ended = self.container.as_ref().is_some_and(Container::has_ended);
        (ended && self.bundle.inotify.is_none()).then(|| Instant::now() + LOOK)
    }

    /// Frees what an ended container of a deleted bundle still holds, and ends the shim.
    pub(super) fn clean_up_when_abandoned(&mut self) {
        let ended = self.container.as_ref().is_none_or(Container::has_ended);
        if self.next_look().is_some() {
            self.bundle.look();
        }
        if !self.bundle.gone || self.ending {
            return;
        }
        if ended {
            if let Err(failure) = self.delete_stopped(INIT) {
                crate::runtime::warn(format_args!("clean up: {failure}"));
            }
            self.container = None;
            self.ending = true;
        }
    }
}

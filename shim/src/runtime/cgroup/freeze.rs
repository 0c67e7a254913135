//! Stopping everybody in a cgroup where they stand, and letting them go on.
//!
//! Version 2 (`cgroup.freeze`) also catches who is forked meanwhile, and a frozen process can still be killed. The
//! freezer of version 1 may miss a process that is forked while it works, is asked again then, and a killed process
//! dies only when it is thawed.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Failure, FailureKind};

use super::folder::Folders;
use super::write_file;

/// How long everybody may take to stand still: who waits for a disk or a network file system takes its time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks; it grows up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(10));

/// What either version writes, and what it reads when it is so.
struct Words {
    file: &'static str,
    freeze: &'static str,
    thaw: &'static str,
    state: &'static str,
    frozen: &'static str,
    thawed: &'static str,
}

const V1: Words = Words {
    file: "freezer.state",
    freeze: "FROZEN",
    thaw: "THAWED",
    state: "freezer.state",
    frozen: "FROZEN",
    thawed: "THAWED",
};
const V2: Words = Words {
    file: "cgroup.freeze",
    freeze: "1",
    thaw: "0",
    state: "cgroup.events",
    frozen: "frozen 1",
    thawed: "frozen 0",
};

/// The freezer of some folders: version 1's own where there is one, so that everybody on the host looks at the same.
#[derive(Debug, Clone, Copy)]
pub struct Freezer<'a> {
    dir: &'a Path,
    legacy: bool,
}

impl<'a> Freezer<'a> {
    /// Finds it.
    pub fn of(folders: &'a Folders) -> Option<Self> {
        let legacy = folders.legacy("freezer").map(|dir| Self { dir, legacy: true });
        legacy.or_else(|| Some(Self { dir: folders.unified()?, legacy: false }))
    }

    /// Whether who is frozen cannot be killed.
    pub fn holds_the_killed(&self) -> bool {
        self.legacy
    }

    fn words(&self) -> &'static Words {
        if self.legacy { &V1 } else { &V2 }
    }

    /// Stops everybody, and returns when all stand still.
    ///
    /// # Errors
    /// `Internal` when somebody does not within ten seconds: everybody goes on then.
    pub fn freeze(&self) -> Result<(), Failure> {
        let words = self.words();
        self.change("freeze", words.freeze, words.frozen)
            .inspect_err(|_| drop(self.ask(words.thaw)))
    }

    /// Lets everybody go on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> Result<(), Failure> {
        let words = self.words();
        self.change("thaw", words.thaw, words.thawed)
    }

    /// Whether everybody stands still.
    ///
    /// # Errors
    /// There is no such cgroup any more.
    pub fn is_frozen(&self) -> io::Result<bool> {
        self.is(self.words().frozen)
    }

    fn ask(&self, word: &str) -> io::Result<()> {
        write_file(&self.dir.join(self.words().file), word)
    }

    /// Lets everybody go on, without waiting for it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn ask_to_thaw(&self) -> io::Result<()> {
        self.ask(self.words().thaw)
    }

    fn is(&self, expected: &str) -> io::Result<bool> {
        let text = fs::read_to_string(self.dir.join(self.words().state))?;
        Ok(text.lines().any(|line| line.trim() == expected))
    }

    fn change(&self, operation: &'static str, word: &str, expected: &str) -> Result<(), Failure> {
        let name = || self.dir.display().to_string();
        let fail = |error: io::Error| Failure::os(operation, name(), error);
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSES.0;
        self.ask(word).map_err(fail)?;
        while !self.is(expected).map_err(fail)? {
            if Instant::now() > deadline {
                let cause = "a process does not stand still in time";
                return Err(Failure::new(FailureKind::Internal, operation, name(), cause));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
            if self.legacy {
                // Version 1 looks anew at who has been forked since.
                self.ask(word).map_err(fail)?;
            }
        }
        Ok(())
    }
}

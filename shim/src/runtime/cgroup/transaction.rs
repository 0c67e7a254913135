//! Writing many values into control files: all of them, or none.
//!
//! The kernel holds values of one cgroup against each other: a quota must not be below its burst, nor memory's limit
//! above that of memory with swap. So which one has to be first depends on what is there already. What is refused is
//! therefore tried again after the others, for as long as a round gets anywhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Failure, FailureKind};
use rustix::io::Errno;

use super::setting::{Setting, Undo};
use super::{is_missing, write_file};

/// One value for one file of one folder.
#[derive(Debug)]
pub struct Write<'a> {
    /// The cgroup.
    pub folder: &'a Path,
    /// The value.
    pub setting: &'a Setting,
}

/// What a file had before.
#[derive(Debug)]
struct Before {
    path: PathBuf,
    text: String,
}

/// Writes into a cgroup that is removed when this fails.
///
/// # Errors
/// `InvalidArgument` naming the file and the value that the kernel does not take.
pub fn fill(writes: Vec<Write<'_>>) -> Result<(), Failure> {
    rounds(writes, |write| write.apply(None))
}

/// Writes into a cgroup that is in use: after an error everything is what it was.
///
/// # Errors
/// As [`fill`].
pub fn change(writes: Vec<Write<'_>>) -> Result<Change, Failure> {
    let mut change = Change { done: Vec::new() };
    match rounds(writes, |write| write.apply(Some(&mut change.done))) {
        Ok(()) => Ok(change),
        Err(failure) => {
            change.undo();
            Err(failure)
        }
    }
}

/// What was changed, and how to change it back.
#[derive(Debug)]
#[must_use]
pub struct Change {
    done: Vec<Before>,
}

impl Change {
    /// Puts every value back.
    pub fn undo(self) {
        let before: Vec<_> = self.done.into_iter().rev().collect();
        let put = |before: &Before| {
            write_file(&before.path, &before.text).map_err(|e| fail_undo(before, e))
        };
        if let Err(failure) = rounds(before, |before| put(before)) {
            super::super::warn(format_args!("{failure}"));
        }
    }
}

fn fail_undo(before: &Before, error: io::Error) -> Failure {
    Failure::os("put back", format!("{} to {:?}", before.path.display(), before.text), error)
}

/// Tries each, and those that were refused again, until a round gets nowhere.
fn rounds<T>(
    mut waiting: Vec<T>,
    mut attempt: impl FnMut(&T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let before = waiting.len();
        let mut first = None;
        waiting.retain(|one| match attempt(one) {
            Ok(()) => false,
            Err(failure) => {
                first.get_or_insert(failure);
                true
            }
        });
        match first {
            None => return Ok(()),
            Some(failure) if waiting.len() == before => return Err(failure),
            Some(_) => {}
        }
    }
}

impl Write<'_> {
    fn apply(&self, done: Option<&mut Vec<Before>>) -> Result<(), Failure> {
        let setting = self.setting;
        let record = done.is_some();
        for (file, value) in &setting.choices {
            match self.put(file, value, record) {
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(refused(file, value, error)),
                Ok(before) => {
                    if let Some(done) = done {
                        done.push(Before { path: self.folder.join(file), text: before });
                    }
                    return Ok(());
                }
            }
        }
        match setting.choices.last() {
            Some((file, value)) if !setting.optional => {
                Err(refused(file, value, Errno::NOENT.into()))
            }
            _ => Ok(()),
        }
    }

    /// Writes, and returns what takes it back if that is wanted.
    fn put(&self, file: &str, value: &str, record: bool) -> io::Result<String> {
        let path = self.folder.join(file);
        let old = if record || self.setting.keeps_first_word {
            fs::read_to_string(&path)?
        } else {
            String::new()
        };
        if self.setting.keeps_first_word {
            let first = old.split_whitespace().next().unwrap_or("max");
            write_file(&path, &format!("{first} {value}"))?;
        } else {
            write_file(&path, value)?;
        }
        Ok(self.setting.undo.text(&old))
    }
}

fn refused(file: &str, value: &str, error: io::Error) -> Failure {
    let object = format!("{file} to {value:?}");
    // Version 1 takes back what it can, and this is its answer when that is not enough.
    if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) && file.starts_with("memory.") {
        let kind = FailureKind::FailedPrecondition;
        let mut failure = Failure::new(kind, "set", object, "more than that is in use");
        failure.errno = error.raw_os_error();
        return failure;
    }
    Failure::os_kind(FailureKind::InvalidArgument, "set", object, error)
}

impl Undo {
    /// What has to be written for a file to have again what it says in `old`.
    fn text(&self, old: &str) -> String {
        match self {
            // An empty write is none.
            Self::Whole => match old.trim_end() {
                "" => "\n".to_owned(),
                text => text.to_owned(),
            },
            Self::Line { key, absent } => {
                let own = |line: &&str| line.split_whitespace().next() == Some(key.as_str());
                old.lines().find(own).unwrap_or(absent).to_owned()
            }
            Self::Field(field) => {
                let value = |line: &str| Some(line.strip_prefix(field)?.trim().to_owned());
                old.lines().find_map(value).unwrap_or_else(|| old.trim_end().to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_depends_on_another_value_is_tried_again_after_it() {
        let mut there = Vec::new();
        let ordered = rounds(vec![3, 2, 1], |number| {
            if *number == there.len() + 1 {
                there.push(*number);
                return Ok(());
            }
            Err(Failure::new(FailureKind::InvalidArgument, "set", number.to_string(), "too early"))
        });
        ordered.unwrap();
        assert_eq!(there, [1, 2, 3]);
        let never = rounds(vec![1], |_| {
            Err(Failure::new(FailureKind::InvalidArgument, "set", "it", "never"))
        });
        assert_eq!(never.unwrap_err().to_string(), "set it: never");
    }

    #[test]
    fn every_kind_of_file_gives_back_what_it_had() {
        let line = |absent: &str| Undo::Line { key: "8:0".to_owned(), absent: absent.to_owned() };
        assert_eq!(Undo::Whole.text("max 100000\n"), "max 100000");
        assert_eq!(Undo::Whole.text("\n"), "\n");
        assert_eq!(line("8:0 0").text("8:16 5\n8:0 7\n"), "8:0 7");
        assert_eq!(line("8:0 0").text("8:01 5\n"), "8:0 0");
        let field = Undo::Field("oom_kill_disable");
        assert_eq!(field.text("oom_kill_disable 0\nunder_oom 0\n"), "0");
        assert_eq!(Undo::Field("default").text("default 100\n8:0 5\n"), "100");
        assert_eq!(Undo::Field("default").text("100\n"), "100");
    }

    #[test]
    fn a_change_that_fails_leaves_every_file_as_it_was() {
        let folder = std::env::temp_dir().join(format!("wherry-change-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a"), "old").unwrap();
        let setting = |file: &str| Setting {
            controller: "memory",
            choices: vec![
                ("missing".to_owned(), "1".to_owned()),
                (file.to_owned(), "new".to_owned()),
            ],
            optional: false,
            keeps_first_word: false,
            undo: Undo::Whole,
            unified: false,
        };
        let (good, bad) = (setting("a"), setting("no/such"));
        let write = |setting| Write { folder: &folder, setting };
        let refused = change(vec![write(&good), write(&bad)]).unwrap_err();
        assert_eq!(refused.kind, FailureKind::InvalidArgument);
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "old");
        let done = change(vec![write(&good)]).unwrap();
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "new");
        done.undo();
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "old");
        fs::remove_dir_all(&folder).unwrap();
    }
}

//! The log's file: opened so that nobody can put something else in its place, appended to, and opened anew.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

/// An open log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: OwnedFd,
    /// The last write ended within a line: the next one has to end it first.
    torn: bool,
    /// Bytes that could not be written.
    dropped: u64,
}

impl LogFile {
    /// Opens or makes the file (mode 0640) in a folder that is there.
    ///
    /// # Errors
    /// The folder is missing or a link; the file is a link or not regular.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let file = open(&path)?;
        Ok(Self { path, file, torn: false, dropped: 0 })
    }

    /// Opens the file anew, the new one first: a failure changes nothing.
    ///
    /// # Errors
    /// As [`LogFile::open`].
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        self.torn = false;
        Ok(())
    }

    /// Appends whole lines. What cannot be written is dropped: the container never waits for a disk.
    pub fn write(&mut self, lines: &[u8]) {
        if self.torn && self.append(b"\n") < 1 {
            self.dropped += lines.len() as u64;
            return;
        }
        self.torn = false;
        let written = self.append(lines);
        if written < lines.len() {
            self.dropped += (lines.len() - written) as u64;
            self.torn = written > 0 && lines.get(written - 1) != Some(&b'\n');
        }
    }

    fn append(&self, mut bytes: &[u8]) -> usize {
        let whole = bytes.len();
        while !bytes.is_empty() {
            match rustix::io::write(&self.file, bytes) {
                Ok(0) => break,
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        whole - bytes.len()
    }
}

fn open(path: &std::path::Path) -> io::Result<OwnedFd> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, folder, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW;
    // Without O_NONBLOCK a FIFO in its place would hold us up here.
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(&folder, name, flags, Mode::from_raw_mode(0o640))?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_log_goes_on_in_a_new_file_and_links_are_refused() {
        let dir = std::env::temp_dir().join(format!("log-file-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("0.log");
        let mut log = LogFile::open(path.clone()).unwrap();
        log.write(b"one\n");
        std::fs::rename(&path, dir.join("0.log.1")).unwrap();
        log.write(b"two\n");
        log.reopen().unwrap();
        log.write(b"three\n");
        assert_eq!(std::fs::read(dir.join("0.log.1")).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");

        std::os::unix::fs::symlink("/dev/null", dir.join("link")).unwrap();
        assert!(LogFile::open(dir.join("link")).is_err());
        assert!(LogFile::open(dir.join("missing/0.log")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_the_next_line_starts_anew() {
        let full = rustix::fs::open("/dev/full", OFlags::WRONLY, Mode::empty()).unwrap();
        let mut log = LogFile { path: PathBuf::new(), file: full, torn: true, dropped: 0 };
        log.write(b"one\n");
        assert_eq!((log.dropped, log.torn), (4, true));
    }
}

//! Files that are whole after a power cut: written beside their name, synced, and renamed into place.
//!
//! The order is the whole point. Without the first sync a rename can survive with the old or with no content;
//! without the second the rename itself can be lost (seen on ext4 by shutting it down under load).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Replaces `path` with `bytes` so that after a power cut either the old or the new content is there.
///
/// The file gets mode 0600. Concurrent writers of one path must be kept apart by the caller.
///
/// # Errors
/// The first failing step's error; the temporary file is removed.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, File::sync_all)?;
    sync_dir(parent(path)?)
}

/// Replaces `path` with `bytes` as one step for every reader, without waiting for the disk.
///
/// For state below `/run`, which a reboot voids anyway.
///
/// # Errors
/// The first failing step's error; the temporary file is removed.
pub fn write_volatile(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, |_| Ok(()))
}

/// Makes the entries of a folder durable (fsync(2): a file's fsync does not cover its name).
///
/// # Errors
/// Opening or syncing the folder fails.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn replace(path: &Path, bytes: &[u8], settle: fn(&File) -> io::Result<()>) -> io::Result<()> {
    let draft = draft_name(path)?;
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            settle(&file)
        })
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        drop(fs::remove_file(&draft));
    }
    written
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path has no parent"))
}

fn draft_name(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path has no file name"))?;
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(".tmp");
    Ok(path.with_file_name(draft))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_content_and_leaves_no_temporary_file() {
        let dir = std::env::temp_dir().join(format!("durable-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("record");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_path_without_a_name_is_refused() {
        assert_eq!(write(Path::new("/"), b"").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

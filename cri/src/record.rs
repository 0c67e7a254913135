//! Records: one file per thing, whole after a power cut, set aside when it cannot be read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Writes a record so that it survives a power cut.
///
/// Blocks on the disk: call it from a thread that may.
///
/// # Errors
/// The disk refuses.
pub fn write<T: Serialize>(path: &Path, record: &T) -> Result<(), Error> {
    let error =
        |source| Error::Io { operation: format!("write record {}", path.display()), source };
    let bytes = serde_json::to_vec(record).map_err(|source| error(source.into()))?;
    sys::durable::write(path, &bytes).map_err(error)
}

/// Makes a thing's folder with its record in it.
///
/// # Errors
/// The disk refuses.
pub async fn create<T: Serialize + Send + 'static>(
    folder: PathBuf,
    record: T,
) -> Result<(), Error> {
    blocking("write a record", move || {
        fs::create_dir_all(&folder).map_err(|source| Error::Io {
            operation: format!("make {}", folder.display()),
            source,
        })?;
        write(&path_in(&folder), &record)
    })
    .await
}

/// The record in a thing's folder.
#[must_use]
pub fn path_in(folder: &Path) -> PathBuf {
    folder.join("record.json")
}

/// Reads a record; none when there is no file.
///
/// # Errors
/// The file cannot be read or is not such a record.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let error = |source| Error::Io { operation: format!("read record {}", path.display()), source };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(error(source)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| error(source.into()))
}

/// The subfolders of `dir`, with their names.
///
/// # Errors
/// The folder cannot be read; a missing one has none.
pub fn folders(dir: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let error = |source| Error::Io { operation: format!("list {}", dir.display()), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(error)?;
        if entry.file_type().map_err(error)?.is_dir() {
            folders.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    folders.sort();
    Ok(folders)
}

/// Moves what cannot be read out of the way, for an operator to look at; the daemon starts without it.
pub fn set_aside(folder: &Path, root: &Path, error: &Error) {
    let name =
        folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let damaged = root.join("damaged");
    let target = damaged.join(&name);
    tracing::warn!(folder = %folder.display(), to = %target.display(), error = error.sentence(), "set a damaged record aside");
    let moved = fs::create_dir_all(&damaged).and_then(|()| match fs::remove_dir_all(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::rename(folder, &target),
    });
    if let Err(error) = moved {
        tracing::warn!(folder = %folder.display(), %error, "set a damaged record aside");
    }
}

/// Runs blocking work on a thread that may block.
///
/// # Errors
/// The work's own; `Io` when the runtime is going down.
pub async fn blocking<T, F>(operation: &str, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(Error::Io { operation: operation.to_owned(), source: io::Error::other(error) })
        }
    }
}

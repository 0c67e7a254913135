//! A container's folder: the spec it is made from, its shim's socket, and the record of its life.
//!
//! ```text
//! config.json   the OCI spec
//! record        which process it is and how it ended (preallocated)
//! shim.sock     the shim's socket, mode 0600
//! shim.log      what the shim has to say, bounded by it
//! rootfs/       where the shim mounts the root file system, in a mount namespace of its own
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oci_spec::runtime::Spec;

use crate::exit::{Exit, RECORD_BYTES, Record, Started};

/// The OCI spec's file name in a bundle.
pub const SPEC_FILE: &str = "config.json";
/// The socket's file name in a bundle.
pub const SOCKET_FILE: &str = "shim.sock";
/// The file that the shim's standard error goes to.
pub const LOG_FILE: &str = "shim.log";
/// The record's file name in a bundle.
pub const RECORD_FILE: &str = "record";
const ROOTFS_DIR: &str = "rootfs";

/// What was attempted on a bundle, and the kernel's answer.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub struct BundleError {
    /// The attempted operation.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

/// A container's folder. Cheap to clone: it is the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    dir: PathBuf,
}

impl Bundle {
    /// Makes the folder (mode 0700; its parent exists) with the spec and an empty record.
    ///
    /// # Errors
    /// The folder exists, or the kernel refuses a step; then nothing is left.
    pub fn create(dir: &Path, spec: &Spec) -> Result<Self, BundleError> {
        let bundle = Self { dir: dir.to_owned() };
        DirBuilder::new().mode(0o700).create(dir).map_err(|source| BundleError {
            operation: "create bundle",
            path: dir.to_owned(),
            source,
        })?;
        match bundle.fill(spec) {
            Ok(()) => Ok(bundle),
            Err(error) => {
                drop(fs::remove_dir_all(dir));
                Err(error)
            }
        }
    }

    /// Finds a bundle that was made before.
    ///
    /// # Errors
    /// There is no such folder, or no record in it.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let bundle = Self { dir: dir.to_owned() };
        bundle.record()?;
        Ok(bundle)
    }

    /// Makes another daemon's folder, which has a spec, one of ours: with an empty record, unless there is one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn prepare(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join(RECORD_FILE);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match made.and_then(|mut file| file.write_all(&[0; RECORD_BYTES])) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(BundleError { operation: "make record", path, source })
            }
            _ => Self::open(dir),
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The shim's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET_FILE)
    }

    /// How the container ended, as its shim recorded it.
    pub fn exit(&self) -> Option<Exit> {
        self.record().ok()?.exit()
    }

    /// Which process the container is, as its shim recorded it before it answered the start.
    pub fn started(&self) -> Option<Started> {
        self.record().ok()?.started()
    }

    /// When the container was started, by the wall clock.
    pub fn started_at(&self) -> Option<SystemTime> {
        self.record().ok()?.started_at()
    }

    /// Opens the record to read and write it.
    ///
    /// # Errors
    /// There is none.
    pub fn record(&self) -> Result<Record, BundleError> {
        let path = self.dir.join(RECORD_FILE);
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        opened.map(Record::new).map_err(|source| BundleError {
            operation: "open record",
            path,
            source,
        })
    }

    /// Removes the folder; one that is gone already is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(self) -> Result<(), BundleError> {
        match fs::remove_dir_all(&self.dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(BundleError { operation: "remove bundle", path: self.dir, source })
            }
            _ => Ok(()),
        }
    }

    fn fill(&self, spec: &Spec) -> Result<(), BundleError> {
        let rootfs = self.dir.join(ROOTFS_DIR);
        fs::create_dir(&rootfs).map_err(|source| BundleError {
            operation: "create",
            path: rootfs,
            source,
        })?;
        let write = |name: &str, fill: &dyn Fn(&mut BufWriter<File>) -> io::Result<()>| {
            let path = self.dir.join(name);
            let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            opened
                .and_then(|file| {
                    let mut writer = BufWriter::new(file);
                    fill(&mut writer)?;
                    writer.flush()
                })
                .map_err(|source| BundleError { operation: "write", path, source })
        };
        write(SPEC_FILE, &|writer| Ok(serde_json::to_writer(writer, spec)?))?;
        write(RECORD_FILE, &|writer| writer.write_all(&[0; RECORD_BYTES]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_made_once_found_again_and_removed_for_good() {
        let dir = std::env::temp_dir().join(format!("bundle-{}", std::process::id()));
        let bundle = Bundle::create(&dir, &Spec::default()).unwrap();
        let again = Bundle::create(&dir, &Spec::default()).unwrap_err();
        assert_eq!(again.source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(Bundle::open(&dir).unwrap(), bundle);
        assert_eq!((bundle.started(), bundle.exit()), (None, None));
        bundle.clone().remove().unwrap();
        bundle.remove().unwrap();
        assert!(Bundle::open(&dir).is_err());
    }
}

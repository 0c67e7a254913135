//! What a container's root filesystem is mounted from.

use std::path::PathBuf;

/// The directories of one container's overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// The shared, read-only layers, top first; never empty.
    pub lower: Vec<PathBuf>,
    /// What the container writes.
    pub upper: PathBuf,
    /// The kernel's scratch directory for it, on the same file system.
    pub work: PathBuf,
}

/// One mount, as mount(2) and the shim API describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The file system type.
    pub kind: String,
    /// The source; for overlay only a label.
    pub source: String,
    /// Options, each `key=value`.
    pub options: Vec<String>,
}

/// The read-only directories of an image that is looked at and never written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Top first; never empty.
    pub lower: Vec<PathBuf>,
}

impl View {
    /// Of the layers `lower`, top first, with `empty`, a directory in which there is nothing: an overlay that cannot be
    /// written to takes two directories, and one layer by itself would show the marks of what it removes.
    pub fn new(mut lower: Vec<PathBuf>, empty: PathBuf) -> Self {
        if lower.len() == 1 && lower[0] != empty {
            lower.push(empty);
        }
        Self { lower }
    }

    /// The mount of these directories.
    pub fn mount(&self) -> Mount {
        let lower: Vec<_> = self.lower.iter().map(|p| p.to_string_lossy()).collect();
        match lower.as_slice() {
            [only] => Mount {
                kind: "bind".to_owned(),
                source: only.clone().into_owned(),
                options: vec!["bind".to_owned(), "ro".to_owned()],
            },
            lower => Mount {
                kind: "overlay".to_owned(),
                source: "overlay".to_owned(),
                options: vec![format!("lowerdir={}", lower.join(":")), "ro".to_owned()],
            },
        }
    }
}

impl Rootfs {
    /// The overlay mount of these directories.
    ///
    /// With many layers the joined options exceed the page to which mount(2) cuts them: the shim hands each lower
    /// directory to fsconfig(2) by itself.
    pub fn mount(&self) -> Mount {
        let lower: Vec<_> = self.lower.iter().map(|p| p.to_string_lossy()).collect();
        Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![
                format!("lowerdir={}", lower.join(":")),
                format!("upperdir={}", self.upper.display()),
                format!("workdir={}", self.work.display()),
                // A container's writes void at a power cut; without this its end would wait until all of the host's
                // file system below is on the disk (overlayfs.rst, Volatile mount).
                "volatile".to_owned(),
            ],
        }
    }
}

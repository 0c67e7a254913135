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

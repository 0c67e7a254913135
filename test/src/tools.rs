//! Programs of other projects that tests use, and where they are found.
//!
//! `hack/setup` unpacks Debian's packages below `~/.cache/wherry/tools/deb` instead of installing them, because installing
//! would start services; whatever the machine has of its own comes first.

use std::path::{Path, PathBuf};

/// The folder for what survives a clean clone: built tools, unpacked packages, big images.
pub fn cache() -> PathBuf {
    std::env::var_os("WHERRY_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        Path::new(&home).join(".cache/wherry")
    })
}

/// The program of this name: in `PATH`, in the system's administrative folders, or in the cache.
pub fn find(name: &str) -> Option<PathBuf> {
    let deb = cache().join("tools/deb");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .chain([cache().join("tools/bin")])
        .chain(["usr/sbin", "usr/bin", "sbin", "bin"].map(|folder| deb.join(folder)))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// A busybox without libraries: the unpacked one if there is one, because then the machine's own is not.
pub fn busybox() -> Option<PathBuf> {
    let deb = cache().join("tools/deb");
    let unpacked = ["bin/busybox", "usr/bin/busybox"].map(|path| deb.join(path));
    unpacked.into_iter().find(|path| path.is_file()).or_else(|| find("busybox"))
}

/// The folder with the standard CNI plugins, when there is one.
pub fn cni_plugins() -> Option<PathBuf> {
    ["/usr/lib/cni", "/opt/cni/bin"]
        .map(PathBuf::from)
        .into_iter()
        .chain([cache().join("tools/deb/usr/lib/cni")])
        .find(|folder| folder.join("bridge").is_file() && folder.join("host-local").is_file())
}

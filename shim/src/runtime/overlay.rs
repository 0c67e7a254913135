//! The overlay that a root file system usually is.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::{Failure, FailureKind};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsOpenFlags, MountFlags, UnmountFlags, fsconfig_set_flag, fsconfig_set_string, fsopen, unmount,
};
use sys::attribute::as_filesystem_owner;
use sys::mount::READ_ONLY;

use super::filesystem;
use super::idmap::Users;
use super::mount::{copy_tree, put};
use super::mount_option::Options;
use super::rootfs::{Layer, attach, map_tree};

/// Longest string that fsconfig(2) takes, with its final zero.
const MAX_CONFIG_STRING: usize = 256;
/// mount(2) cuts its options silently at a page: never come near it.
const MAX_MOUNT_DATA: usize = 4095 - 512;

/// Mounts it on `place`; what is mounted is returned.
///
/// # Errors
/// `InvalidArgument`: the kernel refuses.
pub fn mount(layer: &Layer, place: &Path) -> Result<OwnedFd, Failure> {
    let overlay = Overlay::parse(layer)?;
    if overlay.mapped {
        let cause = "its ids are to be mapped, and the container has no user namespace";
        return Err(Failure::new(FailureKind::InvalidArgument, "mount", "overlay", cause));
    }
    match overlay.make() {
        // A kernel before 6.5 does not know "lowerdir+", and what it knows instead fsconfig cuts at 256 bytes.
        Err(failure) if failure.errno == Some(Errno::INVAL.raw_os_error()) => {
            overlay.mount_by_page(place).map_err(|_| failure)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(place, flags, Mode::empty())
                .map_err(|e| Failure::os("open", place.display().to_string(), e))
        }
        made => attach(made?, place),
    }
}

/// Makes it, attached nowhere. With `users`, folders that are not theirs already are mapped to them; that takes a mount
/// namespace that ends with this process, in which `place` is used up.
///
/// # Errors
/// `InvalidArgument`: the kernel refuses.
pub fn make(layer: &Layer, place: &Path, users: Option<&Users>) -> Result<OwnedFd, Failure> {
    let mut overlay = Overlay::parse(layer)?;
    let Some(users) = users else { return overlay.make_or_mount(place) };
    let _layers = overlay.map(users, place)?;
    let (uid, gid) = users.maps().root()?;
    // Who mounts an overlay writes its upper layer, in which the host's root is nobody.
    as_filesystem_owner(uid, gid, || Ok(overlay.make_or_mount(place)))
        .map_err(|e: std::io::Error| Failure::os("mount", "overlay", e))?
}

/// An overlay's options, apart.
struct Overlay {
    lower: Vec<String>,
    dirs: Vec<(&'static str, String)>,
    rest: Options,
    /// The caller counts on its ids being mapped.
    mapped: bool,
}

impl Overlay {
    fn parse(layer: &Layer) -> Result<Self, Failure> {
        let mut overlay = Self {
            lower: Vec::new(),
            dirs: Vec::new(),
            rest: Options::parse(&layer.options, "/")?,
            mapped: false,
        };
        for (key, value) in std::mem::take(&mut overlay.rest.data) {
            match (key.as_str(), value) {
                ("lowerdir", Some(value)) => overlay.lower = split_escaped(&value),
                ("upperdir", Some(value)) => overlay.dirs.push(("upperdir", value)),
                ("workdir", Some(value)) => overlay.dirs.push(("workdir", value)),
                // Engines that leave the mapping to a runtime say again what the user namespace is.
                ("uidmap" | "gidmap", Some(_)) => overlay.mapped = true,
                (_, value) => overlay.rest.data.push((key, value)),
            }
        }
        Ok(overlay)
    }

    /// A detached mount.
    fn make(&self) -> Result<OwnedFd, Failure> {
        let invalid = |error: Errno| self.invalid(error);
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(invalid)?;
        let explained = |error: Errno| filesystem::explain(self.invalid(error), &context);
        // Long paths go in through a handle; it has to be open until the mount is made.
        let mut handles = Vec::new();
        for path in &self.lower {
            let value = config_value(path, &mut handles)?;
            fsconfig_set_string(&context, "lowerdir+", value).map_err(explained)?;
        }
        for (key, path) in &self.dirs {
            let value = config_value(path, &mut handles)?;
            fsconfig_set_string(&context, *key, value).map_err(explained)?;
        }
        for (key, value) in &self.rest.data {
            match value {
                Some(value) => fsconfig_set_string(&context, key, value),
                None => fsconfig_set_flag(&context, key),
            }
            .map_err(explained)?;
        }
        filesystem::finish(&context, &self.rest).map_err(explained)
    }

    /// Replaces the folders by mapped mounts of them. What is returned has to live until it is mounted.
    ///
    /// An overlay takes its layers from mounts that are attached: they get folders in a tmpfs over `place`, which goes
    /// with this process's mount namespace.
    fn map(&mut self, users: &Users, place: &Path) -> Result<Vec<OwnedFd>, Failure> {
        let name = place.display().to_string();
        let fail = |error: Errno| Failure::os("map layers at", name.as_str(), error);
        let options = Options::parse(&["mode=700".to_owned()], &name)?;
        let base = attach(filesystem::make("tmpfs", Some("tmpfs"), &options, &name)?, place)?;
        let mut kept = Vec::new();
        let mut show = |path: &Path| -> Result<String, Failure> {
            let layer = path.display().to_string();
            let tree = copy_tree(path, false).map_err(|error| {
                Failure::os_kind(FailureKind::InvalidArgument, "open layer", &layer, error)
            })?;
            let tree = map_tree(tree, Some(users), &layer)?;
            let number = kept.len().to_string();
            mkdirat(&base, number.as_str(), Mode::RWXU).map_err(fail)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = openat(&base, number.as_str(), flags, Mode::empty()).map_err(fail)?;
            put(&tree, &folder, &name)?;
            let shown = format!("/proc/self/fd/{}", tree.as_raw_fd());
            kept.push(tree);
            Ok(shown)
        };
        for layer in &mut self.lower {
            *layer = show(Path::new(layer))?;
        }
        // The upper and the work folder have to be in one mount.
        let dirs: Vec<PathBuf> = self
            .dirs
            .iter()
            .map(|(_, path)| std::fs::canonicalize(path))
            .collect::<Result<_, _>>()
            .map_err(|e| Failure::os_kind(FailureKind::InvalidArgument, "open", "layers", e))?;
        if let Some(parent) = common_parent(&dirs) {
            let shown = show(&parent)?;
            for ((_, value), dir) in self.dirs.iter_mut().zip(&dirs) {
                let rest = dir.strip_prefix(&parent).unwrap_or(dir);
                *value = Path::new(&shown).join(rest).display().to_string();
            }
        }
        kept.push(base);
        Ok(kept)
    }

    /// A mount of it that is attached nowhere.
    fn make_or_mount(&self, place: &Path) -> Result<OwnedFd, Failure> {
        match self.make() {
            Err(failure) if failure.errno == Some(Errno::INVAL.raw_os_error()) => {
                self.mount_by_page(place).map_err(|_| failure)?;
                let fail = |e: Errno| Failure::os("copy mount at", place.display().to_string(), e);
                let copied = copy_tree(place, false).map_err(fail)?;
                unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(fail)?;
                Ok(copied)
            }
            other => other,
        }
    }

    /// Mounts it with mount(2), whose options are one page: every folder goes in by a short name.
    fn mount_by_page(&self, place: &Path) -> Result<(), Failure> {
        let mut handles = Vec::new();
        let mut short = |path: &str| -> Result<String, Failure> { handle_path(path, &mut handles) };
        let lower = self.lower.iter().map(|path| short(path)).collect::<Result<Vec<_>, _>>()?;
        let mut words = vec![format!("lowerdir={}", lower.join(":"))];
        for (key, path) in &self.dirs {
            words.push(format!("{key}={}", short(path)?));
        }
        for (key, value) in &self.rest.data {
            words.push(match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            });
        }
        let data = words.join(",");
        if data.len() > MAX_MOUNT_DATA {
            return Err(self.invalid(Errno::TOOBIG));
        }
        let data = CString::new(data).map_err(|_| self.invalid(Errno::INVAL))?;
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.rest.attributes.set & READ_ONLY != 0);
        rustix::mount::mount("overlay", place, "overlay", flags, Some(data.as_c_str()))
            .map_err(|e| self.invalid(e))
    }

    fn invalid(&self, error: Errno) -> Failure {
        let object = format!("overlay of {} layers", self.lower.len());
        Failure::os_kind(FailureKind::InvalidArgument, "mount", object, error)
    }
}

/// The deepest folder that holds all of them.
fn common_parent(paths: &[PathBuf]) -> Option<PathBuf> {
    let mut parent = paths.first()?.parent()?.to_owned();
    while !paths.iter().all(|path| path.starts_with(&parent)) {
        parent = parent.parent()?.to_owned();
    }
    Some(parent)
}

/// Splits `a:b\:c` at its colons.
fn split_escaped(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match (character, parts.last_mut()) {
            (':', _) => parts.push(String::new()),
            ('\\', Some(part)) => part.extend(characters.next()),
            (character, Some(part)) => part.push(character),
            (_, None) => {}
        }
    }
    parts
}

fn config_value(path: &str, handles: &mut Vec<OwnedFd>) -> Result<String, Failure> {
    if path.len() < MAX_CONFIG_STRING { Ok(path.to_owned()) } else { handle_path(path, handles) }
}

/// A short name of a folder: through a handle of this process.
fn handle_path(path: &str, handles: &mut Vec<OwnedFd>) -> Result<String, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| Failure::os_kind(FailureKind::InvalidArgument, "open layer", path, e))?;
    let name = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    handles.push(handle);
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_layers_is_split_at_bare_colons_only() {
        assert_eq!(split_escaped("/a:/b\\:c:/d"), ["/a", "/b:c", "/d"]);
        assert_eq!(split_escaped("/one"), ["/one"]);
    }

    #[test]
    fn an_overlays_options_are_told_apart() {
        let options =
            ["index=off", "lowerdir=/a:/b", "upperdir=/u", "workdir=/w", "ro", "volatile"];
        let layer = Layer {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: options.map(str::to_owned).to_vec(),
        };
        let overlay = Overlay::parse(&layer).unwrap();
        assert_eq!(overlay.lower, ["/a", "/b"]);
        assert_eq!(overlay.dirs, [("upperdir", "/u".to_owned()), ("workdir", "/w".to_owned())]);
        assert_eq!(overlay.rest.data.len(), 2);
        assert_eq!(overlay.rest.attributes.set, READ_ONLY);
    }
}

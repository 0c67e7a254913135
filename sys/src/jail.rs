//! A thread that has nothing but one folder: for work on input that wants out of it.
//!
//! The confined paths of [`crate::confined`] are the first wall, this is the one behind it: whatever a path turns out
//! to mean, there is nothing of the host to be found by it. Files that were open before stay open.

use std::io;
use std::path::Path;

use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree, unmount,
};

use crate::confined::Root;
use crate::mount::{Attributes, NO_DEV, NO_EXEC, NO_SUID, Propagation, set_attributes};

/// Makes `folder` the whole file system of the calling thread, where no device can be opened and nothing executed.
///
/// For a thread that ends afterwards: there is no way back, and a thread of a pool would take it to its next task.
///
/// # Errors
/// The caller lacks `CAP_SYS_ADMIN` (`EPERM`), or `folder` is not a folder.
pub fn enter(folder: &Path) -> io::Result<Root> {
    // The folder, root and umask are a thread's own from here on; without that there is no mount namespace for it.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, folder, flags)?;
    let change = Attributes {
        set: NO_DEV | NO_EXEC | NO_SUID,
        propagation: Propagation::Private.flag(),
        ..Attributes::default()
    };
    set_attributes(&tree, change, false)?;
    change_root(&tree, folder)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Root::from_fd(rustix::fs::open("/", flags, Mode::empty())?))
}

/// Leaves the calling thread nothing but an empty folder that cannot be written to. Files that are open stay open.
///
/// # Errors
/// The caller lacks `CAP_SYS_ADMIN`.
pub fn enter_void() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "555")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let void = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // Any folder that is always there; it goes away with all the others.
    change_root(&void, Path::new("/proc"))
}

/// Mounts `tree` on `place` and makes it the root. Nothing else is left of the mounts.
fn change_root(tree: &OwnedFd, place: &Path) -> io::Result<()> {
    move_mount(tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(tree)?;
    // The old root ends up on top of the new one and is taken off (pivot_root(2), NOTES).
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    #[test]
    fn in_the_void_there_is_nothing_and_nothing_can_be_made() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: takes root");
            return;
        }
        let seen = thread::spawn(|| {
            enter_void().unwrap();
            let made = fs::write("/file", "x").unwrap_err().kind();
            (fs::read_dir("/").unwrap().count(), made)
        });
        assert_eq!(seen.join().unwrap(), (0, io::ErrorKind::ReadOnlyFilesystem));
        assert!(Path::new("/proc/self").exists());
    }

    #[test]
    fn nothing_but_the_folder_is_left_and_other_threads_do_not_notice() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: takes root");
            return;
        }
        let folder = std::env::temp_dir().join(format!("jail-{}", std::process::id()));
        fs::create_dir_all(folder.join("inside")).unwrap();
        let place = folder.clone();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let seen = thread::spawn(move || {
            let root = enter(&place).unwrap();
            assert!(root.handle(Path::new("inside")).is_ok());
            // By name, as a careless line of code would.
            let found = fs::read_dir("/").unwrap().map(|entry| entry.unwrap().file_name());
            let found: Vec<_> = found.collect();
            assert!(!Path::new("/proc").exists() && !Path::new("../../../etc").exists());
            fs::write("/inside/file", "x").unwrap();
            found
        });
        assert_eq!(seen.join().unwrap(), ["inside"]);
        assert_eq!(fs::read_to_string(folder.join("inside/file")).unwrap(), "x");
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
        fs::remove_dir_all(folder).unwrap();
    }
}

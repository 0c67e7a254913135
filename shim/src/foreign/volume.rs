//! Volumes that travel back to the host, in a mount namespace from which nothing does.
//!
//! The builder cuts its mounts off from the host's, so that the root file system it mounts is seen by nobody else; what
//! the host mounts still arrives. A volume with bidirectional propagation has to stay a peer of the host's: it is copied
//! before the cut, and the runtime is told the copy's place as the volume's source.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::place;
use crate::runtime::mount::{copy_tree, put};
use crate::{Failure, FailureKind};

const FOLDER: &str = "volumes";

/// Cuts this process's mounts off from the host's. Sources of bidirectional volumes are replaced in the spec.
///
/// # Errors
/// A volume is not there, or the kernel refuses.
pub fn cut_off(spec: &mut Spec) -> Result<(), Failure> {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let mut kept = Vec::new();
    for (number, volume) in mounts.iter_mut().enumerate() {
        let shared = |option: &String| option == "rshared" || option == "shared";
        let Some(source) = volume.source().clone() else { continue };
        if !volume.options().iter().flatten().any(shared) {
            continue;
        }
        let tree = copy_tree(&source, true).map_err(|error| {
            let kind = FailureKind::InvalidArgument;
            Failure::os_kind(kind, "open volume", source.display().to_string(), error)
        })?;
        let target = place(FOLDER)?.join(number.to_string());
        let _changed = volume.set_source(Some(target.clone()));
        kept.push((tree, target));
    }
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|e| Failure::os("cut mounts off", "", e))?;
    if kept.is_empty() {
        return Ok(());
    }
    // Of its own, so that no folder stays in the bundle behind a mount that has gone.
    let folder = place(FOLDER)?;
    let fail = |error| Failure::os("make folder of", "volumes", error);
    fs::create_dir(&folder).map_err(fail)?;
    mount("tmpfs", &folder, "tmpfs", MountFlags::NOSUID, Some(c"mode=700"))
        .map_err(|e| fail(e.into()))?;
    kept.into_iter().try_for_each(|(tree, target)| show(&tree, &target))?;
    let _changed = spec.set_mounts(Some(mounts));
    Ok(())
}

fn show(tree: &OwnedFd, target: &Path) -> Result<(), Failure> {
    let name = target.display().to_string();
    let fail = |error: std::io::Error| Failure::os("show volume at", name.as_str(), error);
    let kind = FileType::from_raw_mode(fstat(tree).map_err(|e| fail(e.into()))?.st_mode);
    if kind == FileType::Directory {
        fs::create_dir(target).map_err(fail)?;
    } else {
        drop(fs::File::create(target).map_err(fail)?);
    }
    let handle = open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    put(tree, &handle.map_err(|e| fail(e.into()))?, &name)
}

//! Making a file system's mount, attached nowhere, with fsopen(2).

use std::os::fd::{AsFd, OwnedFd};

use crate::{Failure, FailureKind};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::mount_option::Options;

/// Makes a mount of a fresh file system of `kind`; `name` is what an error calls it.
///
/// # Errors
/// `InvalidArgument`: the kernel does not know the file system or refuses an option; its own words are in the cause.
pub fn make(
    kind: &str,
    source: Option<&str>,
    options: &Options,
    name: &str,
) -> Result<OwnedFd, Failure> {
    let object = || format!("{kind} on {name}");
    let invalid =
        |error: Errno| Failure::os_kind(FailureKind::InvalidArgument, "mount", object(), error);
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(invalid)?;
    let explained = |error: Errno| explain(invalid(error), &context);
    if let Some(source) = source {
        fsconfig_set_string(&context, "source", source).map_err(explained)?;
    }
    for (key, value) in &options.data {
        match value {
            Some(value) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, key),
        }
        .map_err(explained)?;
    }
    finish(&context, options).map_err(explained)
}

/// Turns a configured context into a mount.
///
/// # Errors
/// The kernel refuses.
pub fn finish(context: impl AsFd, options: &Options) -> Result<OwnedFd, Errno> {
    fsconfig_create(context.as_fd())?;
    let set = options.attributes.set | options.recursive.set;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(set).unwrap_or(0));
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Adds what the file system has written about it into its context: "tmpfs: Bad value for 'size'".
pub fn explain(mut failure: Failure, context: &OwnedFd) -> Failure {
    let mut line = [0; 256];
    while let Ok(read) = rustix::io::read(context, &mut line) {
        // The first two bytes are the level and a space.
        let text = String::from_utf8_lossy(line.get(2..read).unwrap_or_default());
        failure.cause = format!("{} ({})", failure.cause, text.trim_end()).into();
    }
    failure
}

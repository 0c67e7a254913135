//! What a container needs of the host before its specification can be written: sources of mounts, devices, logs.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use image::Image;
use oci_spec::runtime::LinuxSeccomp;

use super::config::{ContainerConfig, Device, ImageName, MountSource};
use super::propagation;
use super::security::SeccompProfile;
use crate::error::Error;
use crate::handler::Defaults;
use crate::sandbox::config::SandboxConfig;
use crate::signal::Signal;
use crate::spec::HostDevice;

/// Folders of /dev that are mounts of the container's own, and the console, which is a terminal of its own.
const NOT_DEVICES: [&str; 6] = ["pts", "shm", "mqueue", "fd", "console", "hugepages"];

/// Largest file of a seccomp profile, in bytes.
const MAX_PROFILE: u64 = 1 << 20;

/// The request's signal, the image's, or SIGTERM.
///
/// # Errors
/// `Invalid` when the image names one that does not exist.
pub fn stop_signal(config: &ContainerConfig, image: &Image) -> Result<Signal, Error> {
    let invalid = |reason| Error::Invalid {
        operation: format!("create container {}", config.metadata.name),
        reason: format!("stop signal of image {}: {reason}", config.image.image),
    };
    match (config.stop_signal, &image.config.stop_signal) {
        (Some(signal), _) => Ok(signal),
        (None, Some(text)) if !text.is_empty() => text.parse().map_err(invalid),
        (None, _) => Ok(Signal::TERM),
    }
}

/// The log file: both parts must be given, or there is no log.
#[must_use]
pub fn log_file(pod: &SandboxConfig, config: &ContainerConfig) -> Option<PathBuf> {
    Some(pod.log_directory.as_ref()?.join(config.log_path.as_ref()?))
}

/// Makes the folder of the log file.
///
/// # Errors
/// The file system refuses.
pub fn log_folder(log: Option<&Path>) -> Result<(), Error> {
    let Some(folder) = log.and_then(Path::parent) else { return Ok(()) };
    fs::create_dir_all(folder).map_err(|source| Error::Io {
        operation: format!("make the log folder {}", folder.display()),
        source,
    })
}

/// Finds the sources of all mounts: links are followed on the host, missing folders are made, as the kubelet relies
/// on since Docker's days.
///
/// # Errors
/// The file system refuses; `Refused` when the host does not pass on mounts there and that is asked for.
pub fn mount_sources(config: &mut ContainerConfig) -> Result<(), Error> {
    let name = &config.metadata.name;
    for mount in &mut config.mounts {
        let MountSource::Host(path) = &mut mount.source else { continue };
        let operation = format!("find source {} of a mount of container {name}", path.display());
        let error = |source| Error::Io { operation: operation.clone(), source };
        if fs::symlink_metadata(&path).is_err() {
            fs::create_dir_all(&path).map_err(error)?;
        }
        *path = path.canonicalize().map_err(error)?;
        propagation::check(path, mount.propagation)
            .map_err(|reason| Error::Refused { operation, reason })?;
    }
    Ok(())
}

/// What the file of a `Localhost` seccomp profile says.
///
/// # Errors
/// It cannot be read, or is no profile of the OCI runtime specification.
pub fn seccomp(config: &ContainerConfig) -> Result<Option<LinuxSeccomp>, Error> {
    let SeccompProfile::Localhost(path) = &config.security.seccomp else { return Ok(None) };
    let operation = || {
        let name = &config.metadata.name;
        format!("read seccomp profile {} of container {name}", path.display())
    };
    let invalid = |reason: String| Error::Invalid { operation: operation(), reason };
    let error = |source| Error::Io { operation: operation(), source };
    // Whatever has its name must not be waited for.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(error)?;
    if !file.metadata().map_err(error)?.is_file() {
        return Err(invalid("it is not a regular file".into()));
    }
    let mut text = Vec::new();
    file.take(MAX_PROFILE + 1).read_to_end(&mut text).map_err(error)?;
    if text.len() as u64 > MAX_PROFILE {
        return Err(invalid(format!("it is larger than {MAX_PROFILE} bytes")));
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| invalid(error.to_string()))
}

/// The devices asked for; all of the node's for a privileged container, unless its handler has it otherwise.
///
/// # Errors
/// A device is missing or is not one.
pub fn devices(config: &ContainerConfig, defaults: &Defaults) -> Result<Vec<HostDevice>, Error> {
    let mut devices = Vec::new();
    if config.security.privileged && !defaults.privileged_without_host_devices {
        collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut devices);
    }
    for wanted in &config.devices {
        let before = devices.len();
        let found = named(wanted, &mut devices);
        found.map_err(|source| Error::Io {
            operation: format!(
                "find device {} of container {}",
                wanted.host_path.display(),
                config.metadata.name
            ),
            source,
        })?;
        if devices.len() == before {
            return Err(Error::Invalid {
                operation: format!("create container {}", config.metadata.name),
                reason: format!("{} is no device", wanted.host_path.display()),
            });
        }
    }
    Ok(devices)
}

fn named(wanted: &Device, devices: &mut Vec<HostDevice>) -> std::io::Result<()> {
    let source = wanted.host_path.canonicalize()?;
    if source.is_dir() {
        collect(&source, &wanted.container_path, &wanted.permissions, devices);
    } else {
        let metadata = fs::metadata(&source)?;
        devices.extend(device(&metadata, wanted.container_path.clone(), &wanted.permissions));
    }
    Ok(())
}

/// All devices below a folder; links are not followed.
fn collect(source: &Path, target: &Path, access: &str, devices: &mut Vec<HostDevice>) {
    let Ok(entries) = fs::read_dir(source) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if NOT_DEVICES.iter().any(|skipped| name == *skipped) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let target = target.join(&name);
        if metadata.is_dir() {
            collect(&entry.path(), &target, access, devices);
        } else {
            devices.extend(device(&metadata, target, access));
        }
    }
}

fn device(metadata: &fs::Metadata, container_path: PathBuf, access: &str) -> Option<HostDevice> {
    let kind = metadata.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return None;
    }
    Some(HostDevice {
        container_path,
        block: kind.is_block_device(),
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

/// The image as its user knows it. The kubelet asks for containers by the id of their image, which tells nobody
/// anything: then it is what the user wrote, if the image still has this name, or else a name that it has.
#[must_use]
pub fn image_name(asked: &ImageName, image: &Image) -> String {
    let is_id = |name: &str| image.id.as_str() == name || image.id.hex().starts_with(name);
    if !is_id(&asked.image) {
        return asked.image.clone();
    }
    let user = image::Reference::parse(&asked.user_specified).map(|name| name.to_string());
    let mut names = image.repo_tags.iter().chain(&image.repo_digests);
    let wanted = user.ok().filter(|user| names.clone().any(|name| name == user));
    wanted.or_else(|| names.next().cloned()).unwrap_or_else(|| asked.image.clone())
}

/// The image by repository and digest, or by id where it has no repository.
#[must_use]
pub fn image_ref(image: &Image) -> String {
    image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string())
}

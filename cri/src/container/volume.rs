//! A container's volumes that are no folders of the host's: images, and the folders that its own image asks for.
//!
//! Both are mounted by the shim in the container's mount namespace, so that they go with it. What stays until the
//! container is removed is that an image's layers are kept, and the files in a folder of the image's.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use image::Image;
use snapshotter::{RootfsKey, Snapshotter, View};

use super::config::{ContainerConfig, MountSource};
use crate::error::Error;
use crate::runtime::Runtime;

/// More folders than any image asks for.
const MAX_FOLDERS: usize = 128;

/// What only the kernel fills; an image that asks for a folder there gets what everybody gets.
const KERNELS_OWN: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The images that a container has mounted: by the number of the mount.
pub type Images = BTreeMap<usize, Arc<Image>>;

/// Finds the images of all mounts.
///
/// # Errors
/// `NotFound` when one was not pulled.
pub fn images(runtime: &Runtime, config: &ContainerConfig) -> Result<Images, Error> {
    let mut images = Images::new();
    for (number, mount) in config.mounts.iter().enumerate() {
        let MountSource::Image { name, .. } = &mount.source else { continue };
        let image = runtime.images.find(&name.image);
        let missing = || Error::NotFound {
            object: format!("image {:?} of mount {}", name.image, mount.container_path.display()),
        };
        images.insert(number, image.ok_or_else(missing)?);
    }
    Ok(images)
}

/// Keeps the layers of the images until [`release`], and says what is to be mounted. Blocks on the disk.
///
/// # Errors
/// An image was removed meanwhile.
pub fn views(
    snapshots: &dyn Snapshotter,
    key: &RootfsKey,
    images: &Images,
) -> Result<BTreeMap<usize, View>, Error> {
    let view = |(number, image): (&usize, &Arc<Image>)| {
        let viewed = snapshots.view(&name(key, *number), image.layers.last());
        viewed.map(|view| (*number, view)).map_err(|source| Error::Snapshot {
            operation: format!("keep image {} for container {key}", image.id),
            source,
        })
    };
    images.iter().map(view).collect()
}

/// Lets go of everything that is kept under a container's name. Blocks on the disk.
///
/// # Errors
/// Something cannot be deleted; calling again goes on.
pub fn release(snapshots: &dyn Snapshotter, key: &RootfsKey) -> Result<(), Error> {
    let failed = |source| Error::Snapshot {
        operation: format!("release the root file system of {key}"),
        source,
    };
    let mut keys = snapshots.rootfs_keys();
    keys.retain(|other| other != key && other.container() == key.as_str());
    // The container's own last: as long as it is there, the next start knows that something is to be released.
    keys.iter().chain([key]).try_for_each(|key| snapshots.release(key)).map_err(failed)
}

fn name(key: &RootfsKey, number: usize) -> RootfsKey {
    key.view(u16::try_from(number).unwrap_or(u16::MAX))
}

/// A folder that a container's image asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Where the container has it. It begins as a copy of what the image has there.
    pub container_path: PathBuf,
    /// The host's folder behind it.
    pub host_path: PathBuf,
}

/// Makes the folders that the image asks for and the request has no mount for, below the container's own folder.
/// Blocks on the disk.
///
/// # Errors
/// `Invalid` when the image asks for one that cannot be, or too many; or the disk refuses.
pub fn folders(
    folder: &Path,
    config: &ContainerConfig,
    image: &Image,
) -> Result<Vec<Folder>, Error> {
    let paths = wanted(config, &image.config.volumes).map_err(|reason| Error::Invalid {
        operation: format!("create container {}", config.metadata.name),
        reason: format!("volumes of image {}: {reason}", config.image.image),
    })?;
    let make = |(number, container_path): (usize, PathBuf)| {
        let host_path = folder.join("volumes").join(number.to_string());
        match DirBuilder::new().mode(0o700).recursive(true).create(&host_path) {
            Ok(()) => Ok(Folder { container_path, host_path }),
            Err(source) => Err(error(&host_path, source)),
        }
    };
    paths.into_iter().enumerate().map(make).collect()
}

fn error(path: &Path, source: io::Error) -> Error {
    Error::Io { operation: format!("make the volume {}", path.display()), source }
}

/// The paths of an image's volumes, which are its author's text.
fn wanted(config: &ContainerConfig, volumes: &[String]) -> Result<Vec<PathBuf>, String> {
    if volumes.len() > MAX_FOLDERS {
        return Err(format!("{} are more than {MAX_FOLDERS}", volumes.len()));
    }
    let mut paths = Vec::new();
    for volume in volumes {
        let path = inside(volume).ok_or_else(|| format!("{volume:?} is not a path"))?;
        let has_other = config.mounts.iter().any(|mount| mount.container_path == path);
        let is_kernels = KERNELS_OWN.iter().any(|own| path.starts_with(own));
        if !has_other && !is_kernels && !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// The path that a text means inside a root: `..` at the root stays there.
fn inside(text: &str) -> Option<PathBuf> {
    if text.len() >= 4096 || text.chars().any(char::is_control) {
        return None;
    }
    let mut path = PathBuf::from("/");
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                let _popped = path.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(path).filter(|path| path.parent().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_volumes_are_paths_inside_it() {
        for (text, path) in [
            ("/data", Some("/data")),
            ("data/", Some("/data")),
            ("/../../../etc", Some("/etc")),
            ("/a/./b/../c", Some("/a/c")),
            ("/", None),
            ("", None),
            ("/..", None),
            ("/a\nb", None),
            ("/a\0b", None),
        ] {
            assert_eq!(inside(text).as_deref(), path.map(Path::new), "{text:?}");
        }
        assert_eq!(inside(&"/a".repeat(3000)), None);
    }
}

//! The mounts: what every container has, the pod's files, and what the request names, in the order of making.

use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};

use super::{Inputs, mappings};
use snapshotter::View;

use crate::container::config::{self, MountSource, Propagation};
use crate::container::volume::Folder;
use crate::ids::IdMaps;
use crate::sandbox::config::PodScope;

/// Builds the list, parents before children.
pub fn build(inputs: &Inputs<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let wanted = &inputs.config.mounts;
    let mut mounts = defaults(inputs)?;
    // A volume at /dev, /proc or /sys takes the place of all that is usually there.
    mounts.retain(|mount| {
        !wanted.iter().any(|volume| mount.destination().starts_with(&volume.container_path))
    });
    let mut volumes: Vec<Mount> =
        inputs.folders.iter().map(|folder| own_folder(inputs, folder)).collect::<Result<_, _>>()?;
    for file in pod_files(inputs)? {
        if !wanted.iter().any(|volume| &volume.container_path == file.destination()) {
            volumes.push(file);
        }
    }
    for (number, volume) in wanted.iter().enumerate() {
        volumes.push(match (&volume.source, inputs.views.get(&number)) {
            (MountSource::Host(path), _) => host_volume(volume, path)?,
            (MountSource::Image { part, .. }, Some(view)) => {
                image_volume(volume, part.as_deref(), view)?
            }
            (MountSource::Image { .. }, None) => continue,
        });
    }
    volumes.sort_by_key(|volume| volume.destination().components().count());
    mounts.extend(volumes);
    Ok(mounts)
}

/// A folder that the image asks for; it begins with what the image has there.
fn own_folder(inputs: &Inputs<'_>, folder: &Folder) -> Result<Mount, OciSpecError> {
    let options = ["rbind", "rprivate", "rw", "tmpcopyup"];
    let mut mount = bind(&folder.host_path, &folder.container_path, &options)?;
    map(&mut mount, inputs.sandbox.users.as_ref())?;
    Ok(mount)
}

fn host_volume(volume: &config::Mount, path: &Path) -> Result<Mount, OciSpecError> {
    let mut options = volume_options(volume);
    options.extend(volume.options.iter().map(String::as_str));
    let mut mount = bind(path, &volume.container_path, &options)?;
    map(&mut mount, volume.ids.as_ref())?;
    Ok(mount)
}

/// An image: of its ids the shim makes the container's, as it does with the root file system's.
fn image_volume(
    volume: &config::Mount,
    part: Option<&Path>,
    view: &View,
) -> Result<Mount, OciSpecError> {
    let snapshotter::Mount { kind, source, mut options } = view.mount();
    options.push("nodev".to_owned());
    options.extend(volume.options.iter().cloned());
    if let Some(part) = part {
        options.push(format!("X-mount.subdir={}", part.display()));
    }
    MountBuilder::default()
        .destination(&volume.container_path)
        .typ(kind)
        .source(source)
        .options(options)
        .build()
}

fn map(mount: &mut Mount, maps: Option<&IdMaps>) -> Result<(), OciSpecError> {
    if let Some(maps) = maps {
        mount.set_uid_mappings(Some(mappings(&maps.users)?));
        mount.set_gid_mappings(Some(mappings(&maps.groups)?));
    }
    Ok(())
}

fn defaults(inputs: &Inputs<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let writable = if inputs.config.security.privileged { "rw" } else { "ro" };
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // The group tty, where the pod has it.
    if inputs.sandbox.users.as_ref().is_none_or(|maps| maps.has_group(5)) {
        terminals.push("gid=5");
    }
    let mut mounts = vec![
        special("/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        special("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        special("/dev/pts", "devpts", &terminals)?,
        special("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
    ];
    if inputs.sandbox.network == PodScope::Node {
        // The node's network is shown by the node's sysfs: a new one would show a namespace that is not ours.
        let access = if inputs.sandbox.users.is_some() { "rro" } else { writable };
        mounts.push(bind(
            Path::new("/sys"),
            Path::new("/sys"),
            &["rbind", "rslave", "nosuid", "noexec", "nodev", access],
        )?);
    } else {
        mounts.push(special("/sys", "sysfs", &["nosuid", "noexec", "nodev", writable])?);
    }
    let writable = if inputs.defaults.cgroup_writable { "rw" } else { writable };
    mounts.push(special(
        "/sys/fs/cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", writable],
    )?);
    Ok(mounts)
}

fn pod_files(inputs: &Inputs<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let access = if inputs.config.security.readonly_rootfs { "ro" } else { "rw" };
    let file = |source: &Path, target: &str| {
        bind(source, Path::new(target), &["rbind", "rprivate", access])
    };
    let pod = inputs.pod;
    let shm = match inputs.sandbox.ipc {
        PodScope::Pod => pod.shm(),
        PodScope::Node => Path::new("/dev/shm").to_owned(),
    };
    Ok(vec![
        bind(&shm, Path::new("/dev/shm"), &["rbind", "rprivate", "nosuid", "nodev", "noexec"])?,
        file(&pod.hostname(), "/etc/hostname")?,
        file(&pod.hosts(), "/etc/hosts")?,
        file(&pod.resolv_conf(), "/etc/resolv.conf")?,
    ])
}

fn volume_options(volume: &config::Mount) -> Vec<&'static str> {
    let propagation = match volume.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (volume.readonly, volume.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    vec!["rbind", propagation, access]
}

fn special(target: &str, kind: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
    MountBuilder::default().destination(target).typ(kind).source(kind).options(options).build()
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
    MountBuilder::default().destination(target).typ("bind").source(source).options(options).build()
}

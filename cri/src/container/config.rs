//! What the kubelet wants of a container: the wire's message, parsed once into values that cannot be wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proto::cri;
use serde::{Deserialize, Serialize};

use super::security::Security;
use crate::cdi::{self, DeviceName};
use crate::error::Error;
use crate::grammar;
use crate::ids::IdMaps;
use crate::limits::{self, Resources};
use crate::signal::Signal;

/// More mounts than any pod has; a bound on what a request makes the runtime do.
const MAX_MOUNTS: usize = 4096;

/// What names a container inside its sandbox; unique there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metadata {
    /// The container's name.
    pub name: String,
    /// Counts the containers of this name.
    pub attempt: u32,
}

/// How the image was named, echoed in every status.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageName {
    /// What the runtime resolves.
    pub image: String,
    /// What the user wrote.
    pub user_specified: String,
    /// The handler the image was pulled for.
    pub runtime_handler: String,
    /// Returned as they came.
    pub annotations: BTreeMap<String, String>,
}

/// How mounts made later cross a mount (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or folder of the host.
    Host(PathBuf),
    /// An image, or a file or folder inside it.
    Image {
        /// The image as named.
        name: ImageName,
        /// A relative path without `..`; links on it are the image's.
        part: Option<PathBuf>,
    },
}

/// A file or folder of the host, or an image, in the container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mount {
    /// Where in the container.
    pub container_path: PathBuf,
    /// What it shows.
    pub source: MountSource,
    /// Whether the mount itself is read-only.
    pub readonly: bool,
    /// Whether everything below is too.
    pub recursive_read_only: bool,
    /// How later mounts cross.
    pub propagation: Propagation,
    /// Echoed; there is no SELinux label to set.
    pub selinux_relabel: bool,
    /// Which ids its files are shown with.
    #[serde(default)]
    pub ids: Option<IdMaps>,
    /// Words of mount(8) for attributes of the mount, later ones last.
    #[serde(default)]
    pub options: Vec<String>,
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Where in the container.
    pub container_path: PathBuf,
    /// Which node of the host.
    pub host_path: PathBuf,
    /// Of r, w and m.
    pub permissions: String,
}

/// Everything the kubelet says about a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Its name for the kubelet.
    pub metadata: Metadata,
    /// Its image as named.
    pub image: ImageName,
    /// Replaces the image's entry point when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Replaces the image's working directory when not empty.
    pub working_dir: String,
    /// Environment, added to the image's.
    pub envs: Vec<(String, String)>,
    /// Files and folders of the host.
    pub mounts: Vec<Mount>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Devices by the names that vendors' files have for them.
    #[serde(default)]
    pub cdi: Vec<DeviceName>,
    /// Returned byte by byte as they came.
    pub labels: BTreeMap<String, String>,
    /// Returned byte by byte as they came.
    pub annotations: BTreeMap<String, String>,
    /// Below the pod's log directory; none keeps no log.
    pub log_path: Option<PathBuf>,
    /// Whether the standard input stays open.
    pub stdin: bool,
    /// Whether the first attached client's end closes it.
    pub stdin_once: bool,
    /// Whether the process gets a terminal.
    pub tty: bool,
    /// Its limits.
    pub resources: Resources,
    /// Its rights.
    pub security: Security,
    /// Asked for by the pod; the image's or SIGTERM otherwise.
    pub stop_signal: Option<Signal>,
}

impl ContainerConfig {
    /// Parses a request.
    ///
    /// # Errors
    /// `Invalid` names the field; `Unsupported` names what Wherry cannot do.
    pub fn parse(config: cri::ContainerConfig) -> Result<Self, Error> {
        let metadata = parse_metadata(config.metadata.as_ref())?;
        let about = format!("create container {}", metadata.name);
        let invalid = |reason: String| Error::Invalid { operation: about.clone(), reason };
        limits::check_map("labels", &config.labels).map_err(invalid)?;
        limits::check_map("annotations", &config.annotations).map_err(invalid)?;
        if config.mounts.len() > MAX_MOUNTS {
            return Err(invalid(format!(
                "{} mounts are more than {MAX_MOUNTS}",
                config.mounts.len()
            )));
        }
        let stop_signal = Signal::from_wire(config.stop_signal());
        let annotations: BTreeMap<_, _> = config.annotations.into_iter().collect();
        let cdi = cdi::names(&config.cdi_devices, &annotations).map_err(invalid)?;
        let linux = config.linux.unwrap_or_default();
        let texts = config.command.iter().chain(&config.args).chain([&config.working_dir]);
        for text in texts {
            if text.contains('\0') {
                return Err(invalid(format!("{text:?} contains a NUL byte")));
            }
        }
        Ok(Self {
            image: parse_image(config.image).map_err(invalid)?,
            command: config.command,
            args: config.args,
            working_dir: config.working_dir,
            envs: parse_envs(config.envs).map_err(invalid)?,
            mounts: config
                .mounts
                .into_iter()
                .map(parse_mount)
                .collect::<Result<_, _>>()
                .map_err(invalid)?,
            devices: config
                .devices
                .into_iter()
                .map(parse_device)
                .collect::<Result<_, _>>()
                .map_err(invalid)?,
            labels: config.labels.into_iter().collect(),
            annotations,
            cdi,
            log_path: grammar::log_path(&config.log_path).map_err(invalid)?,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            resources: Resources::parse(linux.resources.unwrap_or_default()).map_err(invalid)?,
            security: Security::parse(linux.security_context.unwrap_or_default(), &about)?,
            stop_signal,
            metadata,
        })
    }
}

fn parse_metadata(metadata: Option<&cri::ContainerMetadata>) -> Result<Metadata, Error> {
    let name = metadata.map(|metadata| metadata.name.as_str()).unwrap_or_default();
    if name.is_empty() || !grammar::is_plain(name, limits::NAME_BYTES) {
        return Err(Error::Invalid {
            operation: "create a container".into(),
            reason: format!("its metadata's name {name:?} is not a name"),
        });
    }
    let attempt = metadata.map(|metadata| metadata.attempt).unwrap_or_default();
    Ok(Metadata { name: name.to_owned(), attempt })
}

fn parse_image(image: Option<cri::ImageSpec>) -> Result<ImageName, String> {
    let image = image.filter(|image| !image.image.is_empty()).ok_or("it names no image")?;
    Ok(image_name(image))
}

fn image_name(image: cri::ImageSpec) -> ImageName {
    ImageName {
        image: image.image,
        user_specified: image.user_specified_image,
        runtime_handler: image.runtime_handler,
        annotations: image.annotations.into_iter().collect(),
    }
}

fn parse_envs(envs: Vec<cri::KeyValue>) -> Result<Vec<(String, String)>, String> {
    envs.into_iter()
        .map(|env| {
            let key = env.key;
            if key.is_empty() || key.contains(['=', '\0']) {
                return Err(format!("environment variable {key:?} is not a name"));
            }
            if env.value.contains(&0) {
                return Err(format!("environment variable {key} contains a NUL byte"));
            }
            // The OCI specification is JSON, which carries no other encoding.
            let value = String::from_utf8(env.value)
                .map_err(|_| format!("environment variable {key} is not UTF-8"))?;
            Ok((key, value))
        })
        .collect()
}

fn parse_mount(mount: cri::Mount) -> Result<Mount, String> {
    let propagation = match mount.propagation() {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    let target = format!("/{}", mount.container_path.trim_start_matches('/'));
    if mount.recursive_read_only && !(mount.readonly && propagation == Propagation::Private) {
        return Err(format!(
            "mount {target}: recursive read-only wants readonly and private propagation"
        ));
    }
    let source = match mount.image.filter(|image| !image.image.is_empty()) {
        Some(image) => {
            let host = !mount.host_path.is_empty();
            if host || !mount.readonly || propagation != Propagation::Private {
                return Err(format!(
                    "mount {target}: an image is read-only, private, and no path of the host"
                ));
            }
            let part = grammar::inside(&mount.image_sub_path)
                .map_err(|reason| format!("mount {target}: sub path: {reason}"))?;
            MountSource::Image { name: image_name(image), part }
        }
        None if !mount.image_sub_path.is_empty() => {
            return Err(format!("mount {target}: a sub path of an image wants an image"));
        }
        None => MountSource::Host(
            grammar::absolute(&mount.host_path)
                .map_err(|reason| format!("mount source: {reason}"))?,
        ),
    };
    Ok(Mount {
        container_path: grammar::absolute(&target)
            .map_err(|reason| format!("mount target: {reason}"))?,
        source,
        options: parse_options(mount.mount_options)
            .map_err(|reason| format!("mount {target}: {reason}"))?,
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation,
        selinux_relabel: mount.selinux_relabel,
        ids: IdMaps::parse(&mount.uid_mappings, &mount.gid_mappings)
            .map_err(|reason| format!("mount {target}: {reason}"))?,
    })
}

/// The attributes that every mount has, on and off (mount(8), filesystem-independent options). What is about the file
/// system itself, about propagation or about writing has other fields or is the host's business.
const MOUNT_OPTIONS: [&str; 13] = [
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "atime",
    "relatime",
    "strictatime",
    "nodiratime",
    "diratime",
    "nosymfollow",
];

fn parse_options(options: Vec<String>) -> Result<Vec<String>, String> {
    match options.iter().find(|option| !MOUNT_OPTIONS.contains(&option.as_str())) {
        Some(other) => Err(format!("option {other:?} is not one that a mount can be given")),
        None if options.len() > MOUNT_OPTIONS.len() => Err("an option is there twice".into()),
        None => Ok(options),
    }
}

fn parse_device(device: cri::Device) -> Result<Device, String> {
    let bad = device.permissions.is_empty()
        || !device.permissions.bytes().all(|byte| b"rwm".contains(&byte));
    if bad {
        return Err(format!(
            "device {}: permissions {:?} are not of r, w and m",
            device.host_path, device.permissions
        ));
    }
    Ok(Device {
        container_path: grammar::absolute(&device.container_path)?,
        host_path: grammar::absolute(&device.host_path)?,
        permissions: device.permissions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl FnOnce(&mut cri::ContainerConfig)) -> Result<ContainerConfig, Error> {
        let mut config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "web".into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: "busybox".into(), ..Default::default() }),
            ..Default::default()
        };
        change(&mut config);
        ContainerConfig::parse(config)
    }

    fn mount(change: impl FnOnce(&mut cri::Mount)) -> Result<ContainerConfig, Error> {
        let mut mount = cri::Mount {
            container_path: "/data".into(),
            host_path: "/srv".into(),
            ..Default::default()
        };
        change(&mut mount);
        parse(|config| config.mounts.push(mount))
    }

    #[test]
    fn a_container_needs_a_name_and_an_image() {
        assert!(parse(|config| config.metadata = None).is_err());
        assert!(parse(|config| config.image = None).is_err());
        assert_eq!(parse(|_| ()).unwrap().metadata.name, "web");
    }

    #[test]
    fn a_mount_of_an_image_is_read_only_and_its_sub_path_stays_inside() {
        let of_image = |change: fn(&mut cri::Mount)| {
            mount(|mount| {
                let image = cri::ImageSpec { image: "busybox".into(), ..Default::default() };
                mount.image = Some(image);
                mount.host_path.clear();
                mount.readonly = true;
                change(mount);
            })
        };
        let parsed = of_image(|mount| mount.image_sub_path = "etc/ssl/".into()).unwrap();
        let MountSource::Image { part, .. } = &parsed.mounts[0].source else {
            panic!("{parsed:?}")
        };
        assert_eq!(part.as_deref(), Some(std::path::Path::new("etc/ssl")));
        assert!(of_image(|_| ()).is_ok());
        let wrong: [fn(&mut cri::Mount); 8] = [
            |mount| mount.readonly = false,
            |mount| mount.host_path = "/srv".into(),
            |mount| mount.propagation = cri::MountPropagation::PropagationBidirectional.into(),
            |mount| mount.image_sub_path = "../etc".into(),
            |mount| mount.image_sub_path = "a/../../etc".into(),
            |mount| mount.image_sub_path = "/etc".into(),
            |mount| mount.image_sub_path = "a\0b".into(),
            |mount| mount.image = None,
        ];
        for (at, change) in wrong.into_iter().enumerate() {
            assert!(of_image(change).is_err(), "{at}");
        }
        assert!(mount(|mount| mount.image_sub_path = "etc".into()).is_err());
    }

    #[test]
    fn a_mount_can_be_given_attributes_and_nothing_else() {
        let with = |option: &str| mount(|mount| mount.mount_options.push(option.into()));
        assert_eq!(with("noexec").unwrap().mounts[0].options, ["noexec"]);
        for option in ["rw", "bind", "rshared", "size=1", "idmap", "remount", ""] {
            assert!(with(option).is_err(), "{option}");
        }
    }

    #[test]
    fn recursive_read_only_wants_readonly_and_private_propagation() {
        assert!(mount(|mount| mount.recursive_read_only = true).is_err());
        assert!(
            mount(|mount| {
                mount.recursive_read_only = true;
                mount.readonly = true;
            })
            .is_ok()
        );
    }

    #[test]
    fn paths_and_variables_have_a_grammar() {
        assert!(mount(|mount| mount.host_path = "relative".into()).is_err());
        assert!(mount(|mount| mount.container_path = "/a/../b".into()).is_err());
        assert_eq!(
            mount(|mount| mount.container_path = "data".into()).unwrap().mounts[0].container_path,
            PathBuf::from("/data")
        );
        let env = |key: &str, value: &[u8]| {
            let env = cri::KeyValue { key: key.into(), value: value.into() };
            parse(|config| config.envs.push(env))
        };
        assert!(env("A", b"b").is_ok());
        assert!(env("A=B", b"c").is_err());
        assert!(env("A", b"\0").is_err());
        assert!(env("A", b"\xff").is_err());
    }
}

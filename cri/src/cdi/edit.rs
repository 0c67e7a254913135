//! What devices need of a container, put into its specification.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Hook, HookBuilder, Hooks, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxNetDevice, Mount, MountBuilder, Spec,
};

use super::file::{self, ContainerEdits, DeviceNode};

/// Everything that the devices of a container need, in the order of their names.
#[derive(Debug, Default)]
pub struct Edits {
    /// Variables, `NAME=value`.
    pub env: Vec<String>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    devices: Vec<(LinuxDevice, String)>,
    mounts: Vec<Mount>,
    hooks: Vec<(String, Hook)>,
    net_devices: Vec<(String, String)>,
}

impl Edits {
    /// Adds what a file says.
    ///
    /// # Errors
    /// Says what is not there on this node, or cannot be done.
    pub(super) fn add(&mut self, edits: &ContainerEdits) -> Result<(), String> {
        if edits.intel_rdt.is_some() {
            return Err("Intel RDT is not supported".into());
        }
        self.env.extend(edits.env.iter().cloned());
        // The first one is every container's.
        self.groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
        for node in &edits.device_nodes {
            let device = device(node)?;
            let access = node.permissions.clone().filter(|access| !access.is_empty());
            self.devices.push((device, access.unwrap_or_else(|| "rwm".into())));
        }
        for one in &edits.mounts {
            self.mounts.push(mount(one).map_err(|error| error.to_string())?);
        }
        for one in &edits.hooks {
            let hook = hook(one).map_err(|error| error.to_string())?;
            self.hooks.push((one.hook_name.clone(), hook));
        }
        let names = edits.net_devices.iter();
        self.net_devices
            .extend(names.map(|one| (one.host_interface_name.clone(), one.name.clone())));
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.env.is_empty()
            && self.devices.is_empty()
            && self.mounts.is_empty()
            && self.hooks.is_empty()
            && self.net_devices.is_empty()
    }
}

/// Puts the edits into a specification; groups are whoever resolves the container's user to add.
///
/// # Errors
/// None in practice: every field is set.
pub fn apply(edits: Edits, spec: &mut Spec) -> Result<(), OciSpecError> {
    if edits.is_empty() {
        return Ok(());
    }
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        for variable in edits.env {
            let name = variable.split('=').next().unwrap_or_default().to_owned() + "=";
            env.retain(|known| !known.starts_with(&name));
            env.push(variable);
        }
        process.set_env(Some(env));
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in edits.mounts {
        mounts.retain(|known| known.destination() != mount.destination());
        // Behind all that it could be inside of, before what could be inside of it.
        let depth = |mount: &Mount| mount.destination().components().count();
        let at = mounts.iter().rposition(|known| depth(known) <= depth(&mount));
        mounts.insert(at.map_or(0, |at| at + 1), mount);
    }
    spec.set_mounts(Some(mounts));
    if !edits.hooks.is_empty() {
        let mut hooks = spec.hooks().clone().unwrap_or_default();
        for (name, hook) in edits.hooks {
            add_hook(&mut hooks, &name, hook);
        }
        spec.set_hooks(Some(hooks));
    }
    add_devices(spec, edits.devices)?;
    if let Some(linux) = spec.linux_mut().as_mut().filter(|_| !edits.net_devices.is_empty()) {
        let mut all = linux.net_devices().clone().unwrap_or_default();
        for (host, name) in edits.net_devices {
            let mut device = LinuxNetDevice::default();
            device.set_name(Some(name));
            all.insert(host, device);
        }
        linux.set_net_devices(Some(all));
    }
    Ok(())
}

fn add_devices(spec: &mut Spec, added: Vec<(LinuxDevice, String)>) -> Result<(), OciSpecError> {
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let mut devices = linux.devices().clone().unwrap_or_default();
    let mut rules: Vec<LinuxDeviceCgroup> = Vec::new();
    for (device, access) in added {
        if matches!(device.typ(), LinuxDeviceType::B | LinuxDeviceType::C | LinuxDeviceType::U) {
            let kind = if device.typ() == LinuxDeviceType::B {
                LinuxDeviceType::B
            } else {
                LinuxDeviceType::C
            };
            let rule = LinuxDeviceCgroupBuilder::default()
                .allow(true)
                .typ(kind)
                .major(device.major())
                .minor(device.minor())
                .access(access);
            rules.push(rule.build()?);
        }
        devices.retain(|known| known.path() != device.path());
        devices.push(device);
    }
    linux.set_devices(Some(devices));
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut all = resources.devices().clone().unwrap_or_default();
    all.extend(rules);
    resources.set_devices(Some(all));
    linux.set_resources(Some(resources));
    Ok(())
}

fn add_hook(hooks: &mut Hooks, name: &str, hook: Hook) {
    let and = |list: &Option<Vec<Hook>>, hook: Hook| {
        let mut list = list.clone().unwrap_or_default();
        list.push(hook);
        Some(list)
    };
    match name {
        #[allow(deprecated)]
        "prestart" => drop(hooks.set_prestart(and(hooks.prestart(), hook))),
        "createRuntime" => drop(hooks.set_create_runtime(and(hooks.create_runtime(), hook))),
        "createContainer" => drop(hooks.set_create_container(and(hooks.create_container(), hook))),
        "startContainer" => drop(hooks.set_start_container(and(hooks.start_container(), hook))),
        "poststart" => drop(hooks.set_poststart(and(hooks.poststart(), hook))),
        _ => drop(hooks.set_poststop(and(hooks.poststop(), hook))),
    }
}

fn hook(hook: &file::Hook) -> Result<Hook, OciSpecError> {
    let mut made = HookBuilder::default().path(&hook.path).build()?;
    made.set_args(Some(hook.args.clone()).filter(|args| !args.is_empty()));
    made.set_env(Some(hook.env.clone()).filter(|env| !env.is_empty()));
    made.set_timeout(hook.timeout);
    Ok(made)
}

fn mount(mount: &file::Mount) -> Result<Mount, OciSpecError> {
    let kind = mount.kind.clone().filter(|kind| !kind.is_empty());
    let mut options = mount.options.clone();
    if kind.is_none() && !options.iter().any(|option| option == "bind" || option == "rbind") {
        options.push("rbind".into());
    }
    MountBuilder::default()
        .destination(&mount.container_path)
        .source(&mount.host_path)
        .typ(kind.unwrap_or_else(|| "bind".into()))
        .options(options)
        .build()
}

/// The node, with the host's numbers where the file has none.
fn device(node: &DeviceNode) -> Result<LinuxDevice, String> {
    let host = node.host_path.as_deref().unwrap_or(&node.path);
    let (kind, major, minor, mode) = match (node.kind.as_deref(), node.major, node.minor) {
        (Some("p"), _, _) => (LinuxDeviceType::P, 0, 0, None),
        (Some(kind), Some(major), Some(minor)) if !kind.is_empty() => {
            (kind_of(kind), major, minor, None)
        }
        _ => on_host(host)?,
    };
    if node.kind.as_deref().is_some_and(|said| !said.is_empty() && kind_of(said) != kind) {
        return Err(format!("device {} is of another type", host.display()));
    }
    let mut device = LinuxDeviceBuilder::default()
        .path(&node.path)
        .typ(kind)
        .major(i64::from(major))
        .minor(i64::from(minor))
        .build()
        .map_err(|error| error.to_string())?;
    device.set_file_mode(node.file_mode.or(mode)).set_uid(node.uid).set_gid(node.gid);
    Ok(device)
}

fn kind_of(letter: &str) -> LinuxDeviceType {
    match letter {
        "b" => LinuxDeviceType::B,
        "p" => LinuxDeviceType::P,
        _ => LinuxDeviceType::C,
    }
}

fn on_host(path: &Path) -> Result<(LinuxDeviceType, u32, u32, Option<u32>), String> {
    let found =
        std::fs::metadata(path).map_err(|error| format!("device {}: {error}", path.display()))?;
    let kind = match found.file_type() {
        kind if kind.is_block_device() => LinuxDeviceType::B,
        kind if kind.is_char_device() => LinuxDeviceType::C,
        _ => return Err(format!("{} is no device", path.display())),
    };
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    Ok((kind, major, minor, Some(found.mode() & 0o777)))
}

//! Device nodes, and what the device cgroup lets a container do with them.

use std::path::PathBuf;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

/// A device node of the host, as found when the container was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Where it shall be in the container.
    pub container_path: PathBuf,
    /// Whether it is a block device; a character device otherwise.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the container may do: of r, w and m.
    pub access: String,
}

impl HostDevice {
    /// The node to make.
    ///
    /// # Errors
    /// None in practice: every field is set.
    pub fn node(&self) -> Result<LinuxDevice, OciSpecError> {
        LinuxDeviceBuilder::default()
            .path(&self.container_path)
            .typ(self.kind())
            .major(i64::from(self.major))
            .minor(i64::from(self.minor))
            .file_mode(self.mode)
            .uid(self.uid)
            .gid(self.gid)
            .build()
    }

    fn kind(&self) -> LinuxDeviceType {
        if self.block { LinuxDeviceType::B } else { LinuxDeviceType::C }
    }
}

/// null, zero, full, random, urandom, tty, ptmx and the terminals of devpts: what every container may use
/// (runtime-spec, config-linux.md, default devices).
const ALWAYS: [(i64, Option<i64>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// The rules of the device cgroup, first to last: nothing, then node creation, then the named ones.
pub fn rules(devices: &[HostDevice], all: bool) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let rule = |allow: bool| LinuxDeviceCgroupBuilder::default().allow(allow).access("rwm");
    if all {
        return Ok(vec![rule(true).typ(LinuxDeviceType::A).build()?]);
    }
    let mut rules = vec![rule(false).typ(LinuxDeviceType::A).build()?];
    for kind in [LinuxDeviceType::C, LinuxDeviceType::B] {
        rules.push(rule(true).typ(kind).access("m").build()?);
    }
    for (major, minor) in ALWAYS {
        let mut always = rule(true).typ(LinuxDeviceType::C).major(major).build()?;
        always.set_minor(minor);
        rules.push(always);
    }
    for device in devices {
        let named = rule(true)
            .typ(device.kind())
            .major(i64::from(device.major))
            .minor(i64::from(device.minor))
            .access(&device.access);
        rules.push(named.build()?);
    }
    Ok(rules)
}

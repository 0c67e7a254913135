//! What a container is to be: its spec, read and checked before anything is done.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::{Failure, FailureKind, SPEC_FILE};
use oci_spec::runtime::{Linux, Spec};
use sys::mount::Propagation;

use super::{CreateRequest, Parent};
use crate::runtime::device::{self, Node};
use crate::runtime::hook::Hooks;
use crate::runtime::idmap::Maps;
use crate::runtime::label::require_selinux;
use crate::runtime::mount::is_mapped;
use crate::runtime::namespace::{Namespaces, unsupported};
use crate::runtime::net_device::NetDevices;
use crate::runtime::process::Plan as ProcessPlan;
use crate::runtime::procfs::Procfs;
use crate::runtime::seccomp::{Container, Filter};
use crate::runtime::sysctl::{self, Sysctl};

/// What a container is to be, as its spec says.
pub struct Plan {
    pub namespaces: Namespaces,
    pub process: ProcessPlan,
    pub root: PathBuf,
    pub read_only: bool,
    pub propagation: Propagation,
    pub nodes: Option<Vec<Node>>,
    pub sysctls: Vec<Sysctl>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub hooks: Option<Box<Hooks>>,
    pub net_devices: NetDevices,
    /// Of the container's own user namespace.
    pub maps: Option<Maps>,
    pub spec: Spec,
}

impl Plan {
    /// Reads the spec in this process's folder.
    pub fn read(request: &CreateRequest) -> Result<Self, Failure> {
        Self::new(read_spec()?, request)
    }

    /// Checks a spec.
    pub fn new(spec: Spec, request: &CreateRequest) -> Result<Self, Failure> {
        check_version(spec.version())?;
        refuse_unsupported(&spec)?;
        let process = spec.process().as_ref().ok_or_else(|| invalid("it has no process"))?;
        let mut process = ProcessPlan::new(process, request.user.clone())?;
        process.seccomp = seccomp(&spec, request)?;
        process.preserve_fds = request.preserve_fds;
        process.quiet = request.parent == Parent::Caller;
        process.add_env(&request.env);
        if let Some(linux) = spec.linux() {
            process.attributes.add_container(linux)?;
            process.attributes.keep(&request.private)?;
        }
        let root = spec.root().as_ref().ok_or_else(|| invalid("it has no root"))?;
        let namespaces = Namespaces::open(&spec)?;
        check_clocks(&spec, &namespaces)?;
        // A /dev that is a folder of the host's has what it has.
        let foreign_dev = spec.mounts().iter().flatten().any(|mount| {
            let bound = mount.typ().as_deref() == Some("bind")
                || mount.options().iter().flatten().any(|o| o == "bind" || o == "rbind");
            bound && mount.destination() == Path::new("/dev")
        });
        Ok(Self {
            process,
            root: root.path().clone(),
            read_only: root.readonly().unwrap_or(false),
            propagation: propagation(&spec)?,
            nodes: (!foreign_dev).then(|| device::nodes(&spec)).transpose()?,
            sysctls: sysctl::parse(&spec, &namespaces)?,
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            hooks: Hooks::new(&spec, &request.state)?,
            maps: maps(&spec, &namespaces)?,
            net_devices: NetDevices::new(&spec, &namespaces)?,
            namespaces,
            spec,
        })
    }

    pub fn linux(&self) -> Option<&Linux> {
        self.spec.linux().as_ref()
    }

    /// What the container's own file systems are labelled with.
    pub fn mount_label(&self) -> Option<&str> {
        self.linux()?.mount_label().as_deref().filter(|label| !label.is_empty())
    }

    /// Whether a stage has to prepare what the process itself has no right to.
    pub fn needs_stage(&self) -> bool {
        self.maps.is_some()
            || self.namespaces.users.is_some()
            || self.namespaces.has_time
            || self.namespaces.has_foreign_mounts()
            || self.spec.mounts().iter().flatten().any(is_mapped)
    }

    /// Sets the clocks of the new time namespace, in which nobody is yet.
    pub fn set_clocks(&self, procfs: &Procfs) -> Result<(), Failure> {
        let offsets = self.linux().and_then(|linux| linux.time_offsets().as_ref());
        for (clock, offset) in offsets.into_iter().flatten() {
            let line = format!(
                "{clock} {} {}\n",
                offset.secs().unwrap_or(0),
                offset.nanosecs().unwrap_or(0)
            );
            procfs.write("self/timens_offsets", line.as_bytes()).map_err(|error| {
                let kind = FailureKind::InvalidArgument;
                Failure::os_kind(kind, "set clock", clock.as_str(), error)
            })?;
        }
        Ok(())
    }

    /// Hooks that want to see the container's files beside the host's, or devices that the builder moves meanwhile: the
    /// root changes after that.
    pub fn has_early_hooks(&self) -> bool {
        !self.net_devices.is_empty()
            || self.hooks.as_ref().is_some_and(|hooks| hooks.has_runtime() || hooks.has_container())
    }
}

/// Reads the spec in this process's folder.
///
/// # Errors
/// It is not there, or is not one.
pub fn read_spec() -> Result<Spec, Failure> {
    let file = File::open(SPEC_FILE).map_err(|e| Failure::os("open spec", SPEC_FILE, e))?;
    serde_json::from_reader(BufReader::new(file)).map_err(|error| {
        let kind = FailureKind::InvalidArgument;
        Failure::new(kind, "read spec", SPEC_FILE, error.to_string())
    })
}

fn invalid(cause: &'static str) -> Failure {
    Failure::new(FailureKind::InvalidArgument, "read spec", SPEC_FILE, cause)
}

/// Every version 1 is taken: what one of them added is refused by name where it cannot be done.
fn check_version(version: &str) -> Result<(), Failure> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.').map(|part| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u32>().ok().filter(|_| digits)
    });
    let whole = core.split('.').count() == 3 && numbers.clone().all(|number| number.is_some());
    let cause = match (whole, numbers.next().flatten()) {
        (true, Some(1)) => return Ok(()),
        (true, _) => "only version 1 is supported",
        (false, _) => "not a version",
    };
    let kind = FailureKind::InvalidArgument;
    Err(Failure::new(kind, "use specification", version.escape_default().to_string(), cause))
}

fn refuse_unsupported(spec: &Spec) -> Result<(), Failure> {
    let Some(linux) = spec.linux() else { return Err(invalid("it is not for Linux")) };
    if let Some(label) = linux.mount_label().as_ref().filter(|label| !label.is_empty()) {
        require_selinux(label)?;
    }
    if linux.intel_rdt().is_some() {
        return Err(unsupported("use", "Intel RDT", "not supported"));
    }
    Ok(())
}

/// The mappings of a user namespace that is to be made.
fn maps(spec: &Spec, namespaces: &Namespaces) -> Result<Option<Maps>, Failure> {
    let linux = spec.linux().as_ref();
    let maps = Maps::new(
        linux.and_then(|linux| linux.uid_mappings().as_ref()),
        linux.and_then(|linux| linux.gid_mappings().as_ref()),
        "the container",
    )?;
    match (&maps, namespaces.new_users, &namespaces.users) {
        (None, true, _) => Err(invalid("its user namespace has no id mappings")),
        (Some(_), false, None) => Err(invalid("its id mappings are of no user namespace")),
        // One that is joined has what it has.
        (Some(_), false, Some(_)) => Ok(None),
        _ => Ok(maps),
    }
}

/// Checks what the clocks of a time namespace are to be.
fn check_clocks(spec: &Spec, namespaces: &Namespaces) -> Result<(), Failure> {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) else { return Ok(()) };
    if !namespaces.new_time {
        return Err(invalid("its time offsets are of no new time namespace"));
    }
    match offsets.keys().find(|clock| !matches!(clock.as_str(), "monotonic" | "boottime")) {
        Some(clock) => {
            let kind = FailureKind::InvalidArgument;
            Err(Failure::new(kind, "set clock", clock.as_str(), "no such clock"))
        }
        None => Ok(()),
    }
}

fn seccomp(spec: &Spec, request: &CreateRequest) -> Result<Option<Filter>, Failure> {
    let container = Container {
        folder: &request.private,
        id: &request.state.id,
        version: spec.version(),
        annotations: spec.annotations().as_ref(),
    };
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    profile.map(|profile| Filter::create(profile, &container)).transpose()
}

fn propagation(spec: &Spec) -> Result<Propagation, Failure> {
    let word = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    match word {
        None | Some("" | "slave" | "rslave") => Ok(Propagation::Slave),
        Some("private" | "rprivate") => Ok(Propagation::Private),
        Some("shared" | "rshared") => Ok(Propagation::Shared),
        Some("unbindable" | "runbindable") => Ok(Propagation::Unbindable),
        Some(word) => {
            let kind = FailureKind::InvalidArgument;
            Err(Failure::new(kind, "use rootfs propagation", word, "no such propagation"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_version_of_the_specification_is_taken_and_no_other() {
        for version in ["1.0.0", "1.0.2-dev", "1.3.0", "1.9.0-rc.1+x"] {
            assert_eq!(check_version(version), Ok(()), "{version}");
        }
        for version in ["", "1", "1.0", "2.0.0", "0.9.0", "1.x.0", "1.0.0.0", "v1.0.0", "1.0.+0"] {
            let refused = check_version(version).unwrap_err();
            assert_eq!(refused.kind, FailureKind::InvalidArgument, "{version}");
        }
    }
}

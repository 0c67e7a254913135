//! What a container is to be: its spec, read and checked before anything is done.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::{Failure, FailureKind, SPEC_FILE};
use oci_spec::runtime::{Linux, Spec};
use sys::mount::Propagation;

use super::CreateRequest;
use crate::runtime::device::{self, Node};
use crate::runtime::hook::Hooks;
use crate::runtime::namespace::{Namespaces, unsupported};
use crate::runtime::process::Plan as ProcessPlan;
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
    pub hooks: Option<Box<Hooks>>,
    pub spec: Spec,
}

impl Plan {
    pub fn read(request: &CreateRequest) -> Result<Self, Failure> {
        let spec = read_spec()?;
        refuse_unsupported(&spec)?;
        let process = spec.process().as_ref().ok_or_else(|| invalid("it has no process"))?;
        let mut process = ProcessPlan::new(process, request.user.clone())?;
        process.seccomp = seccomp(&spec, &request.state.id)?;
        process.preserve_fds = request.preserve_fds;
        process.add_env(&request.env);
        let root = spec.root().as_ref().ok_or_else(|| invalid("it has no root"))?;
        let namespaces = Namespaces::open(&spec)?;
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
            hooks: Hooks::new(&spec, &request.state)?,
            namespaces,
            spec,
        })
    }

    pub fn linux(&self) -> Option<&Linux> {
        self.spec.linux().as_ref()
    }

    /// Hooks that want to see the container's files beside the host's: the root changes after they have run.
    pub fn has_early_hooks(&self) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| hooks.has_runtime() || hooks.has_container())
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

fn refuse_unsupported(spec: &Spec) -> Result<(), Failure> {
    let Some(linux) = spec.linux() else { return Err(invalid("it is not for Linux")) };
    let mappings = [linux.uid_mappings(), linux.gid_mappings()];
    let mapped = mappings.iter().any(|map| map.as_ref().is_some_and(|map| !map.is_empty()));
    let asked = [
        ("id mappings", mapped),
        ("a mount label", linux.mount_label().as_ref().is_some_and(|label| !label.is_empty())),
        ("Intel RDT", linux.intel_rdt().is_some()),
        ("a memory policy", linux.memory_policy().is_some()),
        ("personality", linux.personality().is_some()),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((what, _)) => Err(unsupported("use", *what, "not supported")),
        None => Ok(()),
    }
}

fn seccomp(spec: &Spec, id: &str) -> Result<Option<Filter>, Failure> {
    let container =
        Container { id, version: spec.version(), annotations: spec.annotations().as_ref() };
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

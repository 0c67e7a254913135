//! What a foreign runtime cannot do for itself as Wherry's does: users by name, and a spec that this host can meet.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use sys::attribute::unshare;
use sys::confined::Root;
use sys::process::NEW_MOUNTS;

use super::{ROOTFS, place, volume, write};
use crate::runtime::procfs::Procfs;
use crate::runtime::user::Identity;
use crate::runtime::{CreateRequest, Layer, capability, limit, rootfs};
use crate::{Failure, SPEC_FILE};

/// The version of the specification that foreign runtimes are told.
const VERSION: &str = "1.0.2";

/// A bundle that a foreign runtime can be pointed at.
#[derive(Debug)]
pub struct Prepared {
    /// The spec as it was written there.
    pub spec: Spec,
    /// Whom the process will run as.
    pub identity: Identity,
}

/// Mounts the root file system of these layers in a mount namespace of this process, finds the users, and writes the spec.
///
/// The image is a tenant's: whatever it has in place of its user files keeps busy a process that can be killed.
///
/// # Errors
/// `InvalidArgument`: a layer cannot be mounted, a user is unknown, a volume is not there.
pub fn prepare(
    request: &CreateRequest,
    mut spec: Spec,
    layers: &[Layer],
) -> Result<Prepared, Failure> {
    let rootfs = place(ROOTFS)?;
    fs::create_dir(&rootfs).map_err(|e| Failure::os("make folder of", "root file system", e))?;
    unshare(NEW_MOUNTS).map_err(|e| Failure::os("create", "mount namespace", e))?;
    // crun before 1.9 knows no newer version; nothing that is newer is in a spec of Wherry's.
    let _changed = spec.set_version(VERSION.to_owned());
    let mut own = spec.clone();
    volume::cut_off(&mut spec)?;
    let root = rootfs::stack(layers, &rootfs)?;
    let identity = amend(&mut spec, request, &root)?;
    write(&place(SPEC_FILE)?, &spec)?;
    // Execs are made after the bundle's own spec.
    let _changed = own.set_process(spec.process().clone());
    write(Path::new(SPEC_FILE), &own)?;
    Ok(Prepared { spec, identity })
}

/// Makes the folder that everything of the runtime is in.
///
/// # Errors
/// The kernel refuses.
pub fn make_folder() -> Result<(), Failure> {
    let folder = place("")?;
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&folder)
        .map_err(|e| Failure::os("create", folder.display().to_string(), e))
}

/// Puts numbers in place of names, and leaves out what this host does not permit.
fn amend(spec: &mut Spec, request: &CreateRequest, root: &Root) -> Result<Identity, Failure> {
    let Some(mut process) = spec.process().clone() else {
        let kind = crate::FailureKind::InvalidArgument;
        return Err(Failure::new(kind, "read spec", SPEC_FILE, "it has no process"));
    };
    let identity = match &request.user {
        Some(user) => user.resolve(root)?.identity,
        None => Identity {
            uid: process.user().uid(),
            gid: process.user().gid(),
            groups: process.user().additional_gids().clone().unwrap_or_default(),
        },
    };
    process.user_mut().set_uid(identity.uid).set_gid(identity.gid);
    process.user_mut().set_additional_gids(Some(identity.groups.clone()));
    if let Some(mut sets) = process.capabilities().clone() {
        capability::limit_to_own(&mut sets)?;
        let _changed = process.set_capabilities(Some(sets));
    }
    let wanted = process.oom_score_adj().unwrap_or(request.oom_score_adj);
    let reached = limit::reach_oom_score_adj(&Procfs::open()?, wanted)?;
    let _changed = process.set_oom_score_adj(Some(reached));
    let _changed = spec.set_process(Some(process));
    Ok(identity)
}

/// Whether the container's first process takes all others down with it.
pub fn has_own_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none())
}

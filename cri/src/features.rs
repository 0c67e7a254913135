//! What this node's kernel can do for pods, found out once when the daemon starts.

use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;
use sys::mount::{Attributes, READ_ONLY, set_attributes};

/// What Status tells of every handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Mounts can be made read-only with everything below them (`Mount.recursive_read_only`).
    pub recursive_read_only: bool,
    /// Pods can have a user namespace of their own: the layers' file system can be shown with mapped ids.
    pub user_namespaces: bool,
}

impl Features {
    /// Finds out. `folder` is on the file system that has the layers.
    #[must_use]
    pub fn probe(folder: &Path) -> Self {
        let recursive_read_only = makes_trees_read_only(folder);
        if let Err(error) = &recursive_read_only {
            tracing::warn!(%error, "mounts cannot be made read-only with what is below them");
        }
        Self {
            recursive_read_only: recursive_read_only.is_ok(),
            user_namespaces: sys::users::can_map(folder),
        }
    }
}

/// Makes a detached copy of a mount with all below it read-only, as it is done for a container, and drops it.
fn makes_trees_read_only(folder: &Path) -> std::io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, folder, flags)?;
    set_attributes(&tree, Attributes { set: READ_ONLY, ..Attributes::default() }, true)
}

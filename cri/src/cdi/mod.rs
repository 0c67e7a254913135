//! Container Device Interface: devices by name, and what a container needs for each, as vendors' files on the node say
//! (cncf-tags/container-device-interface, SPEC.md).
//!
//! ```text
//!  request    names from the CDI field and from annotations, each once
//!  registry   the files of the configured folders, read again when one of them has changed
//!  file       one vendor's file: JSON or YAML, checked
//!  edit       environment, device nodes, mounts, hooks, groups: put into the OCI specification
//! ```
//!
//! The folders are the administrator's, and so are the files; a broken one keeps its own devices from being found and
//! nothing else. Of two files that have the same device the one in the later folder counts; in one folder nobody does.

mod edit;
mod file;
mod name;
mod registry;
mod request;

pub use edit::apply;
pub use name::DeviceName;
pub use registry::Registry;
pub use request::names;

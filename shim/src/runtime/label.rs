//! Labels of security modules: the AppArmor profile and the SELinux label that a process's command is to have.
//!
//! They are told to the kernel before the execve(2) that they count for, through procfs: a write that went elsewhere
//! would leave the container unconfined (CVE-2019-16884, CVE-2025-52881).

use std::io;

use crate::{Failure, FailureKind};
use oci_spec::runtime::Process as SpecProcess;
use rustix::io::Errno;

use super::namespace::unsupported;
use super::procfs::Procfs;

/// The magic number of selinuxfs (statfs(2)).
const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
const APPARMOR_ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// What AppArmor calls no profile.
const UNCONFINED: &str = "unconfined";

/// The labels of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

impl Labels {
    /// Reads a process's labels.
    ///
    /// # Errors
    /// `Unsupported`: this node's kernel does not have the security module. `InvalidArgument`: a label that is none.
    pub fn new(spec: &SpecProcess) -> Result<Self, Failure> {
        let label = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
        let apparmor = label(spec.apparmor_profile());
        let selinux = label(spec.selinux_label());
        if let Some(profile) = &apparmor {
            check("AppArmor profile", profile)?;
            if profile != UNCONFINED && !has_apparmor() {
                let object = format!("AppArmor profile {profile}");
                return Err(unsupported("use", object, "AppArmor is not enabled on this node"));
            }
        }
        if let Some(label) = &selinux {
            check("SELinux label", label)?;
            require_selinux(label)?;
        }
        let apparmor = apparmor.filter(|profile| profile != UNCONFINED || has_apparmor());
        Ok(Self { apparmor, selinux })
    }

    /// Labels the keys that this process makes from now on: its session keyring.
    ///
    /// # Errors
    /// The kernel does not take the label.
    pub fn label_keys(&self, procfs: &Procfs) -> Result<(), Failure> {
        let Some(label) = &self.selinux else { return Ok(()) };
        procfs.write("thread-self/attr/keycreate", label.as_bytes()).map_err(|e| refused(label, e))
    }

    /// Tells the kernel what this thread's next execve(2) is to be labelled with.
    ///
    /// # Errors
    /// `InvalidArgument`: there is no such profile or label.
    pub fn apply(&self, procfs: &Procfs) -> Result<(), Failure> {
        if let Some(profile) = &self.apparmor {
            let value = format!("exec {profile}");
            // The second path is the one of kernels before 5.8, where it may be another module's.
            let done = match procfs.write("thread-self/attr/apparmor/exec", value.as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !has_own_file(procfs) => {
                    procfs.write("thread-self/attr/exec", value.as_bytes())
                }
                other => other,
            };
            done.map_err(|e| refused(profile, e))?;
        }
        match &self.selinux {
            Some(label) => procfs
                .write("thread-self/attr/exec", label.as_bytes())
                .map_err(|e| refused(label, e)),
            None => Ok(()),
        }
    }
}

/// A label for a container's file systems needs a kernel that has labels.
///
/// # Errors
/// `Unsupported`.
pub fn require_selinux(label: &str) -> Result<(), Failure> {
    let enabled = rustix::fs::statfs("/sys/fs/selinux").is_ok_and(|fs| fs.f_type == SELINUX_MAGIC);
    if enabled {
        return Ok(());
    }
    let object = format!("SELinux label {label}");
    Err(unsupported("use", object, "SELinux is not enabled on this node"))
}

fn has_apparmor() -> bool {
    std::fs::read(APPARMOR_ENABLED).is_ok_and(|text| text.first() == Some(&b'Y'))
}

/// A profile that is not loaded has the same errno as a file that is not there.
fn has_own_file(procfs: &Procfs) -> bool {
    use rustix::fs::OFlags;
    !matches!(procfs.open_file("thread-self/attr/apparmor/exec", OFlags::PATH), Err(Errno::NOENT))
}

fn check(what: &str, label: &str) -> Result<(), Failure> {
    if label.bytes().all(|byte| byte > b' ' && byte != 0x7f) {
        return Ok(());
    }
    let object = format!("{what} {}", label.escape_default());
    Err(Failure::new(FailureKind::InvalidArgument, "use", object, "contains blanks"))
}

fn refused(label: &str, error: io::Error) -> Failure {
    let kind = FailureKind::InvalidArgument;
    if error.kind() == io::ErrorKind::NotFound {
        let mut failure = Failure::new(kind, "apply label", label, "it is not loaded on this node");
        failure.errno = error.raw_os_error();
        return failure;
    }
    Failure::os_kind(kind, "apply label", label, error)
}

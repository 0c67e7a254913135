//! Kernel parameters of a container's own namespaces.

use crate::{Failure, FailureKind};
use oci_spec::runtime::Spec;
use sys::process::{NEW_IPC, NEW_NETWORK, NEW_UTS};

use super::namespace::Namespaces;
use super::procfs::Procfs;

/// One parameter and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    key: String,
    path: String,
    value: String,
}

/// The parameters of a spec.
///
/// # Errors
/// `InvalidArgument`: a key that is not the container's own to set, or is not one.
pub fn parse(spec: &Spec, namespaces: &Namespaces) -> Result<Vec<Sysctl>, Failure> {
    let asked = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    let mut all = Vec::new();
    for (key, value) in asked.into_iter().flatten() {
        all.push(Sysctl::parse(key, value, |flag| namespaces.is_isolated(flag))?);
    }
    Ok(all)
}

impl Sysctl {
    /// What is written where below `/proc/sys`.
    #[cfg(feature = "fuzz")]
    pub fn parts(&self) -> (&str, &str) {
        (&self.path, &self.value)
    }

    /// Reads one parameter; `is_own` knows which namespaces (`CLONE_NEW*`) are the container's.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn parse(key: &str, value: &str, is_own: impl Fn(u64) -> bool) -> Result<Self, Failure> {
        let invalid = |cause| Failure::new(FailureKind::InvalidArgument, "set sysctl", key, cause);
        let clean = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_./-".contains(&byte)
        };
        let path = format!("sys/{}", key.replace('.', "/"));
        let whole = path.split('/').all(|part| !part.is_empty());
        if !(key.bytes().all(clean) && whole) {
            return Err(invalid("not a sysctl"));
        }
        if value.contains(['\n', '\0']) {
            return Err(invalid("its value has more than one line"));
        }
        let namespace = match key {
            _ if key.starts_with("net.") => NEW_NETWORK,
            "kernel.domainname" | "kernel.hostname" => NEW_UTS,
            "kernel.msgmax"
            | "kernel.msgmnb"
            | "kernel.msgmni"
            | "kernel.sem"
            | "kernel.shmall"
            | "kernel.shmmax"
            | "kernel.shmmni"
            | "kernel.shm_rmid_forced" => NEW_IPC,
            _ if key.starts_with("fs.mqueue.") => NEW_IPC,
            _ => return Err(invalid("does not belong to a namespace")),
        };
        if !is_own(namespace) {
            return Err(invalid("the namespace it belongs to is the host's"));
        }
        Ok(Self { key: key.to_owned(), path, value: value.to_owned() })
    }

    /// Sets the parameter: the values behind the names are those of the process that opens them.
    ///
    /// # Errors
    /// `InvalidArgument`: there is no such parameter, or the kernel does not want the value.
    pub fn set(&self, procfs: &Procfs) -> Result<(), Failure> {
        procfs.write(&self.path, self.value.as_bytes()).map_err(|error| {
            let kind = FailureKind::InvalidArgument;
            Failure::os_kind(kind, "set sysctl", self.key.as_str(), error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_namespaces_that_are_the_containers_own_are_taken() {
        let all = |_| true;
        assert_eq!(
            Sysctl::parse("net.ipv4.ip_forward", "1", all).unwrap().path,
            "sys/net/ipv4/ip_forward"
        );
        let refused = [
            ("kernel.core_pattern", "|/x"),
            ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/x"),
            ("net.../x", "1"),
            ("net.ipv4;x", "1"),
            ("", "1"),
            ("vm.swappiness", "1"),
        ];
        for (key, value) in refused {
            let failure = Sysctl::parse(key, value, all).unwrap_err();
            assert_eq!(failure.kind, FailureKind::InvalidArgument, "{key}");
        }
        let only_ipc = |flag| flag == NEW_IPC;
        assert!(Sysctl::parse("net.core.somaxconn", "1", only_ipc).is_err());
        assert!(Sysctl::parse("kernel.shmmax", "1", only_ipc).is_ok());
    }
}

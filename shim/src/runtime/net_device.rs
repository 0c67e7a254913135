//! Network devices of the host that a container gets (OCI runtime-spec, config-linux.md, "Network Devices").
//!
//! A device is moved into the container's network namespace with its lasting global addresses, and is up there. The
//! kernel takes it back, or ends it, when that namespace ends: nobody moves it back.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sys::link::Links;
use sys::process::NEW_NETWORK;

use super::namespace::Namespaces;
use crate::{Failure, FailureKind};

/// `IFNAMSIZ` with the zero at its end.
const NAME_BYTES: usize = 15;
const OWN_NETWORK: &str = "/proc/self/ns/net";

/// What is to be moved: the host's name of each device, and the container's.
#[derive(Debug, Default)]
pub struct NetDevices {
    names: Vec<(String, String)>,
    /// The namespace to be joined; otherwise it is the process's new one.
    joined: Option<OwnedFd>,
}

impl NetDevices {
    /// Reads what the spec asks for.
    ///
    /// # Errors
    /// `InvalidArgument`: a name that is none or is there twice, or a container on the host's network.
    pub fn new(spec: &Spec, namespaces: &Namespaces) -> Result<Self, Failure> {
        let asked = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
        let mut names: Vec<(String, String)> = Vec::new();
        for (host, device) in asked.into_iter().flatten() {
            let inside = device.name().clone().filter(|name| !name.is_empty());
            names.push((host.clone(), inside.unwrap_or_else(|| host.clone())));
        }
        names.sort();
        for (at, (host, inside)) in names.iter().enumerate() {
            if let Some(wrong) = [host, inside].into_iter().find(|name| !is_name(name)) {
                return Err(invalid(wrong, "is not a name of a device"));
            }
            if names.iter().take(at).any(|(_, other)| other == inside) {
                return Err(invalid(inside, "is the name of two devices"));
            }
        }
        if let Some((host, _)) = names.first()
            && !namespaces.is_isolated(NEW_NETWORK)
        {
            return Err(invalid(host, "needs a network namespace to be moved to"));
        }
        let joined = if names.is_empty() { None } else { namespaces.network_to_join()? };
        Ok(Self { names, joined })
    }

    /// Whether there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The part of whoever moves them; what is left says only that there are some.
    pub fn take(&mut self) -> Self {
        Self { names: self.names.clone(), joined: self.joined.take() }
    }

    /// Moves the devices to the process of the container, which is in its network namespace by now.
    ///
    /// # Errors
    /// `InvalidArgument`: there is no such device, or the kernel does not let it go.
    pub fn give(self, pid: u32) -> Result<(), Failure> {
        let target = match self.joined {
            Some(file) => file,
            None => open_namespace(&format!("/proc/{pid}/ns/net"))?,
        };
        let own = open_namespace(OWN_NETWORK)?;
        let here = Links::open().map_err(|e| Failure::os("look at", "network devices", e))?;
        enter(&target)?;
        let there = Links::open();
        enter(&own)?;
        let there = there.map_err(|e| Failure::os("look at", "network devices", e))?;
        for (host, inside) in &self.names {
            move_device((&here, host), (&there, inside), &target).map_err(|error| {
                let kind = FailureKind::InvalidArgument;
                Failure::os_kind(kind, "move network device", host.as_str(), error)
            })?;
        }
        Ok(())
    }
}

fn move_device(
    (here, host): (&Links, &str),
    (there, inside): (&Links, &str),
    target: &OwnedFd,
) -> std::io::Result<()> {
    let index = here.find(host)?;
    let addresses = here.addresses(index)?;
    here.hand_over(index, target.as_fd(), inside)?;
    // Its index may be another one there.
    let index = there.find(inside)?;
    addresses.iter().try_for_each(|address| there.add_address(index, address))?;
    there.raise(index)
}

fn open_namespace(path: &str) -> Result<OwnedFd, Failure> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Failure::os("open namespace", path, e))
}

fn enter(namespace: &OwnedFd) -> Result<(), Failure> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| Failure::os("enter", "network namespace", e))
}

/// As the kernel has it (`dev_valid_name`).
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    (1..=NAME_BYTES).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(plain)
}

fn invalid(name: &str, cause: &'static str) -> Failure {
    let name = name.escape_default().to_string();
    Failure::new(FailureKind::InvalidArgument, "use network device", name, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_kernel_takes() {
        for good in ["eth0", "a", "fifteen-letters", "x.100"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:1", "a b", "sixteen-letters-", "a\n", "é"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}

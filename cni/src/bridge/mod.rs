//! The built-in network: one bridge, one veth pair per pod, one masquerading rule.
//!
//! ```text
//!   pod a                 pod b
//!  ┌──────────┐          ┌──────────┐
//!  │ eth0     │          │ eth0     │     .2, .3, ... of the subnet; default route to .1
//!  └────┬─────┘          └────┬─────┘
//!   wh<id a>              wh<id b>        ports, hairpin on
//!  ┌────┴─────────────────────┴─────┐
//!  │ wherry0                     .1 │
//!  └────────────────┬───────────────┘
//!     ip_forward    │   nftables: table ip wherry, subnet -> elsewhere: masquerade
//!                   ▼
//! ```
//!
//! The bridge and the rule belong to the node: they are made by the first attach of each run of the daemon, each
//! step of which finds its work done if it is, and are never taken down by a detach.

mod addresses;
mod link;
mod nat;

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::config::BridgeConfig;
use crate::error::NetworkError;
use crate::pod::{Attachment, INTERFACE, PodNetwork};

pub(crate) use addresses::Addresses;
use link::{HardwareAddress, Port};

/// What the built-in network lends to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// The pod's address.
    pub(crate) address: Ipv4Addr,
}

/// The built-in network of this node.
#[derive(Debug)]
pub(crate) struct Bridge {
    config: BridgeConfig,
    /// The bridge's index, once it is known to be as it should be.
    index: Mutex<Option<u32>>,
}

impl Bridge {
    pub(crate) fn new(config: BridgeConfig) -> Self {
        Self { config, index: Mutex::new(None) }
    }

    /// Returns what a pod with this lease gets, in the form of a CNI result, before anything is done.
    pub(crate) fn promise(&self, pod: &PodNetwork, lease: Lease) -> Attachment {
        let subnet = self.config.subnet;
        let port = self.port(pod, lease);
        let result: Value = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": self.config.name, "mac": HardwareAddress::of_pod(subnet.gateway()).to_string() },
                { "name": port.host_name, "mac": port.host_address.to_string() },
                { "name": INTERFACE, "mac": port.pod_address.to_string(), "sandbox": pod.netns },
            ],
            "ips": [{
                "address": format!("{}/{}", lease.address, subnet.prefix()),
                "gateway": subnet.gateway(),
                "interface": 2,
            }],
            "routes": [{ "dst": "0.0.0.0/0", "gw": subnet.gateway() }],
            "dns": {},
        });
        Attachment { ips: vec![IpAddr::V4(lease.address)], result }
    }

    /// Connects a pod's namespace. Blocks for a few milliseconds, longer for the first pod.
    ///
    /// On error, what was made for the pod has been removed again.
    pub(crate) fn connect(&self, pod: &PodNetwork, lease: Lease) -> Result<(), NetworkError> {
        let port = self.port(pod, lease);
        let netns = fs::File::open(&pod.netns)
            .map_err(NetworkError::kernel("open namespace", pod.netns.display()))?;
        let bridge = self.ready()?;
        let made = match port.make(bridge, &netns) {
            // Somebody removed the bridge since it was last looked at (`do_set_master` says EINVAL).
            Err(_) if if_nametoindex(self.config.name.as_str()) != Ok(bridge) => {
                *self.index.lock().unwrap_or_else(PoisonError::into_inner) = None;
                port.make(self.ready()?, &netns)
            }
            made => made,
        };
        made?;
        refuse_router_advertisements(&port.host_name);
        sys::netns::inside(&pod.netns, || port.configure())
            .unwrap_or_else(|error| Err(error.into()))
            .inspect_err(|_| port.remove_or_warn())
    }

    /// Removes the bridge and the rules. Pods that are still attached lose their network.
    pub(crate) fn teardown(&self) -> Result<(), NetworkError> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        *index = None;
        let removals = [link::remove_bridge(&self.config.name), nat::remove()];
        NetworkError::all(removals.into_iter().filter_map(Result::err).collect())
    }

    fn port(&self, pod: &PodNetwork, lease: Lease) -> Port {
        Port {
            host_name: link::host_name(&pod.id),
            host_address: HardwareAddress::of_host_side(lease.address),
            pod_address: HardwareAddress::of_pod(lease.address),
            address: lease.address,
            subnet: self.config.subnet,
            mtu: self.config.mtu,
        }
    }

    /// Returns the bridge's index, after making whatever of the node's part is missing.
    fn ready(&self) -> Result<u32, NetworkError> {
        // Held while the bridge is made: the second pod of a starting node needs it as much as the first.
        let mut known = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = *known {
            return Ok(index);
        }
        let index = link::ensure_bridge(&self.config)?;
        refuse_router_advertisements(&self.config.name);
        if let Err(error) = forward_packets() {
            warn!(%error, "packets are not forwarded: pods reach each other and the node, nothing else");
        }
        if self.config.masquerade {
            nat::masquerade(self.config.subnet, &self.config.name)?;
        } else {
            nat::remove()?;
        }
        info!(bridge = self.config.name, subnet = %self.config.subnet, "built-in network ready");
        *known = Some(index);
        Ok(index)
    }
}

/// Keeps a pod from becoming the node's IPv6 router by announcing itself on the wire (CVE-2020-10749).
fn refuse_router_advertisements(link: &str) {
    let path = Path::new("/proc/sys/net/ipv6/conf").join(link).join("accept_ra");
    match fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(b"0")) {
        // Without IPv6 there is nothing to refuse.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "router advertisements are not refused");
        }
        _ => {}
    }
}

fn forward_packets() -> Result<(), NetworkError> {
    let path = Path::new("/proc/sys/net/ipv4/ip_forward");
    // Read first: where /proc/sys is read-only, the node's owner has often set it already.
    if fs::read_to_string(path).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    fs::write(path, "1").map_err(NetworkError::state("write", path))
}

/// Turns the refusal of a request into an error that names the request.
fn refused(
    operation: &'static str,
    object: impl ToString,
) -> impl FnOnce(crate::netlink::Refusal) -> NetworkError {
    let error = NetworkError::kernel(operation, object);
    move |refusal| error(refusal.source)
}

fn is_errno(refusal: &crate::netlink::Refusal, errno: Errno) -> bool {
    refusal.source.raw_os_error() == Some(errno as i32)
}

//! The built-in network: one bridge, one veth pair per pod, one table of rules.
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
//!     ip_forward    │   nftables: table ip wherry, subnet -> elsewhere: masquerade; host ports -> pods
//!                   ▼
//! ```
//!
//! The bridge and the rule belong to the node: they are made by the first attach of each run of the daemon, each
//! step of which finds its work done if it is, and are never taken down by a detach. Host ports are entries of maps that
//! the rules look up.

mod addresses;
mod expression;
mod flows;
mod link;
mod nat;
mod ports;

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
use crate::pod::{Attachment, INTERFACE, PodNetwork, PortMapping};

pub(crate) use addresses::Addresses;
use link::{HardwareAddress, Port};
use ports::Ports;

/// What the built-in network lends to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// The pod's address.
    pub(crate) address: Ipv4Addr,
    /// The ports of the node that lead to the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<PortMapping>,
}

/// The built-in network of this node.
#[derive(Debug)]
pub(crate) struct Bridge {
    config: BridgeConfig,
    /// The bridge's index, once it is known to be as it should be.
    index: Mutex<Option<u32>>,
    /// Who has which port of the node.
    ports: Ports,
}

impl Bridge {
    /// A network with the leases that records have.
    pub(crate) fn new(config: BridgeConfig, leases: &[(String, Lease)]) -> Self {
        Self { config, index: Mutex::new(None), ports: Ports::new(leases) }
    }

    /// Returns a lease of an address for a pod, with the ports that it asks for, which are kept for it.
    ///
    /// # Errors
    /// A port cannot be published, or is another pod's.
    pub(crate) fn lease(&self, pod: &PodNetwork, address: Ipv4Addr) -> Result<Lease, NetworkError> {
        let lease = Lease { address, ports: ports::wanted(pod)? };
        self.ports.turn().reserve(&pod.id, &lease)?;
        Ok(lease)
    }

    /// Lets no port of the node lead to a pod any more; idempotent.
    ///
    /// # Errors
    /// The kernel refuses; the ports are still the pod's.
    pub(crate) fn withdraw(&self, id: &str) -> Result<(), NetworkError> {
        let mut turn = self.ports.turn();
        let ports = turn.release(id);
        if ports.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.rule(&turn) {
            turn.keep(id, ports);
            return Err(error);
        }
        flows::forget(&ports);
        Ok(())
    }

    /// Returns what a pod with this lease gets, in the form of a CNI result, before anything is done.
    pub(crate) fn promise(&self, pod: &PodNetwork, lease: &Lease) -> Attachment {
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
    pub(crate) fn connect(&self, pod: &PodNetwork, lease: &Lease) -> Result<(), NetworkError> {
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
            .and_then(|()| self.publish(&pod.id))
            .inspect_err(|_| port.remove_or_warn())
    }

    /// Lets the ports that are kept for a pod lead to it.
    fn publish(&self, id: &str) -> Result<(), NetworkError> {
        let turn = self.ports.turn();
        let ports = turn.of_pod(id);
        if ports.is_empty() {
            return Ok(());
        }
        self.rule(&turn)?;
        flows::forget(&ports);
        Ok(())
    }

    /// Makes the rules say what is configured and published.
    fn rule(&self, turn: &ports::Turn<'_>) -> Result<(), NetworkError> {
        let (ports, masquerade) = (turn.all(), self.config.masquerade);
        if ports.is_none() && !masquerade {
            return nat::remove();
        }
        let (subnet, bridge) = (self.config.subnet, self.config.name.as_str());
        nat::apply(&nat::Plan { subnet, bridge, masquerade, ports: ports.as_deref() })?;
        if ports.is_some_and(|ports| !ports.is_empty()) {
            route_from_loopback(bridge);
        }
        Ok(())
    }

    /// Removes the bridge and the rules. Pods that are still attached lose their network.
    pub(crate) fn teardown(&self) -> Result<(), NetworkError> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        *index = None;
        let removals = [link::remove_bridge(&self.config.name), nat::remove()];
        NetworkError::all(removals.into_iter().filter_map(Result::err).collect())
    }

    fn port(&self, pod: &PodNetwork, lease: &Lease) -> Port {
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
        self.rule(&self.ports.turn())?;
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

/// Lets the node's processes reach pods by 127.0.0.1 and a host port (`route_localnet`, ip-sysctl). The rules, which are
/// there by now, keep the pods from using that the other way.
fn route_from_loopback(bridge: &str) {
    let path = Path::new("/proc/sys/net/ipv4/conf").join(bridge).join("route_localnet");
    if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
        return;
    }
    if let Err(error) = fs::write(&path, "1") {
        warn!(path = %path.display(), %error, "host ports do not answer at 127.0.0.1");
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

//! Which port of the node leads to which pod.
//!
//! As with addresses, a pod's record says it, and this is what the records say together. Two pods that want the same
//! port cannot both have it: the second one is told so, where a rule that is never reached would look like success.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Lease;
use crate::error::NetworkError;
use crate::pod::{PodNetwork, PortMapping, Protocol};

/// A port of the node that leads to a port of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) protocol: Protocol,
    /// The node's address; all of them if absent.
    pub(super) at: Option<Ipv4Addr>,
    pub(super) host_port: u16,
    pub(super) pod: Ipv4Addr,
    pub(super) pod_port: u16,
}

impl Publication {
    /// Whether a packet could be meant by both.
    fn overlaps(&self, other: &Self) -> bool {
        let same_place = match (self.at, other.at) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        same_place && self.protocol == other.protocol && self.host_port == other.host_port
    }
}

/// Reads the ports that a pod asks for.
///
/// # Errors
/// One cannot be published by a network of IPv4, or they contradict each other.
pub(super) fn wanted(pod: &PodNetwork) -> Result<Vec<PortMapping>, NetworkError> {
    let invalid =
        |reason| NetworkError::InvalidPod { id: pod.id.clone(), field: "host port", reason };
    let mut wanted: Vec<PortMapping> = Vec::new();
    for port in pod.host_ports() {
        if port.container_port == 0 {
            return Err(invalid("leads to port 0"));
        }
        if matches!(port.host_ip, Some(IpAddr::V6(address)) if !address.is_unspecified()) {
            return Err(invalid("is wanted at an IPv6 address, and the built-in network is IPv4"));
        }
        if wanted.contains(port) {
            continue;
        }
        let one = publication(port, Ipv4Addr::UNSPECIFIED);
        if wanted.iter().any(|other| publication(other, Ipv4Addr::UNSPECIFIED).overlaps(&one)) {
            return Err(invalid("is asked for twice, for different ports of the pod"));
        }
        wanted.push(port.clone());
    }
    Ok(wanted)
}

fn publication(port: &PortMapping, pod: Ipv4Addr) -> Publication {
    let at = match port.host_ip {
        Some(IpAddr::V4(address)) if !address.is_unspecified() => Some(address),
        _ => None,
    };
    Publication {
        protocol: port.protocol,
        at,
        host_port: port.host_port,
        pod,
        pod_port: port.container_port,
    }
}

/// The ports of all pods.
#[derive(Debug)]
pub(super) struct Ports {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pods: BTreeMap<String, Vec<Publication>>,
    /// Whether there ever was one, so that the rules for them may be there.
    used: bool,
}

/// The right to change ports, and the rules with them.
#[derive(Debug)]
pub(super) struct Turn<'a>(MutexGuard<'a, State>);

impl Ports {
    /// Those of the leases that records have.
    pub(super) fn new(leases: &[(String, Lease)]) -> Self {
        let pods: BTreeMap<_, _> = leases
            .iter()
            .filter(|(_, lease)| !lease.ports.is_empty())
            .map(|(id, lease)| (id.clone(), of(lease)))
            .collect();
        Self { state: Mutex::new(State { used: !pods.is_empty(), pods }) }
    }

    /// Waits until nobody else changes ports or rules.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn of(lease: &Lease) -> Vec<Publication> {
    lease.ports.iter().map(|port| publication(port, lease.address)).collect()
}

impl Turn<'_> {
    /// Keeps the lease's ports for a pod; the answer is whether there are any.
    ///
    /// # Errors
    /// Another pod has one of them.
    pub(super) fn reserve(&mut self, id: &str, lease: &Lease) -> Result<bool, NetworkError> {
        let wanted = of(lease);
        for (other, ports) in self.0.pods.iter().filter(|(other, _)| *other != id) {
            let both = |port: &&Publication| ports.iter().any(|taken| taken.overlaps(port));
            if let Some(port) = wanted.iter().find(both) {
                return Err(NetworkError::PortTaken {
                    id: id.to_owned(),
                    port: format!("{}/{}", port.host_port, port.protocol.as_str()),
                    by: other.clone(),
                });
            }
        }
        if wanted.is_empty() {
            return Ok(false);
        }
        self.0.used = true;
        self.0.pods.insert(id.to_owned(), wanted);
        Ok(true)
    }

    /// Gives a pod's ports back; these are the ones it had.
    pub(super) fn release(&mut self, id: &str) -> Vec<Publication> {
        self.0.pods.remove(id).unwrap_or_default()
    }

    /// Takes back what [`release`](Self::release) gave.
    pub(super) fn keep(&mut self, id: &str, ports: Vec<Publication>) {
        self.0.pods.insert(id.to_owned(), ports);
    }

    /// One pod's ports.
    pub(super) fn of_pod(&self, id: &str) -> Vec<Publication> {
        self.0.pods.get(id).cloned().unwrap_or_default()
    }

    /// All ports; `None` where there never was one.
    pub(super) fn all(&self) -> Option<Vec<Publication>> {
        self.0.used.then(|| self.0.pods.values().flatten().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::sample;

    fn port(host_port: u16, at: Option<&str>, protocol: Protocol) -> PortMapping {
        let host_ip = at.map(|at| at.parse().unwrap());
        PortMapping { protocol, container_port: 80, host_port, host_ip }
    }

    fn lease(last: u8, ports: &[PortMapping]) -> Lease {
        Lease { address: Ipv4Addr::new(10, 0, 0, last), ports: ports.to_vec() }
    }

    #[test]
    fn one_port_has_one_pod_unless_protocol_or_address_differ() {
        let ports = Ports::new(&[("a".to_owned(), lease(2, &[port(80, None, Protocol::Tcp)]))]);
        let mut turn = ports.turn();
        for taken in [port(80, None, Protocol::Tcp), port(80, Some("192.0.2.1"), Protocol::Tcp)] {
            let error = turn.reserve("b", &lease(3, &[taken])).unwrap_err();
            assert_eq!(error.to_string(), "host port 80/tcp of pod b is pod a's already");
        }
        let free = [port(80, None, Protocol::Udp), port(81, Some("192.0.2.1"), Protocol::Tcp)];
        assert!(turn.reserve("b", &lease(3, &free)).unwrap());
        assert!(
            turn.reserve("c", &lease(4, &[port(81, Some("192.0.2.2"), Protocol::Tcp)])).unwrap()
        );
        assert!(turn.reserve("d", &lease(5, &[port(81, Some("0.0.0.0"), Protocol::Tcp)])).is_err());
        assert_eq!(turn.release("a").len(), 1);
        assert!(turn.reserve("d", &lease(5, &[port(80, None, Protocol::Tcp)])).unwrap());
        assert_eq!(turn.all().unwrap().len(), 4);
    }

    #[test]
    fn where_nobody_ever_had_a_port_there_are_none_to_keep() {
        let ports = Ports::new(&[("a".to_owned(), lease(2, &[]))]);
        let mut turn = ports.turn();
        assert!(!turn.reserve("b", &lease(3, &[])).unwrap());
        assert_eq!(turn.all(), None);
        turn.reserve("b", &lease(3, &[port(80, None, Protocol::Sctp)])).unwrap();
        turn.release("b");
        assert_eq!(turn.all(), Some(Vec::new()));
    }

    #[test]
    fn a_pod_asks_for_each_port_once_and_in_ipv4() {
        let asks = |ports: &[PortMapping]| {
            wanted(&PodNetwork { port_mappings: ports.to_vec(), ..sample("a1") })
        };
        let tcp = port(80, None, Protocol::Tcp);
        assert_eq!(asks(&[tcp.clone(), tcp.clone()]).unwrap().len(), 1);
        assert_eq!(asks(&[PortMapping { host_port: 0, ..tcp.clone() }]).unwrap().len(), 0);
        assert!(asks(&[tcp.clone(), PortMapping { container_port: 81, ..tcp.clone() }]).is_err());
        assert!(asks(&[PortMapping { container_port: 0, ..tcp.clone() }]).is_err());
        assert!(asks(&[port(80, Some("fd00::1"), Protocol::Tcp)]).is_err());
        assert!(asks(&[port(80, Some("::"), Protocol::Tcp)]).is_ok());
    }
}

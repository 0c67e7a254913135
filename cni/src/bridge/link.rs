//! The links of the built-in network, as netlink messages (rtnetlink(7)).
//!
//! | what | requests | datagrams |
//! |---|---|---|
//! | a pod, in the host | veth pair, up and on the bridge; hairpin on | 1 |
//! | a pod, inside | eth0 up, address, default route | 1 |
//!
//! The pair is born with the peer in the pod's namespace and both ends under their final names, because moving
//! or renaming a link waits for grace periods, as does deleting one. The kernel takes the host's end up and
//! enslaves it in the same request (`rtnl_newlink_create`); the peer it cannot, for the pair is not joined
//! when the peer is configured (`veth_newlink`).

use std::fmt;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder,
};
use tracing::warn;

use super::{is_errno, refused};
use crate::config::{BridgeConfig, Subnet};
use crate::error::NetworkError;
use crate::netlink::{Netlink, Refusal, Request};
use crate::pod::INTERFACE;

type RouteRequest = Request<RouteNetlinkMessage>;

/// An Ethernet address that is derived, so that it is the same whenever the same address is lent.
///
/// A pod that gets the address of one that is gone gets its hardware address too, and no neighbour has a stale
/// entry. And an address that was set is one that neither udev (`MACAddressPolicy=persistent`) nor the bridge,
/// which otherwise takes the lowest of its ports', changes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HardwareAddress([u8; 6]);

impl HardwareAddress {
    /// The address of an interface with this IP address: locally administered, a `W`, and the IP address.
    pub(super) fn of_pod(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x02, b'W', a, b, c, d])
    }

    /// The address of the other end of the pod's pair.
    pub(super) fn of_host_side(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        Self([0x06, b'W', a, b, c, d])
    }
}

impl fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Derives the name of the host's end from the pod's id: 15 bytes is what a name can have (`IFNAMSIZ`).
pub(super) fn host_name(id: &str) -> String {
    id.bytes().take(12).fold(String::from("wh-"), |mut name, byte| {
        name.push(char::from(byte));
        name
    })
}

/// A pod's connection to the bridge.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) host_name: String,
    pub(super) host_address: HardwareAddress,
    pub(super) pod_address: HardwareAddress,
    pub(super) address: Ipv4Addr,
    pub(super) subnet: Subnet,
    pub(super) mtu: Option<u32>,
}

impl Port {
    /// Makes the pair, one end on the bridge and up, the other in the namespace. In the host's namespace.
    pub(super) fn make(&self, bridge: u32, netns: &File) -> Result<(), NetworkError> {
        let mut peer = LinkUnspec::new_with_name(INTERFACE)
            .setns_by_fd(netns.as_raw_fd())
            .address(self.pod_address.0.to_vec());
        let mut host = LinkVeth::new(&self.host_name, INTERFACE)
            .address(self.host_address.0.to_vec())
            .controller(bridge)
            .up();
        if let Some(mtu) = self.mtu {
            peer = peer.mtu(mtu);
            host = host.mtu(mtu);
        }
        let host = host.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
        let hairpin = LinkBridgePort::new(0)
            .name(self.host_name.as_str())
            .append_info_data(InfoBridgePort::HairpinMode(true))
            .build();
        exchange(vec![
            Request::new(RouteNetlinkMessage::NewLink(host), NLM_F_CREATE | NLM_F_EXCL),
            Request::new(RouteNetlinkMessage::NewLink(hairpin), 0),
        ])
        .map_err(|refusal| {
            if refusal.index == 0 {
                return refused("make link", &self.host_name)(refusal);
            }
            self.remove_or_warn();
            refused("set hairpin mode of link", &self.host_name)(refusal)
        })?;
        Ok(())
    }

    /// Gives the pod's end its address and route. To be called inside the pod's namespace.
    pub(super) fn configure(&self) -> Result<(), NetworkError> {
        let index = if_nametoindex(INTERFACE)
            .map_err(|errno| NetworkError::kernel("find link", INTERFACE)(errno.into()))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        let address = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(self.address, self.subnet.prefix())
            .build();
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(self.subnet.gateway())
            .output_interface(index)
            .build();
        let make = NLM_F_CREATE | NLM_F_EXCL;
        exchange(vec![
            Request::new(RouteNetlinkMessage::NewLink(up), 0),
            Request::new(RouteNetlinkMessage::NewAddress(address), make),
            Request::new(RouteNetlinkMessage::NewRoute(route), make),
        ])
        .map_err(|refusal| {
            let operations = ["bring up", "set address of", "set default route of"];
            let operation = operations[refusal.index.min(2)];
            refused(operation, format!("{INTERFACE} with {}", self.address))(refusal)
        })?;
        Ok(())
    }

    /// Takes a pair back that was made a moment ago. Waits for grace periods, as only a failure may.
    pub(super) fn remove_or_warn(&self) {
        if let Err(error) = remove_link(&self.host_name) {
            warn!(link = self.host_name, %error, "a link that was made for a pod stays");
        }
    }
}

/// Makes the bridge, or takes the one that is there, and returns its index. In the host's namespace.
pub(super) fn ensure_bridge(config: &BridgeConfig) -> Result<u32, NetworkError> {
    let subnet = config.subnet;
    let mut bridge =
        LinkBridge::new(&config.name).address(HardwareAddress::of_pod(subnet.gateway()).0.to_vec());
    if let Some(mtu) = config.mtu {
        bridge = bridge.mtu(mtu);
    }
    let make = NLM_F_CREATE | NLM_F_EXCL;
    match exchange(vec![Request::new(RouteNetlinkMessage::NewLink(bridge.build()), make)]) {
        Err(refusal) if is_errno(&refusal, Errno::EEXIST) => expect_bridge(&config.name)?,
        made => {
            made.map_err(refused("make bridge", &config.name))?;
        }
    }
    let index = if_nametoindex(config.name.as_str())
        .map_err(|errno| NetworkError::kernel("find bridge", &config.name)(errno.into()))?;
    let up = LinkUnspec::new_with_index(index).up().build();
    let address = AddressMessageBuilder::<Ipv4Addr>::new()
        .index(index)
        .address(subnet.gateway(), subnet.prefix())
        .build();
    match exchange(vec![
        Request::new(RouteNetlinkMessage::NewLink(up), 0),
        Request::new(RouteNetlinkMessage::NewAddress(address), make),
    ]) {
        Err(refusal) if refusal.index == 1 && is_errno(&refusal, Errno::EEXIST) => {}
        set => {
            set.map_err(refused("set address of bridge", &config.name))?;
        }
    }
    Ok(index)
}

/// Removes the bridge if it is there, and one.
pub(super) fn remove_bridge(name: &str) -> Result<(), NetworkError> {
    if if_nametoindex(name).is_err() {
        return Ok(());
    }
    expect_bridge(name)?;
    remove_link(name)
}

fn remove_link(name: &str) -> Result<(), NetworkError> {
    let link = LinkUnspec::new_with_name(name).build();
    match exchange(vec![Request::new(RouteNetlinkMessage::DelLink(link), 0)]) {
        Err(refusal) if !is_errno(&refusal, Errno::ENODEV) => {
            Err(refused("remove link", name)(refusal))
        }
        _ => Ok(()),
    }
}

/// Refuses a link that has the bridge's name and is something else: it is not ours.
fn expect_bridge(name: &str) -> Result<(), NetworkError> {
    let question = LinkUnspec::new_with_name(name).build();
    let answers = exchange(vec![Request::new(RouteNetlinkMessage::GetLink(question), 0)])
        .map_err(refused("find bridge", name))?;
    let bridge = answers.iter().any(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => is_bridge(link),
        _ => false,
    });
    if bridge {
        return Ok(());
    }
    Err(NetworkError::kernel("use as bridge", name)(std::io::Error::other(
        "a link of that name exists and is not a bridge",
    )))
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    })
}

fn exchange(requests: Vec<RouteRequest>) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
    Netlink::open(NETLINK_ROUTE)
        .map_err(|source| Refusal { index: 0, source })
        .and_then(|mut netlink| netlink.exchange(requests))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_hardware_addresses_derive_from_the_pod() {
        let name = host_name(&"ab".repeat(32));
        assert_eq!(name, "wh-abababababab");
        assert!(name.len() <= 15);
        let ip = Ipv4Addr::new(10, 88, 0, 2);
        assert_eq!(HardwareAddress::of_pod(ip).to_string(), "02:57:0a:58:00:02");
        assert_ne!(HardwareAddress::of_pod(ip), HardwareAddress::of_host_side(ip));
    }
}

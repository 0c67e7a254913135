//! Connections that the kernel remembers (nf_conntrack): what is decided at a flow's first packet holds for all of it.
//!
//! TCP begins anew with every connection. UDP does not: who sends to a port of the node without a pause keeps the
//! decision of the first packet, and with it the address of a pod that is gone, or no pod at all.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as IpProtocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tracing::warn;

use super::ports::Publication;
use crate::netlink::{Netlink, Refusal, Request};
use crate::pod::Protocol;

/// The most flows that are forgotten in one message.
const CHUNK: usize = 256;

/// Makes the kernel decide anew about UDP to these ports of the node. What cannot be forgotten is lost after half a
/// minute without a packet.
pub(super) fn forget(ports: &[Publication]) {
    let udp: Vec<_> = ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
    if udp.is_empty() {
        return;
    }
    if let Err(refusal) = forget_udp(&udp) {
        warn!(error = %refusal.source, "flows of UDP to host ports are not forgotten");
    }
}

fn forget_udp(ports: &[&Publication]) -> Result<(), Refusal> {
    let lost = |source| Refusal { index: 0, source };
    let mut netlink = Netlink::open(NETLINK_NETFILTER).map_err(lost)?;
    let mut flows = Vec::new();
    netlink.dump(
        Request::new(message(ConntrackMessage::Get(Vec::new())), NLM_F_DUMP),
        |answer: NetfilterMessage| {
            flows.extend(original(answer).filter(|flow| is_to(flow, ports)));
        },
    )?;
    for chunk in flows.chunks(CHUNK) {
        let deletions = chunk.iter().map(|flow| {
            let attributes = vec![ConntrackAttribute::CtaTupleOrig(flow.clone())];
            Request::new(message(ConntrackMessage::Delete(attributes)), 0)
        });
        // A flow that has ended meanwhile is refused, and all others are done.
        match netlink.exchange(deletions.collect()) {
            Err(refusal) if !super::is_errno(&refusal, nix::errno::Errno::ENOENT) => {
                return Err(refusal);
            }
            _ => {}
        }
    }
    Ok(())
}

fn message(message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), message)
}

/// From whom to whom a flow's first packet was.
fn original(answer: NetfilterMessage) -> Option<Vec<Tuple>> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = answer.inner else {
        return None;
    };
    attributes.into_iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(tuple) => Some(tuple),
        _ => None,
    })
}

fn is_to(flow: &[Tuple], ports: &[&Publication]) -> bool {
    let (mut udp, mut port, mut address) = (false, None, None);
    for part in flow {
        match part {
            Tuple::Ip(all) => all.iter().for_each(|one| {
                if let IPTuple::DestinationAddress(IpAddr::V4(to)) = one {
                    address = Some(*to);
                }
            }),
            Tuple::Proto(all) => all.iter().for_each(|one| match one {
                ProtoTuple::Protocol(protocol) => udp = *protocol == IpProtocol::Udp,
                ProtoTuple::DestinationPort(to) => port = Some(*to),
                _ => {}
            }),
            _ => {}
        }
    }
    let is = |wanted: &&Publication| {
        port == Some(wanted.host_port) && wanted.at.is_none_or(|at| address == Some(at))
    };
    udp && ports.iter().any(is)
}

//! The rules of the built-in network, in a table of our own (nft(8), "NAT STATEMENTS").
//!
//! ```text
//! table ip wherry {
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr SUBNET ip daddr != SUBNET oifname != "BRIDGE" masquerade      hides the pods behind the node
//!         oifname "BRIDGE" ct status dnat ip saddr 127.0.0.0/8 masquerade        the node's own 127.0.0.1:PORT
//!         oifname "BRIDGE" ct status dnat ip saddr SUBNET masquerade             a pod to a port of the node
//!     }
//!
//!     # from here on only once a pod has asked for a port of the node
//!     map host_ports { type inet_proto . inet_service : ipv4_addr . inet_service }
//!     map host_ports_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!     chain prerouting {
//!         type nat hook prerouting priority dstnat; policy accept;
//!         fib daddr type local dnat to ip daddr . meta l4proto . th dport map @host_ports_at
//!         fib daddr type local dnat to meta l4proto . th dport map @host_ports
//!     }
//!     chain output { the same, for the node's own processes }
//!     chain guard {
//!         type filter hook prerouting priority raw; policy accept;
//!         iifname "BRIDGE" ip daddr 127.0.0.0/8 drop
//!         iifname "BRIDGE" ip saddr 127.0.0.0/8 drop
//!     }
//!     chain hush {
//!         type filter hook output priority filter; policy accept;
//!         oifname "BRIDGE" icmp type redirect drop
//!     }
//! }
//! ```
//!
//! One transaction makes what is missing, empties chains and maps, and fills them: whoever looks sees the rules once,
//! whatever was there before, and connections that are being translated go on. It is the same one for every change, so
//! that the table always says what the records say, also after somebody else has emptied it.
//!
//! The guard is there because of `route_localnet`, which the node's own way by 127.0.0.1 takes: it also lets the node
//! take packets from the bridge that claim to be for or from its loopback, and a pod could reach what listens there
//! only (CVE-2020-8558).
//!
//! What a pod sends to a port of the node that is its neighbour's goes out where it came in, of which the kernel tells the
//! pod (ICMP redirect): the pod would then send what is for the node to its neighbour, which does not want it. The switch
//! for it cannot be turned off for one link only (`send_redirects` of `all` counts, too).

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Expressions, Hook, InetHookNumber, ListAttribute,
    MetaKey, NfTablesMessage, Operator, RuleAttribute, RuleMessage, SetAttribute,
    SetElementAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute,
    TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::expression::{
    DESTINATION, SOURCE, address, drop_packet, is_icmp_redirect, is_redirected, link, masquerade,
    redirect, to_this_node,
};
use super::ports::Publication;
use super::{is_errno, refused};
use crate::config::Subnet;
use crate::error::NetworkError;
use crate::netlink::{Netlink, Refusal, Request};

const TABLE: &str = "wherry";
const POSTROUTING: &str = "postrouting";
const GUARD: &str = "guard";
const HUSH: &str = "hush";
/// Host ports at every address of the node, and those at one address each.
const EVERYWHERE: &str = "host_ports";
const AT_ADDRESS: &str = "host_ports_at";
/// `NFNL_SUBSYS_NFTABLES`, which a transaction's frame carries.
const SUBSYSTEM: u16 = 10;
/// `NF_IP_PRI_RAW`, `NF_IP_PRI_FILTER`, `NF_IP_PRI_NAT_DST` and `NF_IP_PRI_NAT_SRC`.
const RAW: i32 = -300;
const FILTER: i32 = 0;
const NAT_DST: i32 = -100;
const NAT_SRC: i32 = 100;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// nft's numbers for the types of fields, of which six bits a field say what a key or value is made of.
const IPV4_ADDR: u32 = 7;
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;
const TYPE_BITS: u32 = 6;
/// Elements in one message: an attribute holds 64 KiB, and an element is less than 64 bytes.
const CHUNK: usize = 512;

/// What the table is to say.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) subnet: Subnet,
    pub(super) bridge: &'a str,
    /// Hide the pods behind the node.
    pub(super) masquerade: bool,
    /// Every port of the node that leads to a pod; `None` where none ever did.
    pub(super) ports: Option<&'a [Publication]>,
}

type Steps = Vec<(NfTablesMessage, u16)>;

/// Makes the table say what the plan does; idempotent.
pub(super) fn apply(plan: &Plan<'_>) -> Result<(), NetworkError> {
    let new_table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
    let mut steps = vec![(NfTablesMessage::NewTable(new_table), NLM_F_CREATE)];
    add_chain(&mut steps, POSTROUTING, "nat", InetHookNumber::PostRouting, NAT_SRC);
    let mut rules = Vec::new();
    if plan.masquerade {
        rules.push((POSTROUTING, hide_pods(plan)));
    }
    if let Some(ports) = plan.ports {
        for (name, hook) in
            [("prerouting", InetHookNumber::PreRouting), ("output", InetHookNumber::LocalOut)]
        {
            add_chain(&mut steps, name, "nat", hook, NAT_DST);
            for (map, with_address) in [(AT_ADDRESS, true), (EVERYWHERE, false)] {
                let mut rule = Vec::from(to_this_node());
                rule.extend(redirect(map, with_address));
                rules.push((name, rule));
            }
        }
        add_chain(&mut steps, GUARD, "filter", InetHookNumber::PreRouting, RAW);
        rules.extend(guard(plan.bridge).map(|rule| (GUARD, rule)));
        add_chain(&mut steps, HUSH, "filter", InetHookNumber::LocalOut, FILTER);
        rules.push((HUSH, hush(plan.bridge)));
        rules.extend(return_by_this_node(plan).map(|rule| (POSTROUTING, rule)));
        add_maps(&mut steps, ports);
    }
    steps.extend(rules.into_iter().map(|(chain, rule)| new_rule(chain, rule)));
    transaction(steps).map_err(refused("set nftables rules of table ip", TABLE))
}

/// Removes the table with all in it; idempotent.
pub(super) fn remove() -> Result<(), NetworkError> {
    let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
    match transaction(vec![(NfTablesMessage::DeleteTable(table), 0)]) {
        // A kernel without nftables has no table to remove.
        Err(refusal)
            if ![Errno::ENOENT, Errno::EPROTONOSUPPORT, Errno::EOPNOTSUPP]
                .iter()
                .any(|errno| is_errno(&refusal, *errno)) =>
        {
            Err(refused("remove nftables table ip", TABLE)(refusal))
        }
        _ => Ok(()),
    }
}

fn loopback() -> Subnet {
    Subnet::new(Ipv4Addr::new(127, 0, 0, 0), 8)
}

/// Whoever talks to the outside does it under the node's address.
fn hide_pods(plan: &Plan<'_>) -> Vec<Expressions> {
    let mut rule = Vec::from(address(SOURCE, Operator::Equal, plan.subnet));
    rule.extend(address(DESTINATION, Operator::NotEqual, plan.subnet));
    rule.extend(link(MetaKey::Oifname, Operator::NotEqual, plan.bridge));
    rule.push(masquerade());
    rule
}

/// Answers have to come back through the node, which knows to whom they belong: those of a pod to the node's loopback,
/// and those of a pod to its neighbour or to itself.
fn return_by_this_node(plan: &Plan<'_>) -> [Vec<Expressions>; 2] {
    [loopback(), plan.subnet].map(|from| {
        let mut rule = Vec::from(link(MetaKey::Oifname, Operator::Equal, plan.bridge));
        rule.extend(is_redirected());
        rule.extend(address(SOURCE, Operator::Equal, from));
        rule.push(masquerade());
        rule
    })
}

fn guard(bridge: &str) -> [Vec<Expressions>; 2] {
    [DESTINATION, SOURCE].map(|offset| {
        let mut rule = Vec::from(link(MetaKey::Iifname, Operator::Equal, bridge));
        rule.extend(address(offset, Operator::Equal, loopback()));
        rule.push(drop_packet());
        rule
    })
}

fn hush(bridge: &str) -> Vec<Expressions> {
    let mut rule = Vec::from(link(MetaKey::Oifname, Operator::Equal, bridge));
    rule.extend(is_icmp_redirect());
    rule.push(drop_packet());
    rule
}

/// Makes a chain unless it is there, and empties it.
fn add_chain(steps: &mut Steps, name: &str, kind: &str, hook: InetHookNumber, priority: i32) {
    let chain = ChainMessage {
        attributes: vec![
            ChainAttribute::Table(TABLE.to_owned()),
            ChainAttribute::Name(name.to_owned()),
            ChainAttribute::Type(kind.to_owned()),
            ChainAttribute::Policy(ACCEPT),
            ChainAttribute::Hook(vec![
                Hook::Number(hook.into()),
                Hook::Priority(priority.cast_unsigned()),
            ]),
        ],
    };
    // A removal that names no rule removes all of the chain's.
    let emptied = RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(name.to_owned()),
        ],
    };
    steps.push((NfTablesMessage::NewChain(chain), NLM_F_CREATE));
    steps.push((NfTablesMessage::DeleteRule(emptied), 0));
}

fn new_rule(chain: &str, expressions: Vec<Expressions>) -> (NfTablesMessage, u16) {
    let rule = RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
        ],
    };
    (NfTablesMessage::NewRule(rule), NLM_F_CREATE | NLM_F_APPEND)
}

/// Makes the maps unless they are there, empties them and fills them.
fn add_maps(steps: &mut Steps, ports: &[Publication]) {
    let types = |fields: &[u32]| fields.iter().fold(0, |all, field| (all << TYPE_BITS) | field);
    let keys = [&[INET_PROTO, INET_SERVICE][..], &[IPV4_ADDR, INET_PROTO, INET_SERVICE][..]];
    for ((name, key), id) in [EVERYWHERE, AT_ADDRESS].into_iter().zip(keys).zip(1..) {
        let bytes = u32::try_from(key.len() * 4).unwrap_or_default();
        let map = SetMessage {
            attributes: vec![
                SetAttribute::Table(TABLE.to_owned()),
                SetAttribute::Name(name.to_owned()),
                SetAttribute::Flags(SetFlags::Map),
                SetAttribute::KeyType(types(key)),
                SetAttribute::KeyLen(bytes),
                SetAttribute::DataType(types(&[IPV4_ADDR, INET_SERVICE])),
                SetAttribute::DataLen(8),
                SetAttribute::Id(id),
            ],
        };
        steps.push((NfTablesMessage::NewSet(map), NLM_F_CREATE));
        // A removal that names no element removes all of them.
        steps.push((NfTablesMessage::DeleteSetElement(elements(name, None)), 0));
        let of_map = |port: &&Publication| port.at.is_some() == (name == AT_ADDRESS);
        let all: Vec<_> = ports.iter().filter(of_map).map(element).collect();
        for chunk in all.chunks(CHUNK) {
            let added = elements(name, Some(chunk.to_vec()));
            steps.push((NfTablesMessage::NewSetElement(added), NLM_F_CREATE));
        }
    }
}

fn elements(map: &str, all: Option<Vec<ListAttribute<SetElementAttribute>>>) -> SetElementMessage {
    let mut attributes =
        vec![SetElementList::Table(TABLE.to_owned()), SetElementList::Set(map.to_owned())];
    attributes.extend(all.map(SetElementList::Elements));
    SetElementMessage { attributes }
}

/// Each field of a key or value takes four bytes, and its own come first.
fn element(port: &Publication) -> ListAttribute<SetElementAttribute> {
    let number = |number: u16| [number.to_be_bytes(), [0; 2]].concat();
    let mut key = port.at.map_or_else(Vec::new, |at| at.octets().to_vec());
    key.extend([port.protocol.number(), 0, 0, 0]);
    key.extend(number(port.host_port));
    let mut value = port.pod.octets().to_vec();
    value.extend(number(port.pod_port));
    ListAttribute::Element(vec![
        SetElementAttribute::Key(DataAttribute::Value(key)),
        SetElementAttribute::Data(DataAttribute::Value(value)),
    ])
}

fn transaction(steps: Steps) -> Result<(), Refusal> {
    let frame = |message: ControlMessage| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
        Request::frame(NetfilterMessage::new(header, message))
    };
    let mut requests = vec![frame(ControlMessage::BatchBegin)];
    requests.extend(steps.into_iter().map(|(message, flags)| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
        Request::new(NetfilterMessage::new(header, message), flags)
    }));
    requests.push(frame(ControlMessage::BatchEnd));
    Netlink::open(NETLINK_NETFILTER)
        .map_err(|source| Refusal { index: 0, source })?
        .exchange(requests)
        .map(drop)
}

//! The rule that hides the pods behind the node, in a table of our own (nft(8), "NAT STATEMENTS").
//!
//! ```text
//! table ip wherry {
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr SUBNET ip daddr != SUBNET oifname != "BRIDGE" masquerade
//!     }
//! }
//! ```
//!
//! One transaction makes the table and the chain if they are missing, empties the chain and fills it: whoever
//! looks sees the rule once, whatever was there before, and connections that are being translated go on.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, InetHookNumber,
    Meta, MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage,
    TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::{is_errno, refused};
use crate::config::Subnet;
use crate::error::NetworkError;
use crate::netlink::{Netlink, Refusal, Request};

const TABLE: &str = "wherry";
const CHAIN: &str = "postrouting";
/// `NFNL_SUBSYS_NFTABLES`, which a transaction's frame carries.
const SUBSYSTEM: u16 = 10;
/// `NF_IP_PRI_NAT_SRC`.
const PRIORITY: u32 = 100;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFT_PAYLOAD_NETWORK_HEADER`.
const NETWORK_HEADER: u32 = 1;
/// Where the addresses are in an IPv4 header (RFC 791).
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;
/// `IFNAMSIZ`: names are compared with the zeros after them.
const NAME_BYTES: usize = 16;

/// Makes the rule for a subnet behind a bridge; idempotent.
pub(super) fn masquerade(subnet: Subnet, bridge: &str) -> Result<(), NetworkError> {
    let table = || TABLE.to_owned();
    let chain = || CHAIN.to_owned();
    let new_table = TableMessage { attributes: vec![TableAttribute::Name(table())] };
    let new_chain = ChainMessage {
        attributes: vec![
            ChainAttribute::Table(table()),
            ChainAttribute::Name(chain()),
            ChainAttribute::Type("nat".to_owned()),
            ChainAttribute::Policy(ACCEPT),
            ChainAttribute::Hook(vec![
                Hook::Number(InetHookNumber::PostRouting.into()),
                Hook::Priority(PRIORITY),
            ]),
        ],
    };
    // A removal that names no rule removes all of the chain's.
    let emptied = RuleMessage {
        attributes: vec![RuleAttribute::Table(table()), RuleAttribute::Chain(chain())],
    };
    let expressions = rule(subnet, bridge).into_iter().map(Into::into).collect();
    let rule = RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table()),
            RuleAttribute::Chain(chain()),
            RuleAttribute::Expressions(expressions),
        ],
    };
    transaction(vec![
        (NfTablesMessage::NewTable(new_table), NLM_F_CREATE),
        (NfTablesMessage::NewChain(new_chain), NLM_F_CREATE),
        (NfTablesMessage::DeleteRule(emptied), 0),
        (NfTablesMessage::NewRule(rule), NLM_F_CREATE | NLM_F_APPEND),
    ])
    .map_err(refused("set nftables rule of table ip", TABLE))
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

fn rule(subnet: Subnet, bridge: &str) -> Vec<Expressions> {
    let mut name = bridge.as_bytes().to_vec();
    name.resize(NAME_BYTES, 0);
    let mut expressions = Vec::new();
    expressions.extend(address(SOURCE_OFFSET, Operator::Equal, subnet));
    expressions.extend(address(DESTINATION_OFFSET, Operator::NotEqual, subnet));
    expressions.push(Expressions::Meta(vec![
        Meta::Key(MetaKey::Oifname),
        Meta::DestinationRegister(Register::Reg1),
    ]));
    expressions.push(compare(Operator::NotEqual, name));
    expressions.push(Expressions::Other { expression_type: "masq".to_owned(), attributes: vec![] });
    expressions
}

/// Loads an address of the packet, cuts it to the subnet's prefix and compares it.
fn address(offset: u32, operator: Operator, subnet: Subnet) -> [Expressions; 3] {
    let bytes = |address: Ipv4Addr| DataAttribute::Value(address.octets().to_vec());
    [
        Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(offset),
            Payload::Len(4),
        ]),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(4),
            Bitwise::Mask(bytes(subnet.mask())),
            Bitwise::Xor(bytes(Ipv4Addr::UNSPECIFIED)),
        ]),
        compare(operator, subnet.network().octets().to_vec()),
    ]
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

fn transaction(steps: Vec<(NfTablesMessage, u16)>) -> Result<(), Refusal> {
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

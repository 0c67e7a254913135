//! The words that rules are made of, as the kernel takes them (nft(8), "EXPRESSIONS"; linux/netfilter/nf_tables.h).

use std::net::Ipv4Addr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload,
    Register, Verdict, VerdictAttribute,
};

use crate::config::Subnet;

/// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Where the addresses are in an IPv4 header (RFC 791).
pub(super) const SOURCE: u32 = 12;
pub(super) const DESTINATION: u32 = 16;
/// Where the destination port is in the headers of TCP, UDP and SCTP alike.
const DESTINATION_PORT: u32 = 2;
/// `IFNAMSIZ`: names are compared with the zeros after them.
const NAME_BYTES: usize = 16;
/// `NF_DROP`.
const DROP: u32 = 0;
/// `IPS_DST_NAT`: the connection goes elsewhere than it was addressed to.
const STATUS_DNAT: u32 = 1 << 5;
/// `RTN_LOCAL`: an address of this node's.
const LOCAL: u32 = 2;
/// Where what is looked up begins, and where what is found does: registers of four bytes each.
const KEY: [Register; 3] = [Register::Reg32_00, Register::Reg32_01, Register::Reg32_02];
const FOUND: [Register; 2] = [Register::Reg32_04, Register::Reg32_05];

/// `ip saddr SUBNET`, or what else `offset` and `operator` make of it: loads an address of the packet, cuts it to the
/// subnet's prefix and compares it.
pub(super) fn address(offset: u32, operator: Operator, subnet: Subnet) -> [Expressions; 3] {
    let bytes = |address: Ipv4Addr| address.octets().to_vec();
    [
        load(NETWORK_HEADER, offset, 4, Register::Reg1),
        mask(bytes(subnet.mask())),
        compare(operator, bytes(subnet.network())),
    ]
}

/// `iifname "NAME"`, `oifname != "NAME"`.
pub(super) fn link(key: MetaKey, operator: Operator, name: &str) -> [Expressions; 2] {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_BYTES, 0);
    [meta(key, Register::Reg1), compare(operator, bytes)]
}

/// `fib daddr type local`.
pub(super) fn to_this_node() -> [Expressions; 2] {
    // NFTA_FIB_DREG, NFTA_FIB_RESULT = NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_FLAGS = NFTA_FIB_F_DADDR.
    let fib = other("fib", &[(1, Register::Reg1.into()), (2, 3), (3, 2)]);
    [fib, compare(Operator::Equal, LOCAL.to_ne_bytes().to_vec())]
}

/// `ct status dnat`.
pub(super) fn is_redirected() -> [Expressions; 3] {
    // NFTA_CT_DREG, NFTA_CT_KEY = NFT_CT_STATUS.
    let status = other("ct", &[(1, Register::Reg1.into()), (2, 2)]);
    let bit = STATUS_DNAT.to_ne_bytes().to_vec();
    [status, mask(bit), compare(Operator::NotEqual, vec![0; 4])]
}

/// `dnat to [ip daddr .] meta l4proto . th dport map @MAP`; a packet that is not in the map goes on.
pub(super) fn redirect(map: &str, with_address: bool) -> Vec<Expressions> {
    let mut expressions = Vec::new();
    let mut keys = KEY.into_iter();
    let mut key = || keys.next().unwrap_or(Register::Reg32_03);
    if with_address {
        expressions.push(load(NETWORK_HEADER, DESTINATION, 4, key()));
    }
    expressions.push(meta(MetaKey::L4Proto, key()));
    expressions.push(load(TRANSPORT_HEADER, DESTINATION_PORT, 2, key()));
    expressions.push(Expressions::Lookup(vec![
        Lookup::Set(map.to_owned()),
        Lookup::SourceRegister(KEY[0]),
        Lookup::DestinationRegister(FOUND[0]),
    ]));
    // NFTA_NAT_TYPE = NFT_NAT_DNAT, NFTA_NAT_FAMILY = NFPROTO_IPV4, NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MIN.
    let [address, port] = FOUND;
    expressions.push(other("nat", &[(1, 1), (2, 2), (3, address.into()), (5, port.into())]));
    expressions
}

/// `icmp type redirect`.
pub(super) fn is_icmp_redirect() -> [Expressions; 4] {
    // IPPROTO_ICMP; ICMP_REDIRECT is the first byte of its header (RFC 792).
    [
        meta(MetaKey::L4Proto, Register::Reg1),
        compare(Operator::Equal, vec![1]),
        load(TRANSPORT_HEADER, 0, 1, Register::Reg1),
        compare(Operator::Equal, vec![5]),
    ]
}

/// `masquerade`.
pub(super) fn masquerade() -> Expressions {
    other("masq", &[])
}

/// `drop`.
pub(super) fn drop_packet() -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(DROP))])),
    ])
}

fn load(base: u32, offset: u32, length: u32, to: Register) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(to),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn meta(key: MetaKey, to: Register) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(to)])
}

fn mask(mask: Vec<u8>) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(4),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(vec![0; 4])),
    ])
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

/// An expression that the library has no type for, with its numbers.
fn other(kind: &str, numbers: &[(u16, u32)]) -> Expressions {
    let attributes = numbers
        .iter()
        .map(|(attribute, number)| DefaultNla::new(*attribute, number.to_be_bytes().to_vec()));
    Expressions::Other { expression_type: kind.to_owned(), attributes: attributes.collect() }
}

//! Network links by name: raised, looked at, and handed to another network namespace (rtnetlink(7)).
//!
//! A handful of messages written by hand: their few fixed bytes do not justify a netlink library on this floor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
/// `NLM_F_CREATE | NLM_F_EXCL`.
const CREATE: u16 = 0x600;
const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_PERMANENT: u8 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
/// Length of `struct ifaddrmsg`.
const ADDRESS_HEAD: usize = 8;
/// More than the kernel puts into one datagram of an answer.
const BUFFER: usize = 64 << 10;

/// The index of `lo`, the same in every network namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;

/// The links of the network namespace in which it was opened; it stays theirs when its thread goes elsewhere.
#[derive(Debug)]
pub struct Links {
    socket: OwnedFd,
}

/// An address of a link, to be given to it again in another namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    /// Type and payload.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Links {
    /// Those of this thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn open() -> io::Result<Self> {
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let socket = socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkRoute)?;
        Ok(Self { socket })
    }

    /// The index of the link of this name.
    ///
    /// # Errors
    /// `ENODEV`: there is none.
    pub fn find(&self, name: &str) -> io::Result<u32> {
        let mut body = link_head(0, 0);
        attribute(&mut body, IFLA_IFNAME, &zero_ended(name));
        let mut found = None;
        self.ask(RTM_GETLINK, ACKNOWLEDGE, &body, |kind, answer| {
            if kind == RTM_NEWLINK {
                found = found.or_else(|| number(answer, 4));
            }
        })?;
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn raise(&self, index: u32) -> io::Result<()> {
        self.ask(RTM_NEWLINK, ACKNOWLEDGE, &link_head(index, IFF_UP), |_, _| ())
    }

    /// A link's lasting addresses of global scope.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        let mut found = Vec::new();
        self.ask(RTM_GETADDR, DUMP, &[0; ADDRESS_HEAD], |kind, answer| {
            let theirs = kind == RTM_NEWADDR && number(answer, 4) == Some(index);
            found.extend(theirs.then(|| Address::read(answer)).flatten());
        })?;
        Ok(found)
    }

    /// Moves a link into a network namespace, where it has the name `name` and is down.
    ///
    /// # Errors
    /// `EEXIST`: there is one of this name; `EINVAL`: it is bound to its namespace.
    pub fn hand_over(&self, index: u32, to: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mut body = link_head(index, 0);
        attribute(&mut body, IFLA_NET_NS_FD, &to.as_raw_fd().to_ne_bytes());
        attribute(&mut body, IFLA_IFNAME, &zero_ended(name));
        self.ask(RTM_NEWLINK, ACKNOWLEDGE, &body, |_, _| ())
    }

    /// Gives a link an address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_address(&self, index: u32, address: &Address) -> io::Result<()> {
        let mut body = vec![address.family, address.prefix, IFA_F_PERMANENT, RT_SCOPE_UNIVERSE];
        body.extend_from_slice(&index.to_ne_bytes());
        for (kind, payload) in &address.attributes {
            attribute(&mut body, *kind, payload);
        }
        self.ask(RTM_NEWADDR, ACKNOWLEDGE | CREATE, &body, |_, _| ())
    }

    /// Sends one request and hands out its answers, up to the acknowledgement.
    fn ask(
        &self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend_from_slice(&length.to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        request.extend_from_slice(&[0; 8]); // sequence number and port: one request at a time
        request.extend_from_slice(body);
        let link = self.socket.as_raw_fd();
        sendto(link, &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = recv(link, &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, answer, next)) = split(rest) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return acknowledged(answer),
                    kind => each(kind, answer),
                }
                rest = next;
            }
            if !rest.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is cut off"));
            }
        }
    }
}

impl Address {
    /// `None` for an address that goes by itself, or is of this link only.
    fn read(message: &[u8]) -> Option<Self> {
        let [family, prefix, flags, scope, ..] = *message else { return None };
        if flags & IFA_F_PERMANENT == 0 || scope != RT_SCOPE_UNIVERSE {
            return None;
        }
        let mut attributes = Vec::new();
        let mut rest = message.get(ADDRESS_HEAD..)?;
        while let [a, b, c, d, ..] = *rest {
            let length = usize::from(u16::from_ne_bytes([a, b]));
            let kind = u16::from_ne_bytes([c, d]);
            let payload = rest.get(4..length)?;
            if [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST].contains(&kind) {
                attributes.push((kind, payload.to_vec()));
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(Self { family, prefix, attributes })
    }
}

/// One message, its type, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(number(bytes, 0)?).ok()?;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// An `NLMSG_ERROR` carries the negated errno, 0 for success.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    match number(answer, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(negated) => Err(io::Error::from_raw_os_error(negated.wrapping_neg())),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is cut off")),
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// `struct ifinfomsg` of a link whose flags in `up` are to be set.
fn link_head(index: u32, up: u32) -> Vec<u8> {
    let mut head = vec![0; 4];
    head.extend_from_slice(&index.to_ne_bytes());
    head.extend_from_slice(&up.to_ne_bytes());
    head.extend_from_slice(&up.to_ne_bytes());
    head
}

fn attribute(body: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = u16::try_from(4 + payload.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(payload);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn zero_ended(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_link_is_found_and_has_no_address_that_is_worth_moving() {
        let links = Links::open().unwrap();
        assert_eq!(links.find("lo").unwrap(), LOOPBACK);
        assert_eq!(links.addresses(LOOPBACK).unwrap(), []);
        let missing = links.find("nosuchlink").unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn only_what_lasts_and_is_global_is_an_address_to_move() {
        let message = |flags: u8, scope: u8| {
            let mut message = vec![2, 24, flags, scope, 7, 0, 0, 0];
            attribute(&mut message, IFA_LOCAL, &[10, 0, 0, 1]);
            attribute(&mut message, 3, b"eth0\0");
            message
        };
        let address = Address::read(&message(IFA_F_PERMANENT, 0)).unwrap();
        assert_eq!(address.attributes, [(IFA_LOCAL, vec![10, 0, 0, 1])]);
        assert_eq!(Address::read(&message(0, 0)), None);
        assert_eq!(Address::read(&message(IFA_F_PERMANENT, 253)), None);
        assert_eq!(Address::read(&message(IFA_F_PERMANENT, 0)[..11]).unwrap().attributes, []);
    }

    #[test]
    fn messages_that_are_cut_off_are_not_read() {
        assert_eq!(split(&[20, 0, 0, 0, 2, 0]), None);
        assert_eq!(split(&[]), None);
        assert!(acknowledged(&[1, 2]).is_err());
    }
}

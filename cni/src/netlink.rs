//! A netlink socket that sends many requests as one message and waits for all their answers.
//!
//! The messages are built with rtnetlink's and netlink-packet-netfilter's types. Only the transport is ours:
//! rtnetlink's sends one request at a time through a task and a channel, and needs a reactor in the thread that has
//! entered a pod's namespace. The kernel takes any number of requests in one datagram and answers each
//! (`netlink_rcv_skb`), so that a pod costs two of them: 1.0 ms instead of 1.4 ms (medians, kernel 6.18).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// The kernel answers at once or, if it has to load a module, soon; this bound is for what nobody foresees.
const ANSWER_SECONDS: i64 = 10;
/// The largest datagram that the kernel builds for an answer (`netlink_dump`, `NLMSG_DEFAULT_SIZE`).
const ANSWER_BYTES: usize = 32 * 1024;

/// A socket of one netlink family, in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A request that the kernel refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Which request of the batch, counted from 0.
    pub(crate) index: usize,
    /// The kernel's answer, or why there is none.
    pub(crate) source: io::Error,
}

impl Netlink {
    /// Opens a socket of the given protocol (netlink(7)) in the calling thread's network namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // An answer need not repeat the request it answers.
        socket.set_cap_ack(true)?;
        let limit = TimeVal::seconds(ANSWER_SECONDS);
        setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends requests as one datagram, and returns what the kernel answers beyond acknowledging each.
    ///
    /// The kernel goes on after a request that it refuses; the first refusal is returned.
    pub(crate) fn exchange<M>(&mut self, requests: Vec<Request<M>>) -> Result<Vec<M>, Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut answers = Vec::new();
        self.converse(requests, |answer| answers.push(answer))?;
        Ok(answers)
    }

    /// Sends a request for a list (`NLM_F_DUMP`), and shows each entry as it comes: a list may be long.
    pub(crate) fn dump<M>(
        &mut self,
        request: Request<M>,
        each: impl FnMut(M),
    ) -> Result<(), Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.converse(vec![request], each)
    }

    fn converse<M>(
        &mut self,
        requests: Vec<Request<M>>,
        mut each: impl FnMut(M),
    ) -> Result<(), Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let first = self.sequence;
        let lost = |source| Refusal { index: 0, source };
        let mut datagram = Vec::new();
        let mut open = vec![false; requests.len()];
        for (index, request) in requests.into_iter().enumerate() {
            open[index] = request.acknowledged;
            let acknowledge = if request.acknowledged { NLM_F_ACK } else { 0 };
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | acknowledge | request.flags;
            header.sequence_number = self.sequence;
            let mut message =
                NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.message));
            self.sequence = self.sequence.wrapping_add(1);
            message.finalize();
            let start = datagram.len();
            // Messages are aligned to four bytes (NLMSG_ALIGN); theirs are by construction.
            datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut datagram[start..]);
        }
        self.socket.send(&datagram, 0).map_err(lost)?;

        let mut refusal = None;
        let mut buffer = Vec::with_capacity(ANSWER_BYTES);
        while open.contains(&true) {
            buffer.clear();
            self.socket.recv(&mut buffer, 0).map_err(lost)?;
            let mut messages = Messages { rest: &buffer };
            while let Some(message) = messages.next::<M>() {
                let message = message.map_err(lost)?;
                let sequence = message.header.sequence_number.wrapping_sub(first);
                let index = usize::try_from(sequence).unwrap_or(usize::MAX);
                // Whatever was meant for an earlier exchange that timed out is not for this one.
                if index >= open.len() {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => each(answer),
                    // A list ends so, and is not acknowledged besides.
                    NetlinkPayload::Done(_) => open[index] = false,
                    NetlinkPayload::Error(error) => {
                        if error.code.is_some() {
                            refusal.get_or_insert(Refusal { index, source: error.to_io() });
                            // A batch that is refused as a whole is answered for its frame only.
                            if !open[index] {
                                open.fill(false);
                            }
                        }
                        open[index] = false;
                    }
                    _ => {}
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}

/// One request of a batch.
#[derive(Debug)]
pub(crate) struct Request<M> {
    message: M,
    flags: u16,
    acknowledged: bool,
}

impl<M> Request<M> {
    /// A request with the given `NLM_F_*` flags beyond those that every request has.
    pub(crate) fn new(message: M, flags: u16) -> Self {
        Self { message, flags, acknowledged: true }
    }

    /// A message that frames others and that the kernel does not answer.
    pub(crate) fn frame(message: M) -> Self {
        Self { message, flags: 0, acknowledged: false }
    }
}

/// The messages of one datagram.
struct Messages<'a> {
    rest: &'a [u8],
}

impl Messages<'_> {
    fn invalid<T>(&mut self, reason: &'static str) -> Option<io::Result<T>> {
        self.rest = &[];
        Some(Err(io::Error::new(io::ErrorKind::InvalidData, reason)))
    }

    fn next<M: NetlinkDeserializable>(&mut self) -> Option<io::Result<NetlinkMessage<M>>> {
        let length = usize::try_from(u32::from_ne_bytes(*self.rest.first_chunk()?)).ok()?;
        if length < 16 || length > self.rest.len() {
            return self.invalid("the kernel's answer is cut short");
        }
        let (message, _) = self.rest.split_at(length);
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        match NetlinkMessage::deserialize(message) {
            Ok(message) => Some(Ok(message)),
            Err(_) => self.invalid("the kernel's answer cannot be parsed"),
        }
    }
}

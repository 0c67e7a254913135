//! SPDY/3.1's frames: eight bytes of head, then a payload (SPDY Protocol, draft 3.1, section 2.2).
//!
//! ```text
//! control  1 | version (15) | type (16) | flags (8) | length (24)      data  0 | stream (31) | flags (8) | length (24)
//! ```
//!
//! A length is only ever a promise of the peer's: a control frame may be as long as [`MAX_CONTROL`], and the payload
//! of a data frame is never held as a whole.

/// Length of a frame's head.
pub const HEAD: usize = 8;
/// Longest payload of a control frame that is read; the longest legitimate one is a handful of short headers.
pub const MAX_CONTROL: u32 = 64 << 10;
/// Longest payload of a data frame: its length has 24 bits.
pub const MAX_DATA: usize = (1 << 24) - 1;

const VERSION: u16 = 3;
const FIN: u8 = 1;
/// Settings in one frame; the protocol knows eight.
const MAX_SETTINGS: u32 = 32;
const INITIAL_WINDOW_SIZE: u32 = 7;

/// A frame that breaks the protocol or a limit of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("SPDY frame {0}")]
pub struct Malformed(pub &'static str);

/// The first eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// `length` bytes of a stream follow.
    Data {
        /// Whose.
        stream: u32,
        /// They are its last ones.
        fin: bool,
        /// How many.
        length: u32,
    },
    /// `length` bytes follow that [`Control::parse`] understands.
    Control {
        /// Which frame it is.
        kind: u16,
        /// Its flags.
        flags: u8,
        /// At most [`MAX_CONTROL`].
        length: u32,
    },
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    /// Another version of the protocol, or a control frame that is too long.
    pub fn parse(bytes: [u8; HEAD]) -> Result<Self, Malformed> {
        let [a, b, c, d, flags, e, f, g] = bytes;
        let length = u32::from_be_bytes([0, e, f, g]);
        let word = u32::from_be_bytes([a, b, c, d]);
        if a & 0x80 == 0 {
            return Ok(Self::Data { stream: word, fin: flags & FIN != 0, length });
        }
        if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
            return Err(Malformed("is of another version than 3"));
        }
        if length > MAX_CONTROL {
            return Err(Malformed("is longer than 64 KiB"));
        }
        Ok(Self::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

/// A control frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control<'a> {
    /// The peer opens a stream.
    SynStream {
        /// Its number.
        stream: u32,
        /// The peer will send nothing on it.
        fin: bool,
        /// Its headers, compressed.
        block: &'a [u8],
    },
    /// The peer accepts a stream.
    SynReply {
        /// Which.
        stream: u32,
        /// The peer will send nothing on it.
        fin: bool,
        /// Its headers, compressed.
        block: &'a [u8],
    },
    /// The peer gives a stream up.
    RstStream {
        /// Which.
        stream: u32,
        /// Why (draft 3.1, section 2.6.3).
        status: u32,
    },
    /// Settings, of which one is of consequence here.
    Settings {
        /// How much the peer takes on a new stream before it makes room for more; who says it counts.
        window: Option<u32>,
    },
    /// To be sent back as it is.
    Ping {
        /// Its number.
        id: u32,
    },
    /// The peer opens no streams any more.
    GoAway,
    /// More headers of a stream, compressed.
    Headers {
        /// Which.
        stream: u32,
        /// The peer will send nothing more on it.
        fin: bool,
        /// The headers.
        block: &'a [u8],
    },
    /// Room for more data, from a peer that counts.
    WindowUpdate {
        /// On which stream; zero is the session.
        stream: u32,
        /// How much more.
        delta: u32,
    },
    /// A frame of a later draft, to be passed over.
    Unknown,
}

impl<'a> Control<'a> {
    /// Reads the payload of a control frame.
    ///
    /// # Errors
    /// It is shorter than its kind needs, or says that it has more than it has.
    pub fn parse(kind: u16, flags: u8, payload: &'a [u8]) -> Result<Self, Malformed> {
        let fin = flags & FIN != 0;
        match kind {
            1 => {
                let (stream, rest) = stream(payload)?;
                let block = rest.get(6..).ok_or(Malformed("SYN_STREAM is too short"))?;
                Ok(Self::SynStream { stream, fin, block })
            }
            2 => {
                let (stream, block) = stream(payload)?;
                Ok(Self::SynReply { stream, fin, block })
            }
            3 => {
                let (stream, rest) = stream(payload)?;
                let (status, _) = word(rest)?;
                Ok(Self::RstStream { stream, status })
            }
            4 => settings(payload),
            6 => Ok(Self::Ping { id: word(payload)?.0 }),
            7 => Ok(Self::GoAway),
            8 => {
                let (stream, block) = stream(payload)?;
                Ok(Self::Headers { stream, fin, block })
            }
            9 => {
                let (stream, rest) = stream(payload)?;
                Ok(Self::WindowUpdate { stream, delta: word(rest)?.0 & 0x7fff_ffff })
            }
            _ => Ok(Self::Unknown),
        }
    }
}

/// The head of a data frame. `length` is at most [`MAX_DATA`].
#[must_use]
pub fn data(stream: u32, fin: bool, length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = (stream & 0x7fff_ffff).to_be_bytes();
    let [_, e, f, g] = length24(length);
    [a, b, c, d, u8::from(fin), e, f, g]
}

/// Opens a stream.
#[must_use]
pub fn syn_stream(stream: u32, fin: bool, block: &[u8]) -> Vec<u8> {
    let mut payload = stream.to_be_bytes().to_vec();
    // No stream is associated with it, and it has no priority.
    payload.extend_from_slice(&[0; 6]);
    payload.extend_from_slice(block);
    control(1, u8::from(fin), &payload)
}

/// Accepts a stream.
#[must_use]
pub fn syn_reply(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut payload = stream.to_be_bytes().to_vec();
    payload.extend_from_slice(block);
    control(2, 0, &payload)
}

/// Gives a stream up.
#[must_use]
pub fn rst_stream(stream: u32, status: u32) -> Vec<u8> {
    let payload = [stream.to_be_bytes(), status.to_be_bytes()].concat();
    control(3, 0, &payload)
}

/// Asks for, or gives, a sign of life.
#[must_use]
pub fn ping(id: u32) -> Vec<u8> {
    control(6, 0, &id.to_be_bytes())
}

/// Makes room for more data on a stream; zero is the session.
#[must_use]
pub fn window_update(stream: u32, delta: u32) -> Vec<u8> {
    let payload = [stream.to_be_bytes(), delta.to_be_bytes()].concat();
    control(9, 0, &payload)
}

/// Ends the session.
#[must_use]
pub fn go_away(last_stream: u32, status: u32) -> Vec<u8> {
    let payload = [last_stream.to_be_bytes(), status.to_be_bytes()].concat();
    control(7, 0, &payload)
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, e, f, g] = length24(payload.len());
    let mut frame = (0x8000 | VERSION).to_be_bytes().to_vec();
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&[flags, e, f, g]);
    frame.extend_from_slice(payload);
    frame
}

fn length24(length: usize) -> [u8; 4] {
    u32::try_from(length.min(MAX_DATA)).unwrap_or_default().to_be_bytes()
}

fn settings(payload: &[u8]) -> Result<Control<'_>, Malformed> {
    let (count, rest) = word(payload)?;
    if count > MAX_SETTINGS {
        return Err(Malformed("SETTINGS has too many entries"));
    }
    // At most 32 times eight.
    if rest.len() as u64 != u64::from(count) * 8 {
        return Err(Malformed("SETTINGS has another length than its number of entries"));
    }
    let mut window = None;
    for entry in rest.chunks_exact(8) {
        let (id, value) = word(entry)?;
        if id & 0x00ff_ffff == INITIAL_WINDOW_SIZE {
            window = Some(word(value)?.0 & 0x7fff_ffff);
        }
    }
    Ok(Control::Settings { window })
}

fn stream(payload: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (stream, rest) = word(payload)?;
    Ok((stream & 0x7fff_ffff, rest))
}

fn word(payload: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (word, rest) =
        payload.split_first_chunk::<4>().ok_or(Malformed("is shorter than its kind needs"))?;
    Ok((u32::from_be_bytes(*word), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frame: &[u8]) -> (Head, Control<'_>) {
        let (head, payload) = frame.split_first_chunk::<HEAD>().unwrap();
        let head = Head::parse(*head).unwrap();
        let Head::Control { kind, flags, length } = head else { panic!("{head:?}") };
        assert_eq!(length as usize, payload.len());
        (head, Control::parse(kind, flags, payload).unwrap())
    }

    #[test]
    fn every_frame_that_is_written_is_read_as_itself() {
        let syn = syn_stream(7, true, b"block");
        assert_eq!(read(&syn).1, Control::SynStream { stream: 7, fin: true, block: b"block" });
        let reply = syn_reply(7, b"block");
        assert_eq!(read(&reply).1, Control::SynReply { stream: 7, fin: false, block: b"block" });
        assert_eq!(read(&rst_stream(9, 5)).1, Control::RstStream { stream: 9, status: 5 });
        assert_eq!(read(&ping(u32::MAX)).1, Control::Ping { id: u32::MAX });
        assert_eq!(read(&go_away(3, 0)).1, Control::GoAway);
        let update = window_update(5, 70_000);
        assert_eq!(read(&update).1, Control::WindowUpdate { stream: 5, delta: 70_000 });
        let head = Head::parse(data(5, true, 70_000)).unwrap();
        assert_eq!(head, Head::Data { stream: 5, fin: true, length: 70_000 });
    }

    #[test]
    fn a_control_frame_longer_than_its_limit_is_refused_by_its_head() {
        let mut head = [0x80, 3, 0, 1, 0, 0, 0xff, 0xff];
        assert!(Head::parse(head).is_ok());
        head[5] = 1;
        assert!(Head::parse(head).is_err());
    }

    #[test]
    fn another_version_is_refused() {
        assert!(Head::parse([0x80, 2, 0, 1, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn settings_cannot_promise_more_than_they_have() {
        assert!(Control::parse(4, 0, &[0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(Control::parse(4, 0, &[0, 0, 0, 1, 0, 0, 0, 0]).is_err());
        assert_eq!(Control::parse(4, 0, &[0, 0, 0, 0]), Ok(Control::Settings { window: None }));
        let one = [0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0];
        assert_eq!(Control::parse(4, 0, &one), Ok(Control::Settings { window: Some(65536) }));
    }

    #[test]
    fn a_frame_cut_anywhere_is_an_error_or_shorter_but_never_a_panic() {
        for kind in 0..12 {
            for length in 0..12 {
                let _parsed = Control::parse(kind, 0xff, &vec![0x55; length]);
            }
        }
    }
}

//! gzip, zstd or nothing, told by the first bytes: media types in the wild are not reliable.
//!
//! The stage counts and hashes what comes out, and passes it on in recycled buffers, so that decompressing and
//! writing files happen on two threads at a time.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::LayerError;
use super::limits;
use super::pipe::{CutOff, Intake};
use crate::Digest;
use crate::digest::Hasher;

/// One buffer; large enough that handing it over costs nothing beside filling it.
const BUFFER: usize = 256 << 10;
/// Buffers between the threads.
const BUFFERS: usize = 3;
/// 128 MiB, the largest window that zstd's own tool accepts without being asked to.
const MAX_WINDOW_LOG: u32 = 27;

/// The writing side: owns the decompressor.
#[derive(Debug)]
pub(super) struct Inflater {
    intake: Intake,
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

/// The reading side: the plain archive.
#[derive(Debug)]
pub(super) struct Plain {
    full: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

/// Both sides of the stage.
pub(super) fn stage(intake: Intake) -> (Inflater, Plain) {
    let (full, full_out) = sync_channel(BUFFERS);
    let (empty, empty_out) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // The channel has room for all of them.
        drop(empty.try_send(Vec::new()));
    }
    let plain = Plain { full: full_out, empty, current: Vec::new(), at: 0 };
    (Inflater { intake, full, empty: empty_out }, plain)
}

impl Inflater {
    /// Decompresses until the end; returns the digest of what came out.
    ///
    /// Ends early, without an error, when the reading side has gone: that one knows why.
    pub(super) fn run(mut self) -> Result<Option<Digest>, LayerError> {
        let format = Format::of(self.intake.fill_buf().map_err(explain)?);
        // The decompressors own their input, so what they have consumed is counted on the way in.
        let Self { intake, full, empty } = self;
        let out = Outlet { full, empty, hasher: Digest::of(b"").hasher(), passed: 0 };
        match format {
            Format::Plain => out.pump(Tap::Plain(intake)),
            Format::Gzip => out.pump(Tap::Gzip(Box::new(MultiGzDecoder::new(intake)))),
            Format::Zstd => {
                let mut decoder = ZstdDecoder::with_buffer(intake).map_err(explain)?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(explain)?;
                out.pump(Tap::Zstd(decoder))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Zstd,
}

impl Format {
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one to be skipped (RFC 8878, sections 3.1.1 and 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

enum Tap {
    Plain(Intake),
    Gzip(Box<MultiGzDecoder<Intake>>),
    Zstd(ZstdDecoder<'static, Intake>),
}

impl Tap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(intake) => intake.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }

    fn received(&self) -> u64 {
        match self {
            Self::Plain(intake) => intake.received(),
            Self::Gzip(decoder) => decoder.get_ref().received(),
            Self::Zstd(decoder) => decoder.get_ref().received(),
        }
    }
}

struct Outlet {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    hasher: Hasher,
    passed: u64,
}

impl Outlet {
    fn pump(mut self, mut tap: Tap) -> Result<Option<Digest>, LayerError> {
        loop {
            let Ok(mut buffer) = self.empty.recv() else { return Ok(None) };
            buffer.resize(BUFFER, 0);
            let mut filled = 0;
            while filled < BUFFER {
                match tap.read(&mut buffer[filled..]).map_err(explain)? {
                    0 => break,
                    length => filled += length,
                }
            }
            if filled == 0 {
                return Ok(Some(self.hasher.finish()));
            }
            buffer.truncate(filled);
            self.hasher.update(&buffer);
            self.passed += filled as u64;
            limits::check_ratio(tap.received(), self.passed)?;
            if self.full.send(buffer).is_err() {
                return Ok(None);
            }
        }
    }
}

/// Tells a broken download from broken compression.
fn explain(error: io::Error) -> LayerError {
    if error.get_ref().is_some_and(|e| e.is::<CutOff>()) {
        return LayerError::Cut;
    }
    LayerError::malformed(format!("decompress: {error}"))
}

impl Plain {
    /// Reads on until the archive's last byte, so that all of it is hashed.
    pub(super) fn drain(&mut self) {
        while self.refill() {
            self.at = self.current.len();
        }
    }

    /// Makes at least one byte available; false at the end.
    fn refill(&mut self) -> bool {
        while self.at == self.current.len() {
            let used = std::mem::take(&mut self.current);
            self.at = 0;
            if used.capacity() > 0 {
                // The other side may be done with it.
                drop(self.empty.send(used));
            }
            let Ok(next) = self.full.recv() else { return false };
            self.current = next;
        }
        true
    }

    /// Skips bytes without copying them; how many there were.
    pub(super) fn skip(&mut self, mut amount: u64) -> u64 {
        let mut skipped = 0;
        while amount > 0 && self.refill() {
            let here = amount.min((self.current.len() - self.at) as u64);
            self.at += usize::try_from(here).unwrap_or(0);
            amount -= here;
            skipped += here;
        }
        skipped
    }
}

impl Read for Plain {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || !self.refill() {
            return Ok(0);
        }
        let length = out.len().min(self.current.len() - self.at);
        out[..length].copy_from_slice(&self.current[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

impl BufRead for Plain {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.refill();
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.current.len());
    }
}

//! What becomes of lines before they are written: each with its prefix, many at once.

use super::Stream;
use super::clock::{LENGTH, Stamp};
use super::file::LogFile;
use super::line::Tag;

/// One write of the file: more only when a single line is longer.
const SIZE: usize = 96 << 10;

/// Words of a line before its content.
const WORDS: usize = " stdout F ".len();

/// What stands before a line's content: the time, the stream, and how the line ends.
#[derive(Debug)]
pub struct Prefix {
    full: [u8; LENGTH + WORDS],
    partial: [u8; LENGTH + WORDS],
}

impl Prefix {
    /// For lines that are read now.
    pub fn now(stream: Stream) -> Self {
        let (full, partial): (&[u8; WORDS], &[u8; WORDS]) = match stream {
            Stream::Output => (b" stdout F ", b" stdout P "),
            Stream::Error => (b" stderr F ", b" stderr P "),
        };
        let stamp = Stamp::now();
        let with = |words: &[u8; WORDS]| {
            let mut prefix = [0; LENGTH + WORDS];
            prefix[..LENGTH].copy_from_slice(stamp.as_bytes());
            prefix[LENGTH..].copy_from_slice(words);
            prefix
        };
        Self { full: with(full), partial: with(partial) }
    }

    /// For one of them.
    pub fn of(&self, tag: Tag) -> &[u8; LENGTH + WORDS] {
        match tag {
            Tag::Full => &self.full,
            Tag::Partial => &self.partial,
        }
    }
}

/// Lines that are not written yet.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
}

impl Output {
    /// Puts a line's parts together; what there is before it is written first if there is no room.
    pub fn line(
        &mut self,
        file: &mut LogFile,
        prefix: &[u8; LENGTH + WORDS],
        [start, end]: [&[u8]; 2],
    ) {
        let length = prefix.len() + start.len() + end.len() + 1;
        if self.bytes.len() + length > SIZE {
            self.flush(file);
        }
        self.bytes.reserve(length);
        self.bytes.extend_from_slice(prefix);
        self.bytes.extend_from_slice(start);
        self.bytes.extend_from_slice(end);
        self.bytes.push(b'\n');
    }

    /// Writes what there is.
    pub fn flush(&mut self, file: &mut LogFile) {
        if !self.bytes.is_empty() {
            file.write(&self.bytes);
            self.bytes.clear();
        }
    }
}

//! The CRI log: what a container says, line by line, in a file that its kubelet rotates.
//!
//! Two streams share one file, one input and one output buffer. A file system that is full never makes the
//! container wait: what cannot be written is dropped and counted.

mod clock;
mod file;
mod line;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

pub(crate) use self::clock::Stamp;
use self::file::LogFile;
use self::line::{Lines, Tag};

/// One read of a pipe.
const INPUT: usize = 16 << 10;
/// One write of the file: more only when a single line is longer.
const OUTPUT: usize = 32 << 10;
/// Reads of one stream before the other and the callers get their turn.
const TURNS: usize = 16;

/// A stream of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Output,
    /// Standard error.
    Error,
}

/// The log of one container.
#[derive(Debug)]
pub struct Log {
    file: Option<LogFile>,
    streams: [Source; 2],
    input: Vec<u8>,
    output: Vec<u8>,
}

#[derive(Debug, Default)]
struct Source {
    pipe: Option<OwnedFd>,
    lines: Lines,
}

impl Log {
    /// Opens the file; without one, what is said is only taken.
    ///
    /// # Errors
    /// The folder is missing, or something that is no regular file is in its place.
    pub fn open(path: Option<PathBuf>) -> io::Result<Self> {
        Ok(Self {
            file: path.map(LogFile::open).transpose()?,
            streams: Default::default(),
            input: Vec::new(),
            output: Vec::new(),
        })
    }

    /// Reads `stream` from `pipe` (which does not block) from now on.
    pub fn attach(&mut self, stream: Stream, pipe: OwnedFd) {
        self.streams[stream as usize].pipe = Some(pipe);
    }

    /// The pipe or terminal of a stream that has not ended.
    pub fn pipe(&self, stream: Stream) -> Option<&OwnedFd> {
        self.streams[stream as usize].pipe.as_ref()
    }

    /// Opens the file anew; the old one is kept when that fails.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), LogFile::reopen)
    }

    /// Whether no stream can say more.
    pub fn has_ended(&self) -> bool {
        self.streams.iter().all(|source| source.pipe.is_none())
    }

    /// Takes what a stream has to say; a stream that has ended is closed.
    pub fn read(&mut self, stream: Stream) {
        self.input.reserve(INPUT);
        for _ in 0..TURNS {
            self.input.clear();
            let Some(pipe) = &self.streams[stream as usize].pipe else { return };
            match rustix::io::read(pipe, spare_capacity(&mut self.input)) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // A terminal whose last process is gone answers EIO.
                Ok(0) | Err(_) => return self.end(stream),
                Ok(_) => self.take(stream),
            }
        }
    }

    /// Ends the streams that somebody still holds open, and writes what they had begun.
    pub fn finish(&mut self) {
        for stream in [Stream::Output, Stream::Error] {
            if self.pipe(stream).is_some() {
                self.read(stream);
                self.end(stream);
            }
        }
    }

    fn take(&mut self, stream: Stream) {
        let Self { file, streams, input, output } = self;
        let stamp = Stamp::now();
        streams[stream as usize].lines.push(input, |tag, start, end| {
            write_line(file, output, &stamp, (stream, tag), [start, end]);
        });
        flush(file, output);
    }

    fn end(&mut self, stream: Stream) {
        let Self { file, streams, output, .. } = self;
        let source = &mut streams[stream as usize];
        source.pipe = None;
        let stamp = Stamp::now();
        source.lines.finish(|tag, start, end| {
            write_line(file, output, &stamp, (stream, tag), [start, end]);
        });
        flush(file, output);
    }
}

fn write_line(
    file: &mut Option<LogFile>,
    output: &mut Vec<u8>,
    stamp: &Stamp,
    (stream, tag): (Stream, Tag),
    parts: [&[u8]; 2],
) {
    let words: &[u8] = match (stream, tag) {
        (Stream::Output, Tag::Full) => b" stdout F ",
        (Stream::Output, Tag::Partial) => b" stdout P ",
        (Stream::Error, Tag::Full) => b" stderr F ",
        (Stream::Error, Tag::Partial) => b" stderr P ",
    };
    let length = stamp.as_bytes().len() + words.len() + parts[0].len() + parts[1].len() + 1;
    if output.len() + length > OUTPUT {
        flush(file, output);
    }
    for part in [stamp.as_bytes(), words, parts[0], parts[1], b"\n"] {
        output.extend_from_slice(part);
    }
}

fn flush(file: &mut Option<LogFile>, output: &mut Vec<u8>) {
    if !output.is_empty() {
        if let Some(file) = file {
            file.write(output);
        }
        output.clear();
    }
}

//! The CRI log: what a container says, line by line, in a file that its kubelet rotates.
//!
//! Two streams share one file, one input and one output buffer. A file system that is full never makes the
//! container wait: what cannot be written is dropped and counted.
//!
//! A container that says more than a small buffer at once gets larger ones, and a larger pipe: fewer changes between it
//! and the shim, and fewer system calls. They go back when it has been quiet for [`QUIET`].

mod buffer;
mod clock;
mod file;
mod line;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;

use self::buffer::{Output, Prefix};
pub(crate) use self::clock::Stamp;
use self::file::LogFile;
use self::line::Lines;

/// One read of somebody who says little.
const SMALL: usize = 16 << 10;
/// One read of somebody who says much.
const LARGE: usize = 64 << 10;
/// A pipe of theirs: what every process may ask for (pipe(7), pipe-max-size).
const LARGE_PIPE: usize = 1 << 20;
/// And of all others.
const SMALL_PIPE: usize = 64 << 10;
/// What is taken of one stream before the other and the callers get their turn.
const TURN: usize = 1 << 20;
/// When somebody who said much is one who says little.
const QUIET: Duration = Duration::from_secs(1);

/// A stream of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Output,
    /// Standard error.
    Error,
}

/// Who else hears what a stream says; `false` asks for no more at the moment.
pub type Hear<'a> = &'a mut dyn FnMut(&[u8]) -> bool;

/// The log of one container.
#[derive(Debug)]
pub struct Log {
    file: Option<LogFile>,
    streams: [Source; 2],
    input: Vec<u8>,
    output: Output,
    /// The last time that somebody said much, while the buffers are large.
    busy: Option<Instant>,
}

#[derive(Debug, Default)]
struct Source {
    pipe: Option<OwnedFd>,
    lines: Lines,
    /// Its pipe was made large.
    large: bool,
}

/// What a stream has to say at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Perhaps more.
    More,
    /// Nothing.
    Nothing,
    /// Nothing ever.
    End,
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
            output: Output::default(),
            busy: None,
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

    /// Takes what a stream has to say, as long as `hear` wants more of it; a stream that has ended is closed.
    pub fn read(&mut self, stream: Stream, hear: Hear<'_>) {
        let mut taken = 0;
        while taken < TURN {
            let said = self.read_once(stream);
            taken += self.input.len();
            let more = self.input.is_empty() || hear(&self.input);
            if said == Said::End {
                return self.end(stream);
            }
            if said == Said::Nothing || !more {
                return;
            }
        }
    }

    /// Takes what a stream has to say, whatever `hear` wants: nobody who could say more is left.
    pub fn take_all(&mut self, stream: Stream, hear: Hear<'_>) {
        self.read(stream, &mut |bytes| {
            let _full = hear(bytes);
            true
        });
    }

    /// Ends a stream that somebody still holds open, and writes what it had begun.
    pub fn finish(&mut self, stream: Stream, hear: Hear<'_>) {
        if self.pipe(stream).is_some() {
            self.take_all(stream, hear);
            self.end(stream);
        }
    }

    /// When [`Log::rest`] is to be called.
    pub fn quiet_at(&self) -> Option<Instant> {
        self.busy.map(|busy| busy + QUIET)
    }

    /// Gives back what only somebody needs who says much.
    pub fn rest(&mut self) {
        self.busy = None;
        self.input = Vec::new();
        self.output = Output::default();
        for source in &mut self.streams {
            source.lines.set_busy(false);
            if let Some(pipe) = source.pipe.as_ref().filter(|_| source.large) {
                // One with more in it than that keeps its size.
                source.large = fcntl_setpipe_size(pipe, SMALL_PIPE).is_err();
            }
        }
    }

    /// One read, into the log and the input buffer.
    fn read_once(&mut self, stream: Stream) -> Said {
        let size = if self.busy.is_some() { LARGE } else { SMALL };
        self.input.clear();
        self.input.reserve(size);
        let Some(pipe) = &self.streams[stream as usize].pipe else { return Said::Nothing };
        match rustix::io::read(pipe, spare_capacity(&mut self.input)) {
            Err(Errno::INTR) => Said::More,
            Err(Errno::AGAIN) => Said::Nothing,
            // A terminal whose last process is gone answers EIO.
            Ok(0) | Err(_) => Said::End,
            Ok(read) => {
                self.write(stream);
                if read >= size {
                    self.grow(stream);
                }
                Said::More
            }
        }
    }

    /// Makes room for somebody who says much.
    fn grow(&mut self, stream: Stream) {
        self.busy = Some(Instant::now());
        let source = &mut self.streams[stream as usize];
        source.lines.set_busy(true);
        if let Some(pipe) = source.pipe.as_ref().filter(|_| !source.large) {
            // A terminal has no such size, and the kernel may refuse: then it stays as it is.
            let _refused = fcntl_setpipe_size(pipe, LARGE_PIPE);
            source.large = true;
        }
    }

    fn write(&mut self, stream: Stream) {
        let Self { file, streams, input, output, .. } = self;
        let Some(file) = file else { return };
        let prefix = Prefix::now(stream);
        streams[stream as usize].lines.push(input, |tag, start, end| {
            output.line(file, prefix.of(tag), [start, end]);
        });
        output.flush(file);
    }

    fn end(&mut self, stream: Stream) {
        let Self { file, streams, output, .. } = self;
        let source = &mut streams[stream as usize];
        source.pipe = None;
        let Some(file) = file else { return };
        let prefix = Prefix::now(stream);
        source.lines.finish(|tag, start, end| output.line(file, prefix.of(tag), [start, end]));
        output.flush(file);
    }
}

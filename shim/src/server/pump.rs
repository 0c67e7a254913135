//! Moves bytes from one file to another without ever waiting: what does not fit is kept, and until it does nothing
//! more is taken. So somebody who does not read holds up whoever writes to him, and nobody else.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::pipe::fcntl_setpipe_size;

/// One read: as much as a terminal gives at once.
const CHUNK: usize = 4096;
/// Reads before somebody else gets a turn.
const TURNS: usize = 16;
/// What fits into a FIFO whose writer has ended.
const ROOM_AT_END: usize = 256 << 10;

/// What a pump waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Something to read.
    Source,
    /// Room to write.
    Sink,
    /// Nothing: it has come to its end.
    Nothing,
}

/// A pump.
#[derive(Debug)]
pub struct Pump {
    source: OwnedFd,
    /// Without one, or when it takes no more, what is read is dropped.
    sink: Option<OwnedFd>,
    pending: Vec<u8>,
    ended: bool,
    /// What is watched.
    watched: Option<Need>,
}

impl Pump {
    /// Moves from `source` to `sink`; neither may block.
    pub fn new(source: OwnedFd, sink: Option<OwnedFd>) -> Self {
        Self { source, sink, pending: Vec::new(), ended: false, watched: None }
    }

    /// Makes the source not block.
    pub fn prepare(&self) -> Result<(), Errno> {
        ioctl_fionbio(&self.source, true)
    }

    /// The file to watch for what it needs.
    pub fn file(&self, need: Need) -> Option<&OwnedFd> {
        match need {
            Need::Source => Some(&self.source),
            Need::Sink => self.sink.as_ref(),
            Need::Nothing => None,
        }
    }

    /// What was watched, and is to be.
    pub fn exchange_watched(&mut self, need: Option<Need>) -> Option<Need> {
        std::mem::replace(&mut self.watched, need)
    }

    /// Moves what can be moved now.
    pub fn run(&mut self) -> Need {
        for _ in 0..TURNS {
            if !self.flush() {
                return Need::Sink;
            }
            if self.ended {
                return Need::Nothing;
            }
            let mut chunk = [0; CHUNK];
            match read(&self.source, &mut chunk) {
                Ok(count) if count > 0 => self.put(chunk.get(..count).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Need::Source,
                // A terminal whose last process is gone answers EIO.
                Ok(_) | Err(_) => self.ended = true,
            }
        }
        if self.pending.is_empty() { Need::Source } else { Need::Sink }
    }

    /// After the writer's end: takes what is left, as far as the reader's FIFO can hold it. `false`: all was moved.
    pub fn finish(&mut self) -> bool {
        loop {
            match self.run() {
                Need::Nothing => return false,
                Need::Source if self.is_idle() => return true,
                Need::Source => {}
                Need::Sink => {
                    // Whoever reads finds it there even when we are gone. A file that is no pipe took it already.
                    let grown =
                        self.sink.as_ref().map(|sink| fcntl_setpipe_size(sink, ROOM_AT_END));
                    let grown = matches!(grown, Some(Ok(_)));
                    if !grown || !self.flush() {
                        return true;
                    }
                }
            }
        }
    }

    /// Whether there is nothing to read at the moment.
    fn is_idle(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut files = [PollFd::new(&self.source, PollFlags::IN)];
        poll(&mut files, Some(&Timespec::default())) == Ok(0)
    }

    fn put(&mut self, bytes: &[u8]) {
        let written = self.write(bytes);
        if let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            self.pending.extend_from_slice(rest);
        }
    }

    /// Writes what is kept; `false` when there is still something.
    fn flush(&mut self) -> bool {
        if self.pending.is_empty() {
            return true;
        }
        let pending = std::mem::take(&mut self.pending);
        self.put(&pending);
        self.pending.is_empty()
    }

    /// How much is done with: written, or to be dropped because nobody takes it any more.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let Some(sink) = &self.sink
            && let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty())
        {
            match write(sink.as_fd(), rest) {
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return done,
                // A disk that is full may have room later.
                Err(Errno::NOSPC | Errno::DQUOT) => return bytes.len(),
                Err(_) => self.sink = None,
            }
        }
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
    }

    #[test]
    fn a_reader_that_does_not_read_stops_the_source_and_loses_nothing() {
        let ((from, feed), (drain, to)) = (pipe(), pipe());
        let mut pump = Pump::new(from, Some(to));
        let bytes: Vec<u8> = (0..u8::MAX).cycle().take(200_000).collect();
        let (mut fed, mut got) = (0, Vec::new());
        let mut held = 0;
        while got.len() < bytes.len() {
            if let Ok(count) = write(&feed, &bytes[fed..]) {
                fed += count;
            }
            if pump.run() == Need::Sink {
                held += 1;
                assert!(pump.pending.len() <= CHUNK, "{}", pump.pending.len());
                let mut chunk = vec![0; 10_000];
                let count = read(&drain, &mut chunk).unwrap();
                got.extend_from_slice(&chunk[..count]);
            } else if fed == bytes.len() {
                let mut chunk = vec![0; 100_000];
                let count = read(&drain, &mut chunk).unwrap();
                got.extend_from_slice(&chunk[..count]);
            }
        }
        assert!(held > 0 && got == bytes);
        drop(feed);
        assert_eq!(pump.run(), Need::Nothing);
    }

    #[test]
    fn what_an_ended_writer_has_left_is_in_the_readers_pipe_at_once() {
        let ((from, feed), (drain, to)) = (pipe(), pipe());
        while write(&to, &[1; 4096]).is_ok() {}
        let mut pump = Pump::new(from, Some(to));
        assert_eq!(write(&feed, &[2; 60_000]), Ok(60_000));
        drop(feed);
        assert!(!pump.finish());
        drop(pump);
        let mut all = Vec::new();
        let mut chunk = vec![0; 1 << 20];
        while let Ok(count @ 1..) = read(&drain, &mut chunk) {
            all.extend_from_slice(&chunk[..count]);
        }
        assert_eq!(all.iter().filter(|byte| **byte == 2).count(), 60_000);
    }

    #[test]
    fn a_sink_that_is_gone_is_no_end() {
        let ((from, feed), (drain, to)) = (pipe(), pipe());
        drop(drain);
        let mut pump = Pump::new(from, Some(to));
        assert_eq!(write(&feed, b"lost"), Ok(4));
        assert_eq!(pump.run(), Need::Source);
        drop(feed);
        assert_eq!(pump.run(), Need::Nothing);
    }
}

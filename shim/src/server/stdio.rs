//! A process's standard files, as its caller names them.
//!
//! A FIFO is given to the process as it is: nobody copies in between, and somebody who does not read holds up only
//! whoever writes. The shim keeps the other end of each open, so that a caller may go and come again: its reader's end
//! is no SIGPIPE, and its writer's end is not the end of the input before `CloseIO` says so. The end of the output
//! reaches the reader when the process, and whoever inherited its files, has ended.
//!
//! A terminal, and a plain file (which no container shall have in its hands), is served by [`Pump`]s.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::pump::Pump;
use crate::{Failure, FailureKind};

/// What the caller has named, for who asks: standard input, output and error.
#[derive(Debug, Default, Clone)]
pub struct Paths {
    /// A FIFO, or empty.
    pub input: String,
    /// A FIFO, a file, or empty.
    pub output: String,
    /// As `output`; a terminal has none.
    pub error: String,
}

/// The ends of the standard files that the process gets; what is absent is the null device.
#[derive(Debug, Default)]
pub struct TheirEnds {
    /// Standard input.
    pub input: Option<OwnedFd>,
    /// Standard output.
    pub output: Option<OwnedFd>,
    /// Standard error.
    pub error: Option<OwnedFd>,
}

/// The ends that are the shim's.
#[derive(Debug, Default)]
pub struct OurEnds {
    /// Writes to the standard input: its end is that input's end.
    pub input: Option<OwnedFd>,
    /// Readers of FIFOs, whose callers may be away.
    readers: Vec<OwnedFd>,
    /// A terminal's master.
    pub terminal: Option<OwnedFd>,
    /// The input of a first process: it is opened with the start, because a caller that finds somebody reading may
    /// write all it has, and go, before it knows that there is a container whose input it could close.
    late: Option<Late>,
    /// The terminal's two ends, until there is one.
    waiting: Option<(Option<OwnedFd>, Option<OwnedFd>)>,
    /// What the shim itself moves, by [`Line`].
    pumps: [Option<Box<Pump>>; 3],
}

/// An input that is not open yet.
#[derive(Debug)]
struct Late {
    path: String,
    /// What the process reads from; with a terminal it is that.
    sink: Option<OwnedFd>,
}

/// When the standard input is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// With everything else.
    Now,
    /// By [`OurEnds::open_input`].
    Later,
}

/// One of the three things that can be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// To a terminal.
    Input,
    /// From a terminal or a pipe.
    Output,
    /// From a pipe.
    Error,
}

/// All of them.
pub const LINES: [Line; 3] = [Line::Input, Line::Output, Line::Error];

impl TheirEnds {
    /// For a process in the making.
    pub fn borrow(&self) -> [Option<BorrowedFd<'_>>; 3] {
        [&self.input, &self.output, &self.error].map(|file| file.as_ref().map(AsFd::as_fd))
    }
}

impl OurEnds {
    /// Opens what is named. With a terminal the process gets nothing yet: see [`OurEnds::attach`].
    ///
    /// # Errors
    /// `InvalidArgument`: not there, or neither a FIFO nor a file; `Unsupported`: a logging binary.
    pub fn open(
        paths: &Paths,
        terminal: bool,
        input: Opening,
    ) -> Result<(Self, TheirEnds), Failure> {
        let mut ours = Self::default();
        let mut theirs = TheirEnds::default();
        if !paths.input.is_empty() && input == Opening::Later {
            let sink = if terminal { None } else { Some(pipe(&mut theirs.input)?) };
            ours.late = Some(Late { path: paths.input.clone(), sink });
        } else if !paths.input.is_empty() {
            let (reader, writer) = open_input(&paths.input)?;
            (theirs.input, ours.input) = (Some(reader), Some(writer));
        }
        if terminal {
            let output = ours.open_output(&paths.output)?.map(|sink| sink.file);
            ours.waiting = Some((theirs.input.take(), output));
            return Ok((ours, theirs));
        }
        for (path, line, file) in [
            (&paths.output, Line::Output, &mut theirs.output),
            (&paths.error, Line::Error, &mut theirs.error),
        ] {
            let Some(sink) = ours.open_output(path)? else { continue };
            if sink.is_fifo {
                *file = Some(sink.file);
                continue;
            }
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)
                .map_err(|e| Failure::os("create pipe for", path.as_str(), e))?;
            ours.pumps[line as usize] = Some(Box::new(Pump::new(reader, Some(sink.file))));
            *file = Some(writer);
        }
        for file in [&theirs.input, &theirs.output, &theirs.error].into_iter().flatten() {
            // The process gets files that wait, as everybody expects of standard ones.
            set_waiting(file).map_err(|e| Failure::os("set up", "standard files", e))?;
        }
        for pump in ours.pumps.iter().flatten() {
            pump.prepare().map_err(|e| Failure::os("set up", "standard files", e))?;
        }
        Ok((ours, theirs))
    }

    /// Moves between a terminal and what was named for it, from now on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(&mut self, master: OwnedFd) -> Result<(), Failure> {
        let fail = |error: Errno| Failure::os("use", "terminal", error);
        let copy = || rustix::io::fcntl_dupfd_cloexec(&master, 3).map_err(fail);
        if let Some((input, output)) = self.waiting.take() {
            let pump = Pump::new(copy()?, output);
            pump.prepare().map_err(fail)?;
            self.pumps[Line::Output as usize] = Some(Box::new(pump));
            if let Some(input) = input {
                self.pumps[Line::Input as usize] = Some(Box::new(Pump::new(input, Some(copy()?))));
            }
        }
        self.terminal = Some(master);
        Ok(())
    }

    /// Opens the input of a process that is about to start.
    ///
    /// # Errors
    /// `InvalidArgument`: it is not there, or not a FIFO.
    pub fn open_input(&mut self) -> Result<(), Failure> {
        let Some(Late { path, sink }) = self.late.take() else { return Ok(()) };
        let fail = |error: Errno| Failure::os("set up", "standard input", error);
        let sink = match (sink, &self.terminal) {
            (None, Some(master)) => rustix::io::fcntl_dupfd_cloexec(master, 3).map_err(fail)?,
            (Some(sink), _) => sink,
            (None, None) => return Ok(()),
        };
        rustix::io::ioctl_fionbio(&sink, true).map_err(fail)?;
        let (reader, writer) = open_input(&path)?;
        self.input = Some(writer);
        self.pumps[Line::Input as usize] = Some(Box::new(Pump::new(reader, Some(sink))));
        Ok(())
    }

    /// Ends the input, as soon as nobody else writes to it.
    pub fn close_input(&mut self) {
        self.input = None;
        self.late = None;
    }

    /// Lets a FIFO's readers be who they are.
    pub fn forget_readers(&mut self) {
        self.readers = Vec::new();
    }

    /// What moves on a line.
    pub fn pump(&mut self, line: Line) -> Option<&mut Pump> {
        self.pumps[line as usize].as_deref_mut()
    }

    /// Stops moving on a line.
    pub fn stop(&mut self, line: Line) {
        self.pumps[line as usize] = None;
    }

    /// Takes what the ended process has left in its pipes or its terminal.
    pub fn finish(&mut self) {
        self.stop(Line::Input);
        for line in [Line::Output, Line::Error] {
            if self.pump(line).is_some_and(|pump| !pump.finish()) {
                self.stop(line);
            }
        }
    }

    fn open_output(&mut self, path: &str) -> Result<Option<Sink>, Failure> {
        let Some(path) = plain_path(path)? else { return Ok(None) };
        let fail =
            |error: Errno| Failure::os_kind(FailureKind::InvalidArgument, "open", path, error);
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        // Reading first: the FIFO has a reader then, so nobody has to be waited for to write to it.
        let mode = Mode::from_raw_mode(0o640);
        let reader = match open(path, flags | OFlags::RDONLY, Mode::empty()) {
            Err(Errno::NOENT) => {
                let flags = flags | OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
                let file = open(path, flags | OFlags::EXCL, mode).map_err(fail)?;
                return Ok(Some(Sink { file, is_fifo: false }));
            }
            other => other.map_err(fail)?,
        };
        let kind = FileType::from_raw_mode(fstat(&reader).map_err(fail)?.st_mode);
        let again = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::WRONLY;
        let file = match kind {
            FileType::Fifo => open(again, flags, Mode::empty()),
            FileType::RegularFile => open(again, flags | OFlags::APPEND, Mode::empty()),
            _ => {
                let cause = "is neither a FIFO nor a file";
                return Err(Failure::new(FailureKind::InvalidArgument, "open", path, cause));
            }
        };
        let is_fifo = kind == FileType::Fifo;
        if is_fifo {
            self.readers.push(reader);
        }
        Ok(Some(Sink { file: file.map_err(fail)?, is_fifo }))
    }
}

struct Sink {
    file: OwnedFd,
    is_fifo: bool,
}

/// The path of a caller's name for a file; the null device is what there is without one.
fn plain_path(name: &str) -> Result<Option<&str>, Failure> {
    let path = match name.split_once("://") {
        None => name,
        Some(("fifo" | "file", path)) => path.split('?').next().unwrap_or(path),
        Some((scheme, _)) => {
            let scheme = format!("{scheme}://");
            let cause = "only FIFOs and files are supported";
            return Err(Failure::new(FailureKind::Unsupported, "use output", scheme, cause));
        }
    };
    Ok(Some(path).filter(|path| !path.is_empty() && *path != "/dev/null"))
}

/// A pipe whose reading end is the process's.
fn pipe(theirs: &mut Option<OwnedFd>) -> Result<OwnedFd, Failure> {
    let (reader, writer) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|e| Failure::os("create", "pipe", e))?;
    *theirs = Some(reader);
    Ok(writer)
}

/// Both ends of a FIFO: the process's, and the one that keeps its input open.
fn open_input(path: &str) -> Result<(OwnedFd, OwnedFd), Failure> {
    let fail = |error: Errno| Failure::os_kind(FailureKind::InvalidArgument, "open", path, error);
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let reader = open(path, flags | OFlags::RDONLY, Mode::empty()).map_err(fail)?;
    if FileType::from_raw_mode(fstat(&reader).map_err(fail)?.st_mode) != FileType::Fifo {
        let cause = "is not a FIFO";
        return Err(Failure::new(FailureKind::InvalidArgument, "open", path, cause));
    }
    let again = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::WRONLY;
    let writer = open(again, flags, Mode::empty()).map_err(fail)?;
    Ok((reader, writer))
}

fn set_waiting(file: impl AsFd) -> Result<(), Errno> {
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fifos_and_files_are_named() {
        assert_eq!(plain_path("/run/x/1-stdout"), Ok(Some("/run/x/1-stdout")));
        assert_eq!(plain_path("fifo:///run/x"), Ok(Some("/run/x")));
        assert_eq!(plain_path("file:///var/log/x"), Ok(Some("/var/log/x")));
        assert_eq!(plain_path("/dev/null"), Ok(None));
        assert_eq!(plain_path(""), Ok(None));
        let refused = plain_path("binary:///bin/logger?a=b").unwrap_err();
        assert_eq!(refused.kind, FailureKind::Unsupported);
    }
}

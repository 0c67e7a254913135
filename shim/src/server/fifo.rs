//! FIFOs between this shim, which has the log, and a foreign shim, which has the process.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::io::Errno;

use super::peer::Foreign;
use super::stdio::OurEnds;
use crate::Failure;
use crate::foreign::start::Fifos;
use crate::foreign::{Shim, make_folder, place};
use crate::log::{Log, Stream};

/// A FIFO with both ends: neither the foreign shim nor this one finds it without the other.
struct Fifo {
    path: String,
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Fifo {
    fn make(name: &str) -> Result<Self, Failure> {
        let path = place(name)?.display().to_string();
        let fail = |error: Errno| Failure::os("make", path.as_str(), error);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(fail)?;
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        let reader = open(&path, flags | OFlags::RDONLY, Mode::empty()).map_err(fail)?;
        let writer = open(&path, flags | OFlags::WRONLY, Mode::empty()).map_err(fail)?;
        Ok(Self { path, reader, writer })
    }
}

impl Foreign {
    /// A container's standard files: what it says goes to the log, and its input is this shim's to give.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open(
        shim: Shim,
        (terminal, stdin): (bool, bool),
        log: &mut Log,
        ours: &mut OurEnds,
    ) -> Result<Self, Failure> {
        make_folder()?;
        let (mut fifos, mut held) = (Fifos::default(), Vec::new());
        if stdin {
            let input = Fifo::make("0")?;
            fifos.input = input.path;
            ours.input = Some(input.writer);
            held.push(input.reader);
        }
        let output = Fifo::make("1")?;
        fifos.output = output.path;
        log.attach(Stream::Output, output.reader);
        held.push(output.writer);
        if !terminal {
            let error = Fifo::make("2")?;
            fifos.error = error.path;
            log.attach(Stream::Error, error.reader);
            held.push(error.writer);
        }
        Ok(Self { shim, fifos, held, peer: None })
    }
}

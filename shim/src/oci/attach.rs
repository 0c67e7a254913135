//! A caller who stays with a container or an exec: its signals are passed on, its terminal is the process's.

use std::io::{stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, set_child_subreaper};
use rustix::termios::{
    OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};
use sys::process::{Wait, signal, wait};

use super::record::Process;
use crate::Failure;

/// One read of a terminal.
const CHUNK: usize = 16 << 10;

/// Signals of this process, caught before there is anybody to pass them on to.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Catches them. A process that is made from here on lets them through again before its command runs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn catch() -> Result<Self, Failure> {
        let fail = |error: nix::Error| Failure::os("catch", "signals", error);
        let mut set = SigSet::all();
        // A fault of ours is nobody else's.
        for own in [NixSignal::SIGSEGV, NixSignal::SIGBUS, NixSignal::SIGILL, NixSignal::SIGFPE] {
            set.remove(own);
        }
        set.thread_block().map_err(fail)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        SignalFd::with_flags(&set, flags).map(Self).map_err(fail)
    }
}

/// Becomes the parent of the container's orphans, so that none is left to somebody who does not know it.
///
/// # Errors
/// The kernel refuses.
pub fn adopt_orphans() -> Result<(), Failure> {
    set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| Failure::os("adopt", "orphans", e))
}

/// Stays with a child until it ends: its exit code.
///
/// # Errors
/// The kernel refuses to wait.
pub fn attend(
    process: &Process,
    signals: &Signals,
    terminal: Option<Relay>,
) -> Result<u8, Failure> {
    let fail = |error: Errno| Failure::os("wait for", format!("process {}", process.pid), error);
    let mut open = (true, true);
    loop {
        // Whoever ended before is found here: no signal is needed for it.
        if let Some(code) = reap(process.pid) {
            if let Some(relay) = &terminal {
                relay.drain();
            }
            return Ok(code);
        }
        let mut files = vec![PollFd::new(&signals.0, PollFlags::IN)];
        if let Some(relay) = &terminal {
            files.extend(open.0.then(|| PollFd::new(&relay.master, PollFlags::IN)));
            files.extend(open.1.then(|| PollFd::from_borrowed_fd(relay.input(), PollFlags::IN)));
        }
        match poll(&mut files, None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(fail)?,
        };
        let ready: Vec<bool> = files.iter().map(|file| !file.revents().is_empty()).collect();
        drop(files);
        if ready[0] {
            pass_on(process, signals, terminal.as_ref());
        }
        let Some(relay) = &terminal else { continue };
        let mut ready = ready.into_iter().skip(1);
        if open.0 && ready.next() == Some(true) {
            open.0 = relay.show();
        }
        if open.1 && ready.next() == Some(true) {
            open.1 = relay.type_in();
        }
    }
}

/// Takes every child that has ended; the code of the one that is waited for.
fn reap(pid: Pid) -> Option<u8> {
    let mut code = None;
    while let Some(ended) = wait(None, Wait::Take) {
        if ended.pid == pid {
            code = Some(u8::try_from(ended.code).unwrap_or(u8::MAX));
        }
    }
    code
}

fn pass_on(process: &Process, signals: &Signals, terminal: Option<&Relay>) {
    while let Ok(Some(caught)) = signals.0.read_signal() {
        let number = i32::try_from(caught.ssi_signo).unwrap_or(0);
        match number {
            libc_signal::CHLD | libc_signal::URG | libc_signal::PIPE => {}
            libc_signal::WINCH if terminal.is_some() => {
                terminal.into_iter().for_each(Relay::resize);
            }
            number => {
                let _ended = signal(number).map(|signal| process.signal(signal));
            }
        }
    }
}

/// The numbers of the signals that are not passed on.
mod libc_signal {
    pub const CHLD: i32 = nix::sys::signal::Signal::SIGCHLD as i32;
    pub const URG: i32 = nix::sys::signal::Signal::SIGURG as i32;
    pub const PIPE: i32 = nix::sys::signal::Signal::SIGPIPE as i32;
    pub const WINCH: i32 = nix::sys::signal::Signal::SIGWINCH as i32;
}

/// The size of the caller's terminal, if it has one.
pub fn own_size() -> Option<Winsize> {
    tcgetwinsize(stdin()).or_else(|_| tcgetwinsize(stdout())).ok()
}

/// Between the caller's standard files and a terminal's master. The caller's terminal is raw for as long.
#[derive(Debug)]
pub struct Relay {
    master: OwnedFd,
    /// The caller's terminal as it was, to be put back.
    before: Option<Termios>,
}

impl Relay {
    /// Gives the terminal the size of the caller's.
    pub fn new(master: OwnedFd) -> Self {
        let relay = Self { master, before: tcgetattr(stdin()).ok() };
        if let Some(mut raw) = relay.before.clone() {
            raw.make_raw();
            let _same = tcsetattr(stdin(), OptionalActions::Now, &raw);
        }
        relay.resize();
        relay
    }

    fn input(&self) -> BorrowedFd<'static> {
        rustix::stdio::stdin()
    }

    fn resize(&self) {
        let _same = own_size().map(|size| tcsetwinsize(&self.master, size));
    }

    /// From the process to the caller; whether there may be more.
    fn show(&self) -> bool {
        copy(self.master.as_fd(), rustix::stdio::stdout())
    }

    /// From the caller to the process; whether there may be more.
    fn type_in(&self) -> bool {
        if copy(self.input(), self.master.as_fd()) {
            return true;
        }
        // The end of the caller's input, as a terminal has it.
        let _gone = rustix::io::write(&self.master, &[4]);
        false
    }

    /// What was written before the end.
    fn drain(&self) {
        let nobody = PollFlags::IN | PollFlags::HUP;
        loop {
            let mut file = [PollFd::new(&self.master, nobody)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            let waiting = poll(&mut file, Some(&now)).is_ok_and(|count| count > 0);
            if !waiting || !file[0].revents().contains(PollFlags::IN) || !self.show() {
                return;
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _same = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Copies what is there; `false` at the end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = vec![0; CHUNK];
    let read = match rustix::io::read(from, &mut buffer[..]) {
        Ok(0) => return false,
        Ok(read) => read,
        Err(Errno::INTR | Errno::AGAIN) => return true,
        // The master of a terminal that nobody has any more says EIO.
        Err(_) => return false,
    };
    let mut rest = &buffer[..read];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ready = poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None);
            }
            // Nobody reads what comes; the process is not to wait for that.
            Err(_) => return true,
        }
    }
    true
}

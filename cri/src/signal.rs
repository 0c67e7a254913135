//! Stop signals: numbers for the kernel, names for people, and CRI's own numbering.

use std::fmt;
use std::str::FromStr;

use proto::cri;
use serde::{Deserialize, Serialize};

/// glibc and musl keep the first two real-time signals for themselves, so programs count from here (signal(7)).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

const NAMED: [(&str, i32); 33] = [
    ("SIGABRT", libc_signal::ABRT),
    ("SIGALRM", 14),
    ("SIGBUS", libc_signal::BUS),
    ("SIGCHLD", libc_signal::CHLD),
    ("SIGCLD", libc_signal::CHLD),
    ("SIGCONT", libc_signal::CONT),
    ("SIGFPE", 8),
    ("SIGHUP", 1),
    ("SIGILL", 4),
    ("SIGINT", 2),
    ("SIGIO", libc_signal::IO),
    ("SIGIOT", libc_signal::ABRT),
    ("SIGKILL", 9),
    ("SIGPIPE", 13),
    ("SIGPOLL", libc_signal::IO),
    ("SIGPROF", 27),
    ("SIGPWR", 30),
    ("SIGQUIT", 3),
    ("SIGSEGV", 11),
    ("SIGSTKFLT", 16),
    ("SIGSTOP", 19),
    ("SIGSYS", 31),
    ("SIGTERM", 15),
    ("SIGTRAP", 5),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGURG", 23),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
    ("SIGVTALRM", 26),
    ("SIGWINCH", 28),
    ("SIGXCPU", 24),
];

/// The numbers that x86, ARM and RISC-V share (signal(7)).
mod libc_signal {
    pub const ABRT: i32 = 6;
    pub const BUS: i32 = 7;
    pub const CHLD: i32 = 17;
    pub const CONT: i32 = 18;
    pub const IO: i32 = 29;
}

/// A signal, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signal(i32);

impl Signal {
    /// What stops a container that says nothing else.
    pub const TERM: Self = Self(15);
    /// What nothing survives.
    pub const KILL: Self = Self(9);
    /// SIGHUP: the terminal is gone.
    pub const HUP: Self = Self(1);

    /// The kernel's number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// Parses CRI's numbering; none when the runtime shall choose.
    #[must_use]
    pub fn from_wire(signal: cri::Signal) -> Option<Self> {
        let name = signal.as_str_name().strip_prefix("SIGNAL_")?;
        if let Some(offset) = name.strip_prefix("SIGRTMINPLUS") {
            return offset.parse().ok().map(|offset: i32| Self(RTMIN + offset));
        }
        if let Some(offset) = name.strip_prefix("SIGRTMAXMINUS") {
            return offset.parse().ok().map(|offset: i32| Self(RTMAX - offset));
        }
        name.parse().ok()
    }

    /// CRI's numbering.
    #[must_use]
    pub fn to_wire(self) -> cri::Signal {
        let name = match self.0 - RTMIN {
            0 => "SIGNAL_SIGRTMIN".to_owned(),
            offset @ 1..=15 => format!("SIGNAL_SIGRTMINPLUS{offset}"),
            16..=29 => format!("SIGNAL_SIGRTMAXMINUS{}", RTMAX - self.0),
            30 => "SIGNAL_SIGRTMAX".to_owned(),
            _ => format!("SIGNAL_{self}"),
        };
        cri::Signal::from_str_name(&name).unwrap_or(cri::Signal::RuntimeDefault)
    }
}

impl FromStr for Signal {
    type Err = String;

    /// Parses what images say: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-2`.
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("{text:?} is not a signal");
        if let Ok(number) = text.parse::<i32>() {
            return (1..=RTMAX).contains(&number).then_some(Self(number)).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let short = upper.strip_prefix("SIG").unwrap_or(&upper);
        let offset = |digits: &str| digits.parse::<i32>().ok().filter(|n| (0..=30).contains(n));
        let number = match (short.strip_prefix("RTMIN"), short.strip_prefix("RTMAX")) {
            (Some(""), _) => Some(RTMIN),
            (_, Some("")) => Some(RTMAX),
            (Some(rest), _) => rest.strip_prefix('+').and_then(offset).map(|n| RTMIN + n),
            (_, Some(rest)) => rest.strip_prefix('-').and_then(offset).map(|n| RTMAX - n),
            _ if short == "XFSZ" => Some(25),
            _ => NAMED.iter().find(|(name, _)| &name[3..] == short).map(|(_, number)| *number),
        };
        number.map(Self).ok_or_else(unknown)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMED.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None if self.0 == 25 => f.write_str("SIGXFSZ"),
            None => write!(f, "SIGRTMIN+{}", self.0 - RTMIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_may_spell_a_signal_in_many_ways() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX-2", 62),
            ("XFSZ", 25),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in ["", "SIGFOO", "0", "65", "-1", "RTMIN+99"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_signal_of_the_wire_has_a_number_and_comes_back() {
        for value in 1..=65 {
            let wire = cri::Signal::try_from(value).unwrap();
            let signal = Signal::from_wire(wire).unwrap();
            let again = Signal::from_wire(signal.to_wire()).unwrap();
            assert_eq!(signal, again, "{wire:?}");
        }
        assert_eq!(Signal::from_wire(cri::Signal::RuntimeDefault), None);
    }
}

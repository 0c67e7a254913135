//! The life of a container, moved in this one place.
//!
//! ```text
//!             start              the process runs
//!   CREATED ─────────► STARTING ─────────────────► RUNNING
//!      │                   │                          │
//!      │ killed            │ cannot be executed       │ ends, or is killed
//!      └───────────────────┴────────►  EXITED  ◄──────┘
//! ```
//!
//! Nothing leaves EXITED: the container is removed then. CRI knows no STARTING; it is CREATED to a client.

use proto::cri;
use serde::{Deserialize, Serialize};

use crate::clock::Nanos;

/// Why a container is no longer running, in the kubelet's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// It ended with 0.
    Completed,
    /// It ended with another code, or by a signal.
    Error,
    /// The kernel killed it for want of memory.
    OomKilled,
    /// It never ran: the command could not be executed.
    StartError,
    /// Nobody saw how it ended.
    Unknown,
}

impl Reason {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When it had been started; never, for some.
    pub started_at: Option<Nanos>,
    /// When it ended.
    pub finished_at: Nanos,
    /// 0 to 255; 128 + n for signal n, 128 alone if it never ran.
    pub exit_code: i32,
    /// The word for it.
    pub reason: Reason,
    /// What the user should know.
    pub message: String,
}

/// The exit code of what could not be started, as the kubelet knows it.
const START_ERROR_CODE: i32 = 128;

/// The exit code of what ended unseen.
const UNKNOWN_CODE: i32 = 255;

impl Ended {
    /// A process that ended as its shim saw.
    #[must_use]
    pub fn seen(started_at: Option<Nanos>, exit: shim::Exit) -> Self {
        let reason = match (exit.oom_killed, exit.code) {
            (true, _) => Reason::OomKilled,
            (false, 0) => Reason::Completed,
            (false, _) => Reason::Error,
        };
        let finished_at = Nanos::of(exit.at);
        Self { started_at, finished_at, exit_code: exit.code, reason, message: String::new() }
    }

    /// A process that could not be executed.
    #[must_use]
    pub fn not_started(message: String) -> Self {
        Self {
            started_at: None,
            finished_at: Nanos::now(),
            exit_code: START_ERROR_CODE,
            reason: Reason::StartError,
            message,
        }
    }

    /// A process whose end nobody saw.
    #[must_use]
    pub fn unseen(started_at: Option<Nanos>, message: &str) -> Self {
        Self {
            started_at,
            finished_at: Nanos::now(),
            exit_code: UNKNOWN_CODE,
            reason: Reason::Unknown,
            message: message.to_owned(),
        }
    }
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Everything is prepared; the process waits at its barrier.
    Created,
    /// The barrier is being lifted.
    Starting,
    /// The process runs.
    Running {
        /// Since when.
        started_at: Nanos,
    },
    /// It has ended.
    Exited(Ended),
}

/// A refusal to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartRefused {
    /// A start is under way, or succeeded before.
    AlreadyStarted,
    /// It has ended; a container runs once.
    Ended,
}

impl StartRefused {
    /// The words for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyStarted => "it has been started already",
            Self::Ended => "it has ended",
        }
    }
}

impl State {
    /// Begins a start.
    ///
    /// # Errors
    /// The container is not waiting to be started.
    pub fn begin_start(&mut self) -> Result<(), StartRefused> {
        match self {
            Self::Created => {
                *self = Self::Starting;
                Ok(())
            }
            Self::Starting | Self::Running { .. } => Err(StartRefused::AlreadyStarted),
            Self::Exited(_) => Err(StartRefused::Ended),
        }
    }

    /// The process runs. An end that was seen first stays.
    pub fn started(&mut self, at: Nanos) {
        match self {
            Self::Created | Self::Starting => *self = Self::Running { started_at: at },
            Self::Exited(ended) if ended.reason != Reason::StartError => {
                ended.started_at.get_or_insert(at);
            }
            Self::Running { .. } | Self::Exited(_) => {}
        }
    }

    /// The process has ended; the first word on how it did stays.
    pub fn ended(&mut self, how: Ended) {
        if !matches!(self, Self::Exited(_)) {
            *self = Self::Exited(how);
        }
    }

    /// When the process was started, if it was.
    #[must_use]
    pub fn started_at(&self) -> Option<Nanos> {
        match self {
            Self::Created | Self::Starting => None,
            Self::Running { started_at } => Some(*started_at),
            Self::Exited(ended) => ended.started_at,
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_exited(&self) -> bool {
        matches!(self, Self::Exited(_))
    }

    /// CRI's word.
    #[must_use]
    pub fn to_wire(&self) -> cri::ContainerState {
        match self {
            Self::Created | Self::Starting => cri::ContainerState::ContainerCreated,
            Self::Running { .. } => cri::ContainerState::ContainerRunning,
            Self::Exited(_) => cri::ContainerState::ContainerExited,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn exit(code: i32, oom_killed: bool) -> Ended {
        Ended::seen(None, shim::Exit { code, at: SystemTime::now(), oom_killed })
    }

    #[test]
    fn a_container_starts_once() {
        let mut state = State::Created;
        assert_eq!(state.begin_start(), Ok(()));
        assert_eq!(state.begin_start(), Err(StartRefused::AlreadyStarted));
        state.started(Nanos::now());
        assert_eq!(state.begin_start(), Err(StartRefused::AlreadyStarted));
        state.ended(exit(0, false));
        assert_eq!(state.begin_start(), Err(StartRefused::Ended));
    }

    #[test]
    fn an_end_that_overtakes_the_start_keeps_its_code_and_learns_the_time() {
        let mut state = State::Created;
        state.begin_start().unwrap();
        state.ended(exit(7, false));
        let at = Nanos::now();
        state.started(at);
        let State::Exited(ended) = &state else { panic!("{state:?}") };
        assert_eq!((ended.exit_code, ended.started_at), (7, Some(at)));
    }

    #[test]
    fn the_first_word_on_an_end_stays() {
        let mut state = State::Running { started_at: Nanos::now() };
        state.ended(exit(137, true));
        state.ended(exit(0, false));
        let State::Exited(ended) = &state else { panic!("{state:?}") };
        assert_eq!((ended.exit_code, ended.reason), (137, Reason::OomKilled));
    }

    #[test]
    fn what_never_ran_has_no_start_and_says_so() {
        let mut state = State::Starting;
        state.ended(Ended::not_started("no such file".into()));
        state.started(Nanos::now());
        assert_eq!(state.started_at(), None);
        assert_eq!(state.to_wire(), cri::ContainerState::ContainerExited);
    }
}

//! The life of a sandbox, moved in this one place.
//!
//! ```text
//!   READY ──── stop ───► STOPPING ──── everything is given back ───► STOPPED
//!     │                      ▲  │
//!     │                      └──┘ stop again after a failure
//!     └── its namespaces are gone (a reboot) ──► STOPPING
//! ```
//!
//! CRI knows READY and NOTREADY only. A sandbox that is stopping takes no new containers.

use std::net::IpAddr;

use proto::cri;

/// Where a sandbox is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Containers can be created in it.
    Ready {
        /// Its addresses, the primary one first; none on the node's network.
        ips: Vec<IpAddr>,
    },
    /// Its containers are killed and its network is given back; something of it may be left.
    Stopping,
    /// Nothing but its record is left.
    Stopped,
}

impl State {
    /// Begins a stop; the answer is whether there is anything to do.
    pub fn begin_stop(&mut self) -> bool {
        match self {
            Self::Ready { .. } | Self::Stopping => {
                *self = Self::Stopping;
                true
            }
            Self::Stopped => false,
        }
    }

    /// Everything has been given back.
    pub fn stopped(&mut self) {
        *self = Self::Stopped;
    }

    /// Whether containers can be created in it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// CRI's word.
    #[must_use]
    pub fn to_wire(&self) -> cri::PodSandboxState {
        if self.is_ready() {
            cri::PodSandboxState::SandboxReady
        } else {
            cri::PodSandboxState::SandboxNotready
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_can_be_repeated_until_everything_is_given_back() {
        let mut state = State::Ready { ips: Vec::new() };
        assert!(state.is_ready());
        assert!(state.begin_stop());
        assert!(!state.is_ready());
        assert!(state.begin_stop());
        state.stopped();
        assert!(!state.begin_stop());
        assert_eq!(state.to_wire(), cri::PodSandboxState::SandboxNotready);
    }
}

//! A pod's network: CNI plugins where the node has them, a built-in bridge where it has none.
//!
//! ```text
//!                       conf_dir has
//!        no file │        a valid one │        only broken ones │
//!                ▼                    ▼                         ▼
//!      built-in bridge        conflist's plugins           not ready, attach refused
//!      (rtnetlink, nftables)  (exec, CNI specification)    (never a silent change of network)
//!                └───────┬────────────┘
//!                        ▼
//!        state_dir/attachments/<id>.json     what was used, for DEL
//! ```
//!
//! - [`Network::attach`] writes what it is about to use before the first thing it does outside, and
//!   [`Network::detach`] works from that record alone: a changed or deleted configuration orphans nothing, nor
//!   does a restart or a namespace that is gone.
//! - The lease of an address *is* the record of its attachment. There is no second file to disagree with it.
//! - A call runs to its end even if its caller stops waiting for it; calls for one pod take turns.
//!
//! The built-in network does in two netlink messages what plugins do in as many programs. Its cost is the
//! kernel's: creating a veth pair with the peer already in the pod's namespace, under its final name. Nothing is
//! moved, renamed or deleted, each of which waits for grace periods; the namespace takes the pair along when it
//! goes.
//!
//! # Current limitations
//!
//! IPv4 only for the built-in network. CHECK and GC of the CNI specification are not
//! called. If the host's own filter drops forwarded packets by policy, pods of the built-in network cannot leave
//! the node (nor, with `bridge-nf-call-iptables=1`, reach each other): those rules are the node's, and are not
//! touched.

#![forbid(unsafe_code)]

mod bridge;
mod built_in;
mod conf;
mod config;
mod error;
mod netlink;
mod network;
mod plugin;
mod pod;
mod record;
mod status;
mod turn;

pub use built_in::PodCidr;
pub use config::{BridgeConfig, NetworkConfig, ParseSubnetError, Subnet};
pub use error::NetworkError;
pub use network::Network;
pub use pod::{Attachment, Dns, PodNetwork, PortMapping, Protocol};
pub use status::{NetworkStatus, Report};

//! The built-in network on one subnet, and where that subnet comes from: the configuration, or the cluster's range for this
//! node's pods.

use std::path::PathBuf;

use tracing::warn;

use crate::bridge::{Addresses, Bridge};
use crate::config::{BridgeConfig, NetworkConfig, Subnet};
use crate::error::NetworkError;
use crate::record::Records;

/// The built-in network on one subnet.
#[derive(Debug)]
pub struct BuiltIn {
    /// Where its pods' addresses are from.
    pub subnet: Subnet,
    /// Which of them are free.
    pub addresses: Addresses,
    /// What the pods are connected by.
    pub bridge: Bridge,
}

/// What became of the cluster's range for this node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodCidr {
    /// The built-in network uses it from now on.
    Taken,
    /// The built-in network uses it already.
    Known,
    /// The operator has decided on another.
    Configured,
    /// There are pods on the built-in network, which keep their addresses; it stays what it is.
    InUse,
}

impl BuiltIn {
    /// Opens it with the addresses that the records have leased.
    ///
    /// # Errors
    /// The folder of addresses cannot be used.
    pub fn open(
        config: &NetworkConfig,
        subnet: Subnet,
        records: &Records,
    ) -> Result<Self, NetworkError> {
        let leases = records.leases();
        let taken = leases.iter().map(|(_, lease)| lease.address).collect();
        let addresses = Addresses::open(&config.state_dir, subnet, taken)?;
        let bridge = BridgeConfig { subnet, ..config.bridge.clone() };
        Ok(Self { subnet, addresses, bridge: Bridge::new(bridge, &leases) })
    }
}

/// Where the range is kept for later runs.
pub fn pod_cidr_path(config: &NetworkConfig) -> PathBuf {
    config.state_dir.join("pod-cidr")
}

/// What the cluster said in an earlier run.
pub fn recall_pod_cidr(config: &NetworkConfig) -> Option<Subnet> {
    let path = pod_cidr_path(config);
    let text = std::fs::read_to_string(&path).ok().filter(|_| config.bridge.follows_pod_cidr)?;
    text.parse()
        .inspect_err(|error| warn!(path = %path.display(), %error, "pod CIDR left out"))
        .ok()
}

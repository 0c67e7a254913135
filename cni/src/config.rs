//! What the node's operator decides about pod networks.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where configurations, plugins and state are, and how the built-in network looks.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The folder with `*.conflist`, `*.conf` and `*.json`; it need not exist.
    pub conf_dir: PathBuf,
    /// The folders searched for plugins, in order.
    pub bin_dirs: Vec<PathBuf>,
    /// Where attachments are remembered, durable across reboots; created if missing.
    pub state_dir: PathBuf,
    /// The network used where `conf_dir` has no configuration.
    pub bridge: BridgeConfig,
    /// The most that an attach may take, and each plugin of a detach.
    pub timeout: Duration,
}

impl NetworkConfig {
    /// Returns the defaults of a Kubernetes node, with the state at `state_dir`.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            bin_dirs: vec![PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")],
            state_dir,
            bridge: BridgeConfig::default(),
            timeout: Duration::from_secs(60),
        }
    }
}

/// The built-in bridge network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// The bridge's name, at most 15 bytes.
    pub name: String,
    /// The pods' addresses. The first address is the gateway's, which the bridge has.
    pub subnet: Subnet,
    /// Bytes per packet on the bridge and in the pods; the kernel's default if absent.
    pub mtu: Option<u32>,
    /// Hide the pods behind the node's address when they talk to anything outside the subnet.
    pub masquerade: bool,
    /// Whether the subnet gives way to the range that the cluster has for this node's pods.
    pub follows_pod_cidr: bool,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            name: "wherry0".to_owned(),
            subnet: Subnet { network: Ipv4Addr::new(10, 88, 0, 0), prefix: 16 },
            mtu: None,
            masquerade: true,
            follows_pod_cidr: true,
        }
    }
}

impl BridgeConfig {
    /// Says what is wrong with the name, if anything (`dev_valid_name`, and no `%` or `@` that tools would read).
    pub(crate) fn name_fault(&self) -> Option<&'static str> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if self.name.is_empty() || self.name.len() > 15 {
            return Some("the bridge's name is not 1 to 15 bytes long");
        }
        if !self.name.bytes().all(plain) || self.name.starts_with(['.', '-']) {
            return Some("the bridge's name is not made of letters, digits, '_', '-' and '.'");
        }
        None
    }
}

/// An IPv4 network of 2 to 16 million hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

/// Why a text is not a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("subnet {text:?} {reason}")]
pub struct ParseSubnetError {
    text: String,
    reason: &'static str,
}

impl Subnet {
    /// A subnet that is known to be one: no bits beyond the prefix.
    pub(crate) const fn new(network: Ipv4Addr, prefix: u8) -> Self {
        Self { network, prefix }
    }

    /// The network's own address.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// The length of the prefix, 8 to 30.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The first address, which the bridge has.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }

    /// The prefix as a mask.
    pub(crate) fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - u32::from(self.prefix)))
    }

    /// The first address that a pod can have.
    pub(crate) fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 2)
    }

    /// The last address that a pod can have; the one after it is the broadcast address.
    pub(crate) fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.network.to_bits() | !self.mask().to_bits()) - 1)
    }

    /// Tells whether a pod could have the address.
    pub(crate) fn offers(self, address: Ipv4Addr) -> bool {
        (self.first()..=self.last()).contains(&address)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason| ParseSubnetError { text: text.chars().take(64).collect(), reason };
        let (network, prefix) =
            text.split_once('/').ok_or_else(|| wrong("is not of the form ADDRESS/PREFIX"))?;
        let network: Ipv4Addr = network.parse().map_err(|_| wrong("has no IPv4 address"))?;
        let strict = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 =
            prefix.parse().ok().filter(|_| strict).ok_or_else(|| wrong("has no prefix length"))?;
        if !(8..=30).contains(&prefix) {
            return Err(wrong("has a prefix length outside of 8 to 30"));
        }
        let subnet = Self { network, prefix };
        if network.to_bits() & !subnet.mask().to_bits() != 0 {
            return Err(wrong("has an address with bits beyond its prefix"));
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = ParseSubnetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_knows_its_gateway_and_its_range() {
        let subnet: Subnet = "10.88.0.0/16".parse().unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(subnet.first(), Ipv4Addr::new(10, 88, 0, 2));
        assert_eq!(subnet.last(), Ipv4Addr::new(10, 88, 255, 254));
        assert!(!subnet.offers(subnet.gateway()));
        let small: Subnet = "192.168.7.8/30".parse().unwrap();
        assert_eq!((small.first(), small.last()), (small.first(), small.first()));
    }

    #[test]
    fn subnets_that_are_not_are_refused() {
        for text in [
            "10.88.0.0",
            "10.88.0.1/16",
            "10.88.0.0/31",
            "10.88.0.0/+16",
            "10.88.0.0/",
            "fd00::/64",
            "",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bridge_name_that_the_kernel_or_a_path_would_take_amiss_is_refused() {
        for name in ["", "..", "a/b", "a b", "sixteen-bytes-00", "-x", "wherry%d"] {
            let bridge = BridgeConfig { name: name.to_owned(), ..BridgeConfig::default() };
            assert!(bridge.name_fault().is_some(), "{name}");
        }
        assert_eq!(BridgeConfig::default().name_fault(), None);
    }
}

//! The pod as a network sees it, and what the network gives it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::NetworkError;

/// The name of the pod's interface; kubelets and their users know no other.
pub(crate) const INTERFACE: &str = "eth0";
/// The most addresses taken from a plugin's result.
const MAX_ADDRESSES: usize = 32;
/// The longest value of a `CNI_ARGS` pair; Kubernetes names end at 253.
const MAX_ARGUMENT: usize = 256;

/// The facts about a pod that a network may need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetwork {
    /// The sandbox's id: 1 to 64 lower-case letters and digits.
    pub id: String,
    /// The pod's name.
    pub name: String,
    /// The pod's Kubernetes namespace.
    pub namespace: String,
    /// The pod's Kubernetes uid.
    pub uid: String,
    /// The file at which its network namespace is pinned.
    pub netns: PathBuf,
    /// The pod's annotations; the bandwidth ones are read, the rest goes to plugins that ask for them.
    pub annotations: BTreeMap<String, String>,
    /// Ports of the node that lead to the pod; those without a host port are left out.
    pub port_mappings: Vec<PortMapping>,
    /// The pod's resolver configuration.
    pub dns: Dns,
    /// The pod's cgroup; may be empty.
    pub cgroup_parent: String,
}

/// A port of the node that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port in the pod.
    pub container_port: u16,
    /// The port on the node; 0 means that there is none.
    pub host_port: u16,
    /// The node's address that it is restricted to; all of them if absent.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Its number in an IP header (`IPPROTO_*`).
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A resolver configuration (resolv.conf(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// What a pod got from its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The addresses of the pod's interface, the primary one first; never empty.
    pub ips: Vec<IpAddr>,
    /// The whole CNI result, as the last plugin (or the built-in network) told it.
    pub result: Value,
}

impl Attachment {
    /// Reads the pod's addresses out of a CNI result of version 0.3.0 to 1.1.0 (CNI specification, "ADD Success").
    ///
    /// Addresses that the result assigns to another interface (the loopback's, for one) are not the pod's.
    pub(crate) fn from_result(result: Value) -> Result<Self, &'static str> {
        let empty = Vec::new();
        let list = |key: &str| match result.get(key) {
            None | Some(Value::Null) => Ok(&empty),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err("the result has a list that is none"),
        };
        let (interfaces, addresses) = (list("interfaces")?, list("ips")?);
        if addresses.len() > MAX_ADDRESSES {
            return Err("the result has more than 32 addresses");
        }
        let mut ips = Vec::with_capacity(addresses.len());
        for entry in addresses {
            let text = entry.get("address").and_then(Value::as_str);
            let ip = text
                .and_then(|text| text.split_once('/'))
                .and_then(|(ip, _)| ip.parse::<IpAddr>().ok())
                .ok_or("the result has an address that is not of the form ADDRESS/PREFIX")?;
            if is_pods(entry, interfaces) && !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        if ips.is_empty() {
            return Err("the result has no address for the pod's eth0");
        }
        Ok(Self { ips, result })
    }
}

/// Tells whether an address belongs to the pod's interface; one that names no interface does.
fn is_pods(address: &Value, interfaces: &[Value]) -> bool {
    let Some(index) = address.get("interface").and_then(Value::as_u64) else {
        return true;
    };
    let interface = usize::try_from(index).ok().and_then(|index| interfaces.get(index));
    interface.is_some_and(|interface| {
        let text = |key| interface.get(key).and_then(Value::as_str).unwrap_or_default();
        text("name") == INTERFACE && !text("sandbox").is_empty()
    })
}

impl PodNetwork {
    /// Checks what ends up in file names, environments and argument strings.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        let invalid = |field, reason| NetworkError::InvalidPod {
            id: self.id.chars().take(64).collect(),
            field,
            reason,
        };
        if !is_id(&self.id) {
            return Err(invalid("id", "is not 1 to 64 lower-case letters and digits"));
        }
        for (field, value) in
            [("name", &self.name), ("namespace", &self.namespace), ("uid", &self.uid)]
        {
            if let Some(reason) = argument_fault(value) {
                return Err(invalid(field, reason));
            }
        }
        if !self.netns.is_absolute() || self.netns.to_str().is_none_or(|p| p.contains('\0')) {
            return Err(invalid("network namespace", "is not an absolute path"));
        }
        Ok(())
    }

    /// Returns the port mappings that ask for a port of the node.
    pub(crate) fn host_ports(&self) -> impl Iterator<Item = &PortMapping> {
        self.port_mappings.iter().filter(|mapping| mapping.host_port > 0)
    }
}

/// Tells whether a text is a sandbox's id, and so may be part of a file name.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Says why a value cannot stand in `CNI_ARGS`, whose grammar has no quoting: a `;` would start another pair.
fn argument_fault(value: &str) -> Option<&'static str> {
    if value.len() > MAX_ARGUMENT {
        return Some("is longer than 256 bytes");
    }
    if value.chars().any(|c| c.is_control() || matches!(c, ';' | '=')) {
        return Some("has a ';', a '=' or a control character");
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn sample(id: &str) -> PodNetwork {
        PodNetwork {
            id: id.to_owned(),
            name: "web-0".to_owned(),
            namespace: "default".to_owned(),
            uid: "5f9b".to_owned(),
            netns: PathBuf::from("/run/none/net"),
            annotations: BTreeMap::new(),
            port_mappings: Vec::new(),
            dns: Dns::default(),
            cgroup_parent: String::new(),
        }
    }

    #[test]
    fn facts_that_would_add_an_argument_or_leave_a_folder_are_refused() {
        assert!(sample("a1").check().is_ok());
        for id in ["", "A", "../x", "a/b", "a.b", &"a".repeat(65)] {
            assert!(sample(id).check().is_err(), "{id}");
        }
        for name in ["a;K8S_POD_UID=0", "a=b", "a\nb", "a\0", &"n".repeat(257)] {
            let pod = PodNetwork { name: name.to_owned(), ..sample("a1") };
            assert!(pod.check().is_err(), "{name:?}");
        }
        let relative = PodNetwork { netns: PathBuf::from("net"), ..sample("a1") };
        assert!(relative.check().is_err());
    }

    #[test]
    fn the_addresses_of_a_result_are_those_of_eth0_in_their_order() {
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": "br0" },
                { "name": "lo", "sandbox": "/run/ns" },
                { "name": "eth0", "sandbox": "/run/ns" },
            ],
            "ips": [
                { "address": "127.0.0.1/8", "interface": 1 },
                { "address": "fd00::5/64", "interface": 2 },
                { "address": "10.1.0.5/16", "interface": 2 },
                { "address": "10.1.0.1/16", "interface": 0 },
            ],
        });
        let ips = Attachment::from_result(result).unwrap().ips;
        assert_eq!(ips, ["fd00::5".parse::<IpAddr>().unwrap(), "10.1.0.5".parse().unwrap()]);
    }

    #[test]
    fn results_without_a_usable_address_are_refused() {
        for result in [
            json!({}),
            json!({ "ips": [] }),
            json!({ "ips": "10.0.0.1/8" }),
            json!({ "ips": [{ "address": "10.0.0.1" }] }),
            json!({ "ips": [{ "address": "10.0.0.1/8", "interface": 7 }] }),
            json!({ "ips": vec![json!({ "address": "10.0.0.1/8" }); 33] }),
        ] {
            assert!(Attachment::from_result(result.clone()).is_err(), "{result}");
        }
    }
}

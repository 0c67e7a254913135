//! What a plugin is told about a pod: `CNI_ARGS` and the rest of the environment, and the capabilities' values
//! (CNI repository, `CONVENTIONS.md`).

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::NetworkError;
use crate::pod::{INTERFACE, PodNetwork};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Returns the environment that tells a plugin which pod is meant. The values were checked by `PodNetwork::check`.
pub(super) fn environment(pod: &PodNetwork, netns: Option<&Path>) -> Vec<(&'static str, String)> {
    let arguments = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &pod.namespace),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &pod.id),
        ("K8S_POD_UID", &pod.uid),
    ];
    let arguments: Vec<_> = arguments.iter().map(|(key, value)| format!("{key}={value}")).collect();
    vec![
        ("CNI_CONTAINERID", pod.id.clone()),
        ("CNI_NETNS", netns.map_or(String::new(), |path| path.to_string_lossy().into_owned())),
        ("CNI_IFNAME", INTERFACE.to_owned()),
        ("CNI_ARGS", arguments.join(";")),
    ]
}

/// Returns the `runtimeConfig` of a plugin: what it declared a capability for, and the pod has a value of.
pub(super) fn runtime_config(
    pod: &PodNetwork,
    capabilities: &[String],
) -> Result<Map<String, Value>, NetworkError> {
    let mut told = Map::new();
    for capability in capabilities {
        let value = match capability.as_str() {
            "portMappings" => port_mappings(pod),
            "bandwidth" => bandwidth(pod)?,
            "dns" => dns(pod),
            "io.kubernetes.cri.pod-annotations" => {
                (!pod.annotations.is_empty()).then(|| json!(pod.annotations))
            }
            "cgroupPath" => (!pod.cgroup_parent.is_empty()).then(|| json!(pod.cgroup_parent)),
            _ => None,
        };
        if let Some(value) = value {
            told.insert(capability.clone(), value);
        }
    }
    Ok(told)
}

fn port_mappings(pod: &PodNetwork) -> Option<Value> {
    let mappings: Vec<Value> = pod
        .host_ports()
        .map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol,
                "hostIP": mapping.host_ip.map_or(String::new(), |ip| ip.to_string()),
            })
        })
        .collect();
    (!mappings.is_empty()).then_some(Value::Array(mappings))
}

fn dns(pod: &PodNetwork) -> Option<Value> {
    let dns = &pod.dns;
    let empty = dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty();
    (!empty).then(|| json!(dns))
}

/// Rates are in bits per second. The burst is the largest that the plugin takes: Kubernetes names no other.
fn bandwidth(pod: &PodNetwork) -> Result<Option<Value>, NetworkError> {
    let mut limits = Map::new();
    for (annotation, rate, burst) in
        [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")]
    {
        let Some(text) = pod.annotations.get(annotation) else { continue };
        let bits = quantity(text).filter(|bits| (1_000..=1_000_000_000_000_000).contains(bits));
        let Some(bits) = bits else {
            return Err(NetworkError::InvalidPod {
                id: pod.id.clone(),
                field: annotation,
                reason: "is not a quantity between 1k and 1P",
            });
        };
        limits.insert(rate.to_owned(), bits.into());
        limits.insert(burst.to_owned(), u32::MAX.into());
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

/// Parses a Kubernetes quantity that is a whole number in the end: digits, at most one point, a suffix.
fn quantity(text: &str) -> Option<u64> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let factor: u128 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() + fraction.len() > 18 || fraction.contains('.') {
        return None;
    }
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = mantissa.checked_mul(factor)?;
    u64::try_from(scaled.div_ceil(scale)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::sample;
    use crate::pod::{Dns, PortMapping, Protocol};

    #[test]
    fn the_arguments_identify_the_pod() {
        let environment = environment(&sample("a1"), None);
        let value = |key| environment.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str());
        assert_eq!(
            value("CNI_ARGS"),
            Some(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;\
                 K8S_POD_INFRA_CONTAINER_ID=a1;K8S_POD_UID=5f9b"
            )
        );
        assert_eq!(value("CNI_NETNS"), Some(""));
        assert_eq!(value("CNI_IFNAME"), Some("eth0"));
    }

    #[test]
    fn only_declared_capabilities_with_a_value_are_told() {
        let mut pod = sample("a1");
        let mapping = |host_port| PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port,
            host_ip: None,
        };
        pod.port_mappings = vec![mapping(0), mapping(5353)];
        pod.annotations.insert(EGRESS.to_owned(), "1.5M".to_owned());
        pod.dns = Dns { servers: vec!["10.0.0.10".to_owned()], ..Dns::default() };
        let all = ["portMappings", "bandwidth", "dns", "cgroupPath", "ips"].map(str::to_owned);
        let told = runtime_config(&pod, &all).unwrap();
        assert_eq!(
            Value::Object(told),
            json!({
                "portMappings": [
                    { "hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "" }
                ],
                "bandwidth": { "egressRate": 1_500_000, "egressBurst": u32::MAX },
                "dns": { "servers": ["10.0.0.10"], "searches": [], "options": [] },
            })
        );
        assert!(runtime_config(&pod, &[]).unwrap().is_empty());
    }

    #[test]
    fn a_bandwidth_that_is_none_is_refused() {
        for text in ["", "fast", "1", "2P", "-5M", "1e9", "1.2.3M", "5 M", ".5M"] {
            let mut pod = sample("a1");
            pod.annotations.insert(INGRESS.to_owned(), text.to_owned());
            assert!(bandwidth(&pod).is_err(), "{text}");
        }
        assert_eq!(quantity("10M"), Some(10_000_000));
        assert_eq!(quantity("1Mi"), Some(1 << 20));
        assert_eq!(quantity("1000"), Some(1000));
    }
}

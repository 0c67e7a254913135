//! Metrics in their encoded form (`PodSandboxMetrics`, `ContainerMetrics`, `Metric` of CRI), written without the messages.
//!
//! A scrape of 500 containers has some thirty thousand metrics of six labels or more, of which nearly all are the same
//! within a container. As messages that would be a quarter of a million strings; here the common labels are encoded once
//! and copied.

use proto::cri::MetricType;

use super::family::{COMMON_LABELS, Family};
use crate::encode;

/// The numbers of the fields that are written here.
mod field {
    pub const POD_ID: u32 = 1;
    pub const POD_METRICS: u32 = 2;
    pub const POD_CONTAINERS: u32 = 3;
    pub const CONTAINER_ID: u32 = 1;
    pub const CONTAINER_METRICS: u32 = 2;
    pub const NAME: u32 = 1;
    pub const TIMESTAMP: u32 = 2;
    pub const KIND: u32 = 3;
    pub const LABEL: u32 = 4;
    pub const VALUE: u32 = 5;
    pub const NUMBER: u32 = 1;
}

/// The metrics of one pod: its own, then those of its containers.
pub struct PodRows<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> PodRows<'a> {
    /// A pod without metrics.
    pub fn new(out: &'a mut Vec<u8>, id: &str) -> Self {
        encode::text(out, field::POD_ID, id);
        Self { out }
    }

    /// Adds metrics of the pod itself.
    pub fn own(
        &mut self,
        labels: [&str; COMMON_LABELS.len()],
        at: i64,
        fill: impl FnOnce(&mut Rows),
    ) {
        fill(&mut Rows::new(self.out, field::POD_METRICS, labels, at));
    }

    /// Adds a container with its metrics.
    pub fn container(
        &mut self,
        id: &str,
        labels: [&str; COMMON_LABELS.len()],
        at: i64,
        fill: impl FnOnce(&mut Rows),
    ) {
        encode::nested(self.out, field::POD_CONTAINERS, |out| {
            encode::text(out, field::CONTAINER_ID, id);
            fill(&mut Rows::new(out, field::CONTAINER_METRICS, labels, at));
        });
    }
}

/// Metrics with the same common labels, read at the same time.
pub struct Rows<'a> {
    out: &'a mut Vec<u8>,
    field: u32,
    /// The time, encoded.
    at: Vec<u8>,
    /// The common labels, encoded.
    labels: Vec<u8>,
}

impl<'a> Rows<'a> {
    fn new(out: &'a mut Vec<u8>, field: u32, common: [&str; COMMON_LABELS.len()], at: i64) -> Self {
        let (mut time, mut labels) = (Vec::new(), Vec::new());
        encode::number(&mut time, field::TIMESTAMP, at.unsigned_abs());
        for label in common {
            encode::element(&mut labels, field::LABEL, label);
        }
        Self { out, field, at: time, labels }
    }

    /// Adds a metric without labels of its own.
    pub fn add(&mut self, family: &Family, value: u64) {
        self.labelled(family, [], value);
    }

    /// Adds a metric with its own labels.
    pub fn labelled<const N: usize>(&mut self, family: &Family, own: [&str; N], value: u64) {
        debug_assert_eq!(family.labels.len(), N, "{}", family.name);
        let (at, labels) = (&self.at, &self.labels);
        encode::nested(self.out, self.field, |out| {
            encode::text(out, field::NAME, family.name);
            out.extend_from_slice(at);
            encode::number(out, field::KIND, (family.kind == MetricType::Gauge).into());
            out.extend_from_slice(labels);
            for label in own {
                encode::element(out, field::LABEL, label);
            }
            // There is a value also if it is the default: an empty message.
            encode::nested(out, field::VALUE, |out| encode::number(out, field::NUMBER, value));
        });
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::cri;

    use super::super::family;
    use super::*;

    #[test]
    fn rows_are_the_messages_that_they_say_they_are() {
        let labels = ["/pod1/abc", "abc", "image", "ctr", "pod", "ns"];
        let mut bytes = Vec::new();
        let mut pod = PodRows::new(&mut bytes, "pod1");
        pod.own(["/pod1", "pod1", "", "", "pod", "ns"], 7, |rows| {
            rows.labelled(&family::NET_RX_BYTES, ["eth0"], 0);
        });
        pod.container("abc", labels, 1 << 60, |rows| {
            rows.add(&family::MEMORY_USAGE, u64::MAX);
            rows.labelled(&family::MEMORY_FAILURES, ["pgfault", "container"], 5);
        });
        let decoded = cri::PodSandboxMetrics::decode(&*bytes).unwrap();
        assert_eq!(decoded.encode_to_vec(), bytes, "also byte by byte");
        assert_eq!(decoded.pod_sandbox_id, "pod1");
        assert_eq!(decoded.metrics[0].label_values, ["/pod1", "pod1", "", "", "pod", "ns", "eth0"]);
        assert_eq!(decoded.metrics[0].timestamp, 7);
        let container = &decoded.container_metrics[0];
        assert_eq!((container.container_id.as_str(), container.metrics.len()), ("abc", 2));
        let metric = &container.metrics[0];
        assert_eq!(
            (metric.name.as_str(), metric.timestamp),
            ("container_memory_usage_bytes", 1 << 60)
        );
        assert_eq!(metric.metric_type(), cri::MetricType::Gauge);
        assert_eq!(metric.value.unwrap().value, u64::MAX);
        assert_eq!(container.metrics[1].metric_type(), cri::MetricType::Counter);
        assert_eq!(container.metrics[1].label_values[6..], ["pgfault", "container"]);
    }
}

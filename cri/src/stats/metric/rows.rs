//! Metrics in their encoded form (`PodSandboxMetrics`, `ContainerMetrics`, `Metric` of CRI), written without the messages.
//!
//! A scrape of 500 containers has some thirty thousand metrics of six labels or more, of which nearly all are the same
//! within a container. As messages that would be a quarter of a million strings; here the common labels are encoded once
//! and copied.

use prost::encoding::{encode_varint, encoded_len_varint};
use proto::cri::MetricType;
use tonic::codegen::Bytes;

use super::family::{COMMON_LABELS, Family};

/// Tags as protobuf has them on the wire: the field's number and its wire type.
mod tag {
    pub const POD_ID: u64 = 1 << 3 | 2;
    pub const POD_METRICS: u64 = 2 << 3 | 2;
    pub const POD_CONTAINERS: u64 = 3 << 3 | 2;
    pub const CONTAINER_ID: u64 = 1 << 3 | 2;
    pub const CONTAINER_METRICS: u64 = 2 << 3 | 2;
    pub const NAME: u64 = 1 << 3 | 2;
    pub const TIMESTAMP: u64 = 2 << 3;
    pub const KIND: u64 = 3 << 3;
    pub const LABEL: u64 = 4 << 3 | 2;
    pub const VALUE: u64 = 5 << 3 | 2;
    pub const NUMBER: u64 = 1 << 3;
}

/// The metrics of one pod: its own, then those of its containers.
pub struct PodRows {
    out: Vec<u8>,
}

impl PodRows {
    /// A pod without metrics.
    pub fn new(id: &str) -> Self {
        let mut out = Vec::new();
        put(&mut out, tag::POD_ID, id.as_bytes());
        Self { out }
    }

    /// Adds metrics of the pod itself.
    pub fn own(
        &mut self,
        labels: [&str; COMMON_LABELS.len()],
        at: i64,
        fill: impl FnOnce(&mut Rows),
    ) {
        let mut rows = Rows::new(tag::POD_METRICS, labels, at);
        fill(&mut rows);
        self.out.append(&mut rows.out);
    }

    /// Adds a container with its metrics.
    pub fn container(
        &mut self,
        id: &str,
        labels: [&str; COMMON_LABELS.len()],
        at: i64,
        fill: impl FnOnce(&mut Rows),
    ) {
        let mut rows = Rows::new(tag::CONTAINER_METRICS, labels, at);
        put(&mut rows.out, tag::CONTAINER_ID, id.as_bytes());
        fill(&mut rows);
        put(&mut self.out, tag::POD_CONTAINERS, &rows.out);
    }

    /// The encoded message.
    pub fn finish(self) -> Bytes {
        self.out.into()
    }
}

/// Metrics with the same common labels, read at the same time.
pub struct Rows {
    tag: u64,
    /// The common labels, encoded.
    labels: Vec<u8>,
    /// The time, encoded.
    at: Vec<u8>,
    out: Vec<u8>,
    row: Vec<u8>,
}

impl Rows {
    fn new(tag: u64, common: [&str; COMMON_LABELS.len()], at: i64) -> Self {
        let mut labels = Vec::new();
        for label in common {
            put(&mut labels, tag::LABEL, label.as_bytes());
        }
        let mut time = Vec::new();
        encode_varint(tag::TIMESTAMP, &mut time);
        encode_varint(at.unsigned_abs(), &mut time);
        Self { tag, labels, at: time, out: Vec::with_capacity(16 << 10), row: Vec::new() }
    }

    /// Adds a metric without labels of its own.
    pub fn add(&mut self, family: &Family, value: u64) {
        self.labelled(family, [], value);
    }

    /// Adds a metric with its own labels.
    pub fn labelled<const N: usize>(&mut self, family: &Family, own: [&str; N], value: u64) {
        debug_assert_eq!(family.labels.len(), N, "{}", family.name);
        let row = &mut self.row;
        row.clear();
        put(row, tag::NAME, family.name.as_bytes());
        row.extend_from_slice(&self.at);
        if family.kind == MetricType::Gauge {
            encode_varint(tag::KIND, row);
            encode_varint(1, row);
        }
        row.extend_from_slice(&self.labels);
        for label in own {
            put(row, tag::LABEL, label.as_bytes());
        }
        encode_varint(tag::VALUE, row);
        if value == 0 {
            // An empty message: there is a value, and it is the default.
            encode_varint(0, row);
        } else {
            let length = encoded_len_varint(tag::NUMBER) + encoded_len_varint(value);
            encode_varint(length as u64, row);
            encode_varint(tag::NUMBER, row);
            encode_varint(value, row);
        }
        put(&mut self.out, self.tag, row);
    }
}

/// A field of bytes.
fn put(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    encode_varint(tag, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
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
        let mut pod = PodRows::new("pod1");
        pod.own(["/pod1", "pod1", "", "", "pod", "ns"], 7, |rows| {
            rows.labelled(&family::NET_RX_BYTES, ["eth0"], 0);
        });
        pod.container("abc", labels, 1 << 60, |rows| {
            rows.add(&family::MEMORY_USAGE, u64::MAX);
            rows.labelled(&family::MEMORY_FAILURES, ["pgfault", "container"], 5);
        });
        let bytes = pod.finish();
        let decoded = cri::PodSandboxMetrics::decode(bytes.clone()).unwrap();
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

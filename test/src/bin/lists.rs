//! What lists and scrapes cost with many pods, for `hack/bench lists`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a measurement that fails shall say where")]

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use e2e::bench;
use e2e::image::catalog::BUSYBOX;
use e2e::node::Node;
use e2e::proc::pss_kib;
use e2e::registry::Registries;
use e2e::runtime::Runtime;
use e2e::spec::{Container, PodConfig, container};
use e2e::stats::Timings;
use prost::bytes::Buf;
use proto::cri::{
    ListContainerStatsRequest, ListPodSandboxMetricsRequest, ListPodSandboxStatsRequest,
    NamespaceMode,
};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Calls of each list.
const LISTS: usize = 500;
/// Scrapes of each kind.
const SCRAPES: u32 = 20;
/// A sample is not taken more often.
const INTERVAL: Duration = Duration::from_millis(1100);
/// USER_HZ, what `/proc/<pid>/stat` counts in.
const TICK: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(2).collect();
    let has = |word: &str| words.iter().any(|own| own == word);
    let (own_network, busy) = (has("network"), has("busy"));
    bench::run(500, async |folder, count| {
        measure(&folder, Pods { count, own_network, busy }).await;
    })
}

/// What is made before it is measured.
struct Pods {
    count: usize,
    /// Each has an address on the bridge.
    own_network: bool,
    /// Their containers run a little every second; otherwise they sleep.
    busy: bool,
}

async fn measure(folder: &Path, Pods { count, own_network, busy }: Pods) {
    let registries = Registries::start(folder).await.unwrap();
    let node = bench::node(Runtime::Wherry, folder, &registries).await;
    println!(
        "{count} pods of one container{}{}",
        if own_network { ", each on the bridge" } else { "" },
        if busy { ", that runs a little every second" } else { ", that sleeps" }
    );
    // It looks at the processes that it sees, which is itself.
    let command: &[&str] = if busy { &["top", "-b", "-d", "1"] } else { &["sleep", "36000"] };
    for number in 0..count {
        let mut config = node.pod_config(&format!("pod-{number}"));
        if !own_network {
            config = config.namespaces(|options| options.network = NamespaceMode::Node.into());
        }
        // What the kubelet gives each, in number and size.
        for (key, value) in kubelet_labels(number) {
            config = config.label(key, &value);
        }
        let pod = node.run_pod(config).await.unwrap();
        let mut sleeper = container("sleeper", BUSYBOX, command).namespaces_of(&pod.config);
        for (key, value) in kubelet_labels(number) {
            sleeper = sleeper.label(key, &value);
        }
        node.run(&pod, &sleeper).await;
    }
    println!("daemon: {} KiB (PSS)", pss_kib(node.pid().unwrap()).unwrap());
    lists(&node).await;
    scrapes(&node).await;
    println!("daemon: {} KiB (PSS) after them", pss_kib(node.pid().unwrap()).unwrap());
    node.clear().await.unwrap();
}

fn kubelet_labels(number: usize) -> Vec<(&'static str, String)> {
    vec![
        ("io.kubernetes.pod.name", format!("some-deployment-7d4b9c6f5-{number:05}")),
        ("io.kubernetes.pod.namespace", "default".into()),
        ("io.kubernetes.pod.uid", format!("12345678-1234-1234-1234-{number:012}")),
        ("app.kubernetes.io/name", "some-deployment".into()),
        ("pod-template-hash", "7d4b9c6f5".into()),
    ]
}

async fn lists(node: &Node) {
    let mut timings = Timings::default();
    let before = cpu(node);
    for _ in 0..LISTS {
        timings.time("ListContainers", node.cri.containers(None)).await.unwrap();
        timings.time("ListPodSandbox", node.cri.pods(None)).await.unwrap();
        timings.time("ListContainers, bytes", raw(node, "ListContainers")).await;
        timings.time("ListPodSandbox, bytes", raw(node, "ListPodSandbox")).await;
    }
    let each = (cpu(node) - before) / (4 * u32::try_from(LISTS).unwrap());
    for name in timings.names() {
        let of = |percent| timings.percentile(name, percent);
        println!("{name}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", of(50), of(99), of(100));
    }
    println!("daemon CPU for each of them: {:.2} ms", each.as_secs_f64() * 1e3);
}

/// One call whose answer is taken as it comes and not made into messages: what is the daemon's part.
async fn raw(node: &Node, rpc: &str) {
    let mut grpc = tonic::client::Grpc::new(node.cri.channel.clone());
    grpc.ready().await.unwrap();
    let path = format!("/runtime.v1.RuntimeService/{rpc}").parse().unwrap();
    let answer = grpc.unary(tonic::Request::new(()), path, Bytes).await.unwrap();
    assert!(answer.into_inner() > 0);
}

/// Empty requests, and answers of which only the length is of interest.
struct Bytes;

impl Codec for Bytes {
    type Encode = ();
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = buffer.remaining();
        buffer.advance(length);
        Ok(Some(length))
    }
}

async fn scrapes(node: &Node) {
    let runtime = || {
        let client = node.cri.runtime.clone();
        client.max_decoding_message_size(64 << 20)
    };
    scrape(node, "ListContainerStats", async || {
        let request = ListContainerStatsRequest::default();
        runtime().list_container_stats(request).await.unwrap().into_inner().stats.len()
    })
    .await;
    scrape(node, "ListPodSandboxStats", async || {
        let request = ListPodSandboxStatsRequest::default();
        runtime().list_pod_sandbox_stats(request).await.unwrap().into_inner().stats.len()
    })
    .await;
    scrape(node, "ListPodSandboxMetrics", async || {
        let request = ListPodSandboxMetricsRequest {};
        let answer = runtime().list_pod_sandbox_metrics(request).await.unwrap().into_inner();
        let containers = answer.pod_metrics.iter().flat_map(|pod| &pod.container_metrics);
        let own: usize = answer.pod_metrics.iter().map(|pod| pod.metrics.len()).sum();
        own + containers.map(|container| container.metrics.len()).sum::<usize>()
    })
    .await;
}

/// The first scrape opens files and measures layers, so it is told apart.
async fn scrape(node: &Node, name: &str, what: impl AsyncFn() -> usize) {
    tokio::time::sleep(INTERVAL).await;
    let (start, before) = (Instant::now(), cpu(node));
    let items = what().await;
    let (first, first_cpu) = (start.elapsed(), cpu(node) - before);
    let before = cpu(node);
    let mut took = Duration::ZERO;
    for _ in 0..SCRAPES {
        tokio::time::sleep(INTERVAL).await;
        let start = Instant::now();
        what().await;
        took += start.elapsed();
    }
    let each = (cpu(node) - before) / SCRAPES;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{name}: {items} items; {:.1} ms of daemon CPU, {:.1} ms for the client; the first {:.0} and {:.0}",
        ms(each),
        ms(took / SCRAPES),
        ms(first_cpu),
        ms(first),
    );
}

/// The daemon's CPU time so far, with that of its threads that have ended.
fn cpu(node: &Node) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid().unwrap())).unwrap();
    // The name in parentheses may have spaces; utime and stime are fields 14 and 15.
    let numbers = stat.rsplit_once(") ").unwrap().1;
    let ticks = numbers.split(' ').skip(11).take(2).map(|word| word.parse::<u32>().unwrap());
    TICK * ticks.sum::<u32>()
}

//! What containers and pods use, as the kubelet and its users see it, against the kernel's own files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::cgroups;
use e2e::node::Node;
use e2e::runner::Test;
use e2e::spec::{Container, PodConfig, script, selector, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::{
    ContainerStats, ContainerStatsFilter, ContainerStatsRequest, ListContainerStatsRequest,
    ListMetricDescriptorsRequest, ListPodSandboxMetricsRequest, ListPodSandboxStatsRequest, Metric,
    MetricType, NamespaceMode, PodSandboxMetrics, PodSandboxStats, PodSandboxStatsFilter,
    PodSandboxStatsRequest, StreamContainerStatsRequest, StreamPodSandboxMetricsRequest,
    StreamPodSandboxStatsRequest, UInt64Value,
};
use tonic::Code;

pub fn tests() -> Vec<Test> {
    tests![
        Any: a_container_that_uses_cpu_and_memory_shows_it,
        Any: statistics_are_filtered_as_lists_are,
        Any: the_statistics_of_what_does_not_exist_are_not_found,
        Any: a_pods_statistics_have_its_containers_and_its_network,
        Wherry: statistics_are_what_the_cgroups_files_say,
        Wherry: a_limit_says_how_much_memory_is_available,
        Wherry: streamed_statistics_are_those_of_the_lists,
        Wherry: ended_containers_are_not_listed,
        Wherry: what_a_container_writes_is_in_its_writable_layer,
        Wherry: a_pod_on_the_nodes_network_has_no_counters_of_its_own,
        Wherry: statistics_go_on_after_a_restart_of_the_daemon,
        Wherry: every_metric_is_described_and_has_as_many_labels,
        Wherry: metrics_have_the_labels_that_dashboards_ask_for,
        Wherry: descriptors_of_ended_containers_are_closed,
    ]
}

/// Two samples are at least this far apart.
const INTERVAL: Duration = Duration::from_millis(1100);

const MIB: u64 = 1 << 20;

async fn stats(node: &Node, id: &str) -> ContainerStats {
    let request = ContainerStatsRequest { container_id: id.into() };
    let answer = node.cri.runtime.clone().container_stats(request).await.unwrap();
    answer.into_inner().stats.unwrap()
}

async fn list(node: &Node, filter: ContainerStatsFilter) -> Vec<ContainerStats> {
    let request = ListContainerStatsRequest { filter: Some(filter) };
    node.cri.runtime.clone().list_container_stats(request).await.unwrap().into_inner().stats
}

async fn pod_stats(node: &Node, id: &str) -> PodSandboxStats {
    let request = PodSandboxStatsRequest { pod_sandbox_id: id.into() };
    node.cri.runtime.clone().pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap()
}

async fn metrics(node: &Node) -> Vec<PodSandboxMetrics> {
    let request = ListPodSandboxMetricsRequest {};
    let answer = node.cri.runtime.clone().list_pod_sandbox_metrics(request).await.unwrap();
    answer.into_inner().pod_metrics
}

fn value(number: Option<UInt64Value>) -> u64 {
    number.expect("the number is told").value
}

fn cpu_time(stats: &ContainerStats) -> u64 {
    value(stats.cpu.as_ref().unwrap().usage_core_nano_seconds)
}

/// A field of memory.stat or cpu.stat.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// The CPU time in nanoseconds, in either version's words.
fn cpu_of_file(id: &str) -> u64 {
    cgroups::file(id, "cpuacct.usage").map_or_else(
        || field(&cgroups::file(id, "cpu.stat").unwrap(), "usage_usec").unwrap() * 1000,
        |text| text.trim().parse().unwrap(),
    )
}

async fn a_container_that_uses_cpu_and_memory_shows_it(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("uses").await;
    let eats = "dd if=/dev/zero of=/dev/shm/x bs=1M count=24 2>/dev/null; echo eaten; \
                while :; do :; done";
    let config = script("uses", eats);
    let id = node.run(&pod, &config).await;
    node.prints(&pod, &config, "eaten").await;
    let first = stats(node, &id).await;
    let attributes = first.attributes.clone().unwrap();
    assert_eq!((attributes.id.as_str(), attributes.metadata), (id.as_str(), config.metadata));
    let memory = first.memory.as_ref().unwrap();
    assert!(value(memory.usage_bytes) >= 24 * MIB, "{memory:?}");
    assert!(value(memory.working_set_bytes) >= 24 * MIB, "{memory:?}");
    assert!(value(memory.working_set_bytes) <= value(memory.usage_bytes), "{memory:?}");
    assert!(value(memory.page_faults) > 0, "{memory:?}");
    tokio::time::sleep(INTERVAL).await;
    let second = stats(node, &id).await;
    let (before, after) = (first.cpu.as_ref().unwrap(), second.cpu.as_ref().unwrap());
    assert!(cpu_time(&second) > cpu_time(&first), "{before:?} {after:?}");
    assert!(after.timestamp > before.timestamp);
    let rate = value(after.usage_nano_cores);
    let passed = u64::try_from(after.timestamp - before.timestamp).unwrap();
    let expected = (cpu_time(&second) - cpu_time(&first)) * 1000 / (passed / 1_000_000);
    assert!(rate.abs_diff(expected) <= expected / 5, "{rate} {expected} {passed}");
}

async fn statistics_are_what_the_cgroups_files_say(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("files").await;
    let config = script(
        "files",
        "dd if=/dev/zero of=/file bs=1M count=8 2>/dev/null; echo ready; sleep 3600",
    );
    let id = node.run(&pod, &config).await;
    node.prints(&pod, &config, "ready").await;
    let before = cpu_of_file(&id);
    let told = stats(node, &id).await;
    let after = cpu_of_file(&id);
    assert!((before..=after).contains(&cpu_time(&told)), "{before} {} {after}", cpu_time(&told));
    let stat = cgroups::file(&id, "memory.stat").unwrap();
    let usage =
        cgroups::file(&id, "memory.usage_in_bytes").or(cgroups::file(&id, "memory.current"));
    let usage: u64 = usage.unwrap().trim().parse().unwrap();
    let idle = field(&stat, "total_inactive_file").or(field(&stat, "inactive_file")).unwrap();
    let memory = told.memory.unwrap();
    // The kernel moves pages meanwhile.
    assert!(value(memory.usage_bytes).abs_diff(usage) <= MIB, "{memory:?} {usage}");
    let working_set = value(memory.working_set_bytes);
    assert!(working_set.abs_diff(usage - idle) <= MIB, "{memory:?} {usage} {idle}");
    let anonymous = field(&stat, "total_rss").or(field(&stat, "anon")).unwrap();
    assert!(value(memory.rss_bytes).abs_diff(anonymous) <= MIB, "{memory:?} {anonymous}");
    assert_eq!(memory.available_bytes, None, "there is no limit");
    if let Some(text) = cgroups::file(&id, "cpu.pressure").filter(|text| !text.is_empty()) {
        let psi = told.cpu.unwrap().psi.expect("the kernel counts pressure");
        let some = text.lines().next().unwrap();
        let total: u64 = some.rsplit_once("total=").unwrap().1.parse().unwrap();
        assert!(psi.some.unwrap().total <= total * 1000, "{psi:?} {text}");
        assert!(memory.psi.is_some() && told.io.unwrap().psi.is_some());
    }
}

async fn a_limit_says_how_much_memory_is_available(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("limit").await;
    let config = sleeper("limit").limits(|limits| limits.memory_limit_in_bytes = 64 << 20);
    let id = node.run(&pod, &config).await;
    let memory = stats(node, &id).await.memory.unwrap();
    let available = value(memory.available_bytes);
    assert_eq!(available, 64 * MIB - value(memory.working_set_bytes));
}

async fn statistics_are_filtered_as_lists_are(world: &mut World) {
    let node = world.node().await;
    let (one, other) = (node.pod("one").await, node.pod("other").await);
    let first = node.run(&one, &sleeper("first").label("who", "first")).await;
    let second = node.run(&one, &sleeper("second").label("who", "second")).await;
    let third = node.run(&other, &sleeper("third").label("who", "first")).await;
    let ids = async |filter| -> BTreeSet<String> {
        list(node, filter).await.into_iter().map(|stats| stats.attributes.unwrap().id).collect()
    };
    let filter = ContainerStatsFilter::default;
    let set = |ids: &[&String]| ids.iter().map(ToString::to_string).collect::<BTreeSet<String>>();
    assert!(ids(filter()).await.is_superset(&set(&[&first, &second, &third])));
    let by_id = ContainerStatsFilter { id: second.clone(), ..filter() };
    assert_eq!(ids(by_id).await, set(&[&second]));
    let by_pod = ContainerStatsFilter { pod_sandbox_id: one.id.clone(), ..filter() };
    assert_eq!(ids(by_pod.clone()).await, set(&[&first, &second]));
    let label = selector("who", "first");
    let by_label = ContainerStatsFilter { label_selector: label.clone(), ..filter() };
    assert_eq!(ids(by_label).await, set(&[&first, &third]));
    let by_both = ContainerStatsFilter { label_selector: label, ..by_pod };
    assert_eq!(ids(by_both).await, set(&[&first]));
    let request = ListPodSandboxStatsRequest {
        filter: Some(PodSandboxStatsFilter { id: other.id.clone(), ..Default::default() }),
    };
    let pods = node.cri.runtime.clone().list_pod_sandbox_stats(request).await.unwrap();
    let pods: Vec<_> = pods.into_inner().stats;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].attributes.as_ref().unwrap().id, other.id);
}

async fn the_statistics_of_what_does_not_exist_are_not_found(world: &mut World) {
    let node = world.node().await;
    let container = ContainerStatsRequest { container_id: "f".repeat(64) };
    let answer = node.cri.runtime.clone().container_stats(container).await;
    assert_eq!(crate::code(answer), Code::NotFound);
    let nobody = ContainerStatsFilter { id: "f".repeat(64), ..Default::default() };
    assert_eq!(list(node, nobody).await, []);
}

async fn streamed_statistics_are_those_of_the_lists(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("streamed").await;
    let id = node.run(&pod, &sleeper("streamed")).await;
    let mut runtime = node.cri.runtime.clone();
    let request = StreamContainerStatsRequest::default();
    let mut stream = runtime.stream_container_stats(request).await.unwrap().into_inner();
    let containers = stream.message().await.unwrap().unwrap().container_stats;
    assert_eq!(containers.len(), 1);
    assert_eq!(containers[0].attributes.as_ref().unwrap().id, id);
    assert!(stream.message().await.unwrap().is_none());
    let request = StreamPodSandboxStatsRequest::default();
    let mut stream = runtime.stream_pod_sandbox_stats(request).await.unwrap().into_inner();
    let pods = stream.message().await.unwrap().unwrap().pod_sandbox_stats;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].attributes.as_ref().unwrap().id, pod.id);
}

async fn ended_containers_are_not_listed(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("ended").await;
    let id = node.run(&pod, &script("ended", "echo x > /file; exit 0")).await;
    let created = node.create(&pod, &sleeper("created")).await.unwrap();
    node.exit(&id).await;
    let listed = list(node, ContainerStatsFilter::default()).await;
    let is_listed = |id: &String| listed.iter().any(|s| s.attributes.as_ref().unwrap().id == *id);
    assert!(!is_listed(&id) && !is_listed(&created));
    let alone = stats(node, &id).await;
    assert!(alone.cpu.is_none() && alone.memory.is_none());
    assert!(value(alone.writable_layer.unwrap().inodes_used) >= 2, "what it wrote is still there");
}

async fn what_a_container_writes_is_in_its_writable_layer(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("writes").await;
    let config = script(
        "writes",
        "mkdir /d; for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=/d/$i bs=1M count=1 2>/dev/null; \
         done; sync /d/8; ln -s / /d/link; echo written; sleep 3600",
    );
    let id = node.run(&pod, &config).await;
    let idle = node.run(&pod, &sleeper("idle")).await;
    node.prints(&pod, &config, "written").await;
    let layer = stats(node, &id).await.writable_layer.unwrap();
    let (bytes, inodes) = (value(layer.used_bytes), value(layer.inodes_used));
    assert!((8 * MIB..9 * MIB).contains(&bytes), "{layer:?}");
    assert!((10..20).contains(&inodes), "a folder, eight files and a link: {layer:?}");
    assert!(Path::new(&layer.fs_id.unwrap().mountpoint).is_dir());
    let empty = stats(node, &idle).await.writable_layer.unwrap();
    assert!(value(empty.used_bytes) < MIB, "{empty:?}");
    let info = node.cri.image_fs().await.unwrap();
    let (images, containers) = (&info.image_filesystems[0], &info.container_filesystems[0]);
    assert!(value(containers.used_bytes) >= 8 * MIB, "{info:?}");
    assert!(value(containers.inodes_used) >= 10, "{info:?}");
    assert!(value(images.used_bytes) > 0 && value(images.inodes_used) > 0, "{info:?}");
    assert_eq!(images.fs_id, containers.fs_id);
}

async fn a_pods_statistics_have_its_containers_and_its_network(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("whole").await;
    let busy = node.run(&pod, &script("busy", "while :; do :; done")).await;
    let idle = node.run(&pod, &sleeper("idle")).await;
    let before = pod_stats(node, &pod.id).await.linux.unwrap();
    let gateway = node.sh(&idle, "ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'").await;
    node.sh(&idle, &format!("ping -c 3 -i 0.2 -s 1000 {gateway} >/dev/null")).await;
    tokio::time::sleep(INTERVAL).await;
    let stats = pod_stats(node, &pod.id).await;
    assert_eq!(stats.attributes.as_ref().unwrap().metadata, pod.config.metadata);
    let linux = stats.linux.unwrap();
    let ids: BTreeSet<String> =
        linux.containers.iter().map(|stats| stats.attributes.clone().unwrap().id).collect();
    assert_eq!(ids, BTreeSet::from([busy, idle]));
    let inside: u64 = linux.containers.iter().map(cpu_time).sum();
    let whole = value(linux.cpu.as_ref().unwrap().usage_core_nano_seconds);
    assert!(whole > 0 && whole + 500_000_000 > inside, "{whole} {inside}");
    assert!(value(linux.process.unwrap().process_count) >= 3);
    assert!(value(linux.memory.unwrap().working_set_bytes) > 0);
    let (before, after) = (before.network.unwrap(), linux.network.unwrap());
    let (before, after) = (before.default_interface.unwrap(), after.default_interface.unwrap());
    assert_eq!(after.name, "eth0");
    let grown = |of: fn(&proto::cri::NetworkInterfaceUsage) -> Option<UInt64Value>| {
        value(of(&after)) - value(of(&before))
    };
    assert!(grown(|interface| interface.rx_bytes) >= 3000, "{before:?} {after:?}");
    assert!(grown(|interface| interface.tx_bytes) >= 3000, "{before:?} {after:?}");
}

async fn a_pod_on_the_nodes_network_has_no_counters_of_its_own(world: &mut World) {
    let node = world.node().await;
    let config = node.pod_config("host");
    let config = config.namespaces(|options| options.network = NamespaceMode::Node.into());
    let pod = node.run_pod(config).await.unwrap();
    node.run(&pod, &sleeper("host").namespaces_of(&pod.config)).await;
    let stats = pod_stats(node, &pod.id).await.linux.unwrap();
    assert_eq!(stats.network, None);
    assert_eq!(stats.containers.len(), 1);
}

async fn statistics_go_on_after_a_restart_of_the_daemon(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("restart").await;
    let id = node.run(&pod, &script("restart", "while :; do :; done")).await;
    let before = stats(node, &id).await;
    node.crash().await;
    node.up().await.unwrap();
    let after = stats(node, &id).await;
    assert!(cpu_time(&after) > cpu_time(&before));
    assert!(after.memory.is_some() && after.writable_layer.is_some());
    assert_eq!(pod_stats(node, &pod.id).await.linux.unwrap().containers.len(), 1);
}

/// What critest 1.36 wants described, and dashboards show.
const WANTED: [&str; 12] = [
    "container_cpu_usage_seconds_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_memory_working_set_bytes",
    "container_memory_rss",
    "container_memory_failures_total",
    "container_network_receive_bytes_total",
    "container_fs_usage_bytes",
    "container_processes",
    "container_spec_memory_limit_bytes",
    "container_start_time_seconds",
    "container_last_seen",
    "container_oom_events_total",
];

async fn every_metric_is_described_and_has_as_many_labels(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("metrics").await;
    let config = sleeper("metrics").limits(|limits| {
        limits.cpu_quota = 20_000;
        limits.cpu_period = 100_000;
        limits.memory_limit_in_bytes = 64 << 20;
    });
    node.run(&pod, &config).await;
    let request = ListMetricDescriptorsRequest {};
    let described = node.cri.runtime.clone().list_metric_descriptors(request).await.unwrap();
    let described: BTreeMap<String, usize> = described
        .into_inner()
        .descriptors
        .into_iter()
        .map(|descriptor| (descriptor.name, descriptor.label_keys.len()))
        .collect();
    let all = metrics(node).await;
    let own = all.iter().find(|metrics| metrics.pod_sandbox_id == pod.id).unwrap();
    let rows: Vec<&Metric> =
        own.metrics.iter().chain(own.container_metrics.iter().flat_map(|c| &c.metrics)).collect();
    for metric in &rows {
        let labels = described.get(&metric.name);
        assert_eq!(labels, Some(&metric.label_values.len()), "{metric:?}");
        assert!(metric.value.is_some(), "{metric:?}");
        let counts = metric.metric_type() == MetricType::Counter;
        let total = metric.name.ends_with("_total") && metric.name != "container_fs_inodes_total";
        assert!(counts || !total, "{metric:?}");
    }
    let told: BTreeSet<&str> = rows.iter().map(|metric| metric.name.as_str()).collect();
    for name in WANTED {
        assert!(told.contains(name) && described.contains_key(name), "{name}");
    }
    // What a machine may lack: huge pages, devices that count, pressure.
    let may_lack = ["_hugetlb_", "_fs_reads", "_fs_writes", "_blkio_", "_pressure_"];
    for name in described.keys().filter(|name| !may_lack.iter().any(|part| name.contains(part))) {
        assert!(told.contains(name.as_str()), "{name} is described and never told");
    }
    // A metric with the same labels twice would make Prometheus refuse the whole scrape.
    let keys: BTreeSet<_> = rows.iter().map(|m| (&m.name, &m.label_values)).collect();
    assert_eq!(keys.len(), rows.len());
    let request = StreamPodSandboxMetricsRequest {};
    let mut stream = node.cri.runtime.clone().stream_pod_sandbox_metrics(request).await.unwrap();
    let mut streamed = Vec::new();
    while let Some(batch) = stream.get_mut().message().await.unwrap() {
        streamed.extend(batch.pod_sandbox_metrics.into_iter().map(|pod| pod.pod_sandbox_id));
    }
    let listed: Vec<_> = all.iter().map(|pod| pod.pod_sandbox_id.clone()).collect();
    assert_eq!(streamed, listed);
}

async fn metrics_have_the_labels_that_dashboards_ask_for(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("labels").await;
    let id = node.run(&pod, &sleeper("labelled")).await;
    let request = ListMetricDescriptorsRequest {};
    let described = node.cri.runtime.clone().list_metric_descriptors(request).await.unwrap();
    let described = described.into_inner().descriptors;
    let all = metrics(node).await;
    let own = all.into_iter().find(|metrics| metrics.pod_sandbox_id == pod.id).unwrap();
    let labels = |metric: &Metric| -> BTreeMap<String, String> {
        let descriptor = described.iter().find(|one| one.name == metric.name).unwrap();
        descriptor.label_keys.iter().cloned().zip(metric.label_values.clone()).collect()
    };
    let container = &own.container_metrics[0];
    assert_eq!(container.container_id, id);
    let cpu = container.metrics.iter().find(|m| m.name == "container_cpu_usage_seconds_total");
    let cpu = labels(cpu.unwrap());
    let path = cpu["id"].clone();
    assert!(path.starts_with('/') && path.contains(&id), "the cgroup, as cAdvisor has it: {path}");
    for (key, expected) in [
        ("name", id.as_str()),
        ("container", "labelled"),
        ("pod", "labels"),
        ("namespace", "default"),
        ("cpu", "total"),
    ] {
        assert_eq!(cpu[key], expected, "{key}");
    }
    assert!(cpu["image"].contains("busybox"), "{cpu:?}");
    let network = own.metrics.iter().find(|m| m.name == "container_network_receive_bytes_total");
    let network = labels(network.unwrap());
    assert_eq!((network["interface"].as_str(), network["pod"].as_str()), ("eth0", "labels"));
    assert_eq!(network["container"], "");
}

async fn descriptors_of_ended_containers_are_closed(world: &mut World) {
    let node = world.node().await;
    let open = |node: &Node| {
        let folder = format!("/proc/{}/fd", node.pid().unwrap());
        let targets = fs::read_dir(folder).unwrap().flatten();
        let target = |entry: fs::DirEntry| fs::read_link(entry.path()).unwrap_or_default();
        targets.map(target).filter(|path| path.starts_with("/sys/fs/cgroup")).count()
    };
    let pod = node.pod("closed").await;
    let id = node.run(&pod, &sleeper("closed")).await;
    stats(node, &id).await;
    pod_stats(node, &pod.id).await;
    metrics(node).await;
    assert!(open(node) > 5, "they are kept while the container runs: {}", open(node));
    node.cri.stop(&id, 5).await.unwrap();
    node.cri.stop_pod(&pod.id).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while open(node) > 0 {
        assert!(Instant::now() < deadline, "{} are open", open(node));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

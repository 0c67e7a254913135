//! ContainerStats, ListContainerStats: what running containers use.

use std::sync::Arc;

use proto::cri;
use sys::cgroup::Places;

use super::Container;
use super::list::metadata;
use super::state::State;
use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;
use crate::stats::meter::Sample;
use crate::stats::{layer, wire};

/// What one container uses. One that does not run has nothing but what it has written.
///
/// # Errors
/// `NotFound`.
pub async fn stats(runtime: &Arc<Runtime>, id: &str) -> Result<cri::ContainerStats, Error> {
    let container = runtime.containers.find(id)?;
    let runtime = Arc::clone(runtime);
    record::blocking("read a container's statistics", move || {
        let measured = measure(&runtime, vec![container]);
        let mut item =
            measured.iter().map(|(container, sample)| item(&runtime, container, sample.as_deref()));
        Ok(item.next().unwrap_or_default())
    })
    .await
}

/// What the running containers use that fulfil all conditions of the filter.
///
/// # Errors
/// The runtime is going down.
pub async fn list(
    runtime: &Arc<Runtime>,
    filter: Option<cri::ContainerStatsFilter>,
) -> Result<Vec<cri::ContainerStats>, Error> {
    let filter = filter.unwrap_or_default();
    let mut containers = runtime.containers.all();
    containers.retain(|container| is_running(container) && matches(container, &filter));
    let runtime = Arc::clone(runtime);
    record::blocking("read containers' statistics", move || {
        let measured = measure(&runtime, containers);
        // One that ended meanwhile has no cgroup any more.
        let living = measured.iter().filter(|(_, sample)| sample.is_some());
        Ok(living.map(|(container, sample)| item(&runtime, container, sample.as_deref())).collect())
    })
    .await
}

/// Whether there is something to measure.
pub fn is_running(container: &Container) -> bool {
    matches!(*container.state.borrow(), State::Running { .. })
}

fn matches(container: &Container, filter: &cri::ContainerStatsFilter) -> bool {
    let record = &container.record;
    record.id.as_str().starts_with(&filter.id)
        && record.sandbox.as_str().starts_with(&filter.pod_sandbox_id)
        && filter
            .label_selector
            .iter()
            .all(|(key, value)| record.config.labels.get(key) == Some(value))
}

/// What each container uses now, its writable layer brought up to date. Blocks.
pub fn measure(
    runtime: &Arc<Runtime>,
    containers: Vec<Arc<Container>>,
) -> Vec<(Arc<Container>, Option<Arc<Sample>>)> {
    let mut measured = Vec::with_capacity(containers.len());
    for container in containers {
        let sample = container.meter.sample(|| places(&container));
        measured.push((container, sample));
    }
    let cpu = |sample: &Option<Arc<Sample>>| sample.as_ref().and_then(|sample| sample.cpu);
    let seen: Vec<_> = measured.iter().map(|(c, sample)| (Arc::clone(c), cpu(sample))).collect();
    layer::refresh(runtime, &seen);
    measured
}

/// The container's cgroup: by its first process, which is in a cgroup of the container's name or somebody else's.
pub fn places(container: &Container) -> Option<Places> {
    Places::of_process(container.record.pid, container.id().as_str())
}

/// CRI's form of one container's statistics.
pub fn item(
    runtime: &Runtime,
    container: &Container,
    sample: Option<&Sample>,
) -> cri::ContainerStats {
    let root = runtime.root().display().to_string();
    cri::ContainerStats {
        attributes: Some(attributes(container)),
        cpu: sample.and_then(wire::cpu),
        memory: sample.map(wire::memory),
        writable_layer: container.layer.written().map(|written| wire::layer(written, &root)),
        swap: sample.map(wire::swap),
        io: sample.and_then(wire::io),
    }
}

fn attributes(container: &Container) -> cri::ContainerAttributes {
    let config = &container.record.config;
    cri::ContainerAttributes {
        id: container.id().to_string(),
        metadata: Some(metadata(&config.metadata)),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
    }
}

//! ContainerStats, ListContainerStats: what running containers use.

use std::sync::Arc;

use proto::cri;
use sys::cgroup::Places;

use super::Container;
use super::list::attributes;
use super::state::State;
use crate::encode::{self, Items};
use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;
use crate::stats::sample::Sample;
use crate::stats::{layer, wire};

/// What one container uses. One that does not run has nothing but what it has written.
///
/// # Errors
/// `NotFound`.
pub async fn stats(runtime: Arc<Runtime>, id: String) -> Result<Items, Error> {
    let container = runtime.containers.find(&id)?;
    record::blocking("read a container's statistics", move || {
        let mut items = Items::default();
        for (container, sample) in measure(&runtime, vec![container], |_| None) {
            items.add(|out| item(out, &runtime, &container, sample.as_deref()));
        }
        Ok(items)
    })
    .await
}

/// What the running containers use that fulfil all conditions of the filter.
///
/// # Errors
/// The runtime is going down.
pub async fn list(
    runtime: Arc<Runtime>,
    filter: Option<cri::ContainerStatsFilter>,
) -> Result<Items, Error> {
    let filter = filter.unwrap_or_default();
    let mut containers = runtime.containers.all();
    containers.retain(|container| is_running(container) && matches(container, &filter));
    record::blocking("read containers' statistics", move || {
        let measured = measure(&runtime, containers, |_| None);
        let mut items = Items::default();
        for (container, sample) in &measured {
            // One that ended meanwhile has no cgroup any more.
            let Some(sample) = sample.as_deref() else { continue };
            items.add(|out| item(out, &runtime, container, Some(sample)));
        }
        Ok(items)
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

/// What each container uses now, its writable layer brought up to date; `pod` is a new sample of its pod's, if there is
/// one. Blocks.
pub fn measure<'a>(
    runtime: &Arc<Runtime>,
    containers: Vec<Arc<Container>>,
    pod: impl Fn(&Container) -> Option<&'a Sample>,
) -> Vec<(Arc<Container>, Option<Arc<Sample>>)> {
    let mut measured = Vec::with_capacity(containers.len());
    for container in containers {
        let sample = container.meter.sample(pod(&container), || places(&container));
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

/// A `ContainerStats`.
pub fn item(out: &mut Vec<u8>, runtime: &Runtime, container: &Container, sample: Option<&Sample>) {
    encode::element(out, 1, attributes(container));
    let root = || runtime.root().display().to_string();
    let figures = cri::ContainerStats {
        attributes: None,
        cpu: sample.and_then(wire::cpu),
        memory: sample.map(wire::memory),
        writable_layer: container.layer.written().map(|written| wire::layer(written, root())),
        swap: sample.map(wire::swap),
        io: sample.and_then(wire::io),
    };
    encode::fields(out, &figures);
}

//! Pods and containers as metrics, under the names and labels that cAdvisor has made known.
//!
//! The kubelet shows them as `/metrics/cadvisor` when its gate PodAndContainerStatsFromCRI is on. It passes names, labels
//! and values on as they are; a value is a whole number, so times are whole seconds, as with every runtime.
//!
//! - [`family`]: every metric's name, help and labels, once;
//! - `rows`: their encoded form, written directly: thirty thousand of them are one scrape of a large node;
//! - `fill`: what a container's and a pod's figures are.

mod device;
pub mod family;
mod fill;
mod rows;

use std::sync::Arc;

use proto::cri;

use crate::container::Container;
use crate::container::stats as containers;
use crate::encode::Items;
use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;
use crate::sandbox::stats::{Parents, ready};
use crate::stats::network;
use family::FAMILIES;
use fill::Disk;
use rows::PodRows;

/// Describes all metrics.
#[must_use]
pub fn descriptors() -> Vec<cri::MetricDescriptor> {
    FAMILIES.iter().map(|family| family.to_wire()).collect()
}

/// The metrics of all ready pods: a `PodSandboxMetrics` each.
///
/// # Errors
/// The runtime is going down.
pub async fn list(runtime: Arc<Runtime>) -> Result<Items, Error> {
    record::blocking("read metrics", move || Ok(read(&runtime))).await
}

fn read(runtime: &Arc<Runtime>) -> Items {
    let sandboxes = ready(runtime);
    let parents = Parents::of(runtime);
    let interfaces = network::interfaces(runtime, &sandboxes);
    let mut running = runtime.containers.all();
    running.retain(|container| containers::is_running(container));
    running.sort_by(|one, other| one.record.sandbox.as_str().cmp(other.record.sandbox.as_str()));
    let disk = Disk::of(runtime.root());
    let mut seen = Vec::with_capacity(running.len());
    let mut items = Items::default();
    for sandbox in &sandboxes {
        let whole = sandbox.meter.detail(true, || parents.places(sandbox));
        items.add(|out| {
            let mut rows = PodRows::new(out, sandbox.id().as_str());
            fill::pod(&mut rows, sandbox, whole.as_ref(), interfaces.get(sandbox.id()));
            for container in of_sandbox(&running, sandbox.id().as_str()) {
                // As they are now: the kubelet may have changed them.
                let limits = container.limits();
                let limited = limits.cpu_quota.is_some_and(|quota| quota > 0);
                let detail = container.meter.detail(limited, || containers::places(container));
                let Some(detail) = detail else { continue };
                seen.push((Arc::clone(container), Some(detail.cpu.usage)));
                fill::container(&mut rows, sandbox, container, (&detail, &limits), &disk);
            }
        });
    }
    super::layer::refresh(runtime, &seen);
    items
}

/// The containers of one sandbox among those that are sorted by it.
fn of_sandbox<'a>(sorted: &'a [Arc<Container>], sandbox: &str) -> &'a [Arc<Container>] {
    let own = |container: &Arc<Container>| container.record.sandbox.as_str() < sandbox;
    let first = sorted.partition_point(own);
    let rest = &sorted[first..];
    let end = rest.partition_point(|container| container.record.sandbox.as_str() == sandbox);
    &rest[..end]
}

//! PodSandboxStats, ListPodSandboxStats: what ready pods use.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use proto::cri;
use sys::cgroup::Places;
use sys::netns::Interface;

use super::Sandbox;
use super::list::attributes;
use super::state::State;
use crate::clock::Nanos;
use crate::container::Container;
use crate::container::stats as containers;
use crate::encode::{self, Items};
use crate::error::Error;
use crate::id::SandboxId;
use crate::record;
use crate::runtime::Runtime;
use crate::stats::sample::Sample;
use crate::stats::{network, wire};

/// What one pod and its containers use.
///
/// # Errors
/// `NotFound`; `Refused` when the pod is not ready: nothing of it is left that could be measured.
pub async fn stats(runtime: Arc<Runtime>, id: String) -> Result<Items, Error> {
    let sandbox = runtime.sandboxes.find(&id)?;
    if !sandbox.look(State::is_ready) {
        return Err(Error::Refused {
            operation: format!("measure pod sandbox {}", sandbox.id()),
            reason: "it is not ready".into(),
        });
    }
    read(runtime, vec![sandbox]).await
}

/// What the ready pods use that fulfil all conditions of the filter.
///
/// # Errors
/// The runtime is going down.
pub async fn list(
    runtime: Arc<Runtime>,
    filter: Option<cri::PodSandboxStatsFilter>,
) -> Result<Items, Error> {
    let filter = filter.unwrap_or_default();
    let mut sandboxes = ready(&runtime);
    sandboxes.retain(|sandbox| {
        let labels = &sandbox.record.config.labels;
        sandbox.id().as_str().starts_with(&filter.id)
            && filter.label_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    });
    read(runtime, sandboxes).await
}

/// The pods that there is something to measure of.
pub fn ready(runtime: &Runtime) -> Vec<Arc<Sandbox>> {
    let mut sandboxes = runtime.sandboxes.all();
    sandboxes.retain(|sandbox| sandbox.look(State::is_ready));
    sandboxes
}

async fn read(runtime: Arc<Runtime>, sandboxes: Vec<Arc<Sandbox>>) -> Result<Items, Error> {
    record::blocking("read pods' statistics", move || {
        let members = Members::of(&runtime, &sandboxes);
        let interfaces = network::interfaces(&runtime, &sandboxes);
        let mut items = Items::default();
        for sandbox in &sandboxes {
            let interfaces = interfaces.get(sandbox.id()).map(Vec::as_slice);
            items.add(|out| members.item(out, &runtime, sandbox, interfaces));
        }
        Ok(items)
    })
    .await
}

type Measured = (Arc<Container>, Option<Arc<Sample>>);

/// Pods with their running containers, measured.
struct Members {
    containers: HashMap<SandboxId, Vec<Measured>>,
    /// The pods that have a cgroup of their own.
    pods: HashMap<SandboxId, Arc<Sample>>,
}

impl Members {
    /// Measures them, the pods first: of who does nothing the containers need not be read. Blocks.
    fn of(runtime: &Arc<Runtime>, sandboxes: &[Arc<Sandbox>]) -> Self {
        let parents = Parents::of(runtime);
        let whole = |sandbox: &Arc<Sandbox>| {
            let sample = sandbox.meter.sample(None, || parents.places(sandbox))?;
            Some((sandbox.id().clone(), sample))
        };
        let pods: HashMap<_, _> = sandboxes.iter().filter_map(whole).collect();
        let mut running = match sandboxes {
            [one] => runtime.containers_of(one.id()),
            _ => runtime.containers.all(),
        };
        running.retain(|container| containers::is_running(container));
        let pod = |container: &Container| pods.get(&container.record.sandbox).map(|pod| &**pod);
        let mut members: HashMap<SandboxId, Vec<Measured>> = HashMap::new();
        for measured in containers::measure(runtime, running, pod) {
            let sandbox = measured.0.record.sandbox.clone();
            members.entry(sandbox).or_default().push(measured);
        }
        Self { containers: members, pods }
    }

    /// A `PodSandboxStats`.
    fn item(
        &self,
        out: &mut Vec<u8>,
        runtime: &Runtime,
        sandbox: &Sandbox,
        interfaces: Option<&[Interface]>,
    ) {
        let members = self.containers.get(sandbox.id()).map_or(&[][..], Vec::as_slice);
        let living = || members.iter().filter_map(|(_, sample)| sample.as_deref());
        let now = Nanos::now().get();
        let whole = self.pods.get(sandbox.id());
        let whole = whole.map_or_else(|| sum(living(), now), |whole| (**whole).clone());
        let processes = || members.iter().filter_map(|(container, _)| container.meter.processes());
        let processes = sandbox.meter.processes().unwrap_or_else(|| processes().sum());
        let figures = cri::LinuxPodSandboxStats {
            cpu: wire::cpu(&whole),
            memory: Some(wire::memory(&whole)),
            network: interfaces.map(|interfaces| wire::network(interfaces, now)),
            process: Some(wire::processes(processes, now)),
            containers: Vec::new(),
            io: wire::io(&whole),
        };
        encode::element(out, 1, attributes(sandbox));
        encode::nested(out, 2, |out| {
            encode::fields(out, &figures);
            for (container, sample) in members {
                let Some(sample) = sample.as_deref() else { continue };
                encode::nested(out, 5, |out| {
                    containers::item(out, runtime, container, Some(sample))
                });
            }
        });
    }
}

/// Which cgroups are one pod's own.
#[derive(Debug)]
pub struct Parents(BTreeMap<String, u32>);

impl Parents {
    /// Looks at all pods: clients other than the kubelet give one cgroup to many.
    pub fn of(runtime: &Runtime) -> Self {
        let mut parents = BTreeMap::new();
        for sandbox in runtime.sandboxes.all() {
            let parent = sandbox.record.config.cgroup_parent.as_str().to_owned();
            *parents.entry(parent).or_insert(0) += 1;
        }
        Self(parents)
    }

    /// The pod's cgroup, if it has one that no other pod and nobody else is in.
    pub fn places(&self, sandbox: &Sandbox) -> Option<Places> {
        let parent = &sandbox.record.config.cgroup_parent;
        let alone = self.0.get(parent.as_str()).is_none_or(|pods| *pods == 1);
        let path: PathBuf = parent.own_path().filter(|_| alone)?;
        let places = Places::of_path(&path);
        places.exist().then_some(places)
    }
}

/// The containers together, for a pod without a cgroup of its own. Pressure cannot be added.
fn sum<'a>(samples: impl Iterator<Item = &'a Sample>, at: i64) -> Sample {
    let add = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    };
    let empty = Sample { at, cpu: Some(0), ..Sample::default() };
    samples.fold(empty, |sum, next| Sample {
        at: sum.at.min(next.at),
        cpu: add(sum.cpu, next.cpu),
        nano_cores: add(sum.nano_cores, next.nano_cores),
        memory: sum.memory.saturating_add(next.memory),
        working_set: sum.working_set.saturating_add(next.working_set),
        rss: sum.rss.saturating_add(next.rss),
        faults: sum.faults.saturating_add(next.faults),
        major_faults: sum.major_faults.saturating_add(next.major_faults),
        ..Sample::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_without_a_cgroup_of_its_own_is_the_sum_of_its_containers() {
        let one =
            Sample { at: 5, cpu: Some(10), nano_cores: Some(1), memory: 7, ..Sample::default() };
        let other = Sample { at: 4, cpu: Some(20), memory: 3, ..Sample::default() };
        let sum = sum([&one, &other].into_iter(), 9);
        assert_eq!((sum.at, sum.cpu, sum.nano_cores), (4, Some(30), Some(1)));
        assert_eq!((sum.memory, sum.memory_limit), (10, None));
    }
}

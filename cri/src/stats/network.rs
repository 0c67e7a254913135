//! What pods have sent and received.

use std::collections::HashMap;
use std::sync::Arc;

use sys::netns::Interface;

use crate::id::SandboxId;
use crate::runtime::Runtime;
use crate::sandbox::Sandbox;
use crate::sandbox::config::PodScope;

/// What the pod's own interface is called, by convention of CNI.
const DEFAULT_INTERFACE: &str = "eth0";

/// Reads the counters of these pods' interfaces; pods on the node's network have none of their own. Blocks for some ten
/// microseconds for each pod.
pub fn interfaces(
    runtime: &Runtime,
    sandboxes: &[Arc<Sandbox>],
) -> HashMap<SandboxId, Vec<Interface>> {
    let own = |sandbox: &&Arc<Sandbox>| sandbox.record.config.network == PodScope::Pod;
    let ids: Vec<&SandboxId> = sandboxes.iter().filter(own).map(|sandbox| sandbox.id()).collect();
    let paths: Vec<_> = ids.iter().map(|id| runtime.pod_paths(id).net()).collect();
    let found = sys::netns::interfaces(&paths);
    let pairs = ids.into_iter().zip(found);
    pairs.filter_map(|(id, found)| Some((id.clone(), found?))).collect()
}

/// The pod's own interface among these.
pub fn default_interface(interfaces: &[Interface]) -> Option<&Interface> {
    let named = interfaces.iter().find(|interface| interface.name == DEFAULT_INTERFACE);
    named.or_else(|| interfaces.first())
}

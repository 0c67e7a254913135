//! ListPodSandbox and StreamPodSandboxes: from memory.

use proto::cri;

use super::Sandbox;
use super::config::Metadata;
use crate::runtime::Runtime;

/// Lists the sandboxes that fulfil all conditions of the filter.
pub fn list(
    runtime: &Runtime,
    filter: Option<cri::PodSandboxFilter>,
) -> impl Iterator<Item = cri::PodSandbox> + use<> {
    let filter = filter.unwrap_or_default();
    let mut sandboxes = runtime.sandboxes.all();
    sandboxes.retain(|sandbox| matches(sandbox, &filter));
    sandboxes.into_iter().map(|sandbox| item(&sandbox))
}

fn matches(sandbox: &Sandbox, filter: &cri::PodSandboxFilter) -> bool {
    let labels = &sandbox.record.config.labels;
    sandbox.id().as_str().starts_with(&filter.id)
        && filter.state.is_none_or(|wanted| wanted.state() == sandbox.state().to_wire())
        && filter.label_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn item(sandbox: &Sandbox) -> cri::PodSandbox {
    let config = &sandbox.record.config;
    cri::PodSandbox {
        id: sandbox.id().to_string(),
        metadata: Some(metadata(&config.metadata)),
        state: sandbox.state().to_wire().into(),
        created_at: sandbox.record.created_at.get(),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        runtime_handler: config.runtime_handler.clone(),
    }
}

/// The wire's form of a sandbox's name.
#[must_use]
pub fn metadata(metadata: &Metadata) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        namespace: metadata.namespace.clone(),
        attempt: metadata.attempt,
    }
}

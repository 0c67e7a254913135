//! ListPodSandbox and StreamPodSandboxes: from memory.

use proto::cri;

use super::Sandbox;
use super::config::Metadata;
use super::state::State;
use crate::encode::{self, Items};
use crate::runtime::Runtime;

/// Lists the sandboxes that fulfil all conditions of the filter.
pub fn list(runtime: &Runtime, filter: Option<cri::PodSandboxFilter>) -> Items {
    let filter = filter.unwrap_or_default();
    let mut items = Items::default();
    runtime.sandboxes.look(|sandbox| {
        if matches(sandbox, &filter) {
            items.add(|out| item(out, sandbox));
        }
    });
    items
}

fn matches(sandbox: &Sandbox, filter: &cri::PodSandboxFilter) -> bool {
    let labels = &sandbox.record.config.labels;
    (filter.id.is_empty() || sandbox.id().as_str().starts_with(&filter.id))
        && filter.state.is_none_or(|wanted| wanted.state() == sandbox.look(State::to_wire))
        && filter.label_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A `PodSandbox`: what never changes is encoded once.
fn item(out: &mut Vec<u8>, sandbox: &Sandbox) {
    out.extend_from_slice(sandbox.listed.get_or_init(|| lasting(sandbox)));
    encode::number(out, 3, sandbox.look(State::to_wire) as u64);
}

fn lasting(sandbox: &Sandbox) -> Box<[u8]> {
    let config = &sandbox.record.config;
    let mut out = Vec::new();
    encode::text(&mut out, 1, sandbox.id().as_str());
    encode::message(&mut out, 2, &metadata(&config.metadata));
    encode::number(&mut out, 4, sandbox.record.created_at.get().cast_unsigned());
    encode::map(&mut out, 5, &config.labels);
    encode::map(&mut out, 6, &config.annotations);
    encode::text(&mut out, 7, &config.runtime_handler);
    out.into()
}

/// A sandbox's `PodSandboxAttributes`, encoded.
pub fn attributes(sandbox: &Sandbox) -> &[u8] {
    sandbox.attributes.get_or_init(|| {
        let config = &sandbox.record.config;
        let mut out = Vec::new();
        encode::text(&mut out, 1, sandbox.id().as_str());
        encode::message(&mut out, 2, &metadata(&config.metadata));
        encode::map(&mut out, 3, &config.labels);
        encode::map(&mut out, 4, &config.annotations);
        out.into()
    })
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

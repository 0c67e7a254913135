//! ListContainers and StreamContainers: from memory.

use proto::cri;

use super::Container;
use super::config::{ImageName, Metadata};
use crate::encode::{self, Items};
use crate::runtime::Runtime;

/// Lists the containers that fulfil all conditions of the filter.
pub fn list(runtime: &Runtime, filter: Option<cri::ContainerFilter>) -> Items {
    let filter = filter.unwrap_or_default();
    let mut items = Items::default();
    runtime.containers.look(|container| {
        if matches(container, &filter) {
            items.add(|out| item(out, container));
        }
    });
    items
}

fn matches(container: &Container, filter: &cri::ContainerFilter) -> bool {
    let record = &container.record;
    let begins = |id: &str, wanted: &str| wanted.is_empty() || id.starts_with(wanted);
    begins(record.id.as_str(), &filter.id)
        && begins(record.sandbox.as_str(), &filter.pod_sandbox_id)
        && filter.state.is_none_or(|wanted| wanted.state() == container.state.borrow().to_wire())
        && filter
            .label_selector
            .iter()
            .all(|(key, value)| record.config.labels.get(key) == Some(value))
}

/// A `Container`: what never changes is encoded once.
///
/// The kubelet asks every second, and the strings of hundreds of records are all over the memory: to gather them costs
/// some twenty times what copying this does.
fn item(out: &mut Vec<u8>, container: &Container) {
    out.extend_from_slice(container.listed.get_or_init(|| lasting(container)));
    encode::number(out, 6, container.state.borrow().to_wire() as u64);
}

fn lasting(container: &Container) -> Box<[u8]> {
    let record = &container.record;
    let mut out = Vec::new();
    encode::text(&mut out, 1, record.id.as_str());
    encode::text(&mut out, 2, record.sandbox.as_str());
    encode::message(&mut out, 3, &metadata(&record.config.metadata));
    encode::message(&mut out, 4, &image(&record.config.image));
    encode::text(&mut out, 5, &record.image_id);
    encode::number(&mut out, 7, record.created_at.get().cast_unsigned());
    encode::map(&mut out, 8, &record.config.labels);
    encode::map(&mut out, 9, &record.config.annotations);
    encode::text(&mut out, 10, &record.image_id);
    out.into()
}

/// A container's `ContainerAttributes`, encoded.
pub fn attributes(container: &Container) -> &[u8] {
    container.attributes.get_or_init(|| {
        let config = &container.record.config;
        let mut out = Vec::new();
        encode::text(&mut out, 1, container.id().as_str());
        encode::message(&mut out, 2, &metadata(&config.metadata));
        encode::map(&mut out, 3, &config.labels);
        encode::map(&mut out, 4, &config.annotations);
        out.into()
    })
}

/// The wire's form of a container's name.
#[must_use]
pub fn metadata(metadata: &Metadata) -> cri::ContainerMetadata {
    cri::ContainerMetadata { name: metadata.name.clone(), attempt: metadata.attempt }
}

/// The wire's form of an image as it was named.
#[must_use]
pub fn image(name: &ImageName) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.image.clone(),
        annotations: name.annotations.clone().into_iter().collect(),
        user_specified_image: name.user_specified.clone(),
        runtime_handler: name.runtime_handler.clone(),
        image_ref: String::new(),
    }
}

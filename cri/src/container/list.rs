//! ListContainers and StreamContainers: from memory.

use proto::cri;

use super::Container;
use super::config::{ImageName, Metadata};
use crate::runtime::Runtime;

/// Lists the containers that fulfil all conditions of the filter.
pub fn list(
    runtime: &Runtime,
    filter: Option<cri::ContainerFilter>,
) -> impl Iterator<Item = cri::Container> + use<> {
    let filter = filter.unwrap_or_default();
    let mut containers = runtime.containers.all();
    containers.retain(|container| matches(container, &filter));
    containers.into_iter().map(|container| item(&container))
}

fn matches(container: &Container, filter: &cri::ContainerFilter) -> bool {
    let record = &container.record;
    record.id.as_str().starts_with(&filter.id)
        && record.sandbox.as_str().starts_with(&filter.pod_sandbox_id)
        && filter.state.is_none_or(|wanted| wanted.state() == container.state.borrow().to_wire())
        && filter
            .label_selector
            .iter()
            .all(|(key, value)| record.config.labels.get(key) == Some(value))
}

fn item(container: &Container) -> cri::Container {
    let record = &container.record;
    cri::Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.sandbox.to_string(),
        metadata: Some(metadata(&record.config.metadata)),
        image: Some(image(&record.config.image)),
        image_ref: record.image_id.clone(),
        state: container.state.borrow().to_wire().into(),
        created_at: record.created_at.get(),
        labels: record.config.labels.clone().into_iter().collect(),
        annotations: record.config.annotations.clone().into_iter().collect(),
        image_id: record.image_id.clone(),
    }
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

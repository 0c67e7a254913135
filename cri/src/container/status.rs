//! ContainerStatus: from memory; only the verbose form looks at the disk.

use std::collections::HashMap;

use proto::cri;
use serde_json::{Value, json};
use shim::SPEC_FILE;

use super::config::{Mount, MountSource, Propagation};
use super::list::{image, metadata};
use super::state::State;
use super::{Container, Record};
use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;

/// Tells about one container.
///
/// # Errors
/// `NotFound` when there is none.
pub async fn status(
    runtime: &Runtime,
    request: &cri::ContainerStatusRequest,
) -> Result<cri::ContainerStatusResponse, Error> {
    let container = runtime.containers.find(&request.container_id)?;
    let info = if request.verbose { info(runtime, &container).await? } else { HashMap::new() };
    let state = container.state.borrow().clone();
    Ok(cri::ContainerStatusResponse { status: Some(to_wire(&container, state)), info })
}

/// The wire's form of a container in a state.
#[must_use]
pub fn to_wire(container: &Container, state: State) -> cri::ContainerStatus {
    let record = &container.record;
    let mut status = cri::ContainerStatus {
        id: record.id.to_string(),
        metadata: Some(metadata(&record.config.metadata)),
        state: state.to_wire().into(),
        created_at: record.created_at.get(),
        started_at: state.started_at().map_or(0, crate::clock::Nanos::get),
        image: Some(cri::ImageSpec {
            image: name_of_image(record).to_owned(),
            ..image(&record.config.image)
        }),
        image_ref: record.image_ref.clone(),
        image_id: record.image_id.clone(),
        labels: record.config.labels.clone().into_iter().collect(),
        annotations: record.config.annotations.clone().into_iter().collect(),
        mounts: record.config.mounts.iter().map(|one| mount(record, one)).collect(),
        log_path: record.log.as_ref().map(|log| log.display().to_string()).unwrap_or_default(),
        resources: Some(cri::ContainerResources {
            linux: Some(container.limits().to_wire()),
            windows: None,
        }),
        user: Some(user(container)),
        stop_signal: record.stop_signal.to_wire().into(),
        ..Default::default()
    };
    if let State::Exited(ended) = state {
        status.finished_at = ended.finished_at.get();
        status.exit_code = ended.exit_code;
        ended.reason.as_str().clone_into(&mut status.reason);
        status.message = ended.message;
    }
    status
}

fn name_of_image(record: &Record) -> &str {
    // A record of a time without the field has none.
    if record.image_name.is_empty() { &record.config.image.image } else { &record.image_name }
}

fn user(container: &Container) -> cri::ContainerUser {
    let user = &container.record.user;
    cri::ContainerUser {
        linux: Some(cri::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.groups.iter().map(|group| i64::from(*group)).collect(),
        }),
    }
}

fn mount(record: &Record, mount: &Mount) -> cri::Mount {
    let (host_path, image, part) = match &mount.source {
        MountSource::Host(path) => (path.display().to_string(), None, None),
        MountSource::Image { name, part } => {
            let mut spec = image(name);
            spec.image_ref =
                record.image_volumes.get(&mount.container_path).cloned().unwrap_or_default();
            (String::new(), Some(spec), part.as_ref())
        }
    };
    let (uid_mappings, gid_mappings) =
        mount.ids.as_ref().map(crate::ids::IdMaps::to_wire).unwrap_or_default();
    let propagation = match mount.propagation {
        Propagation::Private => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        container_path: mount.container_path.display().to_string(),
        host_path,
        image,
        image_sub_path: part.map(|part| part.display().to_string()).unwrap_or_default(),
        mount_options: mount.options.clone(),
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        recursive_read_only: mount.recursive_read_only,
        uid_mappings,
        gid_mappings,
    }
}

/// What `crictl inspect` shows beyond the status.
async fn info(runtime: &Runtime, container: &Container) -> Result<HashMap<String, String>, Error> {
    let path = runtime.bundle_dir(container.id()).join(SPEC_FILE);
    // An ended container has no bundle any more.
    let spec: Option<Value> = record::blocking("read a spec", move || record::read(&path)).await?;
    let record = &container.record;
    let info = json!({
        "sandboxID": record.sandbox,
        "pid": if container.state.borrow().is_exited() { 0 } else { record.pid },
        "removing": container.removal.try_lock().is_err(),
        "snapshotKey": record.id,
        "snapshotter": "overlay",
        "runtimeType": runtime.sandboxes.find(record.sandbox.as_str()).map_or_else(
            |_| String::new(),
            |sandbox| runtime.handlers.kind(&sandbox.record.config.runtime_handler),
        ),
        "runtimeOptions": null,
        "resources": container.limits(),
        "config": record.config,
        "runtimeSpec": spec,
    });
    Ok(HashMap::from([("info".to_owned(), info.to_string())]))
}

//! A little of containerd's API, for agents that know nothing else: cAdvisor (also the one in the kubelet), and those who
//! read containers' labels where containerd has them.
//!
//! They ask for the version, for a container by the id that they find in a cgroup's name, and for its process. All of
//! it is read-only, in the namespace `k8s.io`, and off unless the configuration names a socket.

use std::sync::Arc;

use prost_types::{Any, Timestamp};
use proto::containerd::containers::containers_server::{Containers, ContainersServer};
use proto::containerd::tasks::tasks_server::{Tasks, TasksServer};
use proto::containerd::version::version_server::{Version, VersionServer};
use proto::containerd::{containers, tasks, version};
use proto::shim::v1::types::{Process, Status as TaskStatus};
use shim::SPEC_FILE;
use tonic::{Request, Response, Status};

use crate::clock::Nanos;
use crate::container::Container;
use crate::container::state::State;
use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;

/// Where Kubernetes' containers are in containerd, and who asks says so in this header.
const NAMESPACE: &str = "k8s.io";
const NAMESPACE_HEADER: &str = "containerd-namespace";

/// The name that containerd's clients have for a specification's type.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// What stands for the specification of a container that has ended.
const NO_SPEC: &[u8] = br#"{"ociVersion":"1.2.0","process":{"user":{"uid":0,"gid":0},"cwd":"/"}}"#;

/// The label by which containerd's users tell containers from sandboxes.
const KIND: (&str, &str) = ("io.cri-containerd.kind", "container");

/// The services, over one runtime.
#[derive(Clone, Debug)]
pub struct Facade {
    runtime: Arc<Runtime>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Facade {
    /// A facade of a runtime.
    #[must_use]
    pub fn new(runtime: Arc<Runtime>) -> Self {
        Self { runtime }
    }

    /// The Version service.
    #[must_use]
    pub fn version_service(&self) -> VersionServer<Self> {
        VersionServer::new(self.clone())
    }

    /// The Containers service.
    #[must_use]
    pub fn containers_service(&self) -> ContainersServer<Self> {
        ContainersServer::new(self.clone())
    }

    /// The Tasks service.
    #[must_use]
    pub fn tasks_service(&self) -> TasksServer<Self> {
        TasksServer::new(self.clone())
    }

    /// A container by its whole id, for whoever asks in the right namespace.
    fn find<T>(&self, request: &Request<T>, id: &str) -> Result<Arc<Container>, Status> {
        let missing = || Status::not_found(format!("container {id:?}: not found"));
        if !in_namespace(request) || id.len() != 64 {
            return Err(missing());
        }
        self.runtime.containers.find(id).map_err(|_| missing())
    }
}

fn in_namespace<T>(request: &Request<T>) -> bool {
    let named = request.metadata().get(NAMESPACE_HEADER);
    named.is_some_and(|name| name.as_bytes() == NAMESPACE.as_bytes())
}

#[tonic::async_trait]
impl Version for Facade {
    async fn version(&self, _: Request<()>) -> Answer<version::VersionResponse> {
        Ok(Response::new(version::VersionResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: "wherry".into(),
        }))
    }
}

#[tonic::async_trait]
impl Containers for Facade {
    async fn get(
        &self,
        request: Request<containers::GetContainerRequest>,
    ) -> Answer<containers::GetContainerResponse> {
        let container = self.find(&request, &request.get_ref().id)?;
        let spec = spec(&self.runtime, &container).await?;
        let container = Some(describe(&container, Some(spec)));
        Ok(Response::new(containers::GetContainerResponse { container }))
    }

    /// Without the specifications, which weigh most: who wants one asks for its container.
    async fn list(
        &self,
        request: Request<containers::ListContainersRequest>,
    ) -> Answer<containers::ListContainersResponse> {
        if !request.get_ref().filters.is_empty() {
            return Err(Status::unimplemented("filters of containers"));
        }
        let all = if in_namespace(&request) { self.runtime.containers.all() } else { Vec::new() };
        let containers = all.iter().map(|container| describe(container, None)).collect();
        Ok(Response::new(containers::ListContainersResponse { containers }))
    }
}

#[tonic::async_trait]
impl Tasks for Facade {
    async fn get(&self, request: Request<tasks::GetRequest>) -> Answer<tasks::GetResponse> {
        let wanted = request.get_ref();
        let container = self.find(&request, &wanted.container_id)?;
        if !wanted.exec_id.is_empty() {
            return Err(Status::not_found(format!("process {:?}: not found", wanted.exec_id)));
        }
        let process = Some(process(&container));
        Ok(Response::new(tasks::GetResponse { process }))
    }
}

async fn spec(runtime: &Runtime, container: &Container) -> Result<Any, Error> {
    let path = runtime.bundle_dir(container.id()).join(SPEC_FILE);
    let read = move || Ok(std::fs::read(&path).unwrap_or_else(|_| NO_SPEC.to_vec()));
    let value = record::blocking("read a spec", read).await?;
    Ok(Any { type_url: SPEC_TYPE.into(), value })
}

fn describe(container: &Container, spec: Option<Any>) -> containers::Container {
    let record = &container.record;
    let mut labels: std::collections::HashMap<_, _> =
        record.config.labels.clone().into_iter().collect();
    labels.insert(KIND.0.into(), KIND.1.into());
    let created_at = Some(timestamp(record.created_at));
    containers::Container {
        id: record.id.to_string(),
        labels,
        image: record.config.image.image.clone(),
        runtime: Some(containers::container::Runtime {
            name: "io.containerd.wherry.v2".into(),
            options: None,
        }),
        spec,
        snapshotter: "overlayfs".into(),
        snapshot_key: record.id.to_string(),
        created_at,
        updated_at: created_at,
        extensions: std::collections::HashMap::new(),
        sandbox: record.sandbox.to_string(),
    }
}

fn process(container: &Container) -> Process {
    let id = container.id().to_string();
    let pid = container.record.pid;
    let process = Process { container_id: id.clone(), id, pid, ..Process::default() };
    match &*container.state.borrow() {
        State::Created | State::Starting => {
            Process { status: TaskStatus::Created.into(), ..process }
        }
        State::Running { .. } => Process { status: TaskStatus::Running.into(), ..process },
        State::Exited(ended) => Process {
            status: TaskStatus::Stopped.into(),
            pid: 0,
            exit_status: ended.exit_code.unsigned_abs(),
            exited_at: Some(timestamp(ended.finished_at)),
            ..process
        },
    }
}

fn timestamp(at: Nanos) -> Timestamp {
    const SECOND: i64 = 1_000_000_000;
    let nanos = i32::try_from(at.get().rem_euclid(SECOND)).unwrap_or(0);
    Timestamp { seconds: at.get().div_euclid(SECOND), nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kubernetes_namespace_has_containers() {
        let mut request = Request::new(());
        assert!(!in_namespace(&request));
        request.metadata_mut().insert(NAMESPACE_HEADER, "moby".parse().unwrap());
        assert!(!in_namespace(&request));
        request.metadata_mut().insert(NAMESPACE_HEADER, "k8s.io".parse().unwrap());
        assert!(in_namespace(&request));
        assert!(serde_json::from_slice::<oci_spec::runtime::Spec>(NO_SPEC).is_ok());
    }
}

//! The RuntimeService. What is not here answers UNIMPLEMENTED.

use proto::cri;
use proto::cri::runtime_service_server::RuntimeService;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::{Door, refuse, stream};
use crate::error::Error;
use crate::{container, node, sandbox, stats};

type Answer<T> = Result<Response<T>, Status>;

fn unsupported(operation: &str, what: &str) -> Error {
    Error::Unsupported { operation: operation.to_owned(), what: what.to_owned() }
}

#[tonic::async_trait]
impl RuntimeService for Door {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(node::version()))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let status = node::status(&self.runtime, request.get_ref()).await;
        Ok(Response::new(status.map_err(refuse("Status"))?))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        node::update_runtime_config(&self.runtime, request.into_inner()).await;
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        Ok(Response::new(node::runtime_config(&self.runtime)))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let id = sandbox::run::run(&self.runtime, request.into_inner()).await;
        let id = id.map_err(refuse("RunPodSandbox"))?;
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id: id.into() }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        let stopped = sandbox::stop::stop(&self.runtime, &request.get_ref().pod_sandbox_id).await;
        stopped.map_err(refuse("StopPodSandbox"))?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let id = &request.get_ref().pod_sandbox_id;
        let removed = sandbox::remove::remove(&self.runtime, id).await;
        removed.map_err(refuse("RemovePodSandbox"))?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let status = sandbox::status::status(&self.runtime, request.get_ref());
        Ok(Response::new(status.map_err(refuse("PodSandboxStatus"))?))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let updated = sandbox::update::update(&self.runtime, request.into_inner()).await;
        updated.map_err(refuse("UpdatePodSandboxResources"))?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }

    async fn checkpoint_pod(
        &self,
        _: Request<cri::CheckpointPodRequest>,
    ) -> Answer<cri::CheckpointPodResponse> {
        Err(refuse("CheckpointPod")(unsupported("checkpoint a pod", "checkpoints")))
    }

    async fn restore_pod(
        &self,
        _: Request<cri::RestorePodRequest>,
    ) -> Answer<cri::RestorePodResponse> {
        Err(refuse("RestorePod")(unsupported("restore a pod", "checkpoints")))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let id = container::create::create(&self.runtime, request.into_inner()).await;
        let id = id.map_err(refuse("CreateContainer"))?;
        Ok(Response::new(cri::CreateContainerResponse { container_id: id.into() }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let started = container::start::start(&self.runtime, request.get_ref()).await;
        started.map_err(refuse("StartContainer"))?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let stopped = container::stop::stop(&self.runtime, request.get_ref()).await;
        stopped.map_err(refuse("StopContainer"))?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let removed = container::remove::remove(&self.runtime, request.get_ref()).await;
        removed.map_err(refuse("RemoveContainer"))?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<BoxStream<cri::ContainerEventResponse>> {
        let reader = self.runtime.events.listen().map_err(refuse("GetContainerEvents"))?;
        Ok(Response::new(stream::events(reader)))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let status = container::status::status(&self.runtime, request.get_ref()).await;
        Ok(Response::new(status.map_err(refuse("ContainerStatus"))?))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        let reopened = container::reopen_log::reopen(&self.runtime, request.get_ref()).await;
        reopened.map_err(refuse("ReopenContainerLog"))?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let updated = container::update::update(&self.runtime, request.into_inner()).await;
        updated.map_err(refuse("UpdateContainerResources"))?;
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        let error = unsupported("checkpoint a container", "checkpoints");
        Err(refuse("CheckpointContainer")(error))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        let descriptors = stats::metric::descriptors();
        Ok(Response::new(cri::ListMetricDescriptorsResponse { descriptors }))
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Answer<cri::ExecSyncResponse> {
        let output = container::exec_sync::exec_sync(&self.runtime, request.into_inner()).await;
        Ok(Response::new(output.map_err(refuse("ExecSync"))?))
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let url = container::exec::exec(&self.runtime, request.into_inner());
        Ok(Response::new(cri::ExecResponse { url: url.map_err(refuse("Exec"))? }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let url = container::attach::attach(&self.runtime, request.get_ref());
        Ok(Response::new(cri::AttachResponse { url: url.map_err(refuse("Attach"))? }))
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        let url = sandbox::port_forward::port_forward(&self.runtime, request.get_ref());
        Ok(Response::new(cri::PortForwardResponse { url: url.map_err(refuse("PortForward"))? }))
    }
}

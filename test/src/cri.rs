//! The CRI calls as a kubelet makes them, with the ceremony of request messages taken off.

use std::path::Path;
use std::time::Duration;

use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use proto::cri::{
    AttachRequest, AuthConfig, Container, ContainerConfig, ContainerFilter, ContainerStatus,
    ContainerStatusRequest, CreateContainerRequest, ExecRequest, ExecSyncRequest, ExecSyncResponse,
    Image, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
    ListContainersRequest, ListImagesRequest, ListPodSandboxRequest, PodSandbox, PodSandboxConfig,
    PodSandboxFilter, PodSandboxStatus, PodSandboxStatusRequest, PortForwardRequest,
    PullImageRequest, RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StatusRequest, StatusResponse,
    StopContainerRequest, StopPodSandboxRequest, VersionRequest, VersionResponse,
};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// What a call gives: the answer, or the status with its code.
pub type Answer<T> = Result<T, Status>;

/// The kubelet takes messages of 16 MiB.
const MESSAGE_LIMIT: usize = 16 << 20;
/// No call may hang a test: longer than any deadline a kubelet sets in these tests.
const CALL_DEADLINE: Duration = Duration::from_secs(100);

/// The two services of one socket. Connects when first used and again after the daemon was restarted.
#[derive(Clone, Debug)]
pub struct Cri {
    /// The runtime service, for calls without a short form here.
    pub runtime: RuntimeServiceClient<Channel>,
    /// The image service, for calls without a short form here.
    pub images: ImageServiceClient<Channel>,
    /// What both go through.
    pub channel: Channel,
}

impl Cri {
    /// Clients for the socket at this path, which need not exist yet.
    pub fn new(socket: &Path) -> Self {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let channel = endpoint.timeout(CALL_DEADLINE).connect_lazy();
        Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT),
            channel,
        }
    }

    /// Version.
    pub async fn version(&self) -> Answer<VersionResponse> {
        let request = VersionRequest { version: "0.1.0".into() };
        Ok(self.runtime.clone().version(request).await?.into_inner())
    }

    /// Status with the verbose information.
    pub async fn status(&self) -> Answer<StatusResponse> {
        Ok(self.runtime.clone().status(StatusRequest { verbose: true }).await?.into_inner())
    }

    /// RunPodSandbox: the pod's id.
    pub async fn run_pod(&self, config: &PodSandboxConfig) -> Answer<String> {
        self.run_pod_by(config, "").await
    }

    /// RunPodSandbox with a handler: the pod's id.
    pub async fn run_pod_by(&self, config: &PodSandboxConfig, handler: &str) -> Answer<String> {
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.into() };
        Ok(self.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// StopPodSandbox.
    pub async fn stop_pod(&self, id: &str) -> Answer<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime.clone().stop_pod_sandbox(request).await.map(drop)
    }

    /// RemovePodSandbox.
    pub async fn remove_pod(&self, id: &str) -> Answer<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime.clone().remove_pod_sandbox(request).await.map(drop)
    }

    /// PodSandboxStatus.
    pub async fn pod_status(&self, id: &str) -> Answer<PodSandboxStatus> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let answer = self.runtime.clone().pod_sandbox_status(request).await?.into_inner();
        answer.status.ok_or_else(|| Status::internal("the answer has no status"))
    }

    /// ListPodSandbox.
    pub async fn pods(&self, filter: Option<PodSandboxFilter>) -> Answer<Vec<PodSandbox>> {
        let request = ListPodSandboxRequest { filter };
        Ok(self.runtime.clone().list_pod_sandbox(request).await?.into_inner().items)
    }

    /// CreateContainer: the container's id.
    pub async fn create(
        &self,
        pod: &str,
        config: &ContainerConfig,
        pod_config: &PodSandboxConfig,
    ) -> Answer<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        Ok(self.runtime.clone().create_container(request).await?.into_inner().container_id)
    }

    /// StartContainer.
    pub async fn start(&self, id: &str) -> Answer<()> {
        let request = StartContainerRequest { container_id: id.into() };
        self.runtime.clone().start_container(request).await.map(drop)
    }

    /// StopContainer with a grace period in seconds.
    pub async fn stop(&self, id: &str, grace: i64) -> Answer<()> {
        let request = StopContainerRequest { container_id: id.into(), timeout: grace };
        self.runtime.clone().stop_container(request).await.map(drop)
    }

    /// RemoveContainer.
    pub async fn remove(&self, id: &str) -> Answer<()> {
        let request = RemoveContainerRequest { container_id: id.into() };
        self.runtime.clone().remove_container(request).await.map(drop)
    }

    /// ListContainers.
    pub async fn containers(&self, filter: Option<ContainerFilter>) -> Answer<Vec<Container>> {
        let request = ListContainersRequest { filter };
        Ok(self.runtime.clone().list_containers(request).await?.into_inner().containers)
    }

    /// ContainerStatus.
    pub async fn container(&self, id: &str) -> Answer<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer = self.runtime.clone().container_status(request).await?.into_inner();
        answer.status.ok_or_else(|| Status::internal("the answer has no status"))
    }

    /// What ContainerStatus says beyond the status, as crictl shows it.
    pub async fn container_info(&self, id: &str) -> Answer<serde_json::Value> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: true };
        let answer = self.runtime.clone().container_status(request).await?.into_inner();
        let info = answer.info.get("info").map(String::as_str).unwrap_or_default();
        serde_json::from_str(info).map_err(|error| Status::internal(error.to_string()))
    }

    /// ExecSync with a timeout in seconds (0: none).
    pub async fn exec(&self, id: &str, cmd: &[&str], timeout: i64) -> Answer<ExecSyncResponse> {
        let cmd = cmd.iter().map(ToString::to_string).collect();
        let request = ExecSyncRequest { container_id: id.into(), cmd, timeout };
        Ok(self.runtime.clone().exec_sync(request).await?.into_inner())
    }

    /// Exec: where the streams are. `streams` has the letters i, o, e and t (a terminal).
    pub async fn exec_url(&self, id: &str, cmd: &[&str], streams: &str) -> Answer<String> {
        let request = ExecRequest {
            container_id: id.into(),
            cmd: cmd.iter().map(ToString::to_string).collect(),
            tty: streams.contains('t'),
            stdin: streams.contains('i'),
            stdout: streams.contains('o'),
            stderr: streams.contains('e'),
        };
        Ok(self.runtime.clone().exec(request).await?.into_inner().url)
    }

    /// Attach: where the streams are, as in [`Cri::exec_url`].
    pub async fn attach_url(&self, id: &str, streams: &str) -> Answer<String> {
        let request = AttachRequest {
            container_id: id.into(),
            tty: streams.contains('t'),
            stdin: streams.contains('i'),
            stdout: streams.contains('o'),
            stderr: streams.contains('e'),
        };
        Ok(self.runtime.clone().attach(request).await?.into_inner().url)
    }

    /// PortForward: where the connections are.
    pub async fn forward_url(&self, pod: &str) -> Answer<String> {
        let request = PortForwardRequest { pod_sandbox_id: pod.into(), port: Vec::new() };
        Ok(self.runtime.clone().port_forward(request).await?.into_inner().url)
    }

    /// PullImage: the image's id.
    pub async fn pull(&self, name: &str, auth: Option<AuthConfig>) -> Answer<String> {
        let image = Some(ImageSpec { image: name.into(), ..Default::default() });
        let request = PullImageRequest { image, auth, sandbox_config: None };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    /// ListImages.
    pub async fn images(&self) -> Answer<Vec<Image>> {
        let request = ListImagesRequest { filter: None };
        Ok(self.images.clone().list_images(request).await?.into_inner().images)
    }

    /// ImageStatus: nothing when the image is not there.
    pub async fn image(&self, name: &str) -> Answer<Option<Image>> {
        let image = Some(ImageSpec { image: name.into(), ..Default::default() });
        let request = ImageStatusRequest { image, verbose: false };
        Ok(self.images.clone().image_status(request).await?.into_inner().image)
    }

    /// RemoveImage.
    pub async fn remove_image(&self, name: &str) -> Answer<()> {
        let image = Some(ImageSpec { image: name.into(), ..Default::default() });
        self.images.clone().remove_image(RemoveImageRequest { image }).await.map(drop)
    }

    /// ImageFsInfo.
    pub async fn image_fs(&self) -> Answer<ImageFsInfoResponse> {
        Ok(self.images.clone().image_fs_info(ImageFsInfoRequest {}).await?.into_inner())
    }
}

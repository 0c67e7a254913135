//! The socket for those who know containerd's API only.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use cri::{Facade, Runtime};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::{sentence, socket};
use crate::config::Config;

/// A facade that is being served; dropping it ends that.
pub struct Open(AbortHandle);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves the facade if the configuration wants one. That it cannot be is a warning: the kubelet does not need it.
pub fn open(config: &Config, runtime: &Arc<Runtime>) -> Option<Open> {
    let address = &config.facade.containerd_socket;
    if address.as_os_str().is_empty() {
        return None;
    }
    let failed = |error: &str| {
        tracing::warn!(address = %address.display(), error, "serve a part of containerd's API");
    };
    if is_served(address) {
        failed("somebody else serves on this socket");
        return None;
    }
    let listener = socket::bind(address).map_err(|error| failed(&sentence(&error))).ok()?;
    let facade = Facade::new(Arc::clone(runtime));
    let served = Server::builder()
        .add_service(facade.version_service())
        .add_service(facade.containers_service())
        .add_service(facade.tasks_service())
        .serve_with_incoming(UnixListenerStream::new(listener));
    tracing::info!(address = %address.display(), "serving a part of containerd's API");
    Some(Open(tokio::spawn(served).abort_handle()))
}

/// Whether there is a containerd: its socket must not be taken away from it.
fn is_served(address: &Path) -> bool {
    UnixStream::connect(address).is_ok()
}

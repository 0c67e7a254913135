//! Where the wire ends: the two services as tables of contents, one line an RPC.

mod backend;
mod encoded;
mod images;
mod runtimes;
pub mod stream;

use std::borrow::Cow;
use std::sync::Arc;

use proto::cri::image_service_server::ImageServiceServer;
use proto::cri::runtime_service_server::RuntimeServiceServer;
use tonic::{Code, Status};

use encoded::Encoded;

use crate::error::Error;
use crate::runtime::Runtime;

/// The largest message either way: what the kubelet's client takes, too.
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The services, over one runtime.
#[derive(Clone, Debug)]
pub struct Door {
    runtime: Arc<Runtime>,
}

impl Door {
    /// Opens the door to a runtime.
    #[must_use]
    pub fn new(runtime: Arc<Runtime>) -> Self {
        Self { runtime }
    }

    /// The RuntimeService.
    #[must_use]
    pub fn runtime_service(&self) -> Encoded {
        let typed = RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        Encoded::before(typed, self.clone())
    }

    /// Ends the streams that would go on for as long as the daemon does, so that it can end.
    pub fn close(&self) {
        self.runtime.events.close();
    }

    /// The ImageService.
    #[must_use]
    pub fn image_service(&self) -> ImageServiceServer<Self> {
        ImageServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }
}

/// The one place where a failure leaves: it is logged here and nowhere below.
fn refuse(rpc: impl Into<Cow<'static, str>>) -> impl Fn(Error) -> Status {
    let rpc = rpc.into();
    move |error| {
        let status = Status::from(error);
        match status.code() {
            Code::NotFound | Code::InvalidArgument | Code::Unimplemented => {
                tracing::info!(rpc = &*rpc, code = ?status.code(), error = status.message());
            }
            _ => tracing::warn!(rpc = &*rpc, code = ?status.code(), error = status.message()),
        }
        status
    }
}

//! One call: encoded, sent, answered within its deadline, and its refusal turned into an error.

use std::os::fd::OwnedFd;
use std::time::Duration;

use prost::Message;
use proto::shim::container::Failure as WireFailure;
use proto::shim::ttrpc::{Request, Response};

use super::task::Shim;
use crate::error::{Failure, ShimError};
use crate::type_name;

/// containerd's Task service.
pub(super) const TASK: &str = "containerd.task.v2.Task";
/// Wherry's extras.
pub(super) const CONTAINER: &str = "wherry.shim.v1.Container";

/// What is asked, of which service, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) service: &'static str,
    pub(super) method: &'static str,
    /// For the message of an error.
    pub(super) operation: &'static str,
    /// `None` waits for as long as the shim lives.
    pub(super) deadline: Option<Duration>,
}

impl Call {
    pub(super) const fn task(method: &'static str, operation: &'static str, seconds: u64) -> Self {
        Self { service: TASK, method, operation, deadline: Some(Duration::from_secs(seconds)) }
    }

    pub(super) const fn container(method: &'static str, operation: &'static str) -> Self {
        let deadline = Some(Duration::from_secs(10));
        Self { service: CONTAINER, method, operation, deadline }
    }
}

impl Shim {
    /// Calls the shim.
    pub(super) async fn call<A: Message + Default>(
        &self,
        call: Call,
        message: &impl Message,
    ) -> Result<A, ShimError> {
        self.call_with(call, message, Vec::new()).await
    }

    /// Calls the shim, and gives it files.
    pub(super) async fn call_with<A: Message + Default>(
        &self,
        call: Call,
        message: &impl Message,
        files: Vec<OwnedFd>,
    ) -> Result<A, ShimError> {
        let timeout = call.deadline.unwrap_or(Duration::ZERO);
        let request = Request {
            service: call.service.to_owned(),
            method: call.method.to_owned(),
            payload: message.encode_to_vec(),
            timeout_nano: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
            metadata: Vec::new(),
        };
        let answered = match call.deadline {
            None => self.connection.call(&request, files).await,
            Some(deadline) => {
                let answer =
                    tokio::time::timeout(deadline, self.connection.call(&request, files)).await;
                answer.map_err(|_| ShimError::DeadlineExceeded {
                    operation: call.operation,
                    bundle: self.bundle.dir().to_owned(),
                })?
            }
        };
        let response = answered.map_err(|source| ShimError::Unavailable {
            operation: call.operation,
            bundle: self.bundle.dir().to_owned(),
            source,
        })?;
        self.decode(call, response)
    }

    fn decode<A: Message + Default>(&self, call: Call, response: Response) -> Result<A, ShimError> {
        match response.status {
            Some(status) if status.code != 0 => {
                let failure = status
                    .details
                    .iter()
                    .find(|detail| detail.type_url.ends_with(type_name::FAILURE))
                    .and_then(|detail| WireFailure::decode(detail.value.as_slice()).ok());
                Err(match failure {
                    Some(failure) => ShimError::Refused(Failure::from_wire(failure)),
                    None => ShimError::Foreign {
                        operation: call.operation,
                        bundle: self.bundle.dir().to_owned(),
                        code: status.code,
                        message: status.message,
                    },
                })
            }
            _ => A::decode(response.payload.as_slice()).map_err(|_| ShimError::Malformed {
                operation: call.operation,
                bundle: self.bundle.dir().to_owned(),
            }),
        }
    }
}

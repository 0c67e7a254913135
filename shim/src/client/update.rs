//! Other limits for a container that lives.

use std::collections::HashMap;

use oci_spec::runtime::LinuxResources;
use prost_types::Any;
use proto::shim::task::v2 as wire;

use super::call::Call;
use super::task::Shim;
use crate::error::{Failure, FailureKind, ShimError};
use crate::type_name;

const UPDATE: Call = Call::task("Update", "update container", 30);

impl Shim {
    /// Changes a container's limits to `resources`, all of them or none; what these do not mention stays. The processes
    /// get `oom_score_adj` after that, as far as it is permitted.
    ///
    /// # Errors
    /// `InvalidArgument` for a limit that the kernel does not take, `FailedPrecondition` for a memory limit below what
    /// is in use, for an update while another is under way, and for a container that has ended. The limits are what
    /// they were then.
    pub async fn update(
        &self,
        resources: &LinuxResources,
        oom_score_adj: Option<i32>,
    ) -> Result<(), ShimError> {
        let value = serde_json::to_vec(resources).map_err(|error| {
            let (kind, id) = (FailureKind::InvalidArgument, self.id.clone());
            ShimError::Refused(Failure::new(kind, "encode update", id, error.to_string()))
        })?;
        let annotations = oom_score_adj
            .map(|score| (type_name::OOM_SCORE_ADJ.to_owned(), score.to_string()))
            .into_iter()
            .collect::<HashMap<_, _>>();
        let request = wire::UpdateTaskRequest {
            id: self.id.clone(),
            resources: Some(Any { type_url: type_name::RESOURCES.to_owned(), value }),
            annotations: annotations.into_iter().collect(),
        };
        self.call(UPDATE, &request).await
    }
}

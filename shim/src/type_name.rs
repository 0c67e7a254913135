//! Names of the messages that travel in an `Any`, and of annotations.

/// In the details of a ttrpc status: [`crate::Failure`].
pub const FAILURE: &str = "wherry.shim.v1.Failure";
/// In `CreateTaskRequest.options`.
pub const CREATE_OPTIONS: &str = "wherry.shim.v1.CreateOptions";
/// In `ExecProcessRequest.spec`: a process of an OCI spec as JSON, under containerd's name.
pub const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// In `UpdateTaskRequest.resources`: an OCI spec's `linux.resources` as JSON, under containerd's name.
pub const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// The key in `UpdateTaskRequest.annotations`: what an OCI spec has as `process.oomScoreAdj`, a decimal number.
pub const OOM_SCORE_ADJ: &str = "io.wherry.oom-score-adj";
/// In `ProcessInfo.info`: which exec it is.
pub const PROCESS_DETAILS: &str = "containerd.runc.v1.ProcessDetails";
/// In `CreateTaskRequest.options` of containerd: what its own runtime shim takes.
pub const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";

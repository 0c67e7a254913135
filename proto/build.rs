//! Compiles the wire definitions in pure Rust (protox): no `protoc` binary is needed.

use std::error::Error;

const SHIM: [&str; 10] = [
    "shim/task.proto",
    "shim/ttrpc.proto",
    "shim/container.proto",
    "shim/cgroups_v1.proto",
    "shim/cgroups_v2.proto",
    "shim/runc_options.proto",
    "shim/bootstrap.proto",
    "shim/events.proto",
    "shim/event_service.proto",
    "shim/introspection.proto",
];

const CONTAINERD: [&str; 3] =
    ["containerd/version.proto", "containerd/containers.proto", "containerd/tasks.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=containerd");
    println!("cargo:rerun-if-changed=cri");
    println!("cargo:rerun-if-changed=shim");
    let shim = protox::compile(SHIM, ["shim"])?;
    prost_build::Config::new().compile_fds(shim)?;
    if std::env::var_os("CARGO_FEATURE_CRI").is_some() {
        let cri = protox::compile(["cri/v1.proto"], ["cri"])?;
        tonic_prost_build::configure().generate_default_stubs(true).compile_fds(cri)?;
        let containerd = protox::compile(CONTAINERD, ["containerd", "shim"])?;
        tonic_prost_build::configure()
            .extern_path(".containerd.v1.types", "crate::shim::v1::types")
            .compile_fds(containerd)?;
    }
    Ok(())
}

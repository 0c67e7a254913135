//! The command line, driven as podman and containerd do: containers made of busybox.
//!
//! Takes root. The test process starts itself anew in a mount namespace of its own; cgroups, states and bundles are its
//! own too. Without root or busybox it says SKIPPED. `WHERRY_OCI` names another runtime: the suite is proven on runc, and
//! then leaves out what is about this one's own ways.
#![allow(missing_docs, clippy::unwrap_used, let_underscore_drop)]

mod attach;
mod bad_input;
mod containerd;
mod crash;
mod exec;
mod harness;
mod life;
mod output;
mod podman;

fn main() -> std::process::ExitCode {
    harness::run(&[
        life::TESTS,
        output::TESTS,
        exec::TESTS,
        attach::TESTS,
        bad_input::TESTS,
        crash::TESTS,
        podman::TESTS,
        containerd::TESTS,
    ])
}

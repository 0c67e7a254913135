//! The real `wherry-shim`, driven through the client library: containers made of busybox.
//!
//! Takes root. The test process starts itself anew in a mount and network namespace of its own, so that nothing it
//! mounts is the machine's; its cgroups are below a parent of their own. Without root or busybox it says SKIPPED.
//!
//! With `--measure` it prints what a container costs instead; `WHERRY_SHIM` names another build of the shim.
#![allow(missing_docs, clippy::too_many_lines, clippy::unwrap_used, let_underscore_drop)]

mod attach;
mod attributes;
mod harness;
mod here;
mod hook;
mod hostile;
mod life;
mod limits;
mod log;
mod measure;
mod memory;
mod process;
mod rootfs;
mod run;
mod scope;
mod seccomp;
mod task;
mod users;
mod wire;

fn main() -> std::process::ExitCode {
    if let Ok(options) = std::env::var(here::ROLE) {
        return here::role(&options);
    }
    if let Some(code) = hostile::attacker::role() {
        return code;
    }
    harness::run(&[
        life::TESTS,
        process::TESTS,
        rootfs::TESTS,
        hook::TESTS,
        attributes::TESTS,
        users::TESTS,
        memory::TESTS,
        seccomp::TESTS,
        limits::TESTS,
        task::TESTS,
        attach::TESTS,
        run::TESTS,
        log::TESTS,
        scope::TESTS,
        hostile::TESTS,
        hostile::matrix::TESTS,
        hostile::leak::TESTS,
        hostile::input::TESTS,
        hostile::exhaust::TESTS,
    ])
}

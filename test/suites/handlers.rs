//! RuntimeClass handlers: the same containers, made by Wherry's own runtime, by the command lines of runc and crun, and by
//! containerd's shim for runc.

mod end;
mod life;
mod outlive;

use std::path::{Path, PathBuf};

use e2e::node::{Node, Pod};
use e2e::runner::{Test, skip};
use e2e::runtime::Settings;
use e2e::tests;
use e2e::tools;
use e2e::world::World;
use tonic::Code;

use crate::code;

/// Every handler gets its row of every test.
macro_rules! rows {
    ($($handler:ident: $name:literal [$($file:ident: $($test:ident),* $(,)?);* $(;)?])*) => {
        $(mod $handler {
            use e2e::runner::Test;
            use e2e::tests;
            use e2e::world::World;

            pub fn tests() -> Vec<Test> {
                tests![$($(Wherry: $test),*),*]
            }

            $($(async fn $test(world: &mut World) {
                super::$file::$test(world, $name).await;
            })*)*
        })*

        fn all_rows() -> Vec<Test> {
            [$($handler::tests()),*].into_iter().flatten().collect()
        }
    };
}

macro_rules! all_tests {
    ($($handler:ident: $name:literal),* $(,)?) => {
        rows! { $($handler: $name [
            life:
                streams_and_exit_code_are_known,
                names_of_users_are_the_images,
                commands_are_executed_in_it,
                a_terminal_is_one,
                an_input_that_is_not_wanted_is_empty,
                limits_are_in_force,
                a_pod_can_share_its_processes,
                mounts_travel_as_far_as_they_are_asked_to;
            end:
                a_container_is_asked_to_end_and_then_killed,
                a_kill_for_want_of_memory_is_known,
                a_command_that_is_not_there_is_an_error_that_names_it,
                a_created_container_is_removed_without_a_trace,
                a_log_is_rotated_without_a_lost_line;
            outlive:
                a_container_outlives_its_daemon,
                a_killed_shim_takes_its_container_with_it,
                a_handler_that_is_gone_keeps_nobody;
        ])* }
    };
}

all_tests! { built_in: "plain", runc: "runc", crun: "crun", containerd_shim: "containerd-runc" }

pub fn tests() -> Vec<Test> {
    let mut all = tests![
        Wherry: an_unknown_handler_is_refused_by_name,
        Wherry: the_status_lists_all_handlers,
    ];
    all.extend(all_rows());
    all
}

/// crun refuses to run where version 2's hierarchy stands beside version 1's with controllers: it gets a mount namespace of
/// its own, in which that hierarchy is not.
fn crun(world: &World) -> Option<PathBuf> {
    let crun = tools::find("crun")?;
    if !Path::new("/sys/fs/cgroup/unified").is_dir() {
        return Some(crun);
    }
    let wrapper = world.folder.join("crun-without-unified");
    let text = format!(
        "#!/bin/sh\nexec unshare --mount --propagation unchanged sh -c 'mount --make-private /sys/fs/cgroup; umount -l /sys/fs/cgroup/unified; exec \"$0\" \"$@\"' {} \"$@\"\n",
        crun.display()
    );
    std::fs::write(&wrapper, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&wrapper, mode).unwrap();
    Some(wrapper)
}

/// Whatever is installed. All tests have the same settings, so that they share a node.
fn settings(world: &World) -> Settings {
    let mut extra = "[handlers.plain]\nkind = \"built-in\"\n".to_owned();
    let runc = tools::find("runc");
    let commands = [("runc", runc.clone()), ("crun", crun(world))];
    for (name, path) in commands.into_iter().filter_map(|(name, path)| Some((name, path?))) {
        extra += &format!("[handlers.{name}]\nkind = \"oci\"\npath = {path:?}\n");
    }
    if let (Some(shim), Some(runc)) = (tools::find("containerd-shim-runc-v2"), runc) {
        extra += &format!(
            "[handlers.containerd-runc]\nkind = \"shim\"\nruntime = {shim:?}\noptions.binary_name = {runc:?}\n"
        );
    }
    Settings { extra, ..Settings::default() }
}

async fn node<'a>(world: &'a mut World, handler: &str) -> &'a mut Node {
    let settings = settings(world);
    if !settings.extra.contains(&format!("[handlers.{handler}]")) {
        skip(&format!("what handler {handler} stands for is not installed"));
    }
    world.node_with(settings).await
}

/// A usual pod of a handler's.
async fn pod(node: &Node, handler: &str) -> Pod {
    let config = node.pod_config(handler);
    node.run_pod_by(config, handler).await.unwrap()
}

async fn an_unknown_handler_is_refused_by_name(world: &mut World) {
    let node = node(world, "plain").await;
    let config = node.pod_config("unknown");
    let refused = node.cri.run_pod_by(&config, "no-such").await.unwrap_err();
    assert!(refused.message().contains("\"no-such\""), "{refused}");
    assert_eq!(code::<()>(Err(refused)), Code::InvalidArgument);
    assert_eq!(node.cri.pods(None).await.unwrap(), []);
}

async fn the_status_lists_all_handlers(world: &mut World) {
    let node = node(world, "runc").await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let handlers = node.cri.status().await.unwrap().runtime_handlers;
        let names: Vec<_> = handlers.iter().map(|one| one.name.as_str()).collect();
        assert!(
            names.starts_with(&["", "containerd-runc"]) && names.contains(&"wherry"),
            "{names:?}"
        );
        let runc = handlers.iter().find(|one| one.name == "runc").unwrap();
        // Asked of the program itself, while requests are served.
        if runc.features.unwrap().recursive_read_only_mounts {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "runc 1.1 knows the option rro");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

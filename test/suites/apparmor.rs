//! AppArmor profiles: the runtime's own, the node's, none. In the guest, whose kernel has AppArmor.

use std::io::Write;
use std::process::{Command, Stdio};

use e2e::runner::Test;
use e2e::spec::{Container, script};
use e2e::tests;
use e2e::world::World;
use proto::cri::SecurityProfile;
use proto::cri::security_profile::ProfileType;
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        AppArmor: who_says_nothing_has_the_runtimes_profile,
        AppArmor: the_runtimes_profile_lets_a_container_work_and_keeps_it_from_its_host,
        AppArmor: the_nodes_profiles_hold_for_the_first_process_and_for_execs,
        AppArmor: a_profile_that_is_not_loaded_is_refused,
        AppArmor: privileged_containers_are_unconfined_unless_a_profile_is_named,
        Wherry: without_apparmor_the_default_is_nothing_and_a_named_profile_an_error,
    ]
}

const LOOK: &str = "cat /proc/self/attr/current";

fn profile(kind: ProfileType, name: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
}

fn load(text: &str) {
    let mut parser = Command::new("apparmor_parser")
        .args(["-K", "-r"])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success());
}

async fn who_says_nothing_has_the_runtimes_profile(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("apparmor").await;
    let said = node.finish(&pod, &script("nothing", LOOK)).await.1;
    assert_eq!(said.trim(), "wherry-default (enforce)");
    let config = script("default", LOOK)
        .security(|security| security.apparmor = profile(ProfileType::RuntimeDefault, ""));
    assert_eq!(node.finish(&pod, &config).await.1.trim(), "wherry-default (enforce)");
    let config = script("free", LOOK)
        .security(|security| security.apparmor = profile(ProfileType::Unconfined, ""));
    assert_eq!(node.finish(&pod, &config).await.1.trim(), "unconfined");
}

async fn the_runtimes_profile_lets_a_container_work_and_keeps_it_from_its_host(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("apparmor").await;
    let text = "touch /file && ls / >/dev/null && echo files; echo 1 > /proc/self/oom_score_adj && echo proc; \
        (sleep 60 & kill $!) && echo signals; ping -c 1 127.0.0.1 >/dev/null && echo network; \
        mount -t tmpfs none /tmp 2>/dev/null || echo no mount; \
        echo x > /proc/sys/kernel/core_pattern 2>/dev/null || echo no core pattern; \
        cat /proc/kcore 2>/dev/null | head -c 1 | grep -q . || echo no kcore; \
        echo 20000 > /proc/sys/kernel/msgmnb && echo ipc; \
        echo 1 > /sys/module/apparmor/parameters/debug 2>/dev/null || echo no module";
    // Nothing else stands in the way: no masks, no seccomp, all capabilities.
    let config = script("works", text).security(|security| {
        let capabilities = security.capabilities.get_or_insert_default();
        capabilities.add_capabilities = vec!["ALL".into()];
    });
    let said = node.finish(&pod, &config).await.1;
    let wanted = [
        "files",
        "proc",
        "signals",
        "network",
        "no mount",
        "no core pattern",
        "no kcore",
        "ipc",
        "no module",
    ];
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("sh:")).collect();
    assert_eq!(lines, wanted);
}

async fn the_nodes_profiles_hold_for_the_first_process_and_for_execs(world: &mut World) {
    load(
        "profile wherry-test-no-writes flags=(attach_disconnected) { file, signal, capability, deny /tmp/** w, }",
    );
    let node = world.node().await;
    let pod = node.pod("apparmor").await;
    let denied = "touch /tmp/x 2>&1 | grep -o 'Permission denied'";
    let config = script("named", &format!("{denied}; {LOOK}; sleep 3600")).security(|security| {
        security.apparmor = profile(ProfileType::Localhost, "wherry-test-no-writes");
    });
    let id = node.run(&pod, &config).await;
    node.prints(&pod, &config, "Permission denied\nwherry-test-no-writes (enforce)").await;
    let said = node.sh(&id, &format!("{denied}; {LOOK}")).await;
    assert_eq!(said, "Permission denied\nwherry-test-no-writes (enforce)");
    // An old kubelet says it in another field.
    #[allow(deprecated)]
    let config = script("old", LOOK).security(|security| {
        security.apparmor_profile = "localhost/wherry-test-no-writes".into();
    });
    let said = node.finish(&pod, &config).await.1;
    assert_eq!(said.trim(), "wherry-test-no-writes (enforce)");
}

async fn a_profile_that_is_not_loaded_is_refused(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("apparmor").await;
    let config = script("absent", "true").security(|security| {
        security.apparmor = profile(ProfileType::Localhost, "wherry-test-absent");
    });
    let refused = node.create(&pod, &config).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("wherry-test-absent: it is not loaded"), "{refused}");
}

async fn privileged_containers_are_unconfined_unless_a_profile_is_named(world: &mut World) {
    load(
        "profile wherry-test-open flags=(attach_disconnected) { file, signal, capability, network, }",
    );
    let node = world.node().await;
    let mut config = node.pod_config("privileged");
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    let pod = node.run_pod(config).await.unwrap();
    let config = script("free", LOOK).security(|security| security.privileged = true);
    assert_eq!(node.finish(&pod, &config).await.1.trim(), "unconfined");
    let config = script("named", LOOK).security(|security| {
        security.privileged = true;
        security.apparmor = profile(ProfileType::Localhost, "wherry-test-open");
    });
    assert_eq!(node.finish(&pod, &config).await.1.trim(), "wherry-test-open (enforce)");
}

async fn without_apparmor_the_default_is_nothing_and_a_named_profile_an_error(world: &mut World) {
    if e2e::machine::lacks_apparmor().is_none() {
        e2e::runner::skip("this kernel has AppArmor");
    }
    let node = world.node().await;
    let pod = node.pod("apparmor").await;
    let config = script("default", "true")
        .security(|security| security.apparmor = profile(ProfileType::RuntimeDefault, ""));
    assert_eq!(node.finish(&pod, &config).await.0.exit_code, 0);
    let config = script("named", "true")
        .security(|security| security.apparmor = profile(ProfileType::Localhost, "any"));
    assert_eq!(code(node.create(&pod, &config).await), Code::FailedPrecondition);
}

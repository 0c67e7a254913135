//! Which system calls a container may make: the runtime's own profile, a file's, none.

use e2e::runner::Test;
use e2e::spec::{Container, script};
use e2e::tests;
use e2e::world::World;
use proto::cri::SecurityProfile;
use proto::cri::security_profile::ProfileType;

pub fn tests() -> Vec<Test> {
    tests![
        Any: the_default_profile_holds_for_the_first_process_and_for_execs,
        Any: without_a_profile_nothing_is_filtered,
        Any: a_profile_from_a_file_holds,
        Any: a_profile_that_is_not_there_is_refused,
        Any: a_privileged_container_has_no_filter,
    ]
}

const FILTERED: &str = "Seccomp:\t2";
const FREE: &str = "Seccomp:\t0";
const LOOK: &str = "grep ^Seccomp: /proc/self/status";

fn profile(kind: ProfileType, path: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: path.into() })
}

async fn the_default_profile_holds_for_the_first_process_and_for_execs(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("seccomp").await;
    // A namespace of users is what the profile denies to those without CAP_SYS_ADMIN.
    let text = format!("{LOOK}; unshare -U true; echo unshare $?; sleep 3600");
    let config = script("default", &text)
        .security(|security| security.seccomp = profile(ProfileType::RuntimeDefault, ""));
    let id = node.run(&pod, &config).await;
    node.prints(&pod, &config, "unshare 1").await;
    node.prints(&pod, &config, FILTERED).await;
    assert_eq!(node.sh(&id, LOOK).await.trim_end(), FILTERED);
    assert_eq!(
        node.sh(&id, "unshare -U true 2>/dev/null || echo denied").await.trim_end(),
        "denied"
    );
}

async fn without_a_profile_nothing_is_filtered(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("seccomp").await;
    let config = script("free", LOOK)
        .security(|security| security.seccomp = profile(ProfileType::Unconfined, ""));
    let (status, printed) = node.finish(&pod, &config).await;
    assert_eq!((status.exit_code, printed.trim_end()), (0, FREE));
}

async fn a_profile_from_a_file_holds(world: &mut World) {
    let path = world.new_folder().join("no-mkdir.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#;
    std::fs::write(&path, text).unwrap();
    let node = world.node().await;
    let pod = node.pod("seccomp").await;
    let config =
        script("file", "mkdir /made 2>&1; touch /touched && echo touched").security(|security| {
            security.seccomp = profile(ProfileType::Localhost, path.to_str().unwrap())
        });
    let (status, printed) = node.finish(&pod, &config).await;
    assert_eq!(status.exit_code, 0, "{printed}");
    assert!(printed.contains("Operation not supported"), "{printed}");
    assert!(printed.contains("touched"), "{printed}");
}

async fn a_profile_that_is_not_there_is_refused(world: &mut World) {
    let path = world.new_folder().join("missing.json");
    let node = world.node().await;
    let pod = node.pod("seccomp").await;
    let config = script("missing", "true").security(|security| {
        security.seccomp = profile(ProfileType::Localhost, path.to_str().unwrap());
    });
    let refused = node.create(&pod, &config).await.unwrap_err();
    assert!(refused.message().contains("missing.json"), "{refused}");
}

async fn a_privileged_container_has_no_filter(world: &mut World) {
    let node = world.node().await;
    let mut config = node.pod_config("seccomp");
    let pod_security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    pod_security.privileged = true;
    std::fs::create_dir_all(&config.log_directory).unwrap();
    let pod = node.run_pod(config).await.unwrap();
    let config = script("privileged", LOOK).security(|security| {
        security.privileged = true;
        security.seccomp = profile(ProfileType::RuntimeDefault, "");
    });
    let (status, printed) = node.finish(&pod, &config).await;
    assert_eq!((status.exit_code, printed.trim_end()), (0, FREE));
}

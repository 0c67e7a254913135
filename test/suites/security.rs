//! The rest of the security context: targets, labels, defaults of the pod, options of mounts, devices.

use std::path::Path;

use e2e::runner::Test;
use e2e::spec::{Container, PodConfig, script, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::{Device, MountPropagation, NamespaceMode, SeLinuxOption};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Wherry: a_container_can_see_the_processes_of_another_of_its_pod,
        Wherry: a_target_that_does_not_run_or_is_elsewhere_is_refused,
        Wherry: low_ports_and_pings_need_no_root_unless_the_pod_says_otherwise,
        Wherry: selinux_options_that_are_none_are_refused_and_others_taken,
        Wherry: a_mount_has_the_attributes_that_it_is_given,
        Wherry: propagation_wants_a_mount_of_the_host_that_has_it,
        Wherry: nothing_is_masked_unless_it_is_listed,
        Wherry: a_folder_of_devices_is_given_with_all_in_it,
        Wherry: ambient_capabilities_reach_a_process_that_is_not_root,
    ]
}

async fn a_container_can_see_the_processes_of_another_of_its_pod(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("target").await;
    let target = node.run(&pod, &script("target", "exec sleep 1234")).await;
    let debug = sleeper("debug").security(|security| {
        let options = security.namespace_options.as_mut().unwrap();
        options.pid = NamespaceMode::Target.into();
        options.target_id = target.clone();
    });
    let debug = node.run(&pod, &debug).await;
    assert_eq!(
        node.sh(&debug, "ps -o pid,args | grep '[s]leep 1234'").await.trim(),
        "1 sleep 1234"
    );
    // The namespace ends with its first process, and so does the one that looks at it.
    node.cri.stop(&target, 0).await.unwrap();
    assert_eq!(node.exit(&debug).await.exit_code, 137);
}

async fn a_target_that_does_not_run_or_is_elsewhere_is_refused(world: &mut World) {
    let node = world.node().await;
    let (pod, other) = (node.pod("one").await, node.pod("other").await);
    let created = node.create(&pod, &sleeper("created")).await.unwrap();
    let elsewhere = node.run(&other, &sleeper("elsewhere")).await;
    let at = |id: &str| {
        script("debug", "true").security(|security| {
            let options = security.namespace_options.as_mut().unwrap();
            options.pid = NamespaceMode::Target.into();
            options.target_id = id.into();
        })
    };
    assert_eq!(code(node.create(&pod, &at(&created)).await), Code::InvalidArgument);
    assert_eq!(code(node.create(&pod, &at(&elsewhere)).await), Code::InvalidArgument);
    assert_eq!(code(node.create(&pod, &at("")).await), Code::InvalidArgument);
    assert_eq!(code(node.create(&pod, &at(&"0".repeat(64))).await), Code::NotFound);
}

async fn low_ports_and_pings_need_no_root_unless_the_pod_says_otherwise(world: &mut World) {
    let node = world.node().await;
    let text =
        "cd /proc/sys/net/ipv4; tr '\\t' ' ' < ping_group_range; cat ip_unprivileged_port_start";
    let pod = node.pod("defaults").await;
    assert_eq!(node.finish(&pod, &script("defaults", text)).await.1, "0 2147483647\n0\n");
    let config = node
        .pod_config("own")
        .sysctl("net.ipv4.ip_unprivileged_port_start", "1024")
        .sysctl("net/ipv4/ping_group_range", "1 0");
    let pod = node.run_pod(config).await.unwrap();
    assert_eq!(node.finish(&pod, &script("own", text)).await.1, "1 0\n1024\n");
}

async fn selinux_options_that_are_none_are_refused_and_others_taken(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("selinux").await;
    let with = |level: &str| {
        script("selinux", "true").security(|security| {
            security.selinux_options =
                Some(SeLinuxOption { level: level.into(), ..Default::default() });
        })
    };
    assert_eq!(code(node.create(&pod, &with("s0,c4,c5")).await), Code::InvalidArgument);
    assert_eq!(node.finish(&pod, &with("s0:c4,c5")).await.0.exit_code, 0);
}

async fn a_mount_has_the_attributes_that_it_is_given(world: &mut World) {
    let folder = world.new_folder();
    let node = world.node().await;
    let pod = node.pod("attributes").await;
    let text = "cp /bin/busybox /data/x; /data/x true 2>/dev/null || echo noexec; grep ' /data ' /proc/mounts";
    let mut config = script("attributes", text).mount(&folder, "/data", false);
    config.mounts[0].mount_options = vec!["noexec".into(), "nosuid".into()];
    let said = node.finish(&pod, &config).await.1;
    assert!(
        said.starts_with("noexec\n") && said.contains("nosuid") && said.contains("noexec"),
        "{said}"
    );
    config.metadata.as_mut().unwrap().attempt = 1;
    config.mounts[0].mount_options = vec!["size=1g".into()];
    assert_eq!(code(node.create(&pod, &config).await), Code::InvalidArgument);
}

async fn propagation_wants_a_mount_of_the_host_that_has_it(world: &mut World) {
    let folder = world.new_folder();
    let node = world.node().await;
    let pod = node.pod("propagation").await;
    mount_bind(&folder, &folder).unwrap();
    let mut answers = Vec::new();
    for kind in [
        MountPropagationFlags::PRIVATE,
        MountPropagationFlags::SHARED,
        MountPropagationFlags::DOWNSTREAM,
    ] {
        mount_change(&folder, kind).unwrap();
        for asked in [
            MountPropagation::PropagationHostToContainer,
            MountPropagation::PropagationBidirectional,
        ] {
            let name = format!("p{}", answers.len());
            let mut config = script(&name, "true").mount(&folder, "/data", false);
            config.mounts[0].propagation = asked.into();
            answers
                .push(node.create(&pod, &config).await.map(drop).map_err(|refused| refused.code()));
        }
    }
    unmount(&folder, UnmountFlags::DETACH).unwrap();
    let no = Err(Code::FailedPrecondition);
    // A slave of nobody is private.
    assert_eq!(answers, [no, no, Ok(()), Ok(()), answers[4], no]);
}

async fn nothing_is_masked_unless_it_is_listed(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("masks").await;
    let text = "grep -c -e ' /proc/' /proc/mounts; head -c 1 /proc/timer_list | wc -c";
    assert_eq!(node.finish(&pod, &script("free", text)).await.1, "0\n1\n");
    let config = script("masked", text).security(|security| {
        security.masked_paths = vec!["/proc/timer_list".into(), "/proc/not-there".into()];
        security.readonly_paths = vec!["/proc/sys".into()];
    });
    assert_eq!(node.finish(&pod, &config).await.1, "2\n0\n");
}

async fn a_folder_of_devices_is_given_with_all_in_it(world: &mut World) {
    let folder = world.new_folder();
    std::fs::create_dir(folder.join("below")).unwrap();
    let node_at = |name: &str, minor: u32| {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        let path = folder.join(name);
        mknodat(
            CWD,
            &path,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            makedev(1, minor),
        )
        .unwrap();
    };
    node_at("zero", 5);
    node_at("below/null", 3);
    std::os::unix::fs::symlink(folder.join("zero"), folder.join("link")).unwrap();
    let node = world.node().await;
    let pod = node.pod("devices").await;
    let device = |host: &Path, inside: &str| Device {
        container_path: inside.into(),
        host_path: host.to_string_lossy().into_owned(),
        permissions: "rw".into(),
    };
    let text = "head -c 2 /dev/all/zero | wc -c; echo x > /dev/all/below/null && echo null; head -c 3 /dev/linked | wc -c";
    let mut config = script("devices", text);
    config.devices = vec![device(&folder, "/dev/all"), device(&folder.join("link"), "/dev/linked")];
    assert_eq!(node.finish(&pod, &config).await.1, "2\nnull\n3\n");
    config.metadata.as_mut().unwrap().attempt = 1;
    config.devices = vec![device(&folder.join("missing"), "/dev/x")];
    assert!(node.create(&pod, &config).await.is_err());
}

async fn ambient_capabilities_reach_a_process_that_is_not_root(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("ambient").await;
    let text = "grep -e CapEff -e CapAmb /proc/self/status | tr -d '\\t'";
    let mut config = script("ambient", text).security(|security| {
        security.run_as_user = Some(proto::cri::Int64Value { value: 1000 });
        let capabilities = security.capabilities.get_or_insert_default();
        capabilities.add_ambient_capabilities = vec!["NET_BIND_SERVICE".into()];
    });
    let bit = "0000000000000400";
    assert_eq!(node.finish(&pod, &config).await.1, format!("CapEff:{bit}\nCapAmb:{bit}\n"));
    config = config.attempt(1).security(|security| {
        let capabilities = security.capabilities.get_or_insert_default();
        capabilities.add_ambient_capabilities = vec!["SYS_ADMIN".into()];
    });
    assert_eq!(code(node.create(&pod, &config).await), Code::InvalidArgument);
}

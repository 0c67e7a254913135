//! Images, pods and commands that want more than they may have: what a tenant can write into a request, or into an
//! image, and what must not come of it. (What can be in a root file system in a special path's place is a matrix of its
//! own, next to the runtime: shim/tests/container/hostile/matrix.rs.)

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::image::catalog::BUSYBOX;
use e2e::image::hostile::{
    DEMANDING, LABELS, LINKS, NOWHERE, SOMEWHERE, USERS, with_link, with_user,
};
use e2e::proc;
use e2e::runner::Test;
use e2e::spec::{Container, PodConfig, container, script, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::NamespaceMode;
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Wherry: an_images_user_that_does_not_fit_is_refused,
        Wherry: an_images_links_do_not_lead_the_pods_files_to_the_host,
        Wherry: an_images_labels_and_volumes_are_data_and_nothing_else,
        Wherry: annotations_for_other_runtimes_change_nothing,
        Wherry: a_sysctl_of_the_nodes_or_with_a_second_one_is_refused,
        Wherry: names_that_are_paths_lead_nowhere,
        Wherry: a_working_folder_behind_the_runtimes_files_is_refused,
        Wherry: a_line_break_in_a_variable_makes_no_line_in_a_file,
        Wherry: the_nodes_other_users_can_get_at_nothing,
        Wherry: no_socket_can_be_reached_without_a_path,
        Wherry: a_flood_of_a_commands_output_costs_little_memory,
        Wherry: a_container_that_eats_memory_is_said_to_have_and_its_pod_stays,
    ]
}

fn entries(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// CVE-2024-40635, CVE-2026-46680.
async fn an_images_user_that_does_not_fit_is_refused(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("users").await;
    for (number, user) in USERS.iter().enumerate() {
        let config = container(&format!("user{number}"), &with_user(number), &["id"]);
        let error = match node.create(&pod, &config).await {
            Err(error) => error,
            Ok(id) => panic!("{user:?} was taken: {:?}", node.cri.container(&id).await),
        };
        assert_eq!(error.code(), Code::InvalidArgument, "{user:?}: {error}");
    }
}

/// CVE-2024-5154, CVE-2019-19921, CVE-2023-27561, CVE-2026-41579.
async fn an_images_links_do_not_lead_the_pods_files_to_the_host(world: &mut World) {
    let folder = world.new_folder();
    let file = folder.join("termination");
    std::fs::write(&file, "").unwrap();
    let node = world.node().await;
    let before = entries(SOMEWHERE);
    let pod = node.pod("links").await;
    for (number, path) in LINKS.iter().enumerate() {
        for target in 0..4 {
            let name = format!("link{number}-{target}");
            let config = container(&name, &with_link(number, target), &["true"])
                .mount(&file, "/dev/termination-log", false)
                .mount(&folder, "/run/secrets/token", false);
            match node.create(&pod, &config).await {
                Ok(id) => node.cri.start(&id).await.map(drop).unwrap_or_default(),
                Err(error) => assert_eq!(error.code(), Code::InvalidArgument, "{path}: {error}"),
            }
            assert!(!Path::new(NOWHERE).exists(), "{path} to target {target}");
            assert_eq!(entries(SOMEWHERE), before, "{path} to target {target}");
        }
    }
}

/// CVE-2026-53488, CVE-2022-23648.
async fn an_images_labels_and_volumes_are_data_and_nothing_else(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("labels").await;
    let text = "cat /etc/shadow 2>/dev/null; ls -A /proc/volumes 2>/dev/null; grep -c -e ' /proc/' /proc/mounts; cat /etc/passwd | grep -c evil; true";
    let mut config = script("labels", text);
    config.image.as_mut().unwrap().image = DEMANDING.into();
    let (status, printed) = node.finish(&pod, &config).await;
    assert_eq!(printed, "0\n0\n");
    for (key, _) in LABELS {
        assert!(!status.labels.contains_key(key) && !status.annotations.contains_key(key), "{key}");
    }
    assert!(status.mounts.is_empty(), "{:?}", status.mounts);
    assert!(!Path::new(NOWHERE).exists());
}

const ANNOTATIONS: [(&str, &str); 9] = [
    ("org.systemd.property.ExecStopPost", "['/bin/touch', '/wherry-was-here']"),
    ("run.oci.keep_original_groups", "1"),
    ("run.oci.hooks.stdout", "/wherry-was-here"),
    ("run.oci.delegate-cgroup", "x"),
    ("io.containerd.runc.v2.group", "x"),
    ("io.kubernetes.cri-o.UnifiedCgroup.annotated", "memory.max=1;cgroup.procs=1"),
    ("io.kubernetes.cri-o.Devices", "/dev/kmsg"),
    ("io.kubernetes.cri.untrusted-workload", "true"),
    ("cpu-quota.crio.io", "disable"),
];

/// CVE-2024-3154, CVE-2023-6476.
async fn annotations_for_other_runtimes_change_nothing(world: &mut World) {
    let node = world.node().await;
    let text = "grep -e Cap -e Groups -e Seccomp /proc/self/status; ls /dev; cat /proc/self/cgroup; \
        cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; true";
    let plain = node.pod("plain").await;
    let (_, expected) = node.finish(&plain, &script("plain", text)).await;
    let (mut pod, mut config) = (node.pod_config("annotated"), script("annotated", text));
    for (key, value) in ANNOTATIONS {
        pod = pod.label(key, value);
        config = config.label(key, value);
    }
    let pod = node.run_pod(pod).await.unwrap();
    let (status, printed) = node.finish(&pod, &config).await;
    assert_eq!(printed, expected);
    // They are kept for whoever set them.
    assert_eq!(status.annotations.len(), ANNOTATIONS.len());
    assert!(!Path::new(NOWHERE).exists());
}

/// CVE-2022-0811, CVE-2022-0532.
async fn a_sysctl_of_the_nodes_or_with_a_second_one_is_refused(world: &mut World) {
    let node = world.node().await;
    let files = ["kernel/core_pattern", "net/ipv4/ip_forward", "kernel/shm_rmid_forced"];
    let values = || files.map(|file| std::fs::read_to_string(format!("/proc/sys/{file}")).unwrap());
    let before = values();
    let asked = [
        ("kernel.core_pattern", "|/x", false),
        ("kernel/core_pattern", "|/x", false),
        ("vm.swappiness", "1", false),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x", false),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/x", false),
        ("net.ipv4/../../kernel/core_pattern", "|/x", false),
        ("net.ipv4.ip_forward", "0", true),
        ("kernel.shm_rmid_forced", "1", true),
        ("fs.mqueue.msg_max", "11", true),
    ];
    for (key, value, on_node) in asked {
        let config = node.pod_config("sysctl").sysctl(key, value).namespaces(|options| {
            if on_node {
                options.network = NamespaceMode::Node.into();
                options.ipc = NamespaceMode::Node.into();
            }
        });
        assert_eq!(code(node.run_pod(config).await), Code::InvalidArgument, "{key} = {value:?}");
    }
    assert_eq!(values(), before);
}

/// CVE-2025-0750, and what else becomes a path.
async fn names_that_are_paths_lead_nowhere(world: &mut World) {
    let node = world.node().await;
    let bad = ["../../../../wherry-was-here", "/wherry-was-here", "a/../../b", "a\nb", "a\0b"];
    for text in bad {
        let mut config = node.pod_config("paths");
        config.metadata.as_mut().unwrap().name = text.into();
        config.metadata.as_mut().unwrap().uid = text.into();
        config.metadata.as_mut().unwrap().namespace = text.into();
        if let Ok(pod) = node.run_pod(config).await {
            let mut config = script("paths", "true");
            config.metadata.as_mut().unwrap().name = text.into();
            if let Ok(id) = node.create(&pod, &config).await {
                node.cri.start(&id).await.unwrap();
                node.exit(&id).await;
                node.cri.remove(&id).await.unwrap();
            }
            node.cri.stop_pod(&pod.id).await.unwrap();
            node.cri.remove_pod(&pod.id).await.unwrap();
        }
        let pod = node.pod("logs").await;
        let mut config = script("logs", "true");
        config.log_path = text.into();
        assert_eq!(code(node.create(&pod, &config).await), Code::InvalidArgument, "{text:?}");
        assert!(!Path::new(NOWHERE).exists(), "{text:?}");
    }
    for folder in ["relative", "/a/../wherry-was-here", "/a\nb"] {
        let mut config = node.pod_config("folders");
        config.log_directory = folder.into();
        assert_eq!(code(node.cri.run_pod(&config).await), Code::InvalidArgument, "{folder:?}");
    }
}

/// CVE-2024-21626.
async fn a_working_folder_behind_the_runtimes_files_is_refused(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("folder").await;
    for number in 0..16 {
        let mut config = script("folder", "pwd");
        config.working_dir = format!("/proc/self/fd/{number}");
        let refused = match node.create(&pod, &config).await {
            Ok(id) => node.cri.start(&id).await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(code(refused), Code::InvalidArgument, "{number}");
    }
}

/// CVE-2022-4318, CVE-2026-15809.
async fn a_line_break_in_a_variable_makes_no_line_in_a_file(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("lines").await;
    let evil = "/root\nevil:x:0:0::/:/bin/sh";
    for key in ["HOME", "USER", "HOSTNAME"] {
        let text = "cat /etc/passwd /etc/group /etc/hosts /etc/hostname | grep -c evil; true";
        let config = script("lines", text).env(key, evil);
        if node.create(&pod, &config).await.is_ok() {
            let config = config.attempt(1);
            assert_eq!(node.finish(&pod, &config).await.1, "0\n", "{key}");
        }
    }
    let mut config = node.pod_config("host");
    config.hostname = "box\nevil".into();
    assert_eq!(code(node.run_pod(config).await), Code::InvalidArgument);
}

/// CVE-2021-41103, CVE-2024-25621.
async fn the_nodes_other_users_can_get_at_nothing(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("private").await;
    let id = node.run(&pod, &sleeper("private")).await;
    node.sh(&id, "true").await;
    let (root, state) = (&node.folders.root, &node.folders.state);
    let found = Command::new("find")
        .args([root, state])
        .args(["-mindepth", "1"])
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    let own = Command::new("find").args([root, state]).args(["-mindepth", "1"]).output().unwrap();
    assert!(!own.stdout.is_empty(), "there is something to be found");
}

/// CVE-2020-15257.
async fn no_socket_can_be_reached_without_a_path(world: &mut World) {
    let node = world.node().await;
    let config = node.pod_config("sockets").namespaces(|options| {
        options.network = NamespaceMode::Node.into();
    });
    let pod = node.run_pod(config).await.unwrap();
    let id = node.run(&pod, &sleeper("sockets").namespaces_of(&pod.config)).await;
    let seen = node.sh(&id, "cat /proc/net/unix").await;
    assert!(seen.contains("/shim.sock"), "the node's sockets are to be seen: {seen}");
    assert!(!seen.contains('@'), "{seen}");
    // What has a path is not in the container's file system.
    let paths = node
        .sh(&id, "for s in $(awk '{print $8}' /proc/net/unix); do ls $s 2>/dev/null; done; true")
        .await;
    assert_eq!(paths, "");
}

/// CVE-2022-31030, CVE-2022-1708.
async fn a_flood_of_a_commands_output_costs_little_memory(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("flood").await;
    let id = node.run(&pod, &container("flood", BUSYBOX, &["sleep", "3600"])).await;
    let daemon = node.pid().unwrap();
    let shims = || proc::named("wherry-shim").iter().filter_map(|s| proc::pss_kib(s.pid)).max();
    let (before, shim_before) = (proc::pss_kib(daemon).unwrap(), shims().unwrap());
    let text = "head -c 300000000 /dev/zero; head -c 300000000 /dev/zero >&2";
    let command = ["sh", "-c", text];
    let flood = node.cri.exec(&id, &command, 60);
    tokio::pin!(flood);
    let (mut highest, mut shim_highest) = (before, shim_before);
    let answer = loop {
        tokio::select! {
            answer = &mut flood => break answer.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                highest = highest.max(proc::pss_kib(daemon).unwrap());
                shim_highest = shim_highest.max(shims().unwrap_or(0));
            }
        }
    };
    assert_eq!(answer.exit_code, 0);
    let length = answer.stdout.len() + answer.stderr.len();
    assert!(length <= 16 << 20 && length > 1 << 20, "{length}");
    println!("    daemon {before} to {highest} KiB, shim {shim_before} to {shim_highest} KiB");
    // The answer, and its copies on the way out.
    assert!(highest < before + (64 << 10), "{before} KiB before, {highest} KiB at most");
    assert!(shim_highest < shim_before + 256, "{shim_before} KiB before, {shim_highest} at most");
}

/// CVE-2019-14891.
async fn a_container_that_eats_memory_is_said_to_have_and_its_pod_stays(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("eater").await;
    let other = node.run(&pod, &sleeper("other")).await;
    let address = node.address(&pod).await;
    for attempt in 0..5 {
        let text = "exec dd if=/dev/zero of=/dev/shm/x bs=1M count=60";
        let config = script("eater", text).attempt(attempt).limits(|limits| {
            limits.memory_limit_in_bytes = 32 << 20;
            limits.memory_swap_limit_in_bytes = 32 << 20;
        });
        let id = node.run(&pod, &config).await;
        let status = node.exit(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        assert_eq!(node.sh(&other, "rm -f /dev/shm/x; echo here").await, "here");
    }
    assert_eq!(node.address(&pod).await, address);
}

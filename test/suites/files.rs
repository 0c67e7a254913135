//! The container's file system: what is writable, what is hidden, what the pod puts there.

use e2e::runner::Test;
use e2e::spec::{Container, PodConfig, script};
use e2e::tests;
use e2e::world::World;
use proto::cri::DnsConfig;

pub fn tests() -> Vec<Test> {
    tests![
        Any: the_root_is_writable_and_private_to_the_container,
        Any: a_read_only_root_takes_no_writes,
        Any: masked_paths_are_empty_and_read_only_paths_take_no_writes,
        Any: without_masked_paths_nothing_is_masked,
        Any: devices_are_the_usual_ones,
        Any: proc_and_sys_are_there_and_sys_is_read_only,
        Any: the_pod_names_the_host_and_its_resolver,
        Any: without_dns_settings_the_nodes_resolver_is_used,
        Any: containers_of_a_pod_share_memory_files,
        Any: pod_files_are_not_listed_as_mounts,
        Wherry: the_root_is_an_overlay_of_the_images_layers,
    ]
}

async fn the_root_is_writable_and_private_to_the_container(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("private").await;
    let text = "ls /mine 2>&1; echo data > /mine && cat /mine && rm /etc/passwd && ls /etc/passwd 2>&1; true";
    for name in ["one", "two"] {
        let (_, printed) = node.finish(&pod, &script(name, text)).await;
        let expected = "ls: /mine: No such file or directory\ndata\n\
            ls: /etc/passwd: No such file or directory\n";
        assert_eq!(printed, expected, "{name}");
    }
}

async fn a_read_only_root_takes_no_writes(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("read-only").await;
    let text = "touch /mine 2>&1; touch /dev/shm/ok && echo shm";
    let config = script("read-only", text).security(|security| security.readonly_rootfs = true);
    let (_, printed) = node.finish(&pod, &config).await;
    assert_eq!(printed, "touch: /mine: Read-only file system\nshm\n");
}

async fn masked_paths_are_empty_and_read_only_paths_take_no_writes(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("masked").await;
    let text = "cat /etc/group; ls /home; touch /var/mine 2>&1; cat /not/there 2>&1; true";
    let config = script("masked", text).security(|security| {
        security.masked_paths = ["/etc/group", "/home", "/not/there"].map(Into::into).into();
        security.readonly_paths = ["/var", "/also/not/there"].map(Into::into).into();
    });
    let (_, printed) = node.finish(&pod, &config).await;
    let expected = "touch: /var/mine: Read-only file system\n\
        cat: can't open '/not/there': No such file or directory\n";
    assert_eq!(printed, expected);
}

async fn without_masked_paths_nothing_is_masked(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("unmasked").await;
    let text = "head -c 4 /proc/keys >/dev/null && wc -l < /proc/timer_list | tr -d ' ' | head -c 1 >/dev/null; \
        grep -c ' /proc/' /proc/self/mountinfo";
    let config = script("unmasked", text);
    let id = node.run(&pod, &config).await;
    node.exit(&id).await;
    assert_eq!(node.printed(&pod, &config), "0\n");
}

async fn devices_are_the_usual_ones(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("devices").await;
    let text = "for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo no $d; done; \
        ls /dev/pts /dev/mqueue >/dev/null && readlink /dev/stdout && [ -e /dev/ptmx ] && \
        echo x > /dev/null && ls /dev | grep -c '^vd\\|^sd\\|^loop\\|^kmsg\\|^mem'; true";
    let (_, printed) = node.finish(&pod, &script("devices", text)).await;
    assert_eq!(printed, "/proc/self/fd/1\n0\n");
}

async fn proc_and_sys_are_there_and_sys_is_read_only(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("kernel").await;
    let text = "ls /sys/class/net; touch /sys/mine 2>&1; grep -c . /proc/self/cgroup >/dev/null && echo proc";
    let (_, printed) = node.finish(&pod, &script("kernel", text)).await;
    assert!(printed.contains("eth0\n") && printed.contains("lo\n"), "{printed}");
    assert!(printed.ends_with("touch: /sys/mine: Read-only file system\nproc\n"), "{printed}");
}

async fn the_pod_names_the_host_and_its_resolver(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("named-host").await;
    let text = "hostname; cat /etc/hostname /etc/resolv.conf; grep -c localhost /etc/hosts";
    let (_, printed) = node.finish(&pod, &script("named-host", text)).await;
    let expected = "named-host\nnamed-host\nsearch default.svc.cluster.local cluster.local\n\
        nameserver 10.96.0.10\noptions ndots:5\n";
    assert!(printed.starts_with(expected), "{printed}");
    assert_ne!(printed.lines().last(), Some("0"));
}

async fn without_dns_settings_the_nodes_resolver_is_used(world: &mut World) {
    let node = world.node().await;
    let mut config = node.pod_config("resolver");
    config.dns_config = None;
    let pod = node.run_pod(config).await.unwrap();
    let (_, printed) = node.finish(&pod, &script("resolver", "cat /etc/resolv.conf")).await;
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    assert_eq!(printed.trim_end(), own.trim_end());

    let mut config = node.pod_config("no-search");
    let servers = vec!["192.0.2.1".into(), "192.0.2.2".into()];
    config.dns_config = Some(DnsConfig { servers, ..Default::default() });
    let pod = node.run_pod(config).await.unwrap();
    let (_, printed) = node.finish(&pod, &script("no-search", "cat /etc/resolv.conf")).await;
    assert_eq!(printed, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n");
}

async fn containers_of_a_pod_share_memory_files(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("shared").await;
    let (_, printed) = node.finish(&pod, &script("writer", "echo data > /dev/shm/file")).await;
    assert_eq!(printed, "");
    let text = "cat /dev/shm/file; stat -c %a /dev/shm; df -k /dev/shm | awk 'END{print $2}'";
    let (_, printed) = node.finish(&pod, &script("reader", text)).await;
    assert_eq!(printed, "data\n1777\n65536\n");
    let other = node.pod("other").await;
    let (_, printed) = node.finish(&other, &script("other", "ls /dev/shm")).await;
    assert_eq!(printed, "");
}

async fn pod_files_are_not_listed_as_mounts(world: &mut World) {
    let node = world.node().await;
    let config = node.pod_config("listed").label("any", "thing");
    let pod = node.run_pod(config).await.unwrap();
    let id = node.run(&pod, &script("listed", "true")).await;
    assert_eq!(node.cri.container(&id).await.unwrap().mounts, []);
}

async fn the_root_is_an_overlay_of_the_images_layers(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("overlay").await;
    let (_, printed) =
        node.finish(&pod, &script("overlay", "grep ' / / ' /proc/self/mountinfo")).await;
    assert!(printed.contains(" - overlay "), "{printed}");
    // The mount is the shim's own: the host does not have it.
    let own = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!own.contains(node.folders.root.to_str().unwrap()), "{own}");
}

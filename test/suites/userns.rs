//! Pods with a user namespace of their own: their root is nobody on the host, and their files look as ever.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use e2e::node::{Node, Pod};
use e2e::runner::Test;
use e2e::spec::{Container, PodConfig, script, sleeper};
use e2e::tests;
use e2e::world::World;
use proto::cri::security_profile::ProfileType;
use proto::cri::{
    Capability, ContainerConfig, IdMapping, NamespaceMode, NamespaceOption, PodSandboxConfig,
    SecurityProfile, UserNamespace,
};
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Wherry: ids_inside_are_others_outside,
        Wherry: images_are_shared_by_pods_of_different_ids_and_never_chowned,
        Wherry: the_pods_files_and_file_systems_are_the_pods_own,
        Wherry: the_pods_other_namespaces_belong_to_its_user_namespace,
        Wherry: a_mapped_volume_has_the_owners_that_the_container_sees,
        Wherry: a_volume_that_is_not_mapped_keeps_its_owners,
        Wherry: execs_are_in_the_user_namespace_and_so_they_are_after_a_restart_of_the_daemon,
        Wherry: containers_share_processes_in_a_user_namespace,
        Wherry: a_pod_with_a_user_namespace_can_be_on_the_nodes_network,
        Wherry: sysctls_are_set_in_the_pods_namespaces,
        Wherry: mappings_that_make_no_sense_are_refused,
        Wherry: a_container_is_in_its_pods_user_namespace_or_not_made,
        Wherry: a_user_that_is_not_mapped_is_refused,
        Wherry: the_status_says_what_is_mapped_and_the_handler_that_it_can,
    ]
}

const BASE: u32 = 300_000;
const SIZE: u32 = 65_536;

fn mapping(container_id: u32, host_id: u32, length: u32) -> Vec<IdMapping> {
    vec![IdMapping { host_id, container_id, length }]
}

fn users(mode: NamespaceMode, ids: Vec<IdMapping>) -> Option<UserNamespace> {
    Some(UserNamespace { mode: mode.into(), uids: ids.clone(), gids: ids })
}

/// A pod whose ids begin at `base` on the host.
fn config(node: &Node, name: &str, base: u32) -> PodSandboxConfig {
    node.pod_config(name).namespaces(|options| {
        options.userns_options = users(NamespaceMode::Pod, mapping(0, base, SIZE));
    })
}

async fn pod(node: &Node, name: &str) -> Pod {
    node.run_pod(config(node, name, BASE)).await.unwrap()
}

trait InUsers: Sized {
    /// Is in the pod's user namespace.
    fn of(self, pod: &Pod) -> Self;
    /// Maps its last volume as the kubelet does.
    fn mapped(self) -> Self;
    /// Has these capabilities, too.
    fn with(self, names: &[&str]) -> Self;
}

impl InUsers for ContainerConfig {
    fn of(self, pod: &Pod) -> Self {
        self.namespaces_of(&pod.config)
    }
    fn mapped(mut self) -> Self {
        let mount = self.mounts.last_mut().unwrap();
        mount.uid_mappings = mapping(0, BASE, SIZE);
        mount.gid_mappings = mapping(0, BASE, SIZE);
        self
    }
    fn with(self, names: &[&str]) -> Self {
        self.security(|security| {
            let add_capabilities = names.iter().map(ToString::to_string).collect();
            security.capabilities = Some(Capability { add_capabilities, ..Default::default() });
        })
    }
}

async fn ids_inside_are_others_outside(world: &mut World) {
    let node = world.node().await;
    let pod = pod(node, "ids").await;
    let text = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; id -g; \
        stat -c '%u %g' /bin/busybox /etc; touch /made && stat -c %u /made; sleep 3600";
    let config = script("ids", text).of(&pod);
    let id = node.run(&pod, &config).await;
    let line = format!(" 0 {BASE} {SIZE}\n");
    node.prints(&pod, &config, &format!("{line}{line}0\n0\n0 0\n0 0\n0\n")).await;
    let info = node.cri.container_info(&id).await.unwrap();
    let pid = info["pid"].as_u64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uids = format!("Uid:\t{BASE}\t{BASE}\t{BASE}\t{BASE}");
    assert!(status.contains(&uids), "{status}");
}

async fn images_are_shared_by_pods_of_different_ids_and_never_chowned(world: &mut World) {
    let node = world.node().await;
    let text = "stat -c '%u %g %a' /data/owned /data/setuid; echo x >> /data/kept; id -u";
    let config_of = |name: &str| script(name, text);
    let mut said = Vec::new();
    for (name, base) in [("one", BASE), ("two", 2 * BASE)] {
        let pod = node.run_pod(config(node, name, base)).await.unwrap();
        let mut container = config_of(name).of(&pod);
        container.image.as_mut().unwrap().image = e2e::image::catalog::LAYERS.into();
        said.push(node.finish(&pod, &container).await.1);
    }
    let plain = node.pod("plain").await;
    let mut container = config_of("plain");
    container.image.as_mut().unwrap().image = e2e::image::catalog::LAYERS.into();
    said.push(node.finish(&plain, &container).await.1);
    for said in said {
        assert_eq!(said, "1000 50000 640\n0 0 4755\n0\n");
    }
}

async fn the_pods_files_and_file_systems_are_the_pods_own(world: &mut World) {
    let node = world.node().await;
    let pod = pod(node, "files").await;
    let text = "for file in /etc/hosts /etc/resolv.conf /etc/hostname /dev/shm; do stat -c '%u %g' $file; done; \
        echo '1.2.3.4 extra' >> /etc/hosts && grep -c extra /etc/hosts; \
        echo y > /dev/shm/y && echo shm; ls /sys/class/net; cat /proc/sys/kernel/hostname; \
        echo z > /dev/null && head -c 1 /dev/zero | wc -c; \
        touch /sys/x 2>/dev/null || echo sys is read-only; grep -c mqueue /proc/mounts; tty";
    let config = script("files", text).of(&pod);
    let (status, said) = node.finish(&pod, &config).await;
    let owners = "0 0\n".repeat(4);
    let rest = "1\nshm\neth0\nlo\nfiles\n1\nsys is read-only\n1\nnot a tty\n";
    assert_eq!(said, format!("{owners}{rest}"), "{status:?}");
}

async fn the_pods_other_namespaces_belong_to_its_user_namespace(world: &mut World) {
    let node = world.node().await;
    let pod = pod(node, "owner").await;
    let text = "ip addr add 127.0.0.9/32 dev lo && echo net; hostname other && hostname; \
        mount -t tmpfs none /tmp && echo mount; mount -t sysfs none /tmp && echo sysfs; \
        cat /proc/sys/kernel/core_pattern > /dev/null; echo x > /proc/sys/kernel/core_pattern || echo no; \
        mknod /tmp/node b 1 1 2>/dev/null || echo no node";
    // The runtime's AppArmor profile lets nobody mount.
    let config = script("owner", text).of(&pod).with(&["ALL"]).security(|security| {
        security.apparmor = Some(SecurityProfile {
            profile_type: ProfileType::Unconfined.into(),
            localhost_ref: String::new(),
        });
    });
    let said = node.finish(&pod, &config).await.1;
    let said: Vec<&str> = said.lines().filter(|line| !line.starts_with("sh:")).collect();
    assert_eq!(said, ["net", "other", "mount", "sysfs", "no", "no node"]);
    // Without rights of its own it has none in the host's namespaces either.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(host.trim(), "other");
}

async fn a_mapped_volume_has_the_owners_that_the_container_sees(world: &mut World) {
    let folder = world.new_folder();
    std::fs::write(folder.join("secret"), "secret\n").unwrap();
    std::fs::set_permissions(folder.join("secret"), std::fs::Permissions::from_mode(0o600))
        .unwrap();
    std::os::unix::fs::chown(folder.join("secret"), Some(1000), Some(1000)).unwrap();
    let node = world.node().await;
    let pod = pod(node, "mapped").await;
    let text = "stat -c '%u %g' /data /data/secret; cat /data/secret; touch /data/made; chown 7:7 /data/made";
    let config = script("mapped", text).of(&pod).mount(&folder, "/data", false).mapped();
    let id = node.run(&pod, &config).await;
    let status = node.exit(&id).await;
    assert_eq!(node.printed(&pod, &config), "0 0\n1000 1000\nsecret\n");
    let made = std::fs::metadata(folder.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (7, 7));
    assert_eq!(std::fs::metadata(folder.join("secret")).unwrap().uid(), 1000);
    let mount = &status.mounts[0];
    assert_eq!(mount.uid_mappings, mapping(0, BASE, SIZE));
}

async fn a_volume_that_is_not_mapped_keeps_its_owners(world: &mut World) {
    let folder = world.new_folder();
    std::fs::write(folder.join("secret"), "secret\n").unwrap();
    std::fs::set_permissions(folder.join("secret"), std::fs::Permissions::from_mode(0o600))
        .unwrap();
    let node = world.node().await;
    let pod = pod(node, "foreign").await;
    // The host's root is nobody here, and the pod's root nobody there.
    let text = "stat -c '%u %g' /data; cat /data/secret 2>/dev/null || echo denied; \
        touch /data/made 2>/dev/null || echo denied; chown 0 /data/secret 2>/dev/null || echo denied";
    let config = script("foreign", text).of(&pod).mount(&folder, "/data", false).with(&["ALL"]);
    let said = node.finish(&pod, &config).await.1;
    assert_eq!(said, "65534 65534\ndenied\ndenied\ndenied\n");
}

async fn execs_are_in_the_user_namespace_and_so_they_are_after_a_restart_of_the_daemon(
    world: &mut World,
) {
    let node = world.node().await;
    let pod = pod(node, "exec").await;
    let id = node.run(&pod, &sleeper("exec").of(&pod)).await;
    let look = "id -u; readlink /proc/self/ns/user; tr -s ' ' < /proc/self/uid_map";
    let first = node.sh(&id, look).await;
    assert!(first.ends_with(&format!(" 0 {BASE} {SIZE}")), "{first}");
    node.crash().await;
    node.up().await.unwrap();
    assert_eq!(node.sh(&id, look).await, first);
    let status = node.cri.pod_status(&pod.id).await.unwrap();
    assert_eq!(status.state(), proto::cri::PodSandboxState::SandboxReady);
    // And another container can still be made in it.
    let later = script("later", "readlink /proc/self/ns/user").of(&pod);
    let namespace = first.lines().nth(1).unwrap();
    assert_eq!(node.finish(&pod, &later).await.1.trim(), namespace);
}

async fn containers_share_processes_in_a_user_namespace(world: &mut World) {
    let node = world.node().await;
    let config =
        config(node, "pids", BASE).namespaces(|options| options.pid = NamespaceMode::Pod.into());
    let pod = node.run_pod(config).await.unwrap();
    let one = node.run(&pod, &sleeper("one").of(&pod)).await;
    let two = node.run(&pod, &sleeper("two").of(&pod)).await;
    let shows = "ps -o pid,args | grep -c '[s]leep 3600'; stat -c %u /proc/1";
    // Two shells that name it in their script, and two commands.
    assert_eq!(node.sh(&one, shows).await, "4\n0");
    assert_eq!(node.sh(&two, shows).await, "4\n0");
    // The first process is nobody's to end.
    node.sh(&one, "kill -9 1; sleep 0.1; test -d /proc/1").await;
}

async fn a_pod_with_a_user_namespace_can_be_on_the_nodes_network(world: &mut World) {
    let node = world.node().await;
    let config = config(node, "host", BASE)
        .namespaces(|options| options.network = NamespaceMode::Node.into());
    let pod = node.run_pod(config).await.unwrap();
    let text = "readlink /proc/self/ns/net; ls /sys/class/net >/dev/null && echo sys; \
        ip addr add 127.0.0.9/32 dev lo 2>/dev/null || echo denied; touch /sys/x 2>/dev/null || echo ro";
    let config = script("host", text).of(&pod).with(&["ALL"]);
    let said = node.finish(&pod, &config).await.1;
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(said, format!("{}\nsys\ndenied\nro\n", own.display()));
}

async fn sysctls_are_set_in_the_pods_namespaces(world: &mut World) {
    let node = world.node().await;
    let config = config(node, "sysctl", BASE)
        .sysctl("net.ipv4.ip_unprivileged_port_start", "77")
        .sysctl("kernel.shm_rmid_forced", "1")
        .sysctl("fs.mqueue.msg_max", "12");
    let pod = node.run_pod(config).await.unwrap();
    let text = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced fs/mqueue/msg_max";
    let said = node.finish(&pod, &script("sysctl", text).of(&pod)).await.1;
    assert_eq!(said, "77\n1\n12\n");
}

async fn mappings_that_make_no_sense_are_refused(world: &mut World) {
    let node = world.node().await;
    let two = [mapping(0, BASE, 10), mapping(10, 2 * BASE, 10)].concat();
    let overlap = [mapping(0, BASE, 10), mapping(0, 2 * BASE, 10)].concat();
    use NamespaceMode::{Container, Node, Pod, Target};
    let wrong = [
        users(Pod, Vec::new()),
        users(Pod, two),
        users(Pod, overlap),
        users(Pod, mapping(1, BASE, SIZE)),
        users(Pod, mapping(0, BASE, 0)),
        users(Pod, mapping(0, u32::MAX, 1)),
        users(Pod, mapping(0, 1, u32::MAX)),
        users(Node, mapping(0, BASE, SIZE)),
        users(Container, Vec::new()),
        users(Target, Vec::new()),
        Some(UserNamespace { mode: Pod.into(), uids: mapping(0, BASE, SIZE), gids: Vec::new() }),
    ];
    for (at, options) in wrong.into_iter().enumerate() {
        let config = node.pod_config("wrong").namespaces(|all| all.userns_options = options);
        assert_eq!(code(node.run_pod(config).await), Code::InvalidArgument, "{at}");
    }
    let with = |change: fn(&mut NamespaceOption)| config(node, "wrong", BASE).namespaces(change);
    for config in [with(|all| all.ipc = Node.into()), with(|all| all.pid = Node.into())] {
        assert_eq!(code(node.run_pod(config).await), Code::InvalidArgument);
    }
    assert!(node.cri.pods(None).await.unwrap().is_empty());
    // A range that ends before the groups that a container usually has is small, and no mistake.
    let small = node.pod_config("small").namespaces(|all| {
        all.userns_options = users(Pod, mapping(0, BASE, 1));
    });
    let pod = node.run_pod(small).await.unwrap();
    let said = node.finish(&pod, &script("small", "id -u; id -G").of(&pod)).await.1;
    assert_eq!(said, "0\n0\n");
}

async fn a_container_is_in_its_pods_user_namespace_or_not_made(world: &mut World) {
    let node = world.node().await;
    let pod = pod(node, "same").await;
    let plain = node.pod("plain").await;
    let none = script("none", "true");
    assert_eq!(code(node.create(&pod, &none).await), Code::InvalidArgument);
    let mut other = script("other", "true").of(&pod);
    other = other.security(|security| {
        let options = security.namespace_options.as_mut().unwrap();
        options.userns_options = users(NamespaceMode::Pod, mapping(0, BASE + 1, SIZE));
    });
    assert_eq!(code(node.create(&pod, &other).await), Code::InvalidArgument);
    assert_eq!(
        code(node.create(&plain, &script("own", "true").of(&pod)).await),
        Code::InvalidArgument
    );
    // The node's own, said in so many words, is what a usual pod has.
    let node_mode = script("node", "true").security(|security| {
        let options = security.namespace_options.as_mut().unwrap();
        options.userns_options = users(NamespaceMode::Node, Vec::new());
    });
    assert_eq!(node.finish(&plain, &node_mode).await.0.exit_code, 0);
}

async fn a_user_that_is_not_mapped_is_refused(world: &mut World) {
    let node = world.node().await;
    let pod = pod(node, "beyond").await;
    let config = script("beyond", "true")
        .of(&pod)
        .security(|security| security.run_as_user = Some(proto::cri::Int64Value { value: 70_000 }));
    let refused = node.create(&pod, &config).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

async fn the_status_says_what_is_mapped_and_the_handler_that_it_can(world: &mut World) {
    let node = world.node().await;
    let pod = pod(node, "status").await;
    let status = node.cri.pod_status(&pod.id).await.unwrap();
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.userns_options, users(NamespaceMode::Pod, mapping(0, BASE, SIZE)));
    let features = node.cri.status().await.unwrap().runtime_handlers[0].features.unwrap();
    assert!(features.user_namespaces);
}

//! Golden files: what a request becomes, whole. `BLESS=1 cargo test -p cri golden` writes them anew.

use std::path::Path;

use proto::cri as wire;
use serde_json::Value;

use super::*;
use crate::CgroupDriver;

const ID: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
const POD: &str = "beefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeefbeef";

struct Case {
    pod: wire::PodSandboxConfig,
    container: wire::ContainerConfig,
    image: image::ImageConfig,
    pid: PidNamespace,
    fenced: bool,
    views: BTreeMap<usize, View>,
    folders: Vec<Folder>,
    defaults: Defaults,
}

fn case() -> Case {
    Case {
        pod: wire::PodSandboxConfig {
            metadata: Some(wire::PodSandboxMetadata {
                name: "web".into(),
                uid: "u-1".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: "web-0".into(),
            ..Default::default()
        },
        container: wire::ContainerConfig {
            metadata: Some(wire::ContainerMetadata { name: "app".into(), attempt: 0 }),
            image: Some(wire::ImageSpec { image: "busybox".into(), ..Default::default() }),
            ..Default::default()
        },
        image: image::ImageConfig {
            env: vec!["PATH=/bin".into(), "LANG=C".into()],
            cmd: vec!["sh".into()],
            ..Default::default()
        },
        pid: PidNamespace::New,
        fenced: true,
        views: BTreeMap::new(),
        folders: Vec::new(),
        defaults: Defaults::default(),
    }
}

fn spec_of(case: Case) -> Result<Spec, Error> {
    let (id, sandbox_id) = (ID.parse().unwrap(), POD.parse().unwrap());
    let sandbox = SandboxConfig::parse(case.pod, String::new(), CgroupDriver::Cgroupfs).unwrap();
    let config = ContainerConfig::parse(case.container).unwrap();
    build(&Inputs {
        id: &id,
        config: &config,
        image: &case.image,
        sandbox_id: &sandbox_id,
        sandbox: &sandbox,
        pod: &PodPaths::of(Path::new("/run/wherry"), &sandbox_id),
        pid_namespace: case.pid,
        devices: &[],
        views: &case.views,
        folders: &case.folders,
        apparmor: None,
        selinux: true,
        seccomp: None,
        devices_fenced: case.fenced,
        defaults: &case.defaults,
    })
}

#[track_caller]
fn assert_golden(name: &str, case: Case) {
    let mut value = serde_json::to_value(spec_of(case).unwrap()).unwrap();
    sort_capabilities(&mut value);
    let text = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
    let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
        .join("src/spec/golden")
        .join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(text == golden, "{name} differs; the result is\n{text}");
}

/// Sets come in any order.
fn sort_capabilities(spec: &mut Value) {
    let sets = spec.pointer_mut("/process/capabilities").and_then(Value::as_object_mut).unwrap();
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.sort_by_key(ToString::to_string);
    }
}

#[test]
fn golden_a_plain_container() {
    assert_golden("plain.json", case());
}

#[test]
fn golden_a_container_with_volumes_and_limits() {
    let mut case = case();
    let mount = |container: &str, host: &str| wire::Mount {
        container_path: container.into(),
        host_path: host.into(),
        ..Default::default()
    };
    case.container.mounts = vec![
        mount("/data/deep/er", "/srv/b"),
        wire::Mount { readonly: true, ..mount("/etc/hosts", "/srv/hosts") },
        wire::Mount {
            propagation: wire::MountPropagation::PropagationBidirectional.into(),
            ..mount("/data", "/srv/a")
        },
    ];
    case.container.linux = Some(wire::LinuxContainerConfig {
        resources: Some(wire::LinuxContainerResources {
            cpu_shares: 512,
            cpu_period: 100_000,
            cpu_quota: 50_000,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: 999,
            ..Default::default()
        }),
        security_context: Some(wire::LinuxContainerSecurityContext {
            readonly_rootfs: true,
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: vec!["/proc/sys".into()],
            seccomp: Some(wire::SecurityProfile::default()),
            capabilities: Some(wire::Capability {
                add_capabilities: vec!["NET_ADMIN".into()],
                drop_capabilities: vec!["ALL".into()],
                ..Default::default()
            }),
            ..Default::default()
        }),
    });
    assert_golden("volumes.json", case);
}

#[test]
fn golden_a_privileged_container_on_the_nodes_namespaces() {
    let mut case = case();
    let node = wire::NamespaceMode::Node.into();
    let options =
        wire::NamespaceOption { network: node, pid: node, ipc: node, ..Default::default() };
    case.pod.linux = Some(wire::LinuxPodSandboxConfig {
        cgroup_parent: "/kubepods/pod1".into(),
        security_context: Some(wire::LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            privileged: true,
            ..Default::default()
        }),
        ..Default::default()
    });
    case.container.linux = Some(wire::LinuxContainerConfig {
        security_context: Some(wire::LinuxContainerSecurityContext {
            privileged: true,
            namespace_options: Some(options),
            masked_paths: vec!["/proc/kcore".into()],
            ..Default::default()
        }),
        ..Default::default()
    });
    case.pid = PidNamespace::Host;
    assert_golden("privileged.json", case);
}

/// The kubelet maps every mount of a pod with a user namespace; those of images are the shim's to map.
#[test]
fn golden_a_container_with_its_own_users_and_the_images_that_it_mounts() {
    let mut case = case();
    let range = wire::IdMapping { container_id: 0, host_id: 100_000, length: 65_536 };
    let options = wire::NamespaceOption {
        pid: wire::NamespaceMode::Container.into(),
        userns_options: Some(wire::UserNamespace {
            mode: wire::NamespaceMode::Pod.into(),
            uids: vec![range],
            gids: vec![range],
        }),
        ..Default::default()
    };
    case.pod.linux = Some(wire::LinuxPodSandboxConfig {
        security_context: Some(wire::LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        }),
        ..Default::default()
    });
    case.container.linux = Some(wire::LinuxContainerConfig {
        security_context: Some(wire::LinuxContainerSecurityContext {
            namespace_options: Some(options),
            ..Default::default()
        }),
        ..Default::default()
    });
    let of_image = |container: &str, part: &str| wire::Mount {
        container_path: container.into(),
        image: Some(wire::ImageSpec { image: "models".into(), ..Default::default() }),
        image_sub_path: part.into(),
        readonly: true,
        uid_mappings: vec![range],
        gid_mappings: vec![range],
        ..Default::default()
    };
    case.container.mounts = vec![
        of_image("/models/small", "small/v1"),
        of_image("/models", ""),
        wire::Mount {
            container_path: "/data".into(),
            host_path: "/srv".into(),
            mount_options: vec!["noexec".into()],
            uid_mappings: vec![range],
            gid_mappings: vec![range],
            ..Default::default()
        },
    ];
    let view = |dirs: &[&str]| View { lower: dirs.iter().map(Into::into).collect() };
    case.views = [(0, view(&["/s/2/fs", "/s/1/fs"])), (1, view(&["/s/empty"]))].into();
    case.folders = vec![Folder {
        container_path: "/var/lib/db".into(),
        host_path: "/var/lib/wherry/containers/c/volumes/0".into(),
    }];
    assert_golden("users.json", case);
}

fn args_of(command: &[&str], args: &[&str]) -> Vec<String> {
    let texts = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let mut case = case();
    case.image.entrypoint = texts(&["entry"]);
    case.image.cmd = texts(&["cmd"]);
    case.container.command = texts(command);
    case.container.args = texts(args);
    let spec = spec_of(case).unwrap();
    spec.process().as_ref().unwrap().args().clone().unwrap()
}

#[test]
fn command_and_arguments_replace_the_images_as_kubernetes_says() {
    assert_eq!(args_of(&[], &[]), ["entry", "cmd"]);
    assert_eq!(args_of(&[], &["a"]), ["entry", "a"]);
    assert_eq!(args_of(&["c"], &[]), ["c"]);
    assert_eq!(args_of(&["c"], &["a"]), ["c", "a"]);
}

#[test]
fn a_container_without_any_command_is_invalid() {
    let mut case = case();
    case.image.cmd.clear();
    assert!(matches!(spec_of(case), Err(Error::Invalid { .. })));
}

#[test]
fn an_unknown_capability_is_invalid_and_nothing_is_inheritable() {
    let with = |name: &str| {
        let mut case = case();
        case.container.linux = Some(wire::LinuxContainerConfig {
            security_context: Some(wire::LinuxContainerSecurityContext {
                capabilities: Some(wire::Capability {
                    add_capabilities: vec![name.into()],
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        });
        spec_of(case)
    };
    assert!(with("CAP_NOT_THERE").is_err());
    let spec = with("sys_admin").unwrap();
    let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert!(sets.inheritable().as_ref().unwrap().is_empty());
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 15);
}

#[test]
fn where_no_device_cgroup_fences_it_a_container_cannot_make_nodes() {
    let spec = spec_of(Case { fenced: false, ..case() }).unwrap();
    let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert!(!sets.bounding().as_ref().unwrap().contains(&oci_spec::runtime::Capability::Mknod));
}

#[test]
fn a_handlers_defaults_reach_the_specification() {
    let mut case = case();
    case.defaults = Defaults {
        privileged_without_host_devices: true,
        cgroup_writable: true,
        pod_annotations: vec!["a.b/*".to_owned(), "io.kubernetes.cri.sandbox-id".to_owned()],
        container_annotations: Vec::new(),
    };
    case.pod.annotations.insert("a.b/c".into(), "1".into());
    case.pod.annotations.insert("io.kubernetes.cri.sandbox-id".into(), "another".into());
    case.container.annotations.insert("a.b/d".into(), "1".into());
    case.pod.linux = Some(wire::LinuxPodSandboxConfig {
        security_context: Some(wire::LinuxSandboxSecurityContext {
            privileged: true,
            ..Default::default()
        }),
        ..Default::default()
    });
    case.container.linux = Some(wire::LinuxContainerConfig {
        security_context: Some(wire::LinuxContainerSecurityContext {
            privileged: true,
            ..Default::default()
        }),
        ..Default::default()
    });
    let value = serde_json::to_value(spec_of(case).unwrap()).unwrap();
    assert_eq!(value["annotations"]["a.b/c"], "1");
    assert_eq!(value["annotations"]["io.kubernetes.cri.sandbox-id"], POD);
    assert!(value["annotations"].get("a.b/d").is_none());
    let rules = value["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(rules[0]["allow"], false);
}

#[test]
fn a_handler_may_let_containers_write_to_their_cgroup() {
    let options = |writable: bool| {
        let mut case = case();
        case.defaults.cgroup_writable = writable;
        let spec = spec_of(case).unwrap();
        let mounts = spec.mounts().clone().unwrap();
        let cgroup = mounts.into_iter().find(|mount| mount.destination().ends_with("cgroup"));
        cgroup.unwrap().options().clone().unwrap()
    };
    assert!(options(true).contains(&"rw".to_owned()) && !options(true).contains(&"ro".to_owned()));
    assert!(options(false).contains(&"ro".to_owned()));
}

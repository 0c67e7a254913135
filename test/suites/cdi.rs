//! Devices by the names of the Container Device Interface.

use std::path::Path;

use e2e::runner::Test;
use e2e::runtime::Settings;
use e2e::spec::{Container, script};
use e2e::tests;
use e2e::world::World;
use proto::cri::{CdiDevice, ContainerConfig};
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Wherry: a_device_brings_what_its_file_says,
        Wherry: annotations_name_devices_too_and_none_comes_twice,
        Wherry: a_file_that_appears_or_changes_counts_at_once,
        Wherry: the_later_folder_outranks_and_a_conflict_is_an_error,
        Wherry: broken_files_are_named_and_keep_nobody_out,
        Wherry: a_device_that_is_not_there_makes_no_container,
    ]
}

/// A node with two folders, the second one first in rank.
fn settings(world: &mut World) -> (Settings, std::path::PathBuf, std::path::PathBuf) {
    let (low, high) = (world.new_folder(), world.new_folder());
    let extra = format!("[cdi]\ndirs = [{low:?}, {high:?}]\n");
    (Settings { extra, ..Settings::default() }, low, high)
}

fn devices(mut config: ContainerConfig, names: &[&str]) -> ContainerConfig {
    config.cdi_devices = names.iter().map(|name| CdiDevice { name: (*name).into() }).collect();
    config
}

fn write(folder: &Path, name: &str, device: &str, env: &str) {
    let text = format!(
        "cdiVersion: 0.6.0\nkind: vendor.com/dev\ndevices:\n- name: {device}\n  containerEdits:\n    env: [{env}]\n"
    );
    std::fs::write(folder.join(name), text).unwrap();
}

async fn a_device_brings_what_its_file_says(world: &mut World) {
    let (settings, low, _) = settings(world);
    let shared = world.new_folder();
    std::fs::write(shared.join("driver"), "driver\n").unwrap();
    let marks = world.new_folder().join("marks");
    let text = format!(
        r#"{{"cdiVersion": "0.7.0", "kind": "vendor.com/dev",
        "containerEdits": {{"env": ["VENDOR=yes", "PATH=/bin:/vendor"]}},
        "devices": [{{"name": "one", "containerEdits": {{
            "env": ["ONE=1"], "additionalGids": [44, 0],
            "deviceNodes": [
                {{"path": "/dev/vendor/one", "hostPath": "/dev/zero", "permissions": "r"}},
                {{"path": "/dev/two", "type": "c", "major": 1, "minor": 3, "fileMode": 384}}],
            "mounts": [{{"hostPath": "{0}", "containerPath": "/opt/vendor", "options": ["ro", "nosuid", "rbind"]}}],
            "hooks": [{{"hookName": "createRuntime", "path": "/bin/sh",
                "args": ["sh", "-c", "echo ran >> {1}"]}}]}}}},
            {{"name": "two", "containerEdits": {{"env": ["TWO=2"]}}}}]}}"#,
        shared.display(),
        marks.display()
    );
    std::fs::write(low.join("vendor.json"), text).unwrap();
    let node = world.node_with(settings).await;
    let pod = node.pod("cdi").await;
    let text = "env | grep -e VENDOR -e ONE -e TWO -e ^PATH | sort; cat /opt/vendor/driver; \
        touch /opt/vendor/x 2>/dev/null || echo ro; head -c 3 /dev/vendor/one | wc -c; \
        stat -c '%a %t %T' /dev/two; id -G";
    let config = devices(script("all", text), &["vendor.com/dev=two", "vendor.com/dev=one"]);
    let (status, said) = node.finish(&pod, &config).await;
    let wanted = "ONE=1\nPATH=/bin:/vendor\nTWO=2\nVENDOR=yes\ndriver\nro\n3\n600 1 3\n0 44\n";
    assert_eq!(said, wanted, "{status:?}");
    assert_eq!(std::fs::read_to_string(&marks).unwrap(), "ran\n");
}

async fn annotations_name_devices_too_and_none_comes_twice(world: &mut World) {
    let (settings, low, _) = settings(world);
    write(&low, "a.yaml", "one", "ONE=1");
    let node = world.node_with(settings).await;
    let pod = node.pod("cdi").await;
    let config = devices(script("both", "env | grep -c ONE"), &["vendor.com/dev=one"])
        .label("cdi.k8s.io/plugin", "vendor.com/dev=one");
    let (status, said) = node.finish(&pod, &config).await;
    assert_eq!(said, "1\n");
    assert_eq!(status.annotations["cdi.k8s.io/plugin"], "vendor.com/dev=one");
    let config =
        script("annotated", "env | grep -c ONE").label("cdi.k8s.io/x", "vendor.com/dev=one");
    assert_eq!(node.finish(&pod, &config).await.1, "1\n");
    let config = script("nonsense", "true").label("cdi.k8s.io/x", "nonsense");
    assert_eq!(code(node.create(&pod, &config).await), Code::InvalidArgument);
}

async fn a_file_that_appears_or_changes_counts_at_once(world: &mut World) {
    let (settings, low, _) = settings(world);
    let node = world.node_with(settings).await;
    let pod = node.pod("cdi").await;
    let config =
        |attempt| devices(script("fresh", "echo $ONE"), &["vendor.com/dev=one"]).attempt(attempt);
    assert_eq!(code(node.create(&pod, &config(0)).await), Code::FailedPrecondition);
    write(&low, "a.yaml", "one", "ONE=first");
    assert!(node.finish(&pod, &config(1)).await.1.ends_with("first\n"));
    write(&low, "a.yaml", "one", "ONE=second");
    assert!(node.finish(&pod, &config(2)).await.1.ends_with("second\n"));
    std::fs::remove_file(low.join("a.yaml")).unwrap();
    assert_eq!(code(node.create(&pod, &config(3)).await), Code::FailedPrecondition);
}

async fn the_later_folder_outranks_and_a_conflict_is_an_error(world: &mut World) {
    let (settings, low, high) = settings(world);
    write(&low, "a.yaml", "one", "ONE=low");
    write(&high, "a.yaml", "one", "ONE=high");
    let node = world.node_with(settings).await;
    let pod = node.pod("cdi").await;
    let config = devices(script("rank", "echo $ONE"), &["vendor.com/dev=one"]);
    assert_eq!(node.finish(&pod, &config).await.1, "high\n");
    write(&high, "b.yaml", "one", "ONE=other");
    let refused = node.create(&pod, &config.attempt(1)).await.unwrap_err();
    assert!(refused.message().contains("in two files"), "{refused}");
}

async fn broken_files_are_named_and_keep_nobody_out(world: &mut World) {
    let (settings, low, _) = settings(world);
    write(&low, "good.yaml", "one", "ONE=1");
    std::fs::write(low.join("broken.json"), "{").unwrap();
    std::fs::write(low.join("old.yaml"), "cdiVersion: 0.1.0\nkind: a/b\ndevices: [{name: x}]\n")
        .unwrap();
    std::fs::File::create(low.join("huge.yaml")).unwrap().set_len(1 << 40).unwrap();
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..30 {
        let references = vec![format!("*a{}", level - 1); 9].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{references}]\n"));
    }
    std::fs::write(low.join("bomb.yaml"), bomb).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        low.join("fifo.json"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let node = world.node_with(settings).await;
    let pod = node.pod("cdi").await;
    let good = devices(script("good", "echo $ONE"), &["vendor.com/dev=one"]);
    assert_eq!(node.finish(&pod, &good).await.1, "1\n");
    let refused = node.create(&pod, &devices(script("bad", "true"), &["a/b=x"])).await.unwrap_err();
    for name in
        ["no CDI device a/b=x", "broken.json", "old.yaml", "huge.yaml", "bomb.yaml", "fifo.json"]
    {
        assert!(refused.message().contains(name), "{refused}");
    }
}

async fn a_device_that_is_not_there_makes_no_container(world: &mut World) {
    let (settings, low, _) = settings(world);
    let text = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/dev", "devices": [
        {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/wherry-gone"}]}},
        {"name": "rdt", "containerEdits": {"intelRdt": {"closID": "x"}}},
        {"name": "mount", "containerEdits": {"mounts": [{"hostPath": "/wherry-gone", "containerPath": "/x"}]}}]}"#;
    std::fs::write(low.join("a.json"), text).unwrap();
    let node = world.node_with(settings).await;
    let pod = node.pod("cdi").await;
    for (device, wanted) in [
        ("gone", Code::FailedPrecondition),
        ("rdt", Code::FailedPrecondition),
        ("mount", Code::InvalidArgument),
    ] {
        let config = devices(script(device, "true"), &[&format!("vendor.com/dev={device}")]);
        assert_eq!(code(node.create(&pod, &config).await), wanted, "{device}");
    }
    assert!(node.cri.containers(None).await.unwrap().is_empty());
}

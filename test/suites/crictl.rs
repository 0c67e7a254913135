//! What a person types: crictl from pull to rmi.

use std::path::Path;

use e2e::crictl::Crictl;
use e2e::image::catalog::BUSYBOX;
use e2e::node::Node;
use e2e::runner::Test;
use e2e::tests;
use e2e::world::World;
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    tests![
        Crictl: every_step_from_pull_to_rmi_succeeds,
        Crictl: info_and_version_name_the_runtime,
    ]
}

fn write(folder: &Path, name: &str, content: &Value) -> String {
    let path = folder.join(name);
    std::fs::write(&path, content.to_string()).unwrap();
    path.display().to_string()
}

fn files(node: &Node, folder: &Path) -> (String, String) {
    let config = node.pod_config("typed");
    let metadata = config.metadata.unwrap();
    let pod = json!({
        "metadata": { "name": metadata.name, "uid": metadata.uid, "namespace": "default" },
        "log_directory": folder.join("logs"),
        "linux": { "cgroup_parent": config.linux.unwrap().cgroup_parent },
    });
    let script = "echo hello from the container; trap 'exit 0' TERM; while :; do sleep 1; done";
    let container = json!({
        "metadata": { "name": "shell" }, "image": { "image": BUSYBOX },
        "command": ["sh", "-c", script], "log_path": "shell.log", "linux": {},
    });
    std::fs::create_dir_all(folder.join("logs")).unwrap();
    (write(folder, "pod.json", &pod), write(folder, "container.json", &container))
}

async fn every_step_from_pull_to_rmi_succeeds(world: &mut World) {
    let folder = world.new_folder();
    let node = world.node().await;
    let (pod_file, container_file) = files(node, &folder);
    let crictl = Crictl::new(&node.folders.socket());

    let pulled = crictl.run(&format!("pull {BUSYBOX}")).await;
    assert!(pulled.contains("Image is up to date for sha256:"), "{pulled}");
    assert!(crictl.run("images").await.contains("plain.test/busybox"));
    let pod = crictl.run(&format!("runp {pod_file}")).await;
    node.ids.note(&pod);
    assert!(crictl.run("pods").await.contains("Ready"));
    let container = crictl.run(&format!("create {pod} {container_file} {pod_file}")).await;
    node.ids.note(&container);
    assert_eq!(crictl.run(&format!("start {container}")).await, container);
    let listed = crictl.run("ps").await;
    assert!(listed.contains("Running") && listed.contains(&container[..13]), "{listed}");
    while !crictl.run(&format!("logs {container}")).await.contains("hello") {}
    assert_eq!(crictl.run(&format!("logs {container}")).await, "hello from the container");
    assert_eq!(crictl.run(&format!("exec -s {container} echo done inside")).await, "done inside");

    let inspected = crictl.run(&format!("inspect {container}")).await;
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    assert!(inspected["info"]["pid"].as_i64().unwrap() > 0);
    let inspected: Value =
        serde_json::from_str(&crictl.run(&format!("inspectp {pod}")).await).unwrap();
    assert_eq!(inspected["status"]["state"], "SANDBOX_READY");

    crictl.run(&format!("stop {container}")).await;
    assert!(crictl.run("ps -a").await.contains("Exited"));
    crictl.run(&format!("rm {container}")).await;
    assert!(!crictl.run("ps -a").await.contains(&container[..13]));
    crictl.run(&format!("stopp {pod}")).await;
    assert!(crictl.run("pods").await.contains("NotReady"));
    crictl.run(&format!("rmp {pod}")).await;
    assert!(!crictl.run("pods").await.contains(&pod[..13]));
    crictl.run(&format!("rmi {BUSYBOX}")).await;
    assert!(!crictl.run("images").await.contains("plain.test/busybox"));
}

async fn info_and_version_name_the_runtime(world: &mut World) {
    let name = world.runtime.name();
    let node = world.node().await;
    let crictl = Crictl::new(&node.folders.socket());
    assert!(crictl.run("version").await.contains(name));
    let info: Value = serde_json::from_str(&crictl.run("info").await).unwrap();
    let conditions = info["status"]["conditions"].as_array().unwrap();
    for kind in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
        assert_eq!(condition["status"], true, "{condition}");
    }
}

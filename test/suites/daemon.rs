//! The daemon itself: what it answers about itself, its command line, its configuration, its lock.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Output;
use std::time::Duration;

use e2e::runner::Test;
use e2e::runtime::{Runtime, Settings};
use e2e::tests;
use e2e::world::World;
use proto::cri::{CgroupDriver, CheckpointContainerRequest, RuntimeConfigRequest};
use tokio::process::Command;
use tonic::Code;

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Any: version_fills_all_fields,
        Any: status_says_ready,
        Wherry: status_tells_the_configuration_when_asked,
        Wherry: the_cgroup_driver_is_told,
        Any: calls_without_an_implementation_say_so,
        Wherry: only_root_may_use_the_socket,
        Wherry: a_second_daemon_on_the_same_root_says_who_holds_it,
        Wherry: the_default_configuration_is_a_correct_one,
        Wherry: an_unknown_key_is_a_warning_with_its_line,
        Wherry: a_wrong_value_is_an_error_with_its_line,
        Wherry: a_daemon_with_an_unknown_key_starts,
        Wherry: the_configuration_in_force_can_be_shown,
        Wherry: readiness_is_told_to_the_service_manager,
        Wherry: the_log_can_be_json,
    ]
}

async fn version_fills_all_fields(world: &mut World) {
    let name = world.runtime.name();
    let version = world.node().await.cri.version().await.unwrap();
    assert_eq!(version.runtime_name, name);
    assert_eq!(version.runtime_api_version, "v1");
    assert!(!version.version.is_empty() && !version.runtime_version.is_empty());
}

async fn status_says_ready(world: &mut World) {
    let status = world.node().await.cri.status().await.unwrap().status.unwrap();
    for kind in ["RuntimeReady", "NetworkReady"] {
        let condition = status.conditions.iter().find(|one| one.r#type == kind).unwrap();
        assert!(condition.status, "{condition:?}");
    }
}

async fn status_tells_the_configuration_when_asked(world: &mut World) {
    let node = world.node().await;
    let answer = node.cri.status().await.unwrap();
    let config: serde_json::Value = serde_json::from_str(&answer.info["config"]).unwrap();
    let text = config.to_string();
    assert!(text.contains(node.folders.root.to_str().unwrap()), "{text}");
}

async fn the_cgroup_driver_is_told(world: &mut World) {
    let node = world.node().await;
    let answer = node.cri.runtime.clone().runtime_config(RuntimeConfigRequest {}).await.unwrap();
    let driver = answer.into_inner().linux.unwrap().cgroup_driver();
    // On the host no systemd manages the namespaces of this run.
    let real =
        if e2e::machine::is_guest() { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs };
    assert_eq!(driver, real);
}

async fn calls_without_an_implementation_say_so(world: &mut World) {
    let node = world.node().await;
    let request = CheckpointContainerRequest { container_id: "0".repeat(64), ..Default::default() };
    let answer = node.cri.runtime.clone().checkpoint_container(request).await;
    assert_eq!(code(answer), Code::Unimplemented);
}

async fn only_root_may_use_the_socket(world: &mut World) {
    let node = world.node().await;
    let mode = std::fs::metadata(node.folders.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let root = std::fs::metadata(&node.folders.root).unwrap().permissions().mode();
    assert_eq!(root & 0o007, 0, "{root:o}");
}

async fn wherry(arguments: &[&str]) -> Output {
    let program = Runtime::Wherry.program().unwrap();
    let run = Command::new(program).args(arguments).kill_on_drop(true).output();
    tokio::time::timeout(Duration::from_secs(10), run).await.expect("it ends by itself").unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn both(output: &Output) -> String {
    stdout(output) + &String::from_utf8_lossy(&output.stderr)
}

async fn a_second_daemon_on_the_same_root_says_who_holds_it(world: &mut World) {
    let node = world.node().await;
    let root = node.folders.root.to_str().unwrap();
    let state = node.folders.state.join("second");
    let address = state.join("cri.sock");
    let second = wherry(&[
        "serve",
        "--root",
        root,
        "--state",
        state.to_str().unwrap(),
        "--address",
        address.to_str().unwrap(),
    ])
    .await;
    assert!(!second.status.success());
    let said = both(&second);
    assert!(said.contains(&node.pid().unwrap().to_string()) && said.contains(root), "{said}");
    node.cri.version().await.unwrap();
    std::fs::remove_dir_all(state).ok();
}

/// A configuration file with this text.
fn file(world: &mut World, text: &str) -> String {
    let path = world.new_folder().join("config.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

async fn the_default_configuration_is_a_correct_one(world: &mut World) {
    let default = wherry(&["config", "default"]).await;
    assert!(default.status.success());
    let text = stdout(&default);
    for key in ["config_path", "conf_dir", "bin_dirs"] {
        assert!(text.contains(key), "{key} is not in: {text}");
    }
    let checked = wherry(&["config", "check", &file(world, &text)]).await;
    assert!(checked.status.success(), "{}", both(&checked));
}

async fn an_unknown_key_is_a_warning_with_its_line(world: &mut World) {
    let path = file(world, "[registry]\nconfig_path = \"/etc/certs.d\"\nmirors = 1\n");
    let checked = wherry(&["config", "check", &path]).await;
    let said = both(&checked);
    assert!(checked.status.success(), "{said}");
    assert!(said.contains("mirors") && said.contains('3'), "{said}");
}

async fn a_wrong_value_is_an_error_with_its_line(world: &mut World) {
    for (text, line) in [
        ("[registry]\n\nconfig_path = 5\n", "3"),
        ("[log]\nlevel = \"debug\"\n[cni]\nbin_dirs = \"not a list\"\n", "4"),
        ("[registry]\nconfig_path = \n", "2"),
    ] {
        let path = file(world, text);
        let checked = wherry(&["config", "check", &path]).await;
        let said = both(&checked);
        assert!(!checked.status.success(), "{text}: {said}");
        assert!(said.replace(&path, "").contains(line), "{text}: {said}");
        let state = world.new_folder();
        let state = state.to_str().unwrap();
        let served = wherry(&["serve", "--config", &path, "--root", state, "--state", state]).await;
        assert!(!served.status.success(), "a daemon started with: {text}");
    }
}

async fn a_daemon_with_an_unknown_key_starts(world: &mut World) {
    let extra = "[nonsense]\nkey = 1\n".into();
    let node = world.node_with(Settings { extra, ..Settings::default() }).await;
    assert!(node.log_text().contains("nonsense"));
}

async fn the_configuration_in_force_can_be_shown(world: &mut World) {
    let path = file(world, "[cni]\nconf_dir = \"/somewhere/else\"\n");
    let shown = wherry(&["config", "show", "--config", &path]).await;
    assert!(shown.status.success(), "{}", both(&shown));
    let text = stdout(&shown);
    assert!(text.contains("/somewhere/else") && text.contains("bin_dirs"), "{text}");
}

/// A second daemon beside the node's, on folders of its own, with these variables; it is killed at the end.
async fn beside(
    world: &mut World,
    config: &str,
    variables: &[(&str, &str)],
    until: impl Fn(&str) -> bool,
) -> String {
    let base = world.new_folder();
    let config = file(world, config);
    let out = base.join("out");
    let log = std::fs::File::create(&out).unwrap();
    let mut child = Command::new(Runtime::Wherry.program().unwrap())
        .arg("serve")
        .args(["--config", &config])
        .arg("--root")
        .arg(base.join("root"))
        .arg("--state")
        .arg(base.join("state"))
        .arg("--address")
        .arg(base.join("sock"))
        .envs(variables.iter().copied())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut text = String::new();
    for _ in 0..500 {
        text = std::fs::read_to_string(&out).unwrap();
        if until(&text) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.kill().await.unwrap();
    text
}

async fn readiness_is_told_to_the_service_manager(world: &mut World) {
    let path = world.new_folder().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let told = std::cell::RefCell::new(String::new());
    let ready = |_: &str| {
        let mut buffer = [0; 4096];
        if let Ok(length) = socket.recv(&mut buffer) {
            told.borrow_mut().push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        told.borrow().contains("READY=1")
    };
    let log = beside(world, "", &[("NOTIFY_SOCKET", path.to_str().unwrap())], ready).await;
    assert!(told.borrow().contains("READY=1"), "{log}");
}

async fn the_log_can_be_json(world: &mut World) {
    let config = "[log]\nformat = \"json\"\nlevel = \"info\"\n";
    let text = beside(world, config, &[], |text| text.lines().count() > 0).await;
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!(line.is_object() && line.get("level").is_some(), "{line}");
}

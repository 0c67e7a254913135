//! The machine itself: what the guest is for must be there, or the suites that need it would prove nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::runner::Test;
use e2e::spec::{Container, sleeper};
use e2e::tests;
use e2e::world::World;

pub fn tests() -> Vec<Test> {
    tests![
        CgroupV2: every_controller_of_a_container_is_on_cgroup_v2,
        Systemd: systemd_makes_scopes_in_slices_as_the_kubelet_names_them,
        Systemd: a_pod_in_a_slice_has_its_containers_in_scopes,
        AppArmor: a_profile_can_be_loaded_and_holds,
    ]
}

async fn every_controller_of_a_container_is_on_cgroup_v2(_: &mut World) {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    for controller in ["cpuset", "cpu", "io", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|one| one == controller), "{controllers}");
    }
}

async fn systemd_makes_scopes_in_slices_as_the_kubelet_names_them(_: &mut World) {
    let output = Command::new("systemd-run")
        .args(["--scope", "--quiet", "--property=Delegate=yes", "--unit=wherry-machine-test.scope"])
        .args(["--slice=kubepods-besteffort-podmachine.slice", "cat", "/proc/self/cgroup"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podmachine.slice/\
         wherry-machine-test.scope"
    );
}

async fn a_pod_in_a_slice_has_its_containers_in_scopes(world: &mut World) {
    let node = world.node().await;
    let mut config = node.pod_config("sliced");
    let uid = config.metadata.as_ref().unwrap().uid.clone();
    let slice = format!("wherrytest.slice/wherrytest-pod{uid}.slice");
    config.linux.as_mut().unwrap().cgroup_parent = format!("/{slice}");
    fs::create_dir_all(&config.log_directory).unwrap();
    let pod = node.run_pod(config).await.unwrap();
    let config = sleeper("sliced").limits(|limits| {
        limits.memory_limit_in_bytes = 64 << 20;
        limits.cpu_shares = 512;
    });
    let id = node.run(&pod, &config).await;
    let unit = format!("cri-wherry-{id}.scope");
    let folder = Path::new("/sys/fs/cgroup").join(&slice).join(&unit);
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap().trim().to_owned();
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert!(!read("cgroup.procs").is_empty());
    // What the kernel has and what systemd knows are the same, or a reload would take the limit away.
    let known = property(&unit, "MemoryMax");
    assert_eq!(known, (64 << 20).to_string());
    assert_eq!(node.sh(&id, "cat /proc/self/cgroup").await.trim(), "0::/");
    node.cri.stop(&id, 5).await.unwrap();
    node.cri.remove(&id).await.unwrap();
    assert!(!folder.exists());
    assert_eq!(property(&unit, "LoadState"), "not-found");
}

/// What systemd knows of a unit.
fn property(unit: &str, name: &str) -> String {
    let asked = Command::new("systemctl").args(["show", "--value", "-p", name, unit]).output();
    String::from_utf8_lossy(&asked.unwrap().stdout).trim().to_owned()
}

async fn a_profile_can_be_loaded_and_holds(world: &mut World) {
    let folder = world.new_folder();
    let (profile, secret) = (folder.join("profile"), folder.join("secret"));
    fs::write(&secret, "secret").unwrap();
    let rules = format!("profile wherry-machine-test {{ file, deny {} r, }}\n", secret.display());
    fs::write(&profile, rules).unwrap();
    let loaded = Command::new("apparmor_parser").arg("--replace").arg(&profile).status().unwrap();
    assert!(loaded.success());
    let confined = ["-p", "wherry-machine-test", "cat"];
    let read = |file| Command::new("aa-exec").args(confined).arg(file).output().unwrap();
    assert!(!read(secret.as_path()).status.success());
    let label = read("/proc/self/attr/current".as_ref()).stdout;
    assert_eq!(String::from_utf8_lossy(&label).trim(), "wherry-machine-test (enforce)");
    Command::new("apparmor_parser").arg("--remove").arg(&profile).status().unwrap();
}

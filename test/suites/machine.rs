//! The machine itself: what the guest is for must be there, or the suites that need it would prove nothing.

use std::fs;
use std::process::Command;

use e2e::runner::Test;
use e2e::tests;
use e2e::world::World;

pub fn tests() -> Vec<Test> {
    tests![
        CgroupV2: every_controller_of_a_container_is_on_cgroup_v2,
        Systemd: systemd_makes_scopes_in_slices_as_the_kubelet_names_them,
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

//! Volumes that need no cluster.

use e2e::kubelet::manifest::{phase, pod, ready, server, shell};
use e2e::kubelet::suite::{Stage, Test};
use e2e::together;
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    together![
        containers_of_a_pod_share_an_empty_folder,
        a_folder_in_memory_is_no_larger_than_its_limit,
        files_and_folders_of_the_host_are_there_and_read_only_ones_stay_as_they_are,
        a_sub_path_of_a_volume_is_all_that_is_seen,
        a_pod_reads_its_labels_from_a_file,
        a_volume_of_the_pods_group_can_be_written_by_its_user,
        a_mount_that_the_host_makes_later_is_seen_inside,
        an_image_is_a_volume_that_cannot_be_written,
    ]
}

fn with(name: &str, script: &str, path: &str, volume: Value) -> Value {
    let mut main = shell("main", script);
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": path }]);
    let mut pod = pod(name, &[main]);
    let mut volume = volume;
    volume["name"] = json!("v");
    pod["spec"]["volumes"] = json!([volume]);
    pod
}

async fn containers_of_a_pod_share_an_empty_folder(stage: &Stage) {
    let mount = json!([{ "name": "v", "mountPath": "/v" }]);
    let mut writer = shell("writer", "echo written >/v/file");
    let mut main = shell("main", "until test -s /v/file; do sleep 0.1; done; cat /v/file");
    writer["volumeMounts"] = mount.clone();
    main["volumeMounts"] = mount;
    let mut pod = pod("shared", &[writer, main]);
    pod["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    assert_eq!(stage.printed(pod).await, "written\n");
}

async fn a_folder_in_memory_is_no_larger_than_its_limit(stage: &Stage) {
    let script = "mount | grep ' /v ' | cut -d' ' -f5; df -k /v | tail -n1 | awk '{print $2}'; \
         dd if=/dev/zero of=/v/full bs=64k 2>&1 | grep -o 'No space left'";
    let volume = json!({ "emptyDir": { "medium": "Memory", "sizeLimit": "2Mi" } });
    let log = stage.printed(with("memory", script, "/v", volume)).await;
    assert_eq!(log, "tmpfs\n2048\nNo space left\n");
}

async fn files_and_folders_of_the_host_are_there_and_read_only_ones_stay_as_they_are(
    stage: &Stage,
) {
    let folder = stage.world.folder.join("host-path");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "of the host\n").unwrap();
    let script = "exec 2>&1; cat /file; echo x >/file; echo x >/folder/new && echo written";
    let mut main = shell("main", script);
    main["volumeMounts"] = json!([
        { "name": "file", "mountPath": "/file", "readOnly": true },
        { "name": "folder", "mountPath": "/folder" },
    ]);
    let mut pod = pod("host-path", &[main]);
    let below = folder.join("made");
    pod["spec"]["volumes"] = json!([
        { "name": "file", "hostPath": { "path": folder.join("file"), "type": "File" } },
        { "name": "folder", "hostPath": { "path": below, "type": "DirectoryOrCreate" } },
    ]);
    let log = stage.printed(pod).await;
    assert!(log.starts_with("of the host\n") && log.ends_with("written\n"), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    assert_eq!(std::fs::read_to_string(folder.join("file")).unwrap(), "of the host\n");
    assert_eq!(std::fs::read_to_string(below.join("new")).unwrap(), "x\n");
}

async fn a_sub_path_of_a_volume_is_all_that_is_seen(stage: &Stage) {
    let mut fill = shell("fill", "mkdir -p /all/a/b; echo deep >/all/a/b/file; echo top >/all/top");
    fill["volumeMounts"] = json!([{ "name": "v", "mountPath": "/all" }]);
    let mut main = shell("main", "ls /part; cat /one");
    main["volumeMounts"] = json!([
        { "name": "v", "mountPath": "/part", "subPath": "a/b" },
        { "name": "v", "mountPath": "/one", "subPath": "top" },
    ]);
    let mut pod = pod("sub-path", &[main]);
    pod["spec"]["initContainers"] = json!([fill]);
    pod["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    assert_eq!(stage.printed(pod).await, "file\ntop\n");
}

async fn a_pod_reads_its_labels_from_a_file(stage: &Stage) {
    let items = json!([{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }]);
    let volume = json!({ "downwardAPI": { "items": items } });
    let log = stage.printed(with("labelled", "cat /v/labels", "/v", volume)).await;
    assert!(log.contains("app=\"labelled\""), "{log}");
}

async fn a_volume_of_the_pods_group_can_be_written_by_its_user(stage: &Stage) {
    let script = "id -u; id -G; echo x >/v/file && ls -ln /v/file | awk '{print $3, $4}'";
    let mut pod = with("group", script, "/v", json!({ "emptyDir": {} }));
    pod["spec"]["securityContext"] = json!({
        "runAsUser": 1234, "runAsGroup": 2345, "fsGroup": 3456, "supplementalGroups": [4567],
    });
    let log = stage.printed(pod).await;
    assert_eq!(log, "1234\n2345 3456 4567\n1234 3456\n");
}

async fn an_image_is_a_volume_that_cannot_be_written(stage: &Stage) {
    let script = "exec 2>&1; cat /v/zstd /v/plain; echo x >/v/new";
    let volume = json!({ "image": { "reference": e2e::image::catalog::MIXED } });
    let mut pod = with("image-volume", script, "/v", volume);
    pod["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet.apply(&pod);
    stage.kubelet.until("image-volume", "done", |pod| phase(pod) == "Failed").await;
    let log = stage.kubelet.api.said("/containerLogs/default/image-volume-node/main").await;
    assert!(log.starts_with("zstd\nplain\n") && log.contains("Read-only file system"), "{log}");
}

async fn a_mount_that_the_host_makes_later_is_seen_inside(stage: &Stage) {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
    let folder = stage.world.folder.join("propagated");
    std::fs::create_dir_all(folder.join("later")).unwrap();
    rustix::mount::mount_bind(&folder, &folder).unwrap();
    rustix::mount::mount_change(&folder, MountPropagationFlags::SHARED).unwrap();
    let script = "until test -e /v/later/here; do sleep 0.1; done; touch /v/later/seen";
    let mut main = server("main", script);
    main["volumeMounts"] = json!([
        { "name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer" },
    ]);
    let mut pod = pod("propagated", &[main]);
    pod["spec"]["volumes"] = json!([{ "name": "v", "hostPath": { "path": folder } }]);
    stage.kubelet.apply(&pod);
    stage.kubelet.until("propagated", "ready", ready).await;
    let later = folder.join("later");
    rustix::mount::mount("tmpfs", &later, "tmpfs", MountFlags::empty(), c"").unwrap();
    std::fs::write(later.join("here"), "").unwrap();
    for _ in 0..100 {
        if later.join("seen").exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let seen = later.join("seen").exists();
    stage.kubelet.withdraw("propagated");
    stage.kubelet.until_gone("propagated").await;
    for path in [&later, &folder] {
        rustix::mount::unmount(path, UnmountFlags::DETACH).unwrap();
    }
    assert!(seen);
}

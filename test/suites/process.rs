//! The container's process: command, environment, user and groups, privileges.

use e2e::image::catalog::{BUSYBOX, SET_UP, USER_NAMED, USER_NUMBERED};
use e2e::runner::Test;
use e2e::runtime::Runtime;
use e2e::spec::{Container, container, script};
use e2e::tests;
use e2e::world::World;
use proto::cri::{Capability, Int64Value, LinuxContainerSecurityContext};

use crate::code;

pub fn tests() -> Vec<Test> {
    tests![
        Any: command_and_arguments_replace_what_the_image_says,
        Any: the_working_folder_comes_from_the_request_or_the_image,
        Any: a_working_folder_that_is_missing_is_made,
        Any: variables_of_the_request_win_over_the_images,
        Any: the_image_says_which_user_runs,
        Any: the_request_says_which_user_runs,
        Any: a_user_the_image_does_not_know_is_an_error,
        Any: a_group_without_a_user_is_refused,
        Any: root_has_the_usual_capabilities_and_no_others,
        Any: capabilities_are_added_and_dropped_by_name,
        Any: other_users_have_no_effective_capabilities,
        Any: no_new_privileges_is_passed_on,
        Any: the_score_for_the_out_of_memory_killer_is_set_as_far_as_permitted,
        Any: a_process_inherits_no_file_but_its_three,
        Any: the_first_process_is_number_one_of_its_own_namespace,
    ]
}

fn user(id: i64) -> Option<Int64Value> {
    Some(Int64Value { value: id })
}

/// What a shell script prints as the only container of a pod, with this security context.
async fn printed(
    world: &mut World,
    text: &str,
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> String {
    let node = world.node().await;
    let pod = node.pod("process").await;
    let config = script("process", text).security(change);
    let (status, printed) = node.finish(&pod, &config).await;
    assert_eq!(status.exit_code, 0, "{printed}");
    printed.trim_end().to_owned()
}

/// A line of `/proc/self/status` of a process with this security context.
async fn status_line(
    world: &mut World,
    key: &str,
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> String {
    let text =
        format!("while read -r k v; do [ $k = {key}: ] && echo $v; done < /proc/self/status; true");
    printed(world, &text, change).await
}

async fn command_and_arguments_replace_what_the_image_says(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("command").await;
    let cases: [(&str, &[&str], &[&str], &str); 4] = [
        ("neither", &[], &[], "entrypoint default arguments"),
        ("args", &[], &["mine"], "entrypoint mine"),
        ("command", &["echo", "only this"], &[], "only this"),
        ("both", &["echo"], &["this", "too"], "this too"),
    ];
    for (name, command, args, expected) in cases {
        let mut config = container(name, SET_UP, command);
        config.args = args.iter().map(ToString::to_string).collect();
        let id = node.run(&pod, &config).await;
        node.prints(&pod, &config, "\n").await;
        assert_eq!(node.printed(&pod, &config).lines().next(), Some(expected), "{name}");
        node.cri.stop(&id, 0).await.unwrap();
    }
}

async fn the_working_folder_comes_from_the_request_or_the_image(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("folder").await;
    let from_image = container("from-image", SET_UP, &["pwd"]);
    assert_eq!(node.finish(&pod, &from_image).await.1, "/var\n");
    let mut from_request = container("from-request", SET_UP, &["pwd"]);
    from_request.working_dir = "/usr/bin".into();
    assert_eq!(node.finish(&pod, &from_request).await.1, "/usr/bin\n");
    let neither = container("neither", BUSYBOX, &["pwd"]);
    assert_eq!(node.finish(&pod, &neither).await.1, "/\n");
}

async fn a_working_folder_that_is_missing_is_made(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("new-folder").await;
    let mut config = container("new-folder", BUSYBOX, &["pwd"]);
    config.working_dir = "/srv/not/there".into();
    assert_eq!(node.finish(&pod, &config).await.1, "/srv/not/there\n");
}

async fn variables_of_the_request_win_over_the_images(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("variables").await;
    let text = "echo $COLOUR; echo $EXTRA; echo $PATH; echo $HOSTNAME";
    let config = container("variables", SET_UP, &["sh", "-c", text]);
    let (_, printed) = node.finish(&pod, &config).await;
    assert_eq!(printed, "from the image\n\n/bin\nvariables\n");
    let config = container("changed", SET_UP, &["sh", "-c", text])
        .env("COLOUR", "from the request")
        .env("EXTRA", "a=b $c 'd'");
    let (_, printed) = node.finish(&pod, &config).await;
    assert_eq!(printed, "from the request\na=b $c 'd'\n/bin\nvariables\n");
}

async fn the_image_says_which_user_runs(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("users").await;
    for (name, image, expected) in [
        ("nobody-said", BUSYBOX, "uid=0(root) gid=0(root) groups=0(root)"),
        ("named", USER_NAMED, "uid=1000(worker) gid=1000(worker) groups=1000(worker),50000(extra)"),
        ("numbered", USER_NUMBERED, "uid=1002 gid=1003 groups=1003"),
    ] {
        let (_, printed) = node.finish(&pod, &container(name, image, &["id"])).await;
        // busybox leaves out a list of groups that says nothing new.
        let bare = expected.split(" groups=").next().unwrap();
        let printed = printed.trim_end();
        // containerd 1.6 gives groups to users of the request only.
        let reference = node.runtime == Runtime::Containerd && printed.starts_with(bare);
        assert!(printed == expected || printed == bare || reference, "{printed}");
    }
}

async fn the_request_says_which_user_runs(world: &mut World) {
    let by_number = printed(world, "id -u; id -g; id -G", |security| {
        security.run_as_user = user(1000);
        security.supplemental_groups = vec![33, 4444];
    });
    assert_eq!(by_number.await, "1000\n1000\n1000 33 4444 50000");
    let with_group = printed(world, "id -u; id -g", |security| {
        security.run_as_user = user(1000);
        security.run_as_group = user(33);
    });
    assert_eq!(with_group.await, "1000\n33");
    let by_name = printed(world, "id -u; id -g", |security| {
        security.run_as_username = "www-data".into();
    });
    assert_eq!(by_name.await, "33\n33");
    let unknown_number = printed(world, "id -u; id -g", |security| {
        security.run_as_user = user(7777);
    });
    assert_eq!(unknown_number.await, "7777\n0");
}

async fn a_user_the_image_does_not_know_is_an_error(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("stranger").await;
    let config = script("stranger", "id").security(|security| {
        security.run_as_username = "stranger".into();
    });
    let error = match node.create(&pod, &config).await {
        Ok(id) => node.cri.start(&id).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.message().contains("user"), "{error}");
}

async fn a_group_without_a_user_is_refused(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("group").await;
    let config = script("group", "id").security(|security| security.run_as_group = user(33));
    code(node.create(&pod, &config).await);
}

/// The set that containers have got since Docker: capabilities(7) 0, 1, 3 to 8, 10, 13, 18, 27, 29, 31.
const USUAL: &str = "00000000a80425fb";

async fn root_has_the_usual_capabilities_and_no_others(world: &mut World) {
    assert_eq!(status_line(world, "CapEff", |_| {}).await, USUAL);
    assert_eq!(status_line(world, "CapBnd", |_| {}).await, USUAL);
    assert_eq!(status_line(world, "CapAmb", |_| {}).await, "0000000000000000");
}

async fn capabilities_are_added_and_dropped_by_name(world: &mut World) {
    let of = |add: &[&str], drop: &[&str]| {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Some(Capability {
            add_capabilities: own(add),
            drop_capabilities: own(drop),
            add_ambient_capabilities: Vec::new(),
        })
    };
    let added = of(&["NET_ADMIN"], &["CHOWN"]);
    let line = status_line(world, "CapEff", |security| security.capabilities = added).await;
    assert_eq!(line, "00000000a80435fa");
    let none = of(&[], &["ALL"]);
    let line = status_line(world, "CapBnd", |security| security.capabilities = none).await;
    assert_eq!(line, "0000000000000000");
    let one = of(&["KILL"], &["ALL"]);
    let line = status_line(world, "CapEff", |security| security.capabilities = one).await;
    assert_eq!(line, "0000000000000020");
}

async fn other_users_have_no_effective_capabilities(world: &mut World) {
    let line = status_line(world, "CapEff", |security| security.run_as_user = user(1000)).await;
    assert_eq!(line, "0000000000000000");
    let line = status_line(world, "CapBnd", |security| security.run_as_user = user(1000)).await;
    assert_eq!(line, USUAL);
}

async fn no_new_privileges_is_passed_on(world: &mut World) {
    assert_eq!(status_line(world, "NoNewPrivs", |_| {}).await, "0");
    let line = status_line(world, "NoNewPrivs", |security| security.no_new_privs = true).await;
    assert_eq!(line, "1");
}

async fn the_score_for_the_out_of_memory_killer_is_set_as_far_as_permitted(world: &mut World) {
    let node = world.node().await;
    let pod = node.pod("score").await;
    let text = "cat /proc/self/oom_score_adj";
    let likely = script("likely", text).limits(|limits| limits.oom_score_adj = 500);
    assert_eq!(node.finish(&pod, &likely).await.1, "500\n");
    let unlikely = script("unlikely", text).limits(|limits| limits.oom_score_adj = -998);
    let (status, printed) = node.finish(&pod, &unlikely).await;
    let score: i32 = printed.trim().parse().unwrap();
    assert!(status.exit_code == 0 && (-998..=0).contains(&score), "{printed}");
}

async fn a_process_inherits_no_file_but_its_three(world: &mut World) {
    // The fourth is the shell's own view of the folder.
    let printed = printed(world, "ls -1 /proc/self/fd | wc -l; ls -l /proc/1/fd", |_| {}).await;
    let count: u32 = printed.lines().next().unwrap().trim().parse().unwrap();
    assert!(count <= 4, "{printed}");
}

async fn the_first_process_is_number_one_of_its_own_namespace(world: &mut World) {
    // The shell, and as much of the pipe as there is by the time that the shell looks.
    let printed = printed(world, "echo $$; ls -d /proc/[0-9]* | wc -l", |_| {}).await;
    assert!(["1\n2", "1\n3"].contains(&printed.as_str()), "{printed}");
}

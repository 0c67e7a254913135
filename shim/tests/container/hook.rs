//! Hooks at all their points, and creation without a shim.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("hooks_run_in_order_and_are_told_the_state", order),
    ("hooks_run_where_they_belong", places),
    ("a_hook_that_fails_stops_the_creation_and_says_why", failing),
    ("a_hook_that_takes_too_long_is_killed", slow),
    ("hooks_of_a_shims_container_run_too", by_the_shim),
    ("a_container_can_be_made_without_a_shim", without_shim),
    ("a_command_that_is_not_there_is_found_out_at_the_creation_when_asked", missing_command),
    ("a_root_can_be_changed_without_pivot", no_pivot),
];

impl Case {
    /// A hook that appends a line to the file `said` beside the bundle; `words` is shell.
    fn hook(&self, name: &str, words: &str) -> Value {
        let path = self.dir.join(format!("hook-{name}"));
        let said = self.dir.join("said");
        let script = format!("#!/bin/sh\nstate=$(cat)\n{{ {words}; }} >> {}\n", said.display());
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        json!({"path": path, "args": [name], "env": ["PATH=/bin:/usr/bin", format!("NAME={name}")]})
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.join("said")).unwrap_or_default()
    }
}

fn order() {
    let mut case = Case::new("exit 3");
    let kinds =
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    case.spec["annotations"] = json!({"a/b": "c"});
    case.spec["hooks"] = json!({});
    for kind in kinds {
        let hook = case.hook(kind, "echo $NAME $# \"$state\"");
        case.spec["hooks"][kind] = json!([hook]);
    }
    // The one in the container is of the container's files.
    fs::create_dir_all(case.image.join("hooks")).unwrap();
    let inside = "#!/bin/sh\ncat > /hooks/said; id -u >> /hooks/said\n";
    fs::write(case.image.join("hooks/start"), inside).unwrap();
    let mode = fs::Permissions::from_mode(0o777);
    fs::set_permissions(case.image.join("hooks/start"), mode.clone()).unwrap();
    fs::set_permissions(case.image.join("hooks"), mode).unwrap();
    case.spec["hooks"]["startContainer"] = json!([{"path": "/hooks/start"}]);
    case.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let ran = case.run_here(&json!({"after": true}));
    assert_eq!(ran.code, 3);
    let said = case.said();
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, (kind, status)) in lines.iter().zip(expected) {
        let state = line.strip_prefix(&format!("{kind} 0 ")).unwrap();
        let state: Value = serde_json::from_str(state).unwrap();
        assert_eq!(state["status"], status);
        assert_eq!(state["id"], case.id);
        assert_eq!(state["bundle"], json!(case.bundle_dir));
        assert_eq!(state["annotations"], json!({"a/b": "c"}));
        assert_eq!(state["ociVersion"], case.spec["ociVersion"]);
        let pid = match kind {
            "createContainer" => json!(1),
            "poststop" => Value::Null,
            _ => ran.told["created"].clone(),
        };
        assert_eq!(state["pid"], pid, "{kind}");
    }
    let inside = fs::read_to_string(case.image.join("hooks/said")).unwrap();
    assert!(inside.contains("\"created\"") && inside.ends_with("1000\n"), "{inside}");
}

fn places() {
    let mut case = Case::new("cat /from-hook /proc/1/comm");
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    let mounted = case.image.join("from-hook");
    let outside = case.hook("outside", "readlink /proc/self/ns/net");
    let inside = case.hook(
        "inside",
        &format!(
            "readlink /proc/self/ns/net; ls {0}/dev/null; echo made > {0}/from-hook",
            case.image.display()
        ),
    );
    case.spec["hooks"] = json!({"createRuntime": [outside], "createContainer": [inside]});
    let ran = case.run_here(&json!({}));
    assert_eq!((ran.code, ran.out.as_str()), (0, "made\ncat\n"), "{}", ran.told);
    let said = case.said();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], host.to_str().unwrap());
    assert!(lines[1].starts_with("net:") && lines[1] != lines[0], "{said}");
    assert!(lines[2].ends_with("/image/dev/null") && mounted.exists(), "{said}");
}

fn failing() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut case = Case::new("true");
        let hook = case.hook(kind, "echo too bad >&2; exit 7");
        case.spec["hooks"] = json!({kind: [hook]});
        let ran = case.run_here(&json!({}));
        let failure = ran.told["failure"].as_str().unwrap();
        assert!(failure.starts_with(&format!("run {kind} hook /")), "{failure}");
        assert!(failure.ends_with("exit code 7: too bad"), "{failure}");
        assert_eq!(case.cgroups(), Vec::<std::path::PathBuf>::new());
        let mut case = Case::new("true");
        let hook = case.hook(kind, "exit 7");
        case.spec["hooks"] = json!({kind: [hook]});
        let refused = case.create().unwrap_err().to_string();
        assert!(refused.contains("exit code 7"), "{refused}");
    }
    let mut case = Case::new("echo never");
    case.spec["hooks"] = json!({"startContainer": [{"path": "/bin/nothing"}]});
    let ran = case.run_here(&json!({}));
    let failure = ran.told["failure"].as_str().unwrap();
    assert!(
        failure.contains("startContainer hook /bin/nothing") && failure.contains("127"),
        "{failure}"
    );
    assert_eq!(ran.out, "");
}

fn slow() {
    let mut case = Case::new("true");
    let mut hook = case.hook("slow", "exec sleep 60");
    hook["timeout"] = json!(1);
    case.spec["hooks"] = json!({"createRuntime": [hook]});
    let began = std::time::Instant::now();
    let ran = case.run_here(&json!({}));
    let failure = ran.told["failure"].as_str().unwrap();
    assert!(failure.ends_with("it was killed after 1 s"), "{failure}");
    assert!(began.elapsed().as_secs() < 10);
}

fn by_the_shim() {
    let mut case = Case::new("cat /tmp/x; true");
    let outside = case.hook("outside", "echo $NAME");
    let inside = case.hook(
        "inside",
        &format!("echo $NAME; echo y > {}/rootfs/tmp/x", case.bundle_dir.display()),
    );
    case.spec["hooks"] = json!({"createRuntime": [outside], "createContainer": [inside],
        "startContainer": [{"path": "/bin/true"}]});
    assert_eq!(case.run_for_output(), "y");
    assert_eq!(case.said(), "outside\ninside\n");
}

fn without_shim() {
    let mut case = Case::new(
        "echo $ADDED $$ $(cat /proc/self/cgroup | grep -vc ':/$'); ls /proc/self/fd; exit 4",
    );
    let ran = case.run_here(&json!({}));
    assert_eq!((ran.code, ran.out.as_str()), (4, "1 1 0\n0\n1\n2\n3\n"), "{}", ran.told);
    // A joined PID namespace does not become that of whoever made the container.
    let mut first = Case::new("sleep 60");
    let pid = first.start().pid;
    let mut joined = Case::new("echo joined");
    for namespace in joined.spec["linux"]["namespaces"].as_array_mut().unwrap() {
        let file = match namespace["type"].as_str() {
            Some("network") => "net",
            Some("pid") => "pid",
            _ => continue,
        };
        namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
    }
    let ran = joined.run_here(&json!({}));
    assert_eq!((ran.code, ran.out.as_str()), (0, "joined\n"), "{}", ran.told);
}

fn missing_command() {
    for (command, errno) in [("/bin/nothing", 2), ("nothing", 2), ("/etc/passwd", 13), ("/tmp", 13)]
    {
        let mut case = Case::new("");
        case.spec["process"]["args"] = json!([command]);
        let ran = case.run_here(&json!({"check_command": true}));
        assert_eq!((&ran.told["kind"], &ran.told["errno"]), (&json!("StartFailed"), &json!(errno)));
        assert_eq!(case.cgroups(), Vec::<std::path::PathBuf>::new());
        // Otherwise whoever starts it is told the same.
        let mut case = Case::new("");
        case.spec["process"]["args"] = json!([command]);
        let later = case.run_here(&json!({}));
        assert_eq!(later.told["failure"], ran.told["failure"]);
    }
}

fn no_pivot() {
    let mut case = Case::new("ls -d /bin /proc/1; ls -d /work /usr /../usr; busybox pwd");
    let ran = case.run_here(&json!({"no_pivot": true}));
    assert_eq!(ran.out, "/bin\n/proc/1\n/\n", "{}", ran.told);
}

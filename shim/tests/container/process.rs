//! What a process is: its user, rights, limits and files; and further ones beside it.

use std::time::{Duration, Instant};

use serde_json::json;
use shim::{ErrorKind, ExecOptions, UserRequest};

use crate::harness::{Case, Test, cgroup_parent};

pub const TESTS: &[Test] = &[
    ("users_are_found_in_the_image", users),
    ("an_unknown_user_or_a_number_out_of_range_is_refused", unknown_users),
    ("capabilities_are_those_of_the_spec", capabilities),
    ("only_the_standard_files_are_open", files),
    ("a_missing_working_folder_is_made", working_folder),
    ("limits_above_what_is_permitted_are_clamped", limits),
    ("environment_and_host_name_are_the_containers", environment),
    ("an_exec_is_in_the_container_and_tells_its_end", exec),
    ("an_exec_that_cannot_be_executed_says_so", exec_failures),
    ("a_killed_exec_takes_its_group_along", exec_kill),
    ("an_execs_background_process_does_not_hold_it_up", exec_background),
    ("many_execs_at_once_each_get_their_own_and_leave_nothing", exec_many),
    ("everybody_is_in_the_containers_cgroups", cgroups),
    ("limits_are_written_where_the_kernel_reads_them", cgroup_limits),
];

fn ids(user: UserRequest) -> (String, shim::Created) {
    let mut case = Case::new("id -u; id -g; id -G; echo $HOME");
    case.options.user = user;
    let created = case.create().unwrap();
    case.block(async {
        case.shim().start().await.unwrap();
        case.shim().wait().await.unwrap();
    });
    (case.output(), created)
}

fn user(text: &str) -> UserRequest {
    UserRequest { user: text.to_owned(), ..UserRequest::default() }
}

fn users() {
    let (said, created) = ids(user("app"));
    assert_eq!(said, "1000\n1000\n1000 29\n/home/app");
    assert_eq!((created.user.uid, created.user.gid), (1000, 1000));
    assert_eq!(created.user.groups, [1000, 29]);
    assert_eq!(ids(user("4242")).0, "4242\n0\n0\n/");
    assert_eq!(ids(user("4242:audio")).0, "4242\n29\n29\n/");
    let strict = UserRequest {
        user: "app".to_owned(),
        group: Some(5),
        supplemental: vec![6, 7],
        strict: true,
    };
    assert_eq!(ids(strict).0, "1000\n5\n5 6 7\n/home/app");
}

fn unknown_users() {
    for text in ["nobody-here", "app:nogroup", "4294967296", "-1", "2147483648"] {
        let mut case = Case::new("true");
        case.options.user = user(text);
        let refused = case.create().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    }
}

fn capabilities() {
    let caps = "grep -E '^(Cap|NoNewPrivs|Groups)' /proc/self/status";
    let said = Case::new(caps).run_for_output();
    let set = "00000000a80425fb";
    assert!(said.contains(&format!("CapPrm:\t{set}")), "{said}");
    assert!(said.contains(&format!("CapEff:\t{set}")), "{said}");
    assert!(said.contains(&format!("CapBnd:\t{set}")), "{said}");
    assert!(said.contains("CapInh:\t0000000000000000"), "{said}");
    assert!(said.contains("CapAmb:\t0000000000000000"), "{said}");
    assert!(said.contains("NoNewPrivs:\t1"), "{said}");

    let mut plain = Case::new(caps);
    plain.options.user = user("app");
    let said = plain.run_for_output();
    assert!(said.contains("CapEff:\t0000000000000000"), "{said}");

    let mut ambient = Case::new(caps);
    ambient.options.user = user("app");
    let one = json!(["CAP_NET_BIND_SERVICE"]);
    ambient.spec["process"]["capabilities"] = json!({
        "bounding": one, "permitted": one, "effective": one, "inheritable": one, "ambient": one
    });
    let said = ambient.run_for_output();
    assert!(said.contains("CapEff:\t0000000000000400"), "{said}");
}

fn files() {
    let mut case = Case::new("ls /proc/self/fd; busybox readlink /proc/self/fd/0; sleep 60");
    case.start();
    let (code, said, _) = case.exec("files", "ls /proc/self/fd; busybox readlink /proc/self/fd/0");
    // The fourth is the folder that ls reads.
    assert_eq!((code, said.as_str()), (0, "0\n1\n2\n3\n/dev/null\n"));
    assert_eq!(case.output(), "0\n1\n2\n3\n/dev/null");
    let (_, said, _) =
        case.exec("root", "busybox readlink /proc/1/cwd; busybox readlink /proc/1/root; ls /");
    assert!(said.starts_with("/\n/\n"), "{said}");
}

fn working_folder() {
    let mut case = Case::new("busybox pwd; ls -ld /new/folder");
    case.spec["process"]["cwd"] = json!("/new/folder");
    case.spec["root"]["readonly"] = json!(true);
    case.options.user = user("app");
    let said = case.run_for_output();
    assert!(
        said.starts_with("/new/folder\ndrwxr-xr-x") && said.contains("root     root"),
        "{said}"
    );
}

fn limits() {
    let mut case = Case::new("ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj");
    case.spec["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 1_048_576, "hard": 1_048_576},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
    ]);
    let said = case.run_for_output();
    let numbers: Vec<&str> = said.lines().collect();
    assert_eq!(numbers[0], numbers[1], "{said}");
    assert_eq!(numbers[2..], ["0", "500"]);
    let mut low = Case::new("cat /proc/self/oom_score_adj");
    low.spec["process"]["oomScoreAdj"] = json!(-999);
    assert_eq!(low.run().code, 0);
}

fn environment() {
    let mut case = Case::new("busybox hostname; echo $A; echo $$; busybox env | grep -c .; umask");
    case.spec["process"]["env"] = json!(["PATH=/bin", "A=b c"]);
    assert_eq!(case.run_for_output(), "box\nb c\n1\n5\n0022");
}

fn exec() {
    let mut case = Case::new("touch /tmp/made; sleep 60");
    case.options.user = user("app");
    case.spec["process"]["env"] = json!(["PATH=/bin", "FROM=spec"]);
    let created = case.start();
    let (code, out, err) =
        case.exec("one", "echo $FROM; ls /proc/1/cwd >/dev/null; echo no >&2; exit 5");
    assert_eq!((code, out.as_str()), (5, "spec\n"));
    assert!(err.ends_with("no\n"), "{err}");
    case.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [29]});
    assert_eq!(case.exec("two", "id -u; id -G; echo $HOME").1, "1000\n1000 29\n/home/app\n");
    let caps = case.exec("caps", "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status").1;
    assert!(caps.contains("CapBnd:\t00000000a80425fb"), "{caps}");
    assert!(caps.contains("CapEff:\t0000000000000000"), "{caps}");
    let inits =
        |kind: &str| std::fs::read_link(format!("/proc/{}/ns/{kind}", created.pid)).unwrap();
    let said = case
        .exec(
            "ns",
            "cd /proc/self/ns; for n in mnt pid net ipc uts cgroup; do busybox readlink $n; done",
        )
        .1;
    for (line, kind) in said.lines().zip(["mnt", "pid", "net", "ipc", "uts", "cgroup"]) {
        assert_eq!(line, inits(kind).to_str().unwrap());
    }
}

fn exec_failures() {
    let mut case = Case::new("sleep 60");
    case.start();
    let refused = case.exec_args("missing", json!(["/bin/nothing"])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StartFailed);
    assert_eq!(refused.to_string(), "execute /bin/nothing: no such file or directory");
    let refused = case.exec_args("text", json!(["/etc/passwd"])).unwrap_err();
    assert_eq!(refused.to_string(), "execute /etc/passwd: permission denied");
    case.spec["process"]["cwd"] = json!("/proc/self/fd/7");
    let refused = case.exec_args("cwd", json!(["/bin/true"])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    case.spec["process"]["cwd"] = json!("/");
    assert_eq!(case.exec("missing", "exit 0").0, 0, "its name is free again");
    case.block(case.shim().kill(9, false)).unwrap();
    case.block(case.shim().wait()).unwrap();
    let refused = case.exec_args("late", json!(["/bin/true"])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
}

fn exec_kill() {
    let mut case = Case::new("sleep 60");
    case.start();
    let shim = case.shim();
    let mut process = case.spec["process"].clone();
    process["args"] = json!(["/bin/sh", "-c", "sleep 50 & sleep 50"]);
    let options = ExecOptions {
        exec_id: "long".to_owned(),
        process: serde_json::from_value(process).unwrap(),
        stdin: None,
        stdout: None,
        stderr: None,
    };
    let again = options.clone();
    case.block(async {
        shim.exec(options).await.unwrap();
        assert_eq!(shim.exec(again).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        shim.start_exec("long").await.unwrap();
        let running = shim.delete_exec("long").await.unwrap_err();
        assert_eq!(running.kind(), ErrorKind::FailedPrecondition);
        tokio::time::sleep(Duration::from_millis(100)).await;
        shim.kill_exec("long", 9).await.unwrap();
        assert_eq!(shim.wait_exec("long").await.unwrap().code, 137);
        assert_eq!(shim.kill_exec("long", 9).await.unwrap_err().kind(), ErrorKind::NotFound);
        shim.delete_exec("long").await.unwrap();
        assert_eq!(shim.wait_exec("long").await.unwrap_err().kind(), ErrorKind::NotFound);
    });
    let said = case.exec("left", "busybox ps | grep -c '[s]leep 50'").1;
    assert_eq!(said, "0\n");
}

fn exec_background() {
    let mut case = Case::new("sleep 60");
    case.start();
    let started = Instant::now();
    let (code, out, _) = case.exec("back", "sleep 50 >/dev/null 2>&1 & echo started");
    assert_eq!((code, out.as_str()), (0, "started\n"));
    assert!(started.elapsed() < Duration::from_secs(5));
}

fn exec_many() {
    let mut case = Case::new("sleep 60");
    let created = case.start();
    let files = || {
        let shim = case.shim_pid(&created);
        std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count()
    };
    // The start is answered before its files are closed; one call later they are.
    assert_eq!(case.exec("first", "true").0, 0);
    let before = files();
    let spec = |number: usize| {
        let mut process = case.spec["process"].clone();
        process["args"] =
            json!(["/bin/sh", "-c", format!("sleep 0.0{}; exit {number}", number % 5)]);
        ExecOptions {
            exec_id: format!("x{number}"),
            process: serde_json::from_value(process).unwrap(),
            stdin: None,
            stdout: None,
            stderr: None,
        }
    };
    case.block(async {
        for _ in 0..4 {
            let mut running = tokio::task::JoinSet::new();
            for number in 0..40 {
                let (shim, options) = (case.shim(), spec(number));
                let id = options.exec_id.clone();
                let _handle = running.spawn(async move {
                    shim.exec(options).await.unwrap();
                    shim.start_exec(&id).await.unwrap();
                    let code = shim.wait_exec(&id).await.unwrap().code;
                    shim.delete_exec(&id).await.unwrap();
                    (number, code)
                });
            }
            for (number, code) in running.join_all().await {
                assert_eq!(usize::try_from(code).unwrap(), number);
            }
        }
    });
    assert_eq!(files(), before);
}

fn cgroups() {
    let mut case = Case::new("sleep 60");
    let created = case.start();
    let of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = format!("{}/{}", cgroup_parent(), case.id);
    let inits = of(&created.pid.to_string());
    assert!(inits.lines().all(|line| line.ends_with(&path)), "{inits}");
    // A cgroup namespace shows its root.
    let said = case.exec("cgroup", "cat /proc/self/cgroup").1;
    assert!(said.lines().all(|line| line.ends_with(":/")), "{said}");
    let said = case
        .exec("tree", "touch /sys/fs/cgroup/x; for d in /sys/fs/cgroup/*/; do touch ${d}x; done")
        .2;
    let refused = |line: &str| line.contains("Read-only file system") || line.contains("/*/x");
    assert!(said.lines().all(refused), "{said}");
    // The shim is outside.
    assert!(!of(&case.shim_pid(&created).to_string()).contains(&path));
}

fn cgroup_limits() {
    let mut case = Case::new("sleep 60");
    case.spec["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "swap": 64 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 20000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 20}
    });
    case.start();
    let path = format!("{}/{}", cgroup_parent(), case.id);
    let read = |v1: &str, v2: &str| {
        let files = [
            format!("/sys/fs/cgroup/{}", v1.replace('!', &path)),
            format!("/sys/fs/cgroup{path}/{v2}"),
        ];
        files.iter().find_map(|file| std::fs::read_to_string(file).ok()).unwrap().trim().to_owned()
    };
    assert_eq!(read("memory!/memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read("pids!/pids.max", "pids.max"), "20");
    assert_eq!(read("cpuset!/cpuset.cpus", "cpuset.cpus"), "0");
    let shares = read("cpu!/cpu.shares", "cpu.weight");
    assert!(shares == "512" || shares == "59", "{shares}");
    let quota = read("cpu!/cpu.cfs_quota_us", "cpu.max");
    assert!(quota.starts_with("20000"), "{quota}");

    let mut wrong = Case::new("true");
    wrong.spec["linux"]["resources"]["cpu"] = json!({"cpus": "4000"});
    let refused = wrong.create().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.to_string().starts_with("set cpuset.cpus to \"4000\": "), "{refused}");
}

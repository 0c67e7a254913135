//! A container's life: its exit, its log, and what survives whom.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use shim::{Bundle, ErrorKind, Shim, Status};

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("what_a_container_says_is_in_its_log", what_a_container_says_is_in_its_log),
    ("long_lines_are_split_and_floods_are_whole", long_lines_are_split_and_floods_are_whole),
    ("the_exit_code_is_the_processs_own_or_tells_its_signal", exit_codes),
    ("a_container_over_its_memory_limit_is_known_to_be_so", memory_limit),
    ("a_missing_command_and_one_that_is_none_fail_to_start", commands_that_cannot_be_executed),
    ("states_are_told_and_calls_in_the_wrong_one_are_refused", states),
    ("a_container_that_was_never_started_can_be_deleted", never_started),
    ("a_create_that_hangs_can_be_given_up", hanging_create),
    ("a_rotated_log_goes_on_in_a_new_file", rotation),
    ("a_new_daemon_finds_the_container_and_an_end_it_missed", reconnection),
    ("a_shim_with_nothing_to_own_ends_with_its_last_caller", lonely_shim),
    ("a_shim_whose_bundle_is_deleted_cleans_up_after_the_end", abandoned),
    ("a_container_at_its_start_barrier_ends_with_its_shim", dead_shim),
    ("who_holds_the_output_open_does_not_hold_up_the_end", output_held_open),
    ("a_socket_path_of_any_length_can_be_connected_to", long_socket_path),
    ("a_terminal_is_one_and_can_be_resized", terminal),
    ("an_open_stdin_ends_when_it_is_closed", stdin),
];

fn what_a_container_says_is_in_its_log() {
    let mut case = Case::new("echo hello; echo oops >&2; printf tail");
    let exit = case.run();
    assert_eq!((exit.code, exit.oom_killed), (0, false));
    let log = case.log();
    assert!(log.contains(" stdout F hello\n") && log.contains(" stderr F oops\n"));
    assert!(log.contains(" stdout P tail\n"));
    let started = case.bundle().started().unwrap();
    assert!(started.pid > 1 && started.start_time > 0);
    assert_eq!(case.bundle().exit().unwrap(), exit);
}

fn long_lines_are_split_and_floods_are_whole() {
    let mut case = Case::new(
        "busybox head -c 40000 /dev/zero | busybox tr '\\0' x; echo; busybox seq 1 200000",
    );
    assert_eq!(case.run().code, 0);
    let log = case.log();
    let mut lines = log.lines().map(|line| line.splitn(4, ' ').skip(2));
    let mut next = || {
        let mut line = lines.next().unwrap();
        (line.next().unwrap(), line.next().unwrap())
    };
    assert_eq!(next(), ("P", "x".repeat(16384).as_str()));
    assert_eq!(next(), ("P", "x".repeat(16384).as_str()));
    assert_eq!(next(), ("F", "x".repeat(40000 - 2 * 16384).as_str()));
    for number in 1..=200_000 {
        assert_eq!(next(), ("F", number.to_string().as_str()));
    }
}

fn exit_codes() {
    assert_eq!(Case::new("exit 3").run().code, 3);
    assert_eq!(Case::new("exit 255").run().code, 255);
    let mut killed = Case::new("exec sleep 60");
    killed.start();
    killed.block(killed.shim().kill(9, false)).unwrap();
    assert_eq!(killed.block(killed.shim().wait()).unwrap().code, 137);
    let mut trapped = Case::new("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done");
    trapped.start();
    wait_for_output(&trapped, "ready");
    trapped.block(trapped.shim().kill(15, false)).unwrap();
    assert_eq!(trapped.block(trapped.shim().wait()).unwrap().code, 7);
    let refused = trapped.block(trapped.shim().kill(15, false)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

fn memory_limit() {
    let mut case = Case::new("exec busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=60");
    case.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    let exit = case.run();
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    assert!(case.bundle().exit().unwrap().oom_killed);
}

fn commands_that_cannot_be_executed() {
    for (command, words) in [
        ("/bin/nothing", "no such file or directory"),
        ("nothing", "executable file not found in $PATH"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "permission denied"),
        ("/bin/text", "exec format error"),
    ] {
        let mut case = Case::new("");
        let text = case.image.join("bin/text");
        fs::write(&text, "no program").unwrap();
        fs::set_permissions(&text, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        case.spec["process"]["args"] = json!([command]);
        case.create().unwrap();
        let refused = case.block(case.shim().start()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StartFailed, "{refused}");
        assert_eq!(refused.to_string(), format!("execute {command}: {words}"));
        assert_eq!(case.block(case.shim().wait()).unwrap().code, 128);
        assert_eq!(case.block(case.shim().state()).unwrap().status, Status::Stopped);
    }
}

fn states() {
    let mut case = Case::new("sleep 60");
    let created = case.create().unwrap();
    let shim = case.shim();
    let state = || case.block(shim.state()).unwrap();
    assert_eq!((state().status, state().pid), (Status::Created, created.pid));
    case.block(shim.start()).unwrap();
    assert_eq!(state().status, Status::Running);
    let kind = |error: shim::ShimError| error.kind();
    assert_eq!(case.block(shim.start()).map_err(kind), Err(ErrorKind::FailedPrecondition));
    assert_eq!(case.block(shim.delete()).map_err(kind), Err(ErrorKind::FailedPrecondition));
    assert_eq!(case.block(shim.shutdown()).map_err(kind), Err(ErrorKind::FailedPrecondition));
    let again = case.block(shim.create(case.options.clone())).map_err(kind);
    assert_eq!(again, Err(ErrorKind::AlreadyExists));
    assert_eq!(case.block(shim.kill(99, false)).map_err(kind), Err(ErrorKind::InvalidArgument));
    case.block(shim.kill(9, true)).unwrap();
    assert_eq!(case.block(shim.wait()).unwrap().code, 137);
    assert_eq!(case.block(shim.delete()).unwrap().code, 137);
    assert_eq!(case.block(shim.state()).map_err(kind), Err(ErrorKind::NotFound));
    case.block(shim.shutdown()).unwrap();
}

fn never_started() {
    let mut case = Case::new("echo never");
    case.create().unwrap();
    assert_eq!(case.block(case.shim().delete()).unwrap().code, 137);
    assert_eq!(case.log(), "");
}

fn hanging_create() {
    // A spec that never comes: its builder waits for a FIFO.
    let mut case = Case::new("true");
    case.prepare();
    let spec = case.bundle().dir().join("config.json");
    fs::remove_file(&spec).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &spec, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let shim = case.shim();
    let (created, deleted) = case.block(async {
        tokio::join!(shim.create(case.options.clone()), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let other = Shim::connect(case.bundle()).await.unwrap();
            other.delete().await
        })
    });
    assert_eq!(created.unwrap_err().kind(), ErrorKind::Internal);
    deleted.unwrap();
}

fn rotation() {
    let mut case = Case::new("echo one; while [ ! -e /go ]; do sleep 0.02; done; echo two");
    case.start();
    wait_for_output(&case, "one");
    let log = case.dir.join("logs/0.log");
    fs::rename(&log, case.dir.join("logs/0.log.1")).unwrap();
    case.block(case.shim().reopen_log()).unwrap();
    // The container's end may come before the command's own.
    let _code = case.exec("go", "touch /go");
    case.block(case.shim().wait()).unwrap();
    assert_eq!(case.output(), "two");
    let refused = case.block(case.shim().reopen_log()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
}

fn reconnection() {
    let mut case = Case::new("echo up; sleep 0.5; echo down; exit 9");
    case.start();
    let bundle = Bundle::open(case.bundle().dir()).unwrap();
    case.forget_shim();
    // The old daemon is gone: its connection is closed. A new one finds the socket.
    let shim = case.block(Shim::connect(&bundle)).unwrap();
    assert_eq!(case.block(shim.state()).unwrap().status, Status::Running);
    assert_eq!(case.block(shim.wait()).unwrap().code, 9);
    assert_eq!(case.output(), "up\ndown");
    case.adopt(shim);

    let mut missed = Case::new("exit 4");
    missed.start();
    missed.forget_shim();
    let deadline = Instant::now() + Duration::from_secs(5);
    while missed.bundle().exit().is_none() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    let shim = missed.block(Shim::connect(missed.bundle())).unwrap();
    assert_eq!(missed.block(shim.wait()).unwrap().code, 4);
    missed.adopt(shim.clone());
    missed.block(async {
        shim.delete().await.unwrap();
        shim.shutdown().await.unwrap();
        // What a record says stays true without its shim.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(shim.wait().await.unwrap().code, 4);
        assert_eq!(shim.state().await.unwrap_err().kind(), ErrorKind::Unavailable);
        let gone = Shim::connect(missed.bundle()).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::Unavailable);
    });
}

fn lonely_shim() {
    let mut case = Case::new("true");
    case.spec["process"]["cwd"] = json!("relative");
    assert_eq!(case.create().unwrap_err().kind(), ErrorKind::InvalidArgument);
    let bundle = case.bundle().clone();
    case.forget_shim();
    case.block(async { tokio::time::sleep(Duration::from_millis(100)).await });
    assert_eq!(case.block(Shim::connect(&bundle)).unwrap_err().kind(), ErrorKind::Unavailable);
}

fn abandoned() {
    let mut case = Case::new("exit 0");
    let created = case.start();
    case.block(case.shim().wait()).unwrap();
    let cgroups = case.cgroups();
    assert!(!cgroups.is_empty() && created.pid > 0);
    let bundle = case.bundle().clone();
    case.forget_shim();
    bundle.clone().remove().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !case.cgroups().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", case.cgroups());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn dead_shim() {
    let mut case = Case::new("echo never");
    let created = case.create().unwrap();
    let pid =
        rustix::process::Pid::from_raw(i32::try_from(case.shim_pid(&created)).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(case.block(case.shim().start()).unwrap_err().kind(), ErrorKind::Unavailable);
    let deadline = Instant::now() + Duration::from_secs(5);
    // What a daemon has to do then: the record says nothing, so what is left in the cgroups goes.
    assert_eq!(case.bundle().exit(), None);
    for cgroup in case.cgroups() {
        while fs::remove_dir(&cgroup).is_err() {
            assert!(Instant::now() < deadline, "{cgroup:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(case.log(), "");
}

fn output_held_open() {
    let mut case = Case::new("sleep 30 & echo done");
    case.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|ns| ns["type"] != "pid");
    let started = Instant::now();
    assert_eq!(case.run().code, 0);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(case.output(), "done");
}

fn long_socket_path() {
    let mut case = Case::new("exit 6");
    let deep = case.dir.join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    case.bundle_dir = deep.join("bundle");
    assert_eq!(case.run().code, 6);
    let again = case.block(Shim::connect(case.bundle())).unwrap();
    assert_eq!(case.block(again.state()).unwrap().status, Status::Stopped);
}

fn terminal() {
    let mut case =
        Case::new("busybox tty; while [ ! -e /tmp/go ]; do sleep 0.02; done; busybox stty size");
    case.spec["process"]["terminal"] = json!(true);
    case.options.terminal = true;
    case.start();
    case.block(case.shim().resize(101, 37)).unwrap();
    assert_eq!(case.exec("go", "touch /tmp/go; ls -l /dev/console").0, 0);
    assert_eq!(case.block(case.shim().wait()).unwrap().code, 0);
    assert_eq!(case.output().replace('\r', ""), "/dev/pts/0\n37 101");
    assert!(case.log().lines().all(|line| line.contains(" stdout ")));
}

fn stdin() {
    let mut case = Case::new("cat; echo end");
    case.options.stdin = true;
    case.start();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(case.output(), "");
    case.block(case.shim().close_stdin()).unwrap();
    assert_eq!(case.block(case.shim().wait()).unwrap().code, 0);
    assert_eq!(case.output(), "end");
    assert_eq!(Case::new("cat; echo none").run_for_output(), "none");
}

fn wait_for_output(case: &Case, words: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !case.output().contains(words) {
        assert!(Instant::now() < deadline, "{}", case.output());
        std::thread::sleep(Duration::from_millis(5));
    }
}

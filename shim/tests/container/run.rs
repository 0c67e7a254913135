//! Commands that are run to their end in one call.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};
use shim::{ErrorKind, Exit, RunOptions, ShimError};

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("a_command_is_run_to_its_end_in_one_call", one_call),
    ("a_command_that_cannot_be_run_says_so_and_leaves_its_name", cannot_run),
    ("sixty_four_commands_run_at_once_and_no_more", at_once),
    ("whom_a_killed_command_has_started_is_killed_with_it", tree),
    ("three_hundred_commands_leave_no_file_and_no_memory", many),
];

/// A pipe, and what comes out of it.
fn pipe() -> (OwnedFd, JoinHandle<String>) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut reader = fs::File::from(reader);
    let text = spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    (writer, text)
}

fn options(case: &Case, id: &str, args: &Value) -> (RunOptions, [JoinHandle<String>; 2]) {
    let ((stdout, out), (stderr, err)) = (pipe(), pipe());
    let mut process = case.spec["process"].clone();
    process["args"] = args.clone();
    let process = serde_json::from_value(process).unwrap();
    (RunOptions { exec_id: id.to_owned(), process, stdout, stderr }, [out, err])
}

fn run(case: &Case, id: &str, command: &str) -> Result<(Exit, [String; 2]), ShimError> {
    let (options, said) = options(case, id, &json!(["/bin/sh", "-c", command]));
    let exit = case.block(case.shim().run(options))?;
    Ok((exit, said.map(|text| text.join().unwrap())))
}

fn one_call() {
    let mut case = Case::new("sleep 60");
    case.start();
    let command = "echo out; echo err >&2; cat; ls /proc/self/fd | busybox wc -l; exit 7";
    let (exit, [out, err]) = run(&case, "x", command).unwrap();
    // Its three standard files, and the folder that `ls` reads.
    assert_eq!((exit.code, out.as_str(), err.as_str()), (7, "out\n4\n", "err\n"));
    assert!(exit.at.elapsed().unwrap() < Duration::from_secs(20));
    assert_eq!(run(&case, "x", "kill -9 $$").unwrap().0.code, 137);
    let much = run(&case, "x", "busybox head -c 3000000 /dev/zero | busybox tr '\\0' x").unwrap();
    assert_eq!(much.1[0].len(), 3_000_000);
}

fn cannot_run() {
    let mut case = Case::new("sleep 60");
    case.start();
    for _ in 0..3 {
        let (options, said) = options(&case, "x", &json!(["/bin/nothing"]));
        let error = case.block(case.shim().run(options)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StartFailed);
        assert!(error.to_string().contains("/bin/nothing"), "{error}");
        assert_eq!(said.map(|text| text.join().unwrap()), ["", ""]);
    }
    let error = run(&case, "", "true").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let shim = case.shim();
    case.block(shim.kill(9, true)).unwrap();
    case.block(shim.wait()).unwrap();
    assert_eq!(run(&case, "x", "true").unwrap_err().kind(), ErrorKind::FailedPrecondition);
}

fn at_once() {
    let mut case = Case::new("sleep 60");
    let created = case.start();
    let shim = case.shim();
    let all: Vec<_> = (0..64)
        .map(|number| {
            let command = format!("read x < /tmp/go; exit {number}");
            options(&case, &format!("n{number}"), &json!(["/bin/sh", "-c", command])).0
        })
        .collect();
    run(&case, "fifo", "busybox mkfifo /tmp/go").unwrap();
    let one_more = options(&case, "one more", &json!(["/bin/true"])).0;
    let go = options(&case, "go", &json!(["/bin/true"])).0;
    case.block(async {
        let mut running = tokio::task::JoinSet::new();
        for options in all {
            let shim = shim.clone();
            let _handle = running.spawn(async move { shim.run(options).await.unwrap().code });
        }
        // Calls of one connection are taken in their order.
        tokio::task::yield_now().await;
        let refused = shim.run(one_more).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ResourceExhausted, "{refused}");
        let path = format!("/proc/{}/root/tmp/go", created.pid);
        let fifo = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        for _ in 0..64 {
            use std::io::Write;
            (&fifo).write_all(b"\n").unwrap();
        }
        let mut codes = running.join_all().await;
        codes.sort_unstable();
        assert_eq!(codes, (0..64).collect::<Vec<i32>>());
        assert_eq!(shim.run(go).await.unwrap().code, 0);
        drop(fifo);
    });
}

fn tree() {
    let mut case = Case::new("sleep 60");
    let created = case.start();
    let shim = case.shim();
    // In the background, in a group of its own, in a session of its own, orphaned; and a daemon, which is none of ours.
    let command = "sleep 4001 & (sleep 4002 &); busybox setsid sleep 4003 & \
        busybox setsid sh -c 'sleep 4004; true' & busybox start-stop-daemon -S -b -x /bin/sleep -- 4005; \
        touch /tmp/there; sleep 4006";
    let (options, said) = options(&case, "x", &json!(["/bin/sh", "-c", command]));
    let there = format!("/proc/{}/root/tmp/there", created.pid);
    let sleepers = || {
        let text = run(&case, "ps", "busybox ps -o args").unwrap().1[0].clone();
        let mut found: Vec<String> = text
            .lines()
            .filter_map(|line| line.split(' ').find(|word| word.starts_with("400")))
            .map(|word| word.trim_end_matches(';').to_owned())
            .collect();
        found.sort();
        found.dedup();
        found
    };
    case.block(async {
        let running = tokio::spawn({
            let shim = shim.clone();
            async move { shim.run(options).await }
        });
        let start = Instant::now();
        while fs::metadata(&there).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        shim.kill_exec_tree("x").await.unwrap();
        assert_eq!(running.await.unwrap().unwrap().code, 137);
    });
    assert_eq!(sleepers(), ["4005"]);
    drop(said);
}

fn many() {
    let mut case = Case::new("sleep 600");
    let created = case.start();
    let shim = case.shim_pid(&created);
    let files = || fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let memory = || {
        let rollup = fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Private_Dirty")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let runs = |from: usize, to: usize| {
        for number in from..to {
            let (exit, [out, _]) = run(&case, "x", &format!("echo {number}")).unwrap();
            assert_eq!((exit.code, out), (0, format!("{number}\n")));
        }
    };
    runs(0, 20);
    let (before, dirty) = (files(), memory());
    runs(20, 300);
    sleep(Duration::from_millis(20));
    assert_eq!(files(), before);
    let after = memory();
    assert!(after <= dirty + 16, "{dirty} KiB before, {after} KiB after");
}

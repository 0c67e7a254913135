//! Clients of a container's standard files, and execs that somebody types into.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde_json::json;
use shim::{AttachOptions, ErrorKind, ExecOptions, ShimError};

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("every_client_hears_everything_from_its_attach_on_and_so_does_the_log", everyone_hears),
    ("a_client_that_takes_nothing_is_let_go_and_the_container_goes_on", slow_client),
    ("a_client_that_goes_away_costs_nothing", gone_client),
    ("a_detached_client_has_what_was_said_until_then", detached),
    ("a_slow_clients_last_bytes_reach_it_after_the_containers_end", last_bytes),
    ("clients_are_refused_by_what_is_wrong_with_them", refusals),
    ("the_end_of_one_clients_input_is_not_the_containers", input),
    ("what_a_client_says_has_back_pressure_and_arrives_whole", much_input),
    ("a_terminal_is_heard_and_spoken_to_by_a_client", terminal),
    ("a_stream_that_has_ended_is_the_end_of_its_clients", ended_stream),
    ("a_container_without_a_log_can_be_attached_to", without_log),
    ("an_exec_has_an_input_and_a_terminal_with_a_size", exec),
    ("three_hundred_clients_leave_no_file_and_no_memory", many),
];

/// What somebody hears who reads to the end.
struct Ear {
    path: PathBuf,
    file: Option<File>,
}

impl Ear {
    fn new(case: &Case, name: &str) -> Self {
        let path = fifo(case, name);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        Self { path, file: Some(File::from(file)) }
    }

    /// Waits for bytes from now on; without a writer there would be none.
    fn listen(&mut self) -> File {
        let file = self.file.take().unwrap();
        rustix::io::ioctl_fionbio(&file, false).unwrap();
        file
    }

    fn hear_all(&mut self) -> JoinHandle<Vec<u8>> {
        let mut file = self.listen();
        spawn(move || {
            let mut all = Vec::new();
            file.read_to_end(&mut all).unwrap();
            all
        })
    }
}

fn fifo(case: &Case, name: &str) -> PathBuf {
    let path = case.dir.join(name);
    let kind = rustix::fs::FileType::Fifo;
    drop(std::fs::remove_file(&path));
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::from_raw_mode(0o600), 0).unwrap();
    path
}

fn mouth(path: &Path) -> File {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    rustix::io::ioctl_fionbio(&file, false).unwrap();
    File::from(file)
}

fn attach(case: &Case, options: AttachOptions) -> Result<(), ShimError> {
    case.block(case.shim().attach(options))
}

/// A client that hears both streams.
fn client(case: &Case, name: &str) -> [Ear; 2] {
    let ears = ["out", "err"].map(|kind| Ear::new(case, &format!("{name}-{kind}")));
    let options = AttachOptions {
        attach_id: name.to_owned(),
        stdin: None,
        stdout: Some(ears[0].path.clone()),
        stderr: Some(ears[1].path.clone()),
    };
    attach(case, options).unwrap();
    ears
}

fn wait_until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(5));
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn everyone_hears() {
    let mut case = Case::new("echo before; read x; printf 'a\\0\\377'; echo to error >&2; read x");
    case.options.stdin = true;
    case.start();
    wait_until("the first line", || case.log().contains("before"));
    let mut ears = client(&case, "one");
    let (out, err) = (ears[0].hear_all(), ears[1].hear_all());
    let say = fifo(&case, "say");
    let options = AttachOptions {
        attach_id: "two".to_owned(),
        stdin: Some(say.clone()),
        ..AttachOptions::default()
    };
    attach(&case, options).unwrap();
    let mut say = mouth(&say);
    say.write_all(b"go on\n").unwrap();
    wait_until("the second line", || case.log().contains("to error"));
    let mut late = client(&case, "late");
    let late = late[0].hear_all();
    say.write_all(b"end\n").unwrap();
    assert_eq!(case.block(case.shim().wait()).unwrap().code, 0);
    assert_eq!(out.join().unwrap(), b"a\0\xff");
    assert_eq!(text(err.join().unwrap()), "to error\n");
    assert_eq!(text(late.join().unwrap()), "");
    let log = std::fs::read(case.dir.join("logs/0.log")).unwrap();
    assert!(log.windows(4).any(|bytes| bytes == b"a\0\xff\n"));
}

fn slow_client() {
    // More than all buffers hold, and then a mark.
    let command =
        "read x; busybox head -c 20000000 /dev/zero | busybox tr '\\0' x; touch /done; sleep 60";
    let mut case = Case::new(command);
    case.options.stdin = true;
    let created = case.start();
    let slow = client(&case, "slow");
    let mut quick = client(&case, "quick");
    let quick = quick[0].hear_all();
    let before = Instant::now();
    let shim = case.shim();
    case.block(shim.close_stdin()).unwrap();
    let done = PathBuf::from(format!("/proc/{}/root/done", created.pid));
    wait_until("the container's end of its work", || done.exists());
    let took = before.elapsed();
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(12), "{took:?}");
    assert_eq!(case.block(shim.detach("slow")).unwrap_err().kind(), ErrorKind::NotFound);
    case.block(shim.kill(9, false)).unwrap();
    case.block(shim.wait()).unwrap();
    assert_eq!(quick.join().unwrap().len(), 20_000_000);
    assert_eq!(case.log().lines().count(), 20_000_000 / 16384 + 1);
    drop(slow);
}

fn gone_client() {
    let mut case = Case::new("i=0; while :; do echo line $i; i=$((i+1)); done");
    let created = case.start();
    let files = || {
        let shim = case.shim_pid(&created);
        std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count()
    };
    // What a start leaves open for a moment may be among them.
    let before = files();
    let ears = client(&case, "gone");
    let most = files();
    assert!(most >= before);
    drop(ears);
    wait_until("the client's end", || files() < most && files() <= before);
    // The one that says nothing is noticed too.
    let mut case = Case::new("sleep 60");
    let created = case.start();
    assert_eq!(case.exec("first", "true").0, 0);
    let shim = case.shim_pid(&created);
    let files = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let before = files();
    let ears = client(&case, "gone");
    assert_eq!(files(), before + 2);
    drop(ears);
    wait_until("the silent client's end", || files() == before);
    let shim = case.shim();
    assert_eq!(case.block(shim.detach("gone")).unwrap_err().kind(), ErrorKind::NotFound);
}

fn detached() {
    let mut case = Case::new("echo one; read x; echo two; read x");
    case.options.stdin = true;
    case.start();
    wait_until("the first line", || case.log().contains("one"));
    let mut ears = client(&case, "short");
    let out = ears[0].hear_all();
    let say = fifo(&case, "say");
    let options = AttachOptions {
        attach_id: "say".to_owned(),
        stdin: Some(say.clone()),
        ..AttachOptions::default()
    };
    attach(&case, options).unwrap();
    let mut say = mouth(&say);
    say.write_all(b"\n").unwrap();
    wait_until("the second line", || case.log().contains("two"));
    case.block(case.shim().detach("short")).unwrap();
    assert_eq!(text(out.join().unwrap()), "two\n");
    say.write_all(b"\n").unwrap();
    assert_eq!(case.block(case.shim().wait()).unwrap().code, 0);
}

fn last_bytes() {
    let mut case = Case::new("read x; busybox seq 1 20000");
    case.options.stdin = true;
    case.start();
    let mut ears = client(&case, "slow");
    let shim = case.shim();
    let before = Instant::now();
    case.block(shim.close_stdin()).unwrap();
    assert_eq!(case.block(shim.wait()).unwrap().code, 0);
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
    let heard = text(ears[0].hear_all().join().unwrap());
    assert_eq!(heard.lines().count(), 20_000);
    assert!(heard.ends_with("\n20000\n"));
}

fn refusals() {
    let mut case = Case::new("sleep 60");
    case.start();
    let file = case.dir.join("file");
    std::fs::write(&file, "x").unwrap();
    let with = |name: &str, stdout: &Path| AttachOptions {
        attach_id: name.to_owned(),
        stdout: Some(stdout.to_owned()),
        ..AttachOptions::default()
    };
    let kind = |options| attach(&case, options).unwrap_err().kind();
    assert_eq!(kind(with("file", &file)), ErrorKind::InvalidArgument);
    assert_eq!(kind(with("missing", &case.dir.join("missing"))), ErrorKind::InvalidArgument);
    assert_eq!(kind(with("unread", &fifo(&case, "unread"))), ErrorKind::InvalidArgument);
    assert_eq!(kind(with("relative", Path::new("unread"))), ErrorKind::InvalidArgument);
    let ear = Ear::new(&case, "ear");
    assert_eq!(kind(with("", &ear.path)), ErrorKind::InvalidArgument);
    let ears: Vec<[Ear; 2]> = (0..16).map(|number| client(&case, &format!("n{number}"))).collect();
    assert_eq!(kind(with("n3", &ear.path)), ErrorKind::AlreadyExists);
    assert_eq!(kind(with("n16", &ear.path)), ErrorKind::ResourceExhausted);
    let shim = case.shim();
    case.block(shim.detach("n3")).unwrap();
    attach(&case, with("n16", &ear.path)).unwrap();
    case.block(shim.kill(9, true)).unwrap();
    case.block(shim.wait()).unwrap();
    assert_eq!(kind(with("late", &ear.path)), ErrorKind::FailedPrecondition);
    drop(ears);
}

fn input() {
    let mut case = Case::new("while read x; do echo got $x; done; echo end");
    case.options.stdin = true;
    case.start();
    let speak = |name: &str| {
        let path = fifo(&case, name);
        let options = AttachOptions {
            attach_id: name.to_owned(),
            stdin: Some(path.clone()),
            ..AttachOptions::default()
        };
        attach(&case, options).unwrap();
        mouth(&path)
    };
    let mut one = speak("one");
    one.write_all(b"1\n").unwrap();
    drop(one);
    let mut two = speak("two");
    two.write_all(b"2\n").unwrap();
    wait_until("both lines", || case.log().contains("got 1") && case.log().contains("got 2"));
    assert!(!case.log().contains("end"));
    // What was said before it counts, even by someone who could say more.
    two.write_all(b"3\n").unwrap();
    case.block(case.shim().close_stdin()).unwrap();
    assert_eq!(case.block(case.shim().wait()).unwrap().code, 0);
    assert_eq!(case.output().lines().count(), 4);
    assert!(case.output().ends_with("got 3\nend"));
}

fn much_input() {
    const LENGTH: usize = 8_000_000;
    let mut case = Case::new("sleep 0.5; busybox sha256sum; sleep 60");
    case.options.stdin = true;
    case.start();
    let path = fifo(&case, "say");
    let options = AttachOptions {
        attach_id: "say".to_owned(),
        stdin: Some(path.clone()),
        ..AttachOptions::default()
    };
    attach(&case, options).unwrap();
    let mut say = mouth(&path);
    let bytes: Vec<u8> = (0..251_u8).cycle().take(LENGTH).collect();
    let file = case.dir.join("expected");
    std::fs::write(&file, &bytes).unwrap();
    let sum = std::process::Command::new(crate::harness::busybox())
        .args(["sha256sum".as_ref(), file.as_os_str()])
        .output()
        .unwrap();
    let writer = spawn(move || {
        say.write_all(&bytes).unwrap();
    });
    // A second one is attached while the first is held up, and nothing is lost.
    let mut ears = client(&case, "ear");
    let mut heard = ears[0].listen();
    writer.join().unwrap();
    case.block(case.shim().close_stdin()).unwrap();
    let mut line = [0; 64];
    heard.read_exact(&mut line).unwrap();
    assert_eq!(line[..], sum.stdout[..64]);
}

fn terminal() {
    let command = "stty size; read x; echo got $x; stty size";
    let mut case = Case::new(&command.replace("stty", "busybox stty"));
    case.spec["process"]["terminal"] = json!(true);
    case.options.terminal = true;
    case.options.stdin = true;
    case.create().unwrap();
    let say = fifo(&case, "say");
    let mut ear = Ear::new(&case, "ear");
    let options = AttachOptions {
        attach_id: "tty".to_owned(),
        stdin: Some(say.clone()),
        stdout: Some(ear.path.clone()),
        stderr: None,
    };
    attach(&case, options).unwrap();
    let heard = ear.hear_all();
    let shim = case.shim();
    case.block(shim.resize(80, 24)).unwrap();
    case.block(shim.start()).unwrap();
    wait_until("the first size", || case.log().contains("24 80"));
    case.block(shim.resize(100, 30)).unwrap();
    mouth(&say).write_all(b"typed\r").unwrap();
    assert_eq!(case.block(shim.wait()).unwrap().code, 0);
    assert_eq!(text(heard.join().unwrap()), "24 80\r\ntyped\r\ngot typed\r\n30 100\r\n");
}

fn ended_stream() {
    let mut case =
        Case::new("exec 2>&-; read x; echo still here; exec >&-; touch /closed; sleep 60");
    case.options.stdin = true;
    let created = case.start();
    // The shell's own: it is read from until it ends.
    let mut ears = client(&case, "one");
    assert_eq!(text(ears[1].hear_all().join().unwrap()), "");
    let out = ears[0].hear_all();
    case.block(case.shim().close_stdin()).unwrap();
    assert_eq!(text(out.join().unwrap()), "still here\n");
    let closed = PathBuf::from(format!("/proc/{}/root/closed", created.pid));
    wait_until("the mark", || closed.exists());
    let shim = case.shim();
    assert_eq!(case.block(shim.detach("one")).unwrap_err().kind(), ErrorKind::NotFound);
    let mut late = client(&case, "late");
    assert_eq!(text(late[0].hear_all().join().unwrap()), "");
}

fn without_log() {
    let mut case = Case::new("read x; echo heard");
    case.options.log = None;
    case.options.stdin = true;
    case.start();
    let mut ears = client(&case, "one");
    let out = ears[0].hear_all();
    case.block(case.shim().close_stdin()).unwrap();
    assert_eq!(case.block(case.shim().wait()).unwrap().code, 0);
    assert_eq!(text(out.join().unwrap()), "heard\n");
    assert!(!case.dir.join("logs/0.log").exists());
}

fn exec() {
    let mut case = Case::new("sleep 60");
    case.start();
    let shim = case.shim();
    let process = |command: &str, terminal: bool| {
        let mut process = case.spec["process"].clone();
        process["args"] = json!(["/bin/sh", "-c", command]);
        process["terminal"] = json!(terminal);
        if terminal {
            process["consoleSize"] = json!({"height": 24, "width": 80});
        }
        serde_json::from_value(process).unwrap()
    };
    let say = fifo(&case, "say");
    let mut out = Ear::new(&case, "out");
    let mut err = Ear::new(&case, "err");
    let options = ExecOptions {
        exec_id: "pipes".to_owned(),
        process: process("cat; echo done >&2", false),
        stdin: Some(say.clone()),
        stdout: Some(out.path.clone()),
        stderr: Some(err.path.clone()),
    };
    case.block(shim.exec(options)).unwrap();
    case.block(shim.start_exec("pipes")).unwrap();
    let (out, err) = (out.hear_all(), err.hear_all());
    let mut mouth_of_pipes = mouth(&say);
    mouth_of_pipes.write_all(b"said").unwrap();
    drop(mouth_of_pipes);
    case.block(shim.close_exec_stdin("pipes")).unwrap();
    assert_eq!(case.block(shim.wait_exec("pipes")).unwrap().code, 0);
    assert_eq!(text(out.join().unwrap()), "said");
    assert_eq!(text(err.join().unwrap()), "done\n");
    assert_eq!(
        case.block(shim.resize_exec("pipes", 1, 1)).unwrap_err().kind(),
        ErrorKind::FailedPrecondition
    );
    case.block(shim.delete_exec("pipes")).unwrap();

    let mut out = Ear::new(&case, "tty");
    let options = ExecOptions {
        exec_id: "tty".to_owned(),
        process: process(
            "busybox stty size; read x; busybox stty size; tty=$(busybox tty); echo ${tty%[0-9]*}",
            true,
        ),
        stdin: Some(say.clone()),
        stdout: Some(out.path.clone()),
        stderr: None,
    };
    case.block(shim.exec(options)).unwrap();
    case.block(shim.start_exec("tty")).unwrap();
    let mut heard = out.listen();
    let mut first = [0; 7];
    heard.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"24 80\r\n");
    case.block(shim.resize_exec("tty", 132, 50)).unwrap();
    mouth(&say).write_all(b"x\r").unwrap();
    let mut rest = String::new();
    heard.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "x\r\n50 132\r\n/dev/pts/\r\n");
    assert_eq!(case.block(shim.wait_exec("tty")).unwrap().code, 0);
    case.block(shim.delete_exec("tty")).unwrap();
}

fn many() {
    let mut case = Case::new("while :; do echo line; sleep 0.01; done");
    let created = case.start();
    let shim = case.shim_pid(&created);
    let files = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let memory = || {
        let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Private_Dirty")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let attach_some = |from: usize, to: usize| {
        for number in from..to {
            let mut ears = client(&case, "x");
            let mut heard = ears[0].listen();
            let mut line = [0; 5];
            heard.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"line\n", "{number}");
            case.block(case.shim().detach("x")).unwrap();
        }
    };
    attach_some(0, 20);
    let (before, dirty) = (files(), memory());
    attach_some(20, 300);
    assert_eq!(files(), before);
    let after = memory();
    assert!(after <= dirty + 16, "{dirty} KiB before, {after} KiB after");
}

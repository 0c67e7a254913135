//! The shim as containerd drives it: standard files by path, terminals, every verb.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use prost_types::Any;
use proto::shim::task::v2::{
    CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest,
    WaitRequest, WaitResponse,
};
use proto::shim::v1::types::Status;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use serde_json::json;

use crate::harness::{Case, Test};
use crate::wire::{V2, V3, Wire};

pub const TESTS: &[Test] = &[
    ("an_exec_has_a_terminal_of_the_containers_own_with_a_size_and_an_owner", exec_terminal),
    ("an_execs_input_ends_when_its_caller_says_so_and_not_before", exec_input),
    ("a_first_process_reads_and_writes_its_callers_fifos", init_fifos),
    ("a_first_process_has_a_terminal_at_its_callers_fifos", init_terminal),
    ("output_reaches_its_end_with_the_last_who_holds_it_and_files_are_appended_to", inherited),
    ("a_reader_that_goes_away_and_comes_again_ends_nobody", reader_returns),
    ("a_reader_that_does_not_read_holds_up_nobody_else", slow_reader),
    ("what_is_no_fifo_and_no_file_is_refused_by_its_name", strange_files),
    ("both_versions_of_the_service_know_every_verb", verbs),
    ("five_hundred_execs_leave_no_zombie_no_file_and_no_memory", many),
];

/// A container that a caller of containerd's kind has.
struct Task {
    case: Case,
    wire: Wire,
}

fn nothing<A: prost::Message + Default>(_: A) {}

impl Task {
    fn new(mut case: Case, service: &'static str) -> Self {
        case.prepare();
        let wire = Wire::connect(&case.bundle_dir.join("shim.sock"), service);
        Self { case, wire }
    }

    /// Running, and named by nothing.
    fn running(command: &str) -> Self {
        let mut case = Case::new(command);
        case.start();
        let wire = Wire::connect(&case.bundle_dir.join("shim.sock"), V2);
        Self { case, wire }
    }

    fn id(&self) -> String {
        self.case.bundle_dir.file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.case.dir.join(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        path
    }

    fn create(&mut self, terminal: bool, files: [&Path; 3]) -> u32 {
        let [stdin, stdout, stderr] = files.map(|path| path.to_str().unwrap().to_owned());
        let rootfs = self.case.options.rootfs.iter().map(|mount| proto::shim::types::Mount {
            r#type: mount.kind.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
            ..Default::default()
        });
        let (id, rootfs) = (self.id(), rootfs.collect());
        let request =
            CreateTaskRequest { id, rootfs, terminal, stdin, stdout, stderr, ..Default::default() };
        self.wire.call::<CreateTaskResponse>("Create", &request).unwrap().pid
    }

    fn start(&mut self, exec_id: &str) -> u32 {
        let request = StartRequest { id: self.id(), exec_id: exec_id.to_owned() };
        self.wire.call::<StartResponse>("Start", &request).unwrap().pid
    }

    fn exec(&mut self, exec_id: &str, command: &str, terminal: bool, files: [&Path; 3]) {
        let [stdin, stdout, stderr] = files.map(|path| path.to_str().unwrap().to_owned());
        let mut process = self.case.spec["process"].clone();
        process["args"] = json!(["/bin/sh", "-c", command]);
        process["terminal"] = json!(terminal);
        let spec = Any { type_url: String::new(), value: serde_json::to_vec(&process).unwrap() };
        let (id, exec_id) = (self.id(), exec_id.to_owned());
        let spec = Some(spec);
        let request = ExecProcessRequest { id, exec_id, terminal, stdin, stdout, stderr, spec };
        self.wire.call("Exec", &request).map(nothing::<()>).unwrap();
    }

    fn wait(&mut self, exec_id: &str) -> u32 {
        let request = WaitRequest { id: self.id(), exec_id: exec_id.to_owned() };
        self.wire.call::<WaitResponse>("Wait", &request).unwrap().exit_status
    }

    fn delete(&mut self, exec_id: &str) -> u32 {
        let request = DeleteRequest { id: self.id(), exec_id: exec_id.to_owned() };
        self.wire.call::<DeleteResponse>("Delete", &request).unwrap().exit_status
    }

    fn close_input(&mut self, exec_id: &str) {
        let (id, exec_id) = (self.id(), exec_id.to_owned());
        let request = CloseIoRequest { id, exec_id, stdin: true };
        self.wire.call("CloseIO", &request).map(nothing::<()>).unwrap();
    }

    fn kill(&mut self, exec_id: &str) {
        let (id, exec_id) = (self.id(), exec_id.to_owned());
        let request = KillRequest { id, exec_id, signal: 9, all: false };
        self.wire.call("Kill", &request).map(nothing::<()>).unwrap();
    }

    fn state(&mut self) -> StateResponse {
        let request = StateRequest { id: self.id(), exec_id: String::new() };
        self.wire.call("State", &request).unwrap()
    }

    /// What the container writes to the log of Wherry's daemon.
    fn shim(&self) -> u32 {
        let started = self.case.bundle().started().unwrap().pid;
        let stat = fs::read_to_string(format!("/proc/{started}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

const NONE: &str = "";

/// Reads a FIFO to its end, as somebody who is there from now on: who writes before would be ended by SIGPIPE.
fn reader(path: &Path) -> JoinHandle<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fifo = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    spawn(move || {
        // Without a writer there is nothing to hear of; that one has gone is told only after it was there.
        let waited = poll(&mut [PollFd::new(&fifo, PollFlags::IN)], None);
        assert_eq!(waited.unwrap(), 1);
        rustix::io::ioctl_fionbio(&fifo, false).unwrap();
        let mut text = Vec::new();
        drop(File::from(fifo).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn writer(path: &Path) -> File {
    File::options().write(true).open(path).unwrap()
}

fn exec_terminal() {
    let mut task = Task::running("sleep 100");
    let (input, output) = (task.fifo("in"), task.fifo("out"));
    let said = reader(&output);
    task.case.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    task.case.spec["process"]["consoleSize"] = json!({"height": 11, "width": 22});
    let command = "busybox stty size; busybox tty; busybox stat -c %u $(busybox tty); \
                   touch /dev/shm/asked; read x; busybox stty size; echo got $x; exit 6";
    task.exec("t", command, true, [&input, &output, Path::new(NONE)]);
    task.start("t");
    let mut keys = writer(&input);
    let created = task.state().pid;
    let asked = PathBuf::from(format!("/proc/{created}/root/dev/shm/asked"));
    while !asked.exists() {
        sleep(Duration::from_millis(5));
    }
    let (id, exec_id) = (task.id(), "t".to_owned());
    let size = ResizePtyRequest { id, exec_id, width: 90, height: 30 };
    task.wire.call("ResizePty", &size).map(nothing::<()>).unwrap();
    keys.write_all(b"word\n").unwrap();
    assert_eq!(task.wait("t"), 6);
    let said = said.join().unwrap();
    for line in ["11 22", "/dev/pts/", "1000", "30 90", "got word"] {
        assert!(said.contains(line), "{line}: {said:?}");
    }
    assert_eq!(task.delete("t"), 6);
}

fn exec_input() {
    let mut task = Task::running("sleep 100");
    let (input, output) = (task.fifo("in"), task.fifo("out"));
    let said = reader(&output);
    task.exec("i", "cat; echo end", false, [&input, &output, Path::new(NONE)]);
    task.start("i");
    writer(&input).write_all(b"one\n").unwrap();
    // The first writer is gone, and that is not the end.
    sleep(Duration::from_millis(100));
    let mut second = writer(&input);
    second.write_all(b"two\n").unwrap();
    task.close_input("i");
    drop(second);
    assert_eq!(task.wait("i"), 0);
    assert_eq!(said.join().unwrap(), "one\ntwo\nend\n");
    task.delete("i");
}

fn init_fifos() {
    let case = Case::new("cat; echo error >&2; exit 5");
    let mut task = Task::new(case, V2);
    let (input, output, error) = (task.fifo("in"), task.fifo("out"), task.fifo("err"));
    let (said, complained) = (reader(&output), reader(&error));
    let fed = {
        let input = input.clone();
        // As containerd's client: writes as soon as somebody reads.
        spawn(move || writer(&input).write_all(&[b'x'; 200_000]).unwrap())
    };
    task.create(false, [&input, &output, &error]);
    let state = task.state();
    assert_eq!(
        (state.stdin, state.stdout),
        (input.display().to_string(), output.display().to_string())
    );
    task.start("");
    fed.join().unwrap();
    // One writer is gone, and that is not the end.
    sleep(Duration::from_millis(100));
    writer(&input).write_all(b"more").unwrap();
    task.close_input("");
    assert_eq!(task.wait(""), 5);
    assert_eq!(said.join().unwrap().len(), 200_004);
    assert_eq!(complained.join().unwrap(), "error\n");
    assert_eq!(task.delete(""), 5);
}

fn init_terminal() {
    let case =
        Case::new("busybox tty; read x; echo got $x; busybox head -c 100000 /dev/zero; exit 4");
    let mut task = Task::new(case, V3);
    let (input, output) = (task.fifo("in"), task.fifo("out"));
    let said = reader(&output);
    task.create(true, [&input, &output, Path::new(NONE)]);
    assert!(task.state().terminal);
    task.start("");
    writer(&input).write_all(b"key\n").unwrap();
    assert_eq!(task.wait(""), 4);
    assert_eq!(task.delete(""), 4);
    let said = said.join().unwrap();
    assert!(said.contains("/dev/console") || said.contains("/dev/pts/0"), "{said:?}");
    assert!(said.contains("got key"), "{said:?}");
    assert_eq!(said.bytes().filter(|byte| *byte == 0).count(), 100_000);
}

fn inherited() {
    let mut task = Task::running("sleep 100");
    let output = task.fifo("out");
    let file = task.case.dir.join("err.log");
    fs::write(&file, "before\n").unwrap();
    let said = reader(&output);
    let command = "echo now; echo error >&2; (sleep 0.7; echo later) & exit 0";
    let uri = format!("file://{}", file.display());
    task.exec("b", command, false, [Path::new(NONE), &output, Path::new(&uri)]);
    let began = Instant::now();
    task.start("b");
    assert_eq!(task.wait("b"), 0);
    assert!(began.elapsed() < Duration::from_millis(600), "the end waits for nobody");
    assert_eq!(said.join().unwrap(), "now\nlater\n");
    task.delete("b");
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\nerror\n");
}

fn reader_returns() {
    // The writer is no first process: those are not ended by a SIGPIPE.
    let script = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.02; done; exit 3";
    let case = Case::new(&format!("(sh -c '{script}'); exit $?"));
    let mut task = Task::new(case, V2);
    let output = task.fifo("out");
    let first = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(&output)
        .unwrap();
    task.create(false, [Path::new(NONE), &output, Path::new(NONE)]);
    task.start("");
    sleep(Duration::from_millis(200));
    // containerd is started anew.
    drop(first);
    sleep(Duration::from_millis(200));
    let said = reader(&output);
    assert_eq!(task.wait(""), 3);
    assert!(said.join().unwrap().ends_with("line 39\n"));
    task.delete("");
}

fn slow_reader() {
    let mut task = Task::running("sleep 100");
    let (slow, quick) = (task.fifo("slow"), task.fifo("quick"));
    // Opened, and not read.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let held = File::options().read(true).custom_flags(flags).open(&slow).unwrap();
    for (name, terminal) in [("t", true), ("p", false)] {
        task.exec(name, "busybox yes", terminal, [Path::new(NONE), &slow, Path::new(NONE)]);
        task.start(name);
    }
    sleep(Duration::from_millis(300));
    let before = memory(task.shim());
    let said = reader(&quick);
    let began = Instant::now();
    task.exec("q", "echo quick", false, [Path::new(NONE), &quick, Path::new(NONE)]);
    task.start("q");
    assert_eq!((task.wait("q"), said.join().unwrap().as_str()), (0, "quick\n"));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(memory(task.shim()) < before + 64, "what nobody reads is not kept");
    for name in ["t", "p"] {
        task.kill(name);
        assert_eq!(task.wait(name), 137);
        task.delete(name);
    }
    drop(held);
}

fn strange_files() {
    let mut task = Task::running("sleep 100");
    for (path, code, said) in [
        ("/missing/x", 3, "open /missing/x: no such file or directory"),
        ("binary:///bin/x", 12, "use output binary://: only FIFOs and files are supported"),
        ("/tmp", 3, "open /tmp: is neither a FIFO nor a file"),
        ("/dev/zero", 3, "open /dev/zero: is neither a FIFO nor a file"),
    ] {
        task.exec("s", "true", false, [Path::new(NONE), Path::new(path), Path::new(NONE)]);
        let request = StartRequest { id: task.id(), exec_id: "s".to_owned() };
        let refused = task.wire.call::<StartResponse>("Start", &request).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code, said));
        task.delete("s");
    }
}

fn verbs() {
    for service in [V2, V3] {
        let mut task = Task::running("sleep 100");
        task.wire = Wire::connect(&task.case.bundle_dir.join("shim.sock"), service);
        let id = task.id();
        let connected: ConnectResponse =
            task.wire.call("Connect", &ConnectRequest { id: id.clone() }).unwrap();
        assert_eq!(connected.shim_pid, task.shim());
        task.wire.call("Pause", &PauseRequest { id: id.clone() }).map(nothing::<()>).unwrap();
        assert_eq!(task.state().status(), Status::Paused);
        task.wire.call("Resume", &ResumeRequest { id: id.clone() }).map(nothing::<()>).unwrap();
        assert_eq!(task.state().status(), Status::Running);
        let again = task.wire.call::<()>("Resume", &ResumeRequest { id: id.clone() }).unwrap_err();
        assert_eq!(again.code, 9);
        task.exec("x", "sleep 50", false, [Path::new(NONE); 3]);
        let pid = task.start("x");
        let pids: PidsResponse = task.wire.call("Pids", &PidsRequest { id: id.clone() }).unwrap();
        let of_exec = pids.processes.iter().find(|process| process.pid == pid).unwrap();
        assert!(of_exec.info.as_ref().unwrap().type_url.ends_with("ProcessDetails"));
        let value = serde_json::to_vec(&json!({"pids": {"limit": 33}})).unwrap();
        let resources = Some(Any { type_url: String::new(), value });
        let update = UpdateTaskRequest { id: id.clone(), resources, ..Default::default() };
        task.wire.call("Update", &update).map(nothing::<()>).unwrap();
        let cgroups = task.case.cgroups();
        let limit = cgroups.iter().find_map(|path| fs::read_to_string(path.join("pids.max")).ok());
        assert_eq!(limit.as_deref(), Some("33\n"));
        let stats: StatsResponse =
            task.wire.call("Stats", &StatsRequest { id: id.clone() }).unwrap();
        assert!(stats.stats.unwrap().type_url.starts_with("io.containerd.cgroups.v"));
        let checkpoint = CheckpointTaskRequest { id: id.clone(), ..Default::default() };
        let refused = task.wire.call::<()>("Checkpoint", &checkpoint).unwrap_err();
        assert_eq!(refused.code, 12);
        let unknown = task.wire.call::<()>("Nothing", &PauseRequest { id }).unwrap_err();
        assert_eq!(unknown.code, 12);
        let missing = StateRequest { id: "other".to_owned(), exec_id: String::new() };
        assert_eq!(task.wire.call::<StateResponse>("State", &missing).unwrap_err().code, 5);
        task.kill("x");
        assert_eq!(task.wait("x"), 137);
        task.delete("x");
    }
}

fn many() {
    let mut task = Task::running("sleep 100");
    let shim = task.shim();
    let round = |task: &mut Task, number: usize| {
        let name = format!("m{number}");
        task.exec(&name, "exit 9", false, [Path::new(NONE); 3]);
        task.start(&name);
        assert_eq!(task.wait(&name), 9);
        task.delete(&name);
    };
    (0..20).for_each(|number| round(&mut task, number));
    let files = || fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let before = (files(), memory(shim));
    (20..520).for_each(|number| round(&mut task, number));
    assert_eq!(files(), before.0);
    assert!(memory(shim) <= before.1 + 8, "{} KiB, then {}", before.1, memory(shim));
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    assert_eq!(children.split_whitespace().count(), 1, "{children}");
}

/// Private pages of a process, in KiB.
fn memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

//! Logs under load: rotation, and a disk that is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use shim::ErrorKind;

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("no_line_is_lost_or_torn_when_a_log_is_rotated_under_load", rotations),
    ("a_full_disk_stops_nobody_and_lines_are_whole_again_after_it", full_disk),
    ("a_log_gives_its_buffers_back_when_a_container_falls_silent", silence),
    ("a_log_that_cannot_be_opened_anew_is_kept", not_reopened),
];

/// How often the log is rotated; a thousand times when somebody asks for it.
fn count() -> usize {
    std::env::var("WHERRY_ROTATIONS").map_or(150, |text| text.parse().unwrap())
}

/// The content of a line, whose other words are as the kubelet wants them.
fn content(line: &str) -> (bool, &str) {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("{line:?} is torn"));
    let (time, stream, tag, text) = (word(), word(), word(), word());
    assert!(time.len() == 30 && time.ends_with('Z'), "{line:?}");
    assert!(["stdout", "stderr"].contains(&stream) && ["F", "P"].contains(&tag), "{line:?}");
    (tag == "F", text)
}

fn rotations() {
    let mut case = Case::new("exec busybox seq 1 2000000000");
    case.start();
    let shim = case.shim();
    let log = case.dir.join("logs/0.log");
    let mut next = 1_u64;
    let mut begun = String::new();
    let mut check = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{} is torn", path.display());
        for line in text.lines() {
            let (whole, text) = content(line);
            begun.push_str(text);
            if whole {
                assert_eq!(begun, next.to_string(), "after {} lines", next - 1);
                begun.clear();
                next += 1;
            }
        }
        fs::remove_file(path).unwrap();
    };
    // First all of them: whoever checks is slower than whoever writes.
    let rotated: Vec<PathBuf> =
        (0..count()).map(|number| case.dir.join(format!("logs/0.log.{number}"))).collect();
    for path in &rotated {
        // Each has something in it: the container is writing.
        let start = Instant::now();
        while fs::metadata(&log).unwrap().len() == 0 {
            assert!(start.elapsed() < Duration::from_secs(20), "nothing is written");
        }
        fs::rename(&log, path).unwrap();
        case.block(shim.reopen_log()).unwrap();
    }
    case.block(shim.kill(9, true)).unwrap();
    case.block(shim.wait()).unwrap();
    rotated.iter().for_each(|path| check(path));
    check(&log);
    assert!(next > 10_000, "{next}");
}

/// A file system with little room, for a log.
struct Small {
    path: PathBuf,
}

impl Small {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "none"])
            .arg(&path)
            .status();
        assert!(mounted.unwrap().success());
        Self { path }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.path).status());
    }
}

fn full_disk() {
    let mut case = Case::new(
        "while read from to; do busybox seq $from $to; echo round $from done >&2; touch /tmp/$from; done",
    );
    let small = Small::mount(case.dir.join("small"));
    let filler = small.path.join("filler");
    fs::write(&filler, vec![0; 700 << 10]).unwrap();
    let log = small.path.join("0.log");
    case.options.log = Some(log.clone());
    case.options.stdin = true;
    let created = case.start();
    let tell = case.dir.join("tell");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &tell, kind, mode, 0).unwrap();
    let options = shim::AttachOptions {
        attach_id: "tell".to_owned(),
        stdin: Some(tell.clone()),
        ..shim::AttachOptions::default()
    };
    case.block(case.shim().attach(options)).unwrap();
    let mut tell = fs::OpenOptions::new().write(true).open(tell).unwrap();
    let mut round = |from: u32, to: u32| {
        use std::io::Write;
        writeln!(tell, "{from} {to}").unwrap();
        let done = format!("/proc/{}/root/tmp/{from}", created.pid);
        let start = Instant::now();
        while fs::metadata(&done).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "the container is held up");
            sleep(Duration::from_millis(5));
        }
        // The last line is said before the mark is made, and written a moment later.
        sleep(Duration::from_millis(50));
    };
    // Some five times of what there is room for.
    round(1_000_000, 1_040_000);
    let before = fs::read_to_string(&log).unwrap();
    assert!(!before.contains("1040000"));
    fs::remove_file(&filler).unwrap();
    round(2_000_000, 2_001_000);
    let after = fs::read_to_string(&log).unwrap();
    let after = after.strip_prefix(&before).unwrap();
    let (torn, whole) = match after.strip_prefix('\n') {
        Some(rest) => (true, rest),
        None => (false, after),
    };
    assert_eq!(torn, !before.ends_with('\n'));
    let said: Vec<&str> = whole.lines().map(|line| content(line).1).collect();
    assert_eq!(said.len(), 1002);
    assert!(said.contains(&"2000000") && said.contains(&"2001000"));
    // The same again, with the room made by a rotation.
    round(3_000_000, 3_040_000);
    fs::remove_file(&log).unwrap();
    case.block(case.shim().reopen_log()).unwrap();
    round(4_000_000, 4_001_000);
    let text = fs::read_to_string(&log).unwrap();
    let said: Vec<&str> = text.lines().map(|line| content(line).1).collect();
    assert_eq!(said.len(), 1002, "{:?}", said.first());
    drop(tell);
    case.block(case.shim().close_stdin()).unwrap();
    assert_eq!(case.block(case.shim().wait()).unwrap().code, 0);
    // Before its folder is removed.
    drop(small);
}

fn silence() {
    let mut case = Case::new(
        "echo one; sleep 1.5; busybox head -c 30000000 /dev/zero; echo; touch /tmp/x; sleep 60",
    );
    let created = case.start();
    let shim = case.shim_pid(&created);
    let memory = || {
        let rollup = fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Private_Dirty")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    while !case.log().contains("one") {
        sleep(Duration::from_millis(5));
    }
    assert_eq!(case.exec("first", "true").0, 0);
    let before = memory();
    let mark = format!("/proc/{}/root/tmp/x", created.pid);
    let mut most = 0;
    while fs::metadata(&mark).is_err() {
        most = most.max(memory());
        sleep(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(1500));
    let after = memory();
    assert!(most > before + 64, "{before} KiB before, {most} KiB at most");
    let maps = fs::read_to_string(format!("/proc/{shim}/maps")).unwrap();
    // glibc keeps what is freed; the shim that is shipped has none.
    if !maps.contains("/libc.so") {
        assert!(after <= before + 16, "{before} KiB before, {most} KiB at most, {after} KiB after");
    }
    let output = fs::File::open(format!("/proc/{}/fd/1", created.pid)).unwrap();
    assert_eq!(rustix::pipe::fcntl_getpipe_size(&output).unwrap(), 64 << 10);
}

fn not_reopened() {
    let mut case = Case::new("while read x; do echo $x; done");
    case.options.stdin = true;
    case.start();
    let folder = case.dir.join("logs");
    let away = case.dir.join("away");
    fs::rename(&folder, &away).unwrap();
    let error = case.block(case.shim().reopen_log()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert!(!folder.exists());
    fs::rename(&away, &folder).unwrap();
    fs::rename(folder.join("0.log"), folder.join("0.log.1")).unwrap();
    case.block(case.shim().reopen_log()).unwrap();
    assert!(folder.join("0.log").exists());
    case.block(case.shim().close_stdin()).unwrap();
    case.block(case.shim().wait()).unwrap();
    fs::remove_file(folder.join("0.log")).unwrap();
    let error = case.block(case.shim().reopen_log()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert!(!folder.join("0.log").exists());
}

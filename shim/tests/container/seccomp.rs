//! Filters in the kernel: what a profile says is what becomes of a process's system calls.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use shim::ErrorKind;

use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("seccomp_returns_the_profiles_errno_to_the_process", errno),
    ("seccomp_kills_with_sigsys", kills),
    ("seccomp_lets_through_what_it_logs", logs),
    ("seccomp_compares_arguments", arguments),
    ("seccomp_is_loaded_with_and_without_no_new_privs_and_for_execs", status),
    ("seccomp_judges_execs", execs),
    ("seccomp_sends_the_listener_its_file", notify),
    ("seccomp_of_nobody_who_listens_makes_no_container", nobody_listens),
    ("seccomp_profiles_that_mean_nothing_are_refused", refused),
];

/// A profile that allows all but some calls.
fn all_but(names: &[&str], action: &str) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": names, "action": action}],
    })
}

fn case(command: &str, profile: Value) -> Case {
    let mut case = Case::new(command);
    case.spec["linux"]["seccomp"] = profile;
    case
}

fn errno() {
    let mut profile = all_but(&["mkdir", "mkdirat"], "SCMP_ACT_ERRNO");
    let command = "busybox mkdir /tmp/x 2>&1; touch /tmp/y && echo made";
    let said = case(command, profile.clone()).run_for_output();
    assert!(said.contains("Operation not permitted") && said.contains("made"), "{said}");
    profile["syscalls"][0]["errnoRet"] = json!(30);
    let said = case(command, profile).run_for_output();
    assert!(said.contains("Read-only file system") && said.contains("made"), "{said}");
}

fn kills() {
    for action in ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"] {
        let profile = all_but(&["mkdir", "mkdirat"], &format!("SCMP_ACT_{action}"));
        let exit = case("exec busybox mkdir /tmp/x", profile).run();
        assert_eq!(exit.code, 159, "{action}");
    }
}

fn logs() {
    for action in ["LOG", "ALLOW"] {
        let mut profile = all_but(&["mkdir", "mkdirat"], &format!("SCMP_ACT_{action}"));
        profile["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]);
        profile["defaultAction"] = json!("SCMP_ACT_LOG");
        assert_eq!(case("exec busybox mkdir /tmp/x", profile).run().code, 0, "{action}");
    }
}

fn arguments() {
    let rule = |name: &str, index: u32, op: &str, value: u64, two: u64| {
        json!({"names": [name], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": index, "op": op, "value": value, "valueTwo": two}]})
    };
    let set_id = |name: &str, index: u32| rule(name, index, "SCMP_CMP_MASKED_EQ", 0o4000, 0o4000);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            set_id("chmod", 1), set_id("fchmodat", 2),
            rule("kill", 1, "SCMP_CMP_EQ", 0, 0),
            rule("kill", 1, "SCMP_CMP_GE", 30, 0),
        ],
    });
    let command = "touch /tmp/f; for mode in 755 4755; do busybox chmod $mode /tmp/f 2>/dev/null; \
        echo $mode $?; done; for signal in 0 18 28 30; do kill -$signal $$ 2>/dev/null; \
        echo $signal $?; done";
    let said = case(command, profile).run_for_output();
    assert_eq!(said, "755 0\n4755 1\n0 1\n18 0\n28 0\n30 1");
}

fn status() {
    for privileges in [true, false] {
        let show = "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status";
        let mut case = case(&format!("{show}; sleep 600"), all_but(&["mkdir"], "SCMP_ACT_ERRNO"));
        case.spec["process"]["noNewPrivileges"] = json!(!privileges);
        let _created = case.start();
        let expected = format!("NoNewPrivs:\t{}\nSeccomp:\t2\n", u8::from(!privileges));
        let (code, said, error) = case.exec("status", show);
        assert_eq!((code, said.as_str()), (0, expected.as_str()), "{error}");
        assert_eq!(format!("{}\n", case.output()), expected);
    }
    // Who has no profile has no filter.
    let mut case = Case::new("sleep 600");
    let _created = case.start();
    assert_eq!(case.exec("status", "grep Seccomp: /proc/self/status").1, "Seccomp:\t0\n");
}

fn execs() {
    let mut case = case("sleep 600", all_but(&["mkdir", "mkdirat"], "SCMP_ACT_KILL_PROCESS"));
    let _created = case.start();
    assert_eq!(case.exec("good", "touch /tmp/x").0, 0);
    assert_eq!(case.exec("bad", "exec busybox mkdir /tmp/y").0, 159);
    // A filter that is not what was written is not passed over.
    let file = case.bundle_dir.join("seccomp.bpf");
    std::fs::write(&file, "WSF1").unwrap();
    let damaged = case.exec_args("damaged", json!(["/bin/true"])).unwrap_err();
    assert!(damaged.to_string().contains("seccomp.bpf"), "{damaged}");
}

/// What an agent is told, and its file.
fn agent(listener: &UnixListener) -> (Value, OwnedFd) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(&stream, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let length = received.bytes;
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    assert_eq!(files.len(), 1);
    (serde_json::from_slice(&bytes[..length]).unwrap(), files.remove(0))
}

fn asked(file: &OwnedFd) {
    let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&wait)).unwrap(), 1);
}

fn socket_in(dir: &Path) -> (PathBuf, UnixListener) {
    let path = dir.join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    (path, listener)
}

fn notify() {
    for privileges in [true, false] {
        let mut profile = all_but(&["mkdir", "mkdirat"], "SCMP_ACT_NOTIFY");
        let mut case = Case::new("busybox mkdir /tmp/x 2>&1; echo then $?; sleep 600");
        let (path, listener) = socket_in(&case.dir);
        profile["listenerPath"] = json!(path);
        profile["listenerMetadata"] = json!("some words");
        case.spec["linux"]["seccomp"] = profile;
        case.spec["process"]["noNewPrivileges"] = json!(!privileges);
        case.spec["annotations"] = json!({"a": "b"});
        let created = case.start();
        let (told, file) = agent(&listener);
        assert_eq!(told["fds"], json!(["seccompFd"]), "{told}");
        assert_eq!(told["pid"], json!(created.pid), "{told}");
        assert_eq!(told["metadata"], json!("some words"), "{told}");
        // The client names a container by its bundle.
        assert_eq!(told["state"]["id"], json!("bundle"), "{told}");
        assert_eq!(told["state"]["pid"], json!(created.pid), "{told}");
        assert_eq!(told["state"]["bundle"], json!(case.bundle_dir), "{told}");
        assert_eq!(told["state"]["annotations"]["a"], json!("b"), "{told}");
        // The process waits for an answer; an agent that leaves is one.
        asked(&file);
        drop(file);
        while !case.output().contains("then") {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(case.output().contains("Function not implemented"), "{}", case.output());
        // An exec has a file of its own.
        let (told, said) = std::thread::scope(|scope| {
            let agent = scope.spawn(|| {
                let (told, file) = agent(&listener);
                asked(&file);
                told
            });
            let said = case.exec("again", "busybox mkdir /tmp/y 2>&1; echo then");
            (agent.join().unwrap(), said)
        });
        assert!(said.1.contains("Function not implemented\nthen"), "{said:?}");
        assert_eq!(told["state"]["pid"], json!(created.pid), "{told}");
        assert_ne!(told["pid"], json!(created.pid), "{told}");
    }
}

fn nobody_listens() {
    let mut profile = all_but(&["mkdir"], "SCMP_ACT_NOTIFY");
    profile["listenerPath"] = json!("/not/there.sock");
    let error = case("true", profile).create().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(error.to_string().contains("/not/there.sock"), "{error}");
}

fn refused() {
    let rule = |name: &str, action: &str| json!({"names": [name], "action": action});
    let with = |rules: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules});
    let mut errno = rule("mkdir", "SCMP_ACT_ERRNO");
    errno["errnoRet"] = json!(4096);
    let mut argument = rule("mkdir", "SCMP_ACT_ERRNO");
    argument["args"] = json!([{"index": 6, "op": "SCMP_CMP_EQ", "value": 1}]);
    let mut one = rule("mkdir", "SCMP_ACT_ERRNO");
    one["args"] = json!([{"index": 1, "op": "SCMP_CMP_EQ", "value": 1}]);
    let mut other = one.clone();
    other["action"] = json!("SCMP_ACT_TRAP");
    let mut killable = with(json!([]));
    killable["flags"] = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
    let long: Vec<Value> = (0..2000)
        .map(|value| {
            json!({"names": ["ioctl"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 1, "op": "SCMP_CMP_EQ", "value": value}]})
        })
        .collect();
    for (profile, word) in [
        (with(json!([errno])), "4096"),
        (with(json!([argument])), "argument 6"),
        (with(json!([one, other])), "rules for mkdir"),
        (with(json!([rule("mkdir", "SCMP_ACT_NOTIFY")])), "listenerPath"),
        (with(json!([rule("sendmsg", "SCMP_ACT_NOTIFY")])), "sendmsg"),
        (with(json!([rule("", "SCMP_ACT_TRAP")])), "no name"),
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "default"),
        (killable, "no rule notifies"),
        (with(json!(long)), "of 4096"),
    ] {
        let error = case("true", profile).create().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    // A call that nobody has heard of is none that could be made.
    let unheard = with(json!([rule("make_coffee", "SCMP_ACT_KILL")]));
    assert_eq!(case("true", unheard).run().code, 0);
}

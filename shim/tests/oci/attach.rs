//! Terminals and signals: of a caller who stays, and of one who wants a terminal's master.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::{Case, On, Test, wait_until};

pub const TESTS: &[Test] = &[
    ("a_terminal_goes_to_the_console_socket", On::Any, console),
    ("an_execs_terminal_goes_to_the_console_socket", On::Any, exec_console),
    ("a_terminal_without_a_socket_and_a_socket_without_a_terminal_are_refused", On::Any, mismatch),
    ("signals_of_the_caller_are_passed_on", On::Any, signals),
    ("a_terminal_of_the_caller_is_the_containers", On::Own, own_terminal),
];

/// The file that comes over a socket, and the message with it.
fn receive(stream: &UnixStream) -> (String, OwnedFd) {
    let mut bytes = [0; 512];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    let length = recvmsg(stream, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let file = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    (String::from_utf8_lossy(&bytes[..length]).into_owned(), file.expect("a file comes with it"))
}

fn read_until(file: &mut File, word: &str) -> String {
    let mut text = String::new();
    wait_until(word, || {
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut ready = [PollFd::new(&*file, PollFlags::IN)];
        if poll(&mut ready, Some(&now)).unwrap() == 0 {
            return false;
        }
        let mut bytes = [0; 1024];
        let read = file.read(&mut bytes).unwrap_or(0);
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        text.contains(word)
    });
    text
}

fn console() {
    let mut case = Case::new("tty; read line; echo got $line");
    case.spec["process"]["terminal"] = json!(true);
    let socket = case.dir.join("console");
    let listener = UnixListener::bind(&socket).unwrap();
    assert_eq!(case.create_with(&["--console-socket", socket.to_str().unwrap()]).code, 0);
    let (name, master) = receive(&listener.accept().unwrap().0);
    assert!(name.starts_with("/dev/"), "{name}");
    case.ok(&["start"]);
    let mut master = File::from(master);
    read_until(&mut master, "/dev/pts/0\r\n");
    master.write_all(b"words\n").unwrap();
    read_until(&mut master, "got words\r\n");
}

fn exec_console() {
    let case = Case::new("exec sleep 60");
    case.start();
    let socket = case.dir.join("console");
    let listener = UnixListener::bind(&socket).unwrap();
    let flags = ["exec", "-t", "-d", "--console-socket", socket.to_str().unwrap()];
    let args = [&flags as &[&str], &[&case.id, "sh", "-c", "tty; sleep 1"]].concat();
    let null = || File::options().write(true).open("/dev/null").unwrap();
    assert!(case.command(&args).stdout(null()).stderr(null()).status().unwrap().success());
    let (_, master) = receive(&listener.accept().unwrap().0);
    read_until(&mut File::from(master), "/dev/pts/0\r\n");
}

fn mismatch() {
    let mut case = Case::new("true");
    case.spec["process"]["terminal"] = json!(true);
    assert_eq!(case.create_with(&[]).code, 1);
    case.assert_nothing_left();
    case.spec["process"]["terminal"] = json!(false);
    let socket = case.dir.join("console");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert_eq!(case.create_with(&["--console-socket", socket.to_str().unwrap()]).code, 1);
    case.assert_nothing_left();
}

fn signals() {
    let case = Case::new("trap 'echo usr1; exit 5' USR1; echo ready; while :; do sleep 0.05; done");
    case.write_spec();
    let mut child = case.spawn(&["run", &case.id]);
    let mut out = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    out.read_exact(&mut ready).unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::USR1).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "usr1\n");
    case.assert_nothing_left();
}

fn own_terminal() {
    let mut case = Case::new("stty size; read line; echo got $line; exit 6");
    case.spec["process"]["terminal"] = json!(true);
    case.write_spec();
    let (mut master, slave) = terminal();
    let stdio = || std::process::Stdio::from(slave.try_clone().unwrap());
    let mut child = case.command(&["run", &case.id]);
    let mut child = child.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
    read_until(&mut master, "33 99\r\n");
    master.write_all(b"words\r").unwrap();
    read_until(&mut master, "got words\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(6));
    case.assert_nothing_left();
}

/// A terminal of 33 lines and 99 columns.
fn terminal() -> (File, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(flags | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags | OpenptFlags::CLOEXEC).unwrap();
    let size = rustix::termios::Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&slave, size).unwrap();
    (File::from(master), slave)
}

//! Running one plugin: bounded in time and in output, in a process group of its own, so that nothing of it stays
//! when it is cut short.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::{Either, select, try_join3};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout, timeout_at};

use crate::conf::parse_json;

/// The most that a plugin may say.
const MAX_OUTPUT: usize = 1 << 20;
/// How much of its complaints is kept, from their beginning.
const MAX_COMPLAINTS: usize = 16 << 10;
/// How much of them is shown in an error.
const SHOWN: usize = 512;
/// How long a plugin that has ended may keep its output open through a child that it left behind.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A plugin, ready to be run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) program: PathBuf,
    /// What is set beyond the daemon's own environment.
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) input: Vec<u8>,
    pub(super) deadline: Instant,
}

/// Why a plugin did not come to an end of its own.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("it cannot be started: {0}")]
    Start(io::Error),
    #[error("it cannot be talked to: {0}")]
    Talk(io::Error),
    #[error("it printed more than {MAX_OUTPUT} bytes")]
    TooMuch,
    #[error("it did not end in time")]
    Deadline,
}

/// A plugin that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    status: ExitStatus,
    output: Vec<u8>,
    complaints: Vec<u8>,
}

/// Looks for a program in folders, in their order. `kind` has been checked to be a mere file name.
pub(super) fn find(dirs: &[PathBuf], kind: &str) -> Option<PathBuf> {
    dirs.iter().map(|dir| dir.join(kind)).find(|path| {
        fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

impl Run {
    /// Runs the plugin until it ends, or kills it and all it started.
    pub(super) async fn finish(self) -> Result<Ended, Failure> {
        let mut child = self.start()?;
        let mut group = Group::of(&child);
        let outcome = timeout_at(self.deadline, talk(&mut child, &self.input)).await;
        match outcome {
            Ok(Ok(ended)) => {
                group.leave();
                Ok(ended)
            }
            cut_short => {
                group.kill();
                // Killed, it ends at once, unless it hangs in the kernel: then it is left to tokio's reaper.
                drop(timeout(LAST_WORDS, child.wait()).await);
                group.leave();
                match cut_short {
                    Ok(Err(failure)) => Err(failure),
                    _ => Err(Failure::Deadline),
                }
            }
        }
    }

    fn start(&self) -> Result<Child, Failure> {
        let mut command = Command::new(&self.program);
        // The rest of the environment is the plugin's to have (PATH for iptables, proxies), our own channels are not.
        for (key, _) in std::env::vars_os() {
            let own =
                ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"];
            if key.to_str().is_some_and(|key| own.contains(&key) || key.starts_with("CNI_")) {
                command.env_remove(key);
            }
        }
        command
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .current_dir(Path::new("/"))
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().map_err(Failure::Start)
    }
}

/// Feeds the plugin, hears it out and waits for it.
async fn talk(child: &mut Child, input: &[u8]) -> Result<Ended, Failure> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut output, mut complaints) = (Vec::new(), Vec::new());
    let status = {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A plugin may end without having read its configuration to the end, or at all.
                drop(stdin.write_all(input).await);
            }
            Ok(())
        };
        let hear = hear(stdout, &mut output, MAX_OUTPUT, Excess::Refused);
        let note = hear_complaints(stderr, &mut complaints);
        let conversation = pin!(try_join3(feed, hear, note));
        let wait = pin!(child.wait());
        match select(conversation, wait).await {
            Either::Left((said, wait)) => {
                said?;
                wait.await.map_err(Failure::Talk)?
            }
            Either::Right((status, conversation)) => {
                if let Ok(said) = timeout(LAST_WORDS, conversation).await {
                    said?;
                }
                status.map_err(Failure::Talk)?
            }
        }
    };
    Ok(Ended { status, output, complaints })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    Refused,
    Dropped,
}

async fn hear_complaints(
    from: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
) -> Result<(), Failure> {
    hear(from, into, MAX_COMPLAINTS, Excess::Dropped).await
}

async fn hear(
    from: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
    limit: usize,
    excess: Excess,
) -> Result<(), Failure> {
    let Some(mut from) = from else { return Ok(()) };
    let mut chunk = [0; 4096];
    loop {
        let length = from.read(&mut chunk).await.map_err(Failure::Talk)?;
        if length == 0 {
            return Ok(());
        }
        let room = limit - into.len();
        if length > room && excess == Excess::Refused {
            return Err(Failure::TooMuch);
        }
        into.extend_from_slice(&chunk[..length.min(room)]);
    }
}

impl Ended {
    /// Returns what a plugin printed if it succeeded, or else the reason it gave.
    pub(super) fn into_output(self) -> Result<Vec<u8>, String> {
        if self.status.success() {
            return Ok(self.output);
        }
        // A failing plugin prints an error object on its standard output (CNI specification, "Error").
        let told = parse_json(&self.output).ok();
        let text = |key| {
            let text = told.as_ref()?.get(key)?.as_str()?.trim();
            (!text.is_empty()).then(|| printable(text))
        };
        let Some(message) = text("msg") else {
            let complaints = printable(&String::from_utf8_lossy(&self.complaints));
            return Err(match complaints.is_empty() {
                true => format!("it ended with {} and no message", self.status),
                false => format!("it ended with {}: {complaints}", self.status),
            });
        };
        let code = told.as_ref().and_then(|told| told.get("code")).and_then(Value::as_u64);
        let code = code.map_or(String::new(), |code| format!(" (code {code})"));
        let details = text("details").map_or(String::new(), |details| format!(": {details}"));
        Err(format!("{message}{details}{code}"))
    }
}

/// Makes a foreign text fit for a log line and an error message: one line, no control characters, short.
fn printable(text: &str) -> String {
    let line = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(SHOWN).collect()
}

/// The process group of a child, killed if it is dropped before the child is known to have ended.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    /// The child is waited for: its number may become somebody else's.
    fn leave(&mut self) {
        self.0 = None;
    }

    fn kill(&self) {
        if let Some(group) = self.0 {
            // ESRCH: all of them have ended, which is what was wanted.
            killpg(group, Signal::SIGKILL).unwrap_or_default();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn script(name: &str, body: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("cni-exec-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("plugin");
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o755).open(&path).unwrap();
        io::Write::write_all(&mut file, format!("#!/bin/sh\n{body}\n").as_bytes()).unwrap();
        path
    }

    fn run(name: &str, body: &str, limit: Duration) -> Result<Result<Vec<u8>, String>, Failure> {
        let program = script(name, body);
        let folder = program.parent().unwrap().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(async {
            let environment = vec![("CNI_COMMAND", "ADD".to_owned())];
            let deadline = Instant::now() + limit;
            // A fork of a test in parallel can hold the script open for writing for a moment (ETXTBSY).
            loop {
                let run = Run {
                    program: program.clone(),
                    environment: environment.clone(),
                    input: b"{\"in\":1}".to_vec(),
                    deadline,
                };
                match run.finish().await {
                    Err(Failure::Start(e)) if e.kind() == io::ErrorKind::ExecutableFileBusy => {}
                    ended => break ended,
                }
            }
        });
        fs::remove_dir_all(folder).unwrap();
        ended.map(Ended::into_output)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_plugin_gets_its_configuration_and_its_environment() {
        let said = run("echo", "echo $CNI_COMMAND $NOTIFY_SOCKET; cat", LONG).unwrap().unwrap();
        assert_eq!(said, b"ADD\n{\"in\":1}");
    }

    #[test]
    fn a_plugins_own_words_are_the_error() {
        let body = r#"printf '%s' '{"code":11,"msg":"try\nagain","details":"later"}'; exit 1"#;
        assert_eq!(run("words", body, LONG).unwrap().unwrap_err(), "try again: later (code 11)");
        let error = run("stderr", "echo broken >&2; exit 3", LONG).unwrap().unwrap_err();
        assert_eq!(error, "it ended with exit status: 3: broken");
        let error = run("crash", "kill -SEGV $$", LONG).unwrap().unwrap_err();
        assert!(error.contains("signal: 11"), "{error}");
    }

    #[test]
    fn a_plugin_that_says_too_much_is_cut_short() {
        let body = "head -c 2097152 /dev/zero; sleep 60";
        let begun = std::time::Instant::now();
        assert!(matches!(run("much", body, LONG), Err(Failure::TooMuch)));
        assert!(begun.elapsed() < LONG);
        // Complaints beyond the limit are dropped, and block nobody.
        assert!(run("loud", "head -c 2097152 /dev/zero >&2; echo {}", LONG).unwrap().is_ok());
    }

    #[test]
    fn a_plugin_that_hangs_is_killed_with_its_children() {
        let mark = std::env::temp_dir().join(format!("cni-exec-mark-{}", std::process::id()));
        let body = format!("sh -c 'sleep 1; touch {}' & sleep 60", mark.display());
        assert!(matches!(run("hang", &body, Duration::from_millis(300)), Err(Failure::Deadline)));
        std::thread::sleep(Duration::from_millis(1200));
        assert!(!mark.exists());
    }

    #[test]
    fn a_child_left_behind_with_the_output_open_does_not_hold_us_up() {
        let begun = std::time::Instant::now();
        let said = run("daemon", "echo '{}'; setsid sleep 5 & exit 0", LONG).unwrap().unwrap();
        assert_eq!(said, b"{}\n");
        assert!(begun.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn a_program_that_is_missing_or_not_executable_is_not_found() {
        let program = script("find", "");
        let dir = program.parent().unwrap().to_owned();
        assert_eq!(find(&[PathBuf::from("/none"), dir.clone()], "plugin"), Some(program.clone()));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(find(std::slice::from_ref(&dir), "plugin"), None);
        assert_eq!(find(std::slice::from_ref(&dir), "other"), None);
        fs::remove_dir_all(dir).unwrap();
    }
}

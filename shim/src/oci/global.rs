//! What stands before the verb: where containers are kept, and where errors go.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use crate::log::Stamp;
use crate::{Failure, FailureKind};

use super::args::{Flag, Order, Parsed, switch, value};

const DEFAULT_ROOT: &str = "/run/wherry/oci";

const FLAGS: &[Flag] = &[
    value(&["root"]),
    value(&["log"]),
    value(&["log-format"]),
    switch(&["systemd-cgroup"]),
    switch(&["debug"]),
    // Two that other runtimes have and their callers give: there is nothing to choose here.
    value(&["rootless"]),
    value(&["criu"]),
    value(&["cgroup-manager"]),
    switch(&["version", "v"]),
    switch(&["help", "h"]),
];

/// What holds for every verb.
#[derive(Debug)]
pub struct Global {
    /// The folder of all containers.
    pub root: PathBuf,
    /// Who makes cgroups.
    pub cgroups: Cgroups,
    /// Where errors go beside standard error.
    pub journal: Journal,
    /// Asked for the version only.
    pub version: bool,
    /// Asked for help only.
    pub help: bool,
    /// The verb and what belongs to it.
    pub rest: Vec<OsString>,
}

/// Who makes a container's cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    /// This runtime, in the hierarchies' folders.
    Folders,
    /// systemd: a scope.
    Systemd,
    /// Nobody: the container stays where its caller is.
    None,
}

impl Global {
    /// Reads what stands before the verb.
    ///
    /// # Errors
    /// `InvalidArgument`: an unknown flag or value; the log cannot be opened.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut parsed = Parsed::new(args, FLAGS, Order::First)?;
        let form = match parsed.text("log-format")? {
            None | Some("text") => Form::Text,
            Some("json") => Form::Json,
            Some(other) => return Err(unknown("--log-format", other)),
        };
        let cgroups = match parsed.text("cgroup-manager")? {
            None if parsed.has("systemd-cgroup") => Cgroups::Systemd,
            None | Some("cgroupfs") => Cgroups::Folders,
            Some("systemd") => Cgroups::Systemd,
            Some("disabled") => Cgroups::None,
            Some(other) => return Err(unknown("--cgroup-manager", other)),
        };
        let file = parsed.value("log").map(|path| {
            let opened = OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(|e| Failure::os("open log", path.display().to_string(), e))
        });
        let file = file.transpose()?;
        Ok(Self {
            root: parsed.value("root").map_or_else(|| DEFAULT_ROOT.into(), PathBuf::from),
            cgroups,
            journal: Journal { form, file },
            version: parsed.has("version"),
            help: parsed.has("help"),
            rest: std::mem::take(&mut parsed.rest),
        })
    }
}

fn unknown(flag: &str, value: &str) -> Failure {
    Failure::new(FailureKind::InvalidArgument, "use", format!("{flag} {value}"), "not known")
}

/// Where errors go.
#[derive(Debug, Default)]
pub struct Journal {
    form: Form,
    file: Option<File>,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Form {
    #[default]
    Text,
    Json,
}

impl Journal {
    /// Says why a verb did not succeed: as a line of the log, and on standard error in plain words. Without a log the
    /// line goes to standard error. These are runc's forms; its callers read them.
    pub fn error(&self, failure: &Failure) {
        self.line("error", &failure.to_string());
        if self.file.is_some() {
            eprintln!("{failure}");
        }
    }

    /// Says what is not as it should be, but does no harm.
    pub fn warn(&self, message: &str) {
        self.line("warning", message);
    }

    fn line(&self, level: &str, message: &str) {
        let stamp = Stamp::now();
        let line = self.form.line(level, message, &String::from_utf8_lossy(stamp.as_bytes()));
        // There is nobody left to tell about a log that does not take it.
        let _told = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None if std::io::stderr().is_terminal() => {
                std::io::stderr().write_all(format!("{level}: {message}\n").as_bytes())
            }
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}

impl Form {
    fn line(self, level: &str, message: &str, time: &str) -> String {
        let message = serde_json::Value::from(message);
        // The time to the second, as it is read there.
        let time = format!("{}Z", &time[..19.min(time.len())]);
        match self {
            Self::Text => format!("time=\"{time}\" level={level} msg={message}\n"),
            Self::Json => {
                format!("{{\"level\":\"{level}\",\"msg\":{message},\"time\":\"{time}\"}}\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_whole_whatever_the_message_holds() {
        let time = "2006-01-02T15:04:05.123456789Z";
        let message = "open \"x\n\": no";
        assert_eq!(
            Form::Text.line("error", message, time),
            "time=\"2006-01-02T15:04:05Z\" level=error msg=\"open \\\"x\\n\\\": no\"\n"
        );
        let line: serde_json::Value =
            serde_json::from_str(&Form::Json.line("error", message, time)).unwrap();
        assert_eq!((&line["msg"], &line["level"]), (&message.into(), &"error".into()));
    }

    #[test]
    fn the_verb_ends_the_global_flags() {
        let args = ["--root", "/r", "--debug", "run", "-d", "x"].map(OsString::from);
        let global = Global::parse(args.into_iter()).unwrap();
        assert_eq!(global.root, PathBuf::from("/r"));
        assert_eq!(global.rest, ["run", "-d", "x"]);
        let args = ["--log-format", "xml"].map(OsString::from);
        assert!(Global::parse(args.into_iter()).is_err());
    }
}

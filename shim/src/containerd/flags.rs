//! The command line, in the form of Go's flag package: `-name value`, `-name=value`, one dash or two.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::{Failure, FailureKind};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a shim.
    Start,
    /// Clean up after one.
    Delete,
    /// Be one.
    Serve,
    /// Tell what this runtime is.
    Info,
    /// Tell its version.
    Version,
}

/// The flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// What is to be done.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// The container's name.
    pub id: String,
    /// containerd's gRPC socket.
    pub address: String,
    /// containerd's ttrpc socket.
    pub ttrpc_address: Option<String>,
    /// What passes events on when there is no ttrpc socket.
    pub publish_binary: Option<PathBuf>,
    /// The bundle, if it is not this process's folder.
    pub bundle: Option<PathBuf>,
}

impl Flags {
    /// Reads a command line without the program's name.
    ///
    /// # Errors
    /// `InvalidArgument`: an unknown flag or action, or none.
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut flags = Self {
            action: Action::Start,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            ttrpc_address: std::env::var("TTRPC_ADDRESS").ok().filter(|text| !text.is_empty()),
            publish_binary: None,
            bundle: None,
        };
        let mut action = None;
        let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
                action = action.or(Some(named(&arg)?));
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "debug" => {}
                "info" => action = Some(Action::Info),
                "v" | "version" => action = Some(Action::Version),
                _ => {
                    let value = value.or_else(|| args.next());
                    flags.set(name, value.ok_or_else(|| invalid(&arg, "it takes a value"))?)?;
                }
            }
        }
        flags.action = action.ok_or_else(|| invalid("the command line", "it has no action"))?;
        Ok(flags)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), Failure> {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "ttrpc-address" => self.ttrpc_address = Some(value),
            "publish-binary" => self.publish_binary = Some(value.into()),
            "bundle" => self.bundle = Some(value.into()),
            // Of shims that are told where to listen: `start` chooses by itself.
            "socket" | "debug-socket" => {}
            _ => return Err(invalid(&format!("-{name}"), "there is no such flag")),
        }
        Ok(())
    }
}

fn named(action: &str) -> Result<Action, Failure> {
    match action {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        "serve" => Ok(Action::Serve),
        _ => Err(invalid(action, "there is no such action")),
    }
}

fn invalid(object: &str, cause: &'static str) -> Failure {
    Failure::new(FailureKind::InvalidArgument, "use", object, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, Failure> {
        Flags::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn flags_are_taken_in_every_form_that_go_programs_write_them_in() {
        let started = parse(&[
            "-namespace",
            "k8s.io",
            "--address=/run/c.sock",
            "-publish-binary",
            "/bin/c",
            "-debug",
            "-id=x",
            "start",
        ]);
        let started = started.unwrap();
        assert_eq!((started.action, started.namespace.as_str()), (Action::Start, "k8s.io"));
        assert_eq!((started.id.as_str(), started.address.as_str()), ("x", "/run/c.sock"));
        assert_eq!(started.publish_binary, Some("/bin/c".into()));
        let deleted = parse(&["-bundle", "/run/b", "-id", "x", "delete"]).unwrap();
        assert_eq!((deleted.action, deleted.bundle), (Action::Delete, Some("/run/b".into())));
        assert_eq!(parse(&["-info"]).unwrap().action, Action::Info);
        assert_eq!(parse(&["-v"]).unwrap().action, Action::Version);
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name() {
        for (args, said) in [
            (&["-nothing", "x", "start"][..], "use -nothing: there is no such flag"),
            (&["stop"], "use stop: there is no such action"),
            (&["-id"], "use -id: it takes a value"),
            (&[], "use the command line: it has no action"),
        ] {
            assert_eq!(parse(args).unwrap_err().to_string(), said);
        }
    }
}

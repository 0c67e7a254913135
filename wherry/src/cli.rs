//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::scope::Verb;

/// What `wherry --help` says.
pub const HELP: &str = "\
wherry: a container runtime for Kubernetes nodes (CRI)

usage:
  wherry serve [--config FILE] [--root DIR] [--state DIR] [--address SOCKET]
      run the daemon; the kubelet finds it at --container-runtime-endpoint unix://SOCKET
  wherry config default      print the commented defaults
  wherry config check FILE   say what is wrong with a configuration
  wherry config show [--config FILE]
      print the configuration in force
  wherry --version
  wherry --help
";

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the daemon.
    Serve(Overrides),
    /// Print the commented defaults.
    ConfigDefault,
    /// Check a file.
    ConfigCheck(PathBuf),
    /// Print what is in force.
    ConfigShow(Overrides),
    /// Do something with a systemd unit, for the runtime.
    Scope(Verb, String),
    /// Print the version.
    Version,
    /// Print the help.
    Help,
}

/// What the command line says over the configuration file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The durable folder.
    pub root: Option<PathBuf>,
    /// The volatile folder.
    pub state: Option<PathBuf>,
    /// The socket.
    pub address: Option<PathBuf>,
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// Names the argument that makes no sense.
pub fn parse<I>(args: I) -> Result<Command, lexopt::Error>
where
    I: IntoIterator,
    I::Item: Into<OsString>,
{
    let mut parser = lexopt::Parser::from_args(args);
    match parser.next()? {
        None | Some(Short('h') | Long("help")) => Ok(Command::Help),
        Some(Short('V') | Long("version")) => Ok(Command::Version),
        Some(Value(word)) if word == "serve" => overrides(&mut parser).map(Command::Serve),
        Some(Value(word)) if word == "config" => config(&mut parser),
        Some(Value(word)) if word == "scope" => scope(&mut parser),
        Some(other) => Err(other.unexpected()),
    }
}

fn config(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let command = match parser.next()? {
        Some(Value(word)) if word == "default" => Command::ConfigDefault,
        Some(Value(word)) if word == "check" => Command::ConfigCheck(parser.value()?.into()),
        Some(Value(word)) if word == "show" => return overrides(parser).map(Command::ConfigShow),
        Some(other) => return Err(other.unexpected()),
        None => return Err("config wants default, check or show".into()),
    };
    match parser.next()? {
        Some(extra) => Err(extra.unexpected()),
        None => Ok(command),
    }
}

/// Not in the help: nobody types it.
fn scope(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let verb = match parser.value()?.string()?.as_str() {
        "start" => Verb::Start,
        "set" => Verb::Set,
        "stop" => Verb::Stop,
        _ => return Err("scope wants start, set or stop".into()),
    };
    let unit = parser.value()?.string()?;
    match parser.next()? {
        Some(extra) => Err(extra.unexpected()),
        None => Ok(Command::Scope(verb, unit)),
    }
}

fn overrides(parser: &mut lexopt::Parser) -> Result<Overrides, lexopt::Error> {
    let mut overrides = Overrides::default();
    while let Some(argument) = parser.next()? {
        let slot = match argument {
            Long("config") => &mut overrides.config,
            Long("root") => &mut overrides.root,
            Long("state") => &mut overrides.state,
            Long("address") => &mut overrides.address,
            other => return Err(other.unexpected()),
        };
        *slot = Some(parser.value()?.into());
    }
    Ok(overrides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_over_the_file() {
        let command = parse(["serve", "--root", "/r", "--address=/s"]).unwrap();
        let Command::Serve(overrides) = command else { panic!("{command:?}") };
        assert_eq!(overrides.root, Some("/r".into()));
        assert_eq!(overrides.address, Some("/s".into()));
        assert_eq!(overrides.config, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for args in [
            vec!["serv"],
            vec!["serve", "--nosuch"],
            vec!["config"],
            vec!["config", "check"],
            vec!["config", "default", "x"],
        ] {
            assert!(parse(args.clone()).is_err(), "{args:?}");
        }
        assert_eq!(parse(["--version"]).unwrap(), Command::Version);
        assert_eq!(parse(Vec::<String>::new()).unwrap(), Command::Help);
    }
}

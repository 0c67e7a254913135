//! Arguments as runc's command line takes them: `--flag value`, `--flag=value`, `-f value`; one dash is as good as two.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use crate::{Failure, FailureKind};

/// One flag: its names, the first of which is how it is asked for, and whether a value follows it.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    names: &'static [&'static str],
    takes_value: bool,
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, name) in self.names.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            let dashes = if name.len() == 1 { "-" } else { "--" };
            write!(f, "{comma}{dashes}{name}")?;
        }
        f.write_str(if self.takes_value { " VALUE" } else { "" })
    }
}

/// A flag that is there or not.
pub const fn switch(names: &'static [&'static str]) -> Flag {
    Flag { names, takes_value: false }
}

/// A flag with a value.
pub const fn value(names: &'static [&'static str]) -> Flag {
    Flag { names, takes_value: true }
}

/// Where flags may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Only before the first argument: what follows it is somebody else's.
    First,
    /// Anywhere.
    Any,
}

/// Flags and arguments, apart.
#[derive(Debug, Default)]
pub struct Parsed {
    flags: Vec<(&'static str, OsString)>,
    /// What is no flag, in order.
    pub rest: Vec<OsString>,
}

impl Parsed {
    /// Takes arguments apart.
    ///
    /// # Errors
    /// `InvalidArgument`: a flag that is not in the list, or one without its value.
    pub fn new(
        mut args: impl Iterator<Item = OsString>,
        known: &[Flag],
        order: Order,
    ) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        while let Some(arg) = args.next() {
            let bytes = arg.as_bytes();
            if bytes == b"--" {
                break;
            }
            if bytes.len() < 2 || bytes[0] != b'-' {
                parsed.rest.push(arg);
                if order == Order::First {
                    break;
                }
                continue;
            }
            let text = bytes.strip_prefix(b"--").unwrap_or(&bytes[1..]);
            let (name, value) = match text.iter().position(|byte| *byte == b'=') {
                Some(at) => (&text[..at], Some(OsStr::from_bytes(&text[at + 1..]).to_owned())),
                None => (text, None),
            };
            let is_named = |flag: &&Flag| flag.names.iter().any(|own| own.as_bytes() == name);
            let flag = known.iter().find(is_named).ok_or_else(|| wrong(&arg, "no such flag"))?;
            let value = match value {
                Some(value) => value,
                None if flag.takes_value => {
                    args.next().ok_or_else(|| wrong(&arg, "a value is missing"))?
                }
                None => OsString::from("true"),
            };
            parsed.flags.push((flag.names[0], value));
        }
        parsed.rest.extend(args);
        Ok(parsed)
    }

    /// Whether a switch is on; the last one counts.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != "false" && value != "0")
    }

    /// A flag's value; the last one counts, and an empty one is none.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.all(name).last().filter(|value| !value.is_empty())
    }

    /// All values of a flag that may be repeated.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a OsStr> {
        let named = self.flags.iter().filter(move |(own, _)| *own == name);
        named.map(|(_, value)| value.as_os_str())
    }

    /// A value as text.
    ///
    /// # Errors
    /// `InvalidArgument`: it is none.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        self.value(name).map(text).transpose()
    }

    /// A value as a number.
    ///
    /// # Errors
    /// `InvalidArgument`: it is none, or does not fit.
    pub fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        let number = |value: &OsStr| {
            let number = value.to_str().and_then(|text| text.parse().ok());
            number.ok_or_else(|| {
                let object = format!("--{name} {}", value.display());
                Failure::new(FailureKind::InvalidArgument, "read", object, "not a number in range")
            })
        };
        self.value(name).map(number).transpose()
    }

    /// The only argument.
    ///
    /// # Errors
    /// `InvalidArgument`: there is none, or more.
    pub fn only(&self) -> Result<&OsStr, Failure> {
        match self.rest.as_slice() {
            [only] => Ok(only),
            [] => Err(wrong(OsStr::new("container id"), "it is missing")),
            [_, more, ..] => Err(wrong(more, "one argument too many")),
        }
    }
}

/// An argument as text.
///
/// # Errors
/// `InvalidArgument`: it is none.
pub fn text(value: &OsStr) -> Result<&str, Failure> {
    value.to_str().ok_or_else(|| wrong(value, "not valid UTF-8"))
}

/// An argument that cannot be meant.
pub fn wrong(arg: &OsStr, cause: &'static str) -> Failure {
    let object = arg.to_string_lossy().into_owned();
    Failure::new(FailureKind::InvalidArgument, "read argument", object, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[value(&["bundle", "b"]), switch(&["detach", "d"])];

    fn parse(args: &[&str], order: Order) -> Result<Parsed, Failure> {
        Parsed::new(args.iter().map(OsString::from), FLAGS, order)
    }

    #[test]
    fn flags_are_found_in_every_form_that_is_in_use() {
        for args in
            [["--bundle=/x", "id"].as_slice(), &["-b", "/x", "id"], &["-bundle", "/x", "id"]]
        {
            let parsed = parse(args, Order::First).unwrap();
            assert_eq!(parsed.value("bundle"), Some(OsStr::new("/x")));
            assert_eq!(parsed.only().unwrap(), "id");
            assert!(!parsed.has("detach"));
        }
        assert!(!parse(&["-d=false"], Order::Any).unwrap().has("detach"));
    }

    #[test]
    fn what_follows_the_first_argument_is_the_commands_own() {
        let parsed = parse(&["-d", "id", "ls", "-d", "--x"], Order::First).unwrap();
        assert_eq!(parsed.rest, ["id", "ls", "-d", "--x"]);
        let parsed = parse(&["id", "-d", "--", "-x"], Order::Any).unwrap();
        assert!(parsed.has("detach") && parsed.rest == ["id", "-x"]);
    }

    #[test]
    fn unknown_flags_and_missing_values_are_refused_by_name() {
        let refused = parse(&["--nonsense"], Order::Any).unwrap_err().to_string();
        assert_eq!(refused, "read argument --nonsense: no such flag");
        assert!(parse(&["--bundle"], Order::Any).is_err());
    }
}

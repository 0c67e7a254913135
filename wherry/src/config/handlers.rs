//! RuntimeClass handlers in the configuration file: a table for each, of one of three kinds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Config;

/// One handler. Which keys mean something depends on the kind; the meaning of each stands in the commented defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Handler {
    pub kind: Kind,
    #[serde(default)]
    pub privileged_without_host_devices: bool,
    #[serde(default)]
    pub cgroup_writable: bool,
    #[serde(default)]
    pub pod_annotations: Vec<String>,
    #[serde(default)]
    pub container_annotations: Vec<String>,
    pub path: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    pub runtime: Option<String>,
    pub options: Option<Options>,
}

/// Who makes containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Wherry's shim.
    BuiltIn,
    /// A program with runc's command line.
    Oci,
    /// A shim with containerd's Task API.
    Shim,
}

/// What containerd's shim for runc is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Options {
    pub binary_name: String,
    pub root: String,
    pub systemd_cgroup: bool,
}

/// Checks what the types cannot.
///
/// # Errors
/// The key and what is wrong with its value.
pub fn check(config: &Config) -> Result<(), (String, String)> {
    for (name, handler) in &config.handlers {
        let refuse = |key: &str, reason: &str| {
            let dot = if key.is_empty() { "" } else { "." };
            Err((format!("handlers.{name}{dot}{key}"), reason.to_owned()))
        };
        if !is_label(name) {
            return refuse("", "a handler's name has lower-case letters, digits and hyphens only");
        }
        if name == cri::BUILT_IN && handler.kind != Kind::BuiltIn {
            return refuse("kind", "this name is the built-in runtime's");
        }
        match (handler.kind, &handler.path, &handler.runtime) {
            (Kind::Oci, None, _) => return refuse("", "kind \"oci\" wants a path"),
            (Kind::Oci, Some(path), _) if !path.is_absolute() => {
                return refuse("path", &format!("{} is not an absolute path", path.display()));
            }
            (Kind::Shim, _, None) => return refuse("", "kind \"shim\" wants a runtime"),
            (Kind::Shim, _, Some(runtime)) if !runtime.starts_with('/') && !is_name(runtime) => {
                return refuse(
                    "runtime",
                    "is neither a path nor of the form io.containerd.NAME.VERSION",
                );
            }
            _ => {}
        }
    }
    let default = &config.default_handler;
    if default != cri::BUILT_IN && !config.handlers.contains_key(default) {
        return Err(("default_handler".to_owned(), format!("there is no handler {default:?}")));
    }
    Ok(())
}

/// As Kubernetes wants the handler of a RuntimeClass: a label of RFC 1123.
fn is_label(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| letter(byte) || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_name(runtime: &str) -> bool {
    runtime.split('.').count() >= 2
        && !runtime.contains('/')
        && runtime.split('.').all(|part| !part.is_empty())
}

/// The handlers as the daemon's parts take them.
#[must_use]
pub fn handlers(config: &Config) -> cri::Handlers {
    let made = config.handlers.iter().map(|(name, handler)| (name.clone(), handler.to_cri()));
    cri::Handlers::new(config.default_handler.clone(), made.collect::<BTreeMap<_, _>>())
}

impl Handler {
    fn to_cri(&self) -> cri::Handler {
        let runtime = match (self.kind, &self.path, &self.runtime) {
            (Kind::Oci, Some(path), _) => {
                Some(shim::ForeignRuntime::Command { path: path.clone(), args: self.args.clone() })
            }
            (Kind::Shim, _, Some(runtime)) => {
                let options = self.options.clone().unwrap_or_default();
                Some(shim::ForeignRuntime::Shim {
                    runtime: runtime.clone(),
                    options: shim::RuncOptions {
                        binary_name: options.binary_name,
                        root: options.root,
                        systemd_cgroup: options.systemd_cgroup,
                    },
                })
            }
            _ => None,
        };
        let defaults = cri::Defaults {
            privileged_without_host_devices: self.privileged_without_host_devices,
            cgroup_writable: self.cgroup_writable,
            pod_annotations: self.pod_annotations.clone(),
            container_annotations: self.container_annotations.clone(),
        };
        cri::Handler::new(runtime, defaults)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{ConfigError, DEFAULT, Warning};
    use super::*;

    fn parse(text: &str) -> Result<(Config, Vec<Warning>), ConfigError> {
        Config::parse(text, Path::new("config.toml"))
    }

    #[test]
    fn the_commented_examples_are_handlers_without_a_warning() {
        let text: Vec<_> = DEFAULT
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)
            })
            .collect();
        let (config, warnings) = parse(&text.join("\n")).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let kinds: Vec<_> = config.handlers.values().map(|handler| handler.kind).collect();
        assert_eq!(kinds, [Kind::Shim, Kind::BuiltIn, Kind::Oci]);
        assert_eq!(parse(&config.to_toml()).unwrap().0, config);
        assert_eq!(handlers(&config).all().count(), 5);
    }

    #[test]
    fn a_key_of_another_kind_means_nothing() {
        let text = "[handlers.a]\nkind = \"built-in\"\npath = \"/x\"\n\
            [handlers.b]\nkind = \"oci\"\npath = \"/x\"\ncgroup_writable = true\nruntime = \"x\"\n";
        let (_, warnings) = parse(text).unwrap();
        let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        let expected =
            ["line 3: unknown key handlers.a.path", "line 8: unknown key handlers.b.runtime"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_handler_that_cannot_be_is_an_error_with_its_line() {
        for (text, line) in [
            ("[handlers.a]\n", 1),
            ("[handlers.a]\nkind = \"vm\"\n", 2),
            ("[handlers.a]\nkind = \"oci\"\n", 1),
            ("[handlers.a]\nkind = \"oci\"\npath = \"runc\"\n", 3),
            ("[handlers.a]\nkind = \"shim\"\n", 1),
            ("[handlers.a]\nkind = \"shim\"\nruntime = \"runc\"\n", 3),
            ("[handlers.A_b]\nkind = \"built-in\"\n", 1),
            ("[handlers.wherry]\nkind = \"oci\"\npath = \"/x\"\n", 2),
            ("\ndefault_handler = \"a\"\n", 2),
        ] {
            match parse(text) {
                Err(ConfigError::Value { line: found, .. }) => assert_eq!(found, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}

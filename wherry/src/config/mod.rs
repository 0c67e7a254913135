//! The configuration file: TOML, every key optional, the defaults in one commented file.

mod check;
mod handlers;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU8, NonZeroU32};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use check::{Warning, log_filter};
pub use handlers::{Handler, handlers};

/// The defaults, with a comment on every key.
pub const DEFAULT: &str = include_str!("default.toml");

/// Where the file is when nobody names one; it need not exist.
pub const DEFAULT_PATH: &str = "/etc/wherry/config.toml";

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not TOML, or a value is of the wrong kind.
    #[error("configuration {}, line {line}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// Everything that can be configured; the meaning of each key stands in the commented defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Config {
    pub root: PathBuf,
    pub state: PathBuf,
    pub address: PathBuf,
    pub default_handler: String,
    pub log: Log,
    pub shim: Shim,
    pub cgroup: Cgroup,
    pub cdi: Cdi,
    pub registry: Registry,
    pub image: Image,
    pub cni: Cni,
    pub network: Network,
    pub facade: Facade,
    pub grpc: Grpc,
    pub streaming: Streaming,
    pub handlers: BTreeMap<String, Handler>,
}

/// How the daemon speaks of what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Log {
    pub level: String,
    pub format: Format,
}

/// For whom the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// People.
    Plain,
    /// Collectors.
    Json,
}

/// Containers' cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Cgroup {
    pub driver: CgroupDriver,
}

/// Devices by vendors' names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Cdi {
    pub dirs: Vec<PathBuf>,
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd where it runs a host with cgroup version 2 only.
    #[default]
    Auto,
    /// systemd.
    Systemd,
    /// The shims themselves.
    Cgroupfs,
}

/// The shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Shim {
    pub path: PathBuf,
}

/// Registries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Registry {
    pub config_path: PathBuf,
}

/// Pulling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Image {
    pub max_parallel_downloads: NonZeroU8,
    pub no_progress_timeout: NonZeroU32,
    pub pinned: Vec<String>,
}

/// Network plugins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Cni {
    pub conf_dir: PathBuf,
    pub bin_dirs: Vec<PathBuf>,
    pub timeout: NonZeroU32,
}

/// The built-in network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Network {
    pub bridge: String,
    pub subnet: String,
    pub mtu: u32,
    pub masquerade: bool,
}

/// What Wherry is to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Facade {
    pub containerd_socket: PathBuf,
}

/// The server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Grpc {
    pub shutdown_timeout: u32,
}

/// The streaming server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Streaming {
    pub address: IpAddr,
    pub port: u16,
    pub tls_certificate: PathBuf,
    pub tls_key: PathBuf,
    pub idle_timeout: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/wherry".into(),
            state: "/run/wherry".into(),
            address: "/run/wherry/wherry.sock".into(),
            default_handler: cri::BUILT_IN.into(),
            log: Log::default(),
            shim: Shim::default(),
            cgroup: Cgroup::default(),
            cdi: Cdi::default(),
            registry: Registry::default(),
            image: Image::default(),
            cni: Cni::default(),
            network: Network::default(),
            facade: Facade::default(),
            grpc: Grpc::default(),
            streaming: Streaming::default(),
            handlers: BTreeMap::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: Format::Plain }
    }
}

impl Default for Cdi {
    fn default() -> Self {
        Self { dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()] }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self { config_path: "/etc/wherry/certs.d".into() }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self {
            max_parallel_downloads: const { NonZeroU8::new(3).expect("3 is not 0") },
            no_progress_timeout: const { NonZeroU32::new(300).expect("300 is not 0") },
            pinned: Vec::new(),
        }
    }
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            timeout: const { NonZeroU32::new(60).expect("60 is not 0") },
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self { bridge: "wherry0".into(), subnet: String::new(), mtu: 0, masquerade: true }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self { shutdown_timeout: 10 }
    }
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            idle_timeout: const { NonZeroU32::new(4 * 60 * 60).expect("4 hours are not 0") },
        }
    }
}

impl Config {
    /// Reads a file; warnings name keys that mean nothing.
    ///
    /// # Errors
    /// The file cannot be read or a value is of the wrong kind.
    pub fn read(path: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads the default file if it is there.
    ///
    /// # Errors
    /// It is there and cannot be read or used.
    pub fn read_default() -> Result<(Self, Vec<Warning>), ConfigError> {
        match Self::read(Path::new(DEFAULT_PATH)) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok((Self::default(), Vec::new()))
            }
            other => other,
        }
    }

    /// Parses a text; `path` is for messages.
    ///
    /// # Errors
    /// The text is not TOML or a value is of the wrong kind.
    pub fn parse(text: &str, path: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        let error = |error: &toml::de::Error| ConfigError::Value {
            path: path.to_owned(),
            line: check::line(text, error.span().map_or(0, |span| span.start)),
            reason: error.message().to_owned(),
        };
        let config: Self = toml::from_str(text).map_err(|source| error(&source))?;
        let warnings = check::unknown_keys(text).map_err(|source| error(&source))?;
        check::values(&config).map_err(|(key, reason)| ConfigError::Value {
            path: path.to_owned(),
            line: check::line_of(text, &key),
            reason: format!("{key}: {reason}"),
        })?;
        Ok((config, warnings))
    }

    /// The configuration as a file would have it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every value has a form in TOML")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Config, Vec<Warning>), ConfigError> {
        Config::parse(text, Path::new("config.toml"))
    }

    #[test]
    fn the_commented_file_says_what_the_defaults_are() {
        let (config, warnings) = parse(DEFAULT).unwrap();
        assert_eq!(config, Config::default());
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(parse(&config.to_toml()).unwrap().0, config);
    }

    #[test]
    fn a_file_needs_only_what_it_changes() {
        let (config, _) = parse("[cni]\nconf_dir = \"/x\"\n").unwrap();
        assert_eq!(config.cni.conf_dir, Path::new("/x"));
        assert_eq!(config.cni.bin_dirs, Cni::default().bin_dirs);
    }

    #[test]
    fn an_unknown_key_is_a_warning_with_its_line() {
        let (_, warnings) =
            parse("root = \"/r\"\n\n[cni]\nconfdir = \"/x\"\n[nosuch]\na = 1\n").unwrap();
        let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["line 4: unknown key cni.confdir", "line 5: unknown key nosuch"]);
    }

    #[test]
    fn a_wrong_value_is_an_error_with_its_line() {
        for (text, line) in [
            ("root = 5\n", 1),
            ("[log]\nformat = \"xml\"\n", 2),
            ("[image]\n\nmax_parallel_downloads = 0\n", 3),
            ("[network]\nsubnet = \"10.0.0.0/99\"\n", 2),
            ("[network]\nbridge = \"a/b\"\n", 2),
            ("root = \"relative\"\n", 1),
            ("[log]\nlevel = \"loud\"\n", 2),
            ("[cni\n", 1),
            ("[streaming]\naddress = \"localhost\"\n", 2),
            ("[streaming]\nport = 65536\n", 2),
            ("[streaming]\ntls_key = \"/key.pem\"\n", 2),
            ("[streaming]\nidle_timeout = 0\n", 2),
        ] {
            match parse(text) {
                Err(ConfigError::Value { line: found, .. }) => assert_eq!(found, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}

//! What a parser of TOML does not notice: keys that mean nothing, values that cannot be right.

use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue, Error};
use tracing_subscriber::filter::Targets;

use super::{Config, DEFAULT};

/// A key that means nothing: a slip of the pen, or a setting of another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Counted from one.
    pub line: usize,
    /// The key with its sections.
    pub key: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: unknown key {}", self.line, self.key)
    }
}

/// Finds the keys that the commented defaults do not have.
///
/// # Errors
/// The text is not TOML.
pub fn unknown_keys(text: &str) -> Result<Vec<Warning>, Error> {
    let known = DeTable::parse(DEFAULT)?;
    let given = DeTable::parse(text)?;
    let mut warnings = Vec::new();
    compare(given.get_ref(), known.get_ref(), "", text, &mut warnings);
    warnings.sort_by_key(|warning| warning.line);
    Ok(warnings)
}

fn compare(
    given: &DeTable<'_>,
    known: &DeTable<'_>,
    prefix: &str,
    text: &str,
    warnings: &mut Vec<Warning>,
) {
    for (key, value) in given {
        let name = format!("{prefix}{}", key.get_ref());
        match (known.get(key.get_ref().as_ref()).map(|known| known.get_ref()), value.get_ref()) {
            (None, _) => warnings.push(Warning { line: line(text, key.span().start), key: name }),
            (Some(DeValue::Table(known)), DeValue::Table(given)) => {
                compare(given, known, &format!("{name}."), text, warnings);
            }
            _ => {}
        }
    }
}

/// The line of a byte, counted from one.
pub fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The line where a key such as `network.subnet` is given.
pub fn line_of(text: &str, key: &str) -> usize {
    let Ok(table) = DeTable::parse(text) else { return 1 };
    let mut table = table.into_inner();
    for (depth, part) in key.split('.').enumerate() {
        let Some((found, value)) = table.remove_entry(part) else { return 1 };
        match value.into_inner() {
            DeValue::Table(next) if depth < key.matches('.').count() => table = next,
            _ => return line(text, found.span().start),
        }
    }
    1
}

/// Checks what the types cannot.
///
/// # Errors
/// The key and what is wrong with its value.
pub fn values(config: &Config) -> Result<(), (&'static str, String)> {
    let absolute = |key, path: &Path| {
        if path.is_absolute() {
            Ok(())
        } else {
            Err((key, format!("{} is not an absolute path", path.display())))
        }
    };
    absolute("root", &config.root)?;
    absolute("state", &config.state)?;
    absolute("address", &config.address)?;
    absolute("registry.config_path", &config.registry.config_path)?;
    absolute("cni.conf_dir", &config.cni.conf_dir)?;
    let facade = &config.facade.containerd_socket;
    if !facade.as_os_str().is_empty() {
        absolute("facade.containerd_socket", facade)?;
    }
    for dir in &config.cni.bin_dirs {
        absolute("cni.bin_dirs", dir)?;
    }
    let tls = [
        ("streaming.tls_certificate", &config.streaming.tls_certificate),
        ("streaming.tls_key", &config.streaming.tls_key),
    ];
    let given = |path: &Path| !path.as_os_str().is_empty();
    for (key, path) in tls.into_iter().filter(|(_, path)| given(path)) {
        if !tls.iter().all(|(_, path)| given(path)) {
            return Err((key, "a certificate and its key are needed, or neither".into()));
        }
        absolute(key, path)?;
    }
    let bridge = &config.network.bridge;
    // dev_valid_name() of the kernel, which also wants no colon for the old alias interfaces.
    let named = !bridge.is_empty()
        && bridge.len() <= 15
        && bridge.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !named || bridge == "." || bridge == ".." {
        return Err(("network.bridge", format!("{bridge:?} is not the name of an interface")));
    }
    let subnet = &config.network.subnet;
    if !subnet.is_empty() {
        subnet.parse::<cni::Subnet>().map_err(|error| ("network.subnet", error.to_string()))?;
    }
    log_filter(&config.log.level).map(drop).map_err(|reason| ("log.level", reason))
}

/// Parses a level such as `info` or `info,image=debug`.
///
/// # Errors
/// Says what does not parse.
pub fn log_filter(level: &str) -> Result<Targets, String> {
    // A word alone would be taken for the name of a part of the program.
    let words = level.split(',').filter(|part| !part.contains('='));
    for word in words {
        if word.parse::<tracing::level_filters::LevelFilter>().is_err() {
            return Err(format!("{word:?} is not error, warn, info, debug or trace"));
        }
    }
    level.parse().map_err(|error: tracing_subscriber::filter::ParseError| error.to_string())
}

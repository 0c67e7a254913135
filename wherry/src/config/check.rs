//! What a parser of TOML does not notice: keys that mean nothing, values that cannot be right.

use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue, Error};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use super::{Config, DEFAULT, handlers};

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
    let examples = with_examples();
    let known = DeTable::parse(&examples)?;
    let given = DeTable::parse(text)?;
    let mut warnings = Vec::new();
    compare(given.get_ref(), known.get_ref(), "", text, &mut warnings);
    warnings.sort_by_key(|warning| warning.line);
    Ok(warnings)
}

/// The commented defaults with the handlers that are only shown there: a `#` without a blank behind it hides a line.
fn with_examples() -> String {
    let shown = |line: &'static str| {
        line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)
    };
    DEFAULT.lines().flat_map(|line| [shown(line), "\n"]).collect()
}

/// Handlers have any name: each is held against the example of its kind, and against the first one, which has what all
/// kinds have.
fn compare_handlers(
    given: &DeTable<'_>,
    known: &DeTable<'_>,
    text: &str,
    warnings: &mut Vec<Warning>,
) {
    let kind = |table: &DeTable<'_>| {
        let value = table.get("kind").map(|kind| kind.get_ref());
        value.and_then(|value| value.as_str().map(str::to_owned))
    };
    let examples: Vec<_> = known.values().filter_map(|value| table(value.get_ref())).collect();
    for (name, value) in given {
        let Some(given) = table(value.get_ref()) else { continue };
        let wanted = kind(given);
        let mut known = DeTable::new();
        for example in &examples {
            let meant = kind(example);
            if meant == wanted || meant.as_deref() == Some("built-in") {
                known.extend((*example).clone());
            }
        }
        compare(given, &known, &format!("handlers.{}.", name.get_ref()), text, warnings);
    }
}

fn table<'a, 'b>(value: &'a DeValue<'b>) -> Option<&'a DeTable<'b>> {
    match value {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
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
            (Some(DeValue::Table(known)), DeValue::Table(given)) if name == "handlers" => {
                compare_handlers(given, known, text, warnings);
            }
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
pub fn values(config: &Config) -> Result<(), (String, String)> {
    let refuse = |key: &str, reason: String| Err((key.to_owned(), reason));
    let absolute = |key, path: &Path| {
        if path.is_absolute() {
            return Ok(());
        }
        refuse(key, format!("{} is not an absolute path", path.display()))
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
            return refuse(key, "a certificate and its key are needed, or neither".into());
        }
        absolute(key, path)?;
    }
    let bridge = &config.network.bridge;
    // dev_valid_name() of the kernel, which also wants no colon for the old alias interfaces.
    let named = !bridge.is_empty()
        && bridge.len() <= 15
        && bridge.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !named || bridge == "." || bridge == ".." {
        return refuse("network.bridge", format!("{bridge:?} is not the name of an interface"));
    }
    let subnet = &config.network.subnet;
    if !subnet.is_empty()
        && let Err(error) = subnet.parse::<cni::Subnet>()
    {
        return refuse("network.subnet", error.to_string());
    }
    if let Err(reason) = log_filter(&config.log.level) {
        return refuse("log.level", reason);
    }
    handlers::check(config)
}

/// The parts of this program, as their messages name them.
const PARTS: [&str; 7] = ["wherry", "cri", "image", "cni", "snapshotter", "shim", "sys"];

/// Parses a level such as `info` or `info,image=debug`. One for all is this program's: libraries, which tell of every frame
/// on a connection, say no more than `info` unless they are named.
///
/// # Errors
/// Says what does not parse.
pub fn log_filter(level: &str) -> Result<Targets, String> {
    // A word alone would be taken for the name of a part of the program.
    let words = level.split(',').filter(|part| !part.contains('='));
    for word in words {
        if word.parse::<LevelFilter>().is_err() {
            return Err(format!("{word:?} is not error, warn, info, debug or trace"));
        }
    }
    let named: Targets =
        level.parse().map_err(|error: tracing_subscriber::filter::ParseError| error.to_string())?;
    let Some(level) = named.default_level().filter(|level| *level > LevelFilter::INFO) else {
        return Ok(named);
    };
    let known: Vec<String> = named.iter().map(|(target, _)| target.to_owned()).collect();
    let others = PARTS.into_iter().filter(|part| known.iter().all(|target| target != part));
    Ok(named.with_default(LevelFilter::INFO).with_targets(others.map(|part| (part, level))))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_is_this_programs_and_libraries_have_to_be_named() {
        let debug = log_filter("debug").unwrap();
        assert!(debug.would_enable("cri::container::create", &Level::DEBUG));
        assert!(!debug.would_enable("h2::codec", &Level::DEBUG));
        assert!(debug.would_enable("h2::codec", &Level::INFO));
        let named = log_filter("debug,h2=trace,cri=warn").unwrap();
        assert!(named.would_enable("h2::codec", &Level::TRACE));
        assert!(named.would_enable("image::pull", &Level::DEBUG));
        assert!(!named.would_enable("cri::door", &Level::INFO));
        let quiet = log_filter("error").unwrap();
        assert!(
            !quiet.would_enable("cri", &Level::WARN) && !quiet.would_enable("h2", &Level::WARN)
        );
        assert!(log_filter("loud").is_err() && log_filter("info,cri=loud").is_err());
    }
}

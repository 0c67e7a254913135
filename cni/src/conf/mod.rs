//! Network configurations: read strictly, because their `type` becomes the path of a program run as root.

mod folder;

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value, json};

pub(crate) use folder::{Choice, Folder};

/// The deepest nesting taken from a configuration, a record or a plugin.
const MAX_DEPTH: usize = 64;
/// The most plugins in one chain.
const MAX_PLUGINS: usize = 32;

/// A version of the CNI specification that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    const ALL: [(Self, &'static str); 5] = [
        (Self::V0_3_0, "0.3.0"),
        (Self::V0_3_1, "0.3.1"),
        (Self::V0_4_0, "0.4.0"),
        (Self::V1_0_0, "1.0.0"),
        (Self::V1_1_0, "1.1.0"),
    ];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, name)| *name == text).map(|(version, _)| version)
    }

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(version, _)| *version == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A network: the plugins that make it, in the order in which they add a pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conflist {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) plugins: Vec<Plugin>,
}

/// One plugin of a network.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plugin {
    /// The file name of the program.
    pub(crate) kind: String,
    /// What it was written to be told at run time.
    pub(crate) capabilities: Vec<String>,
    /// The plugin's configuration as it was read, all keys.
    pub(crate) conf: Map<String, Value>,
}

impl Conflist {
    /// Parses a file: a list of plugins, or (before version 1.0.0) the configuration of a single one.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, String> {
        let value = parse_json(text)?;
        let list = path.extension().is_some_and(|extension| extension == "conflist");
        match value {
            Value::Object(object) if list => Self::from_list(&object),
            Value::Object(object) => Self::from_single(object),
            _ => Err("is not a JSON object".to_owned()),
        }
    }

    /// Reads the form that [`Conflist::to_value`] writes.
    pub(crate) fn from_value(value: &Value) -> Result<Self, String> {
        Self::from_list(value.as_object().ok_or("is not a JSON object")?)
    }

    /// Returns the whole list as it was used, to be kept for the removal.
    pub(crate) fn to_value(&self) -> Value {
        let plugins: Vec<_> =
            self.plugins.iter().map(|plugin| Value::Object(plugin.conf.clone())).collect();
        json!({ "cniVersion": self.version.as_str(), "name": self.name, "plugins": plugins })
    }

    fn from_list(object: &Map<String, Value>) -> Result<Self, String> {
        let (name, version) = (network_name(object)?, version(object)?);
        let plugins = match object.get("plugins") {
            Some(Value::Array(plugins)) if !plugins.is_empty() => plugins,
            _ => return Err("has no plugins".to_owned()),
        };
        if plugins.len() > MAX_PLUGINS {
            return Err(format!("has more than {MAX_PLUGINS} plugins"));
        }
        let plugins = plugins
            .iter()
            .map(|plugin| match plugin {
                Value::Object(conf) => Plugin::parse(conf.clone()),
                _ => Err("has a plugin that is not a JSON object".to_owned()),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { name, version, plugins })
    }

    fn from_single(object: Map<String, Value>) -> Result<Self, String> {
        if object.contains_key("plugins") {
            return Err("has a list of plugins, which takes the file name *.conflist".to_owned());
        }
        let (name, version) = (network_name(&object)?, version(&object)?);
        Ok(Self { name, version, plugins: vec![Plugin::parse(object)?] })
    }
}

impl Plugin {
    fn parse(conf: Map<String, Value>) -> Result<Self, String> {
        let kind = program(conf.get("type"), "type")?;
        // A plugin runs its address plugin itself; a name that no folder search should get is refused here too.
        if let Some(ipam) = conf.get("ipam").and_then(|ipam| ipam.get("type")) {
            program(Some(ipam), "ipam.type")?;
        }
        let capabilities = match conf.get("capabilities") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(flags)) => flags
                .iter()
                .filter(|(_, wanted)| **wanted == Value::Bool(true))
                .map(|(name, _)| name.clone())
                .collect(),
            Some(_) => return Err("has capabilities that are not a JSON object".to_owned()),
        };
        Ok(Self { kind, capabilities, conf })
    }
}

/// Parses JSON from outside with a bound on its nesting, which recursion elsewhere relies on.
pub(crate) fn parse_json(text: &[u8]) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(text).map_err(|e| format!("is not JSON: {e}"))?;
    if depth(&value, MAX_DEPTH).is_none() {
        return Err(format!("is nested deeper than {MAX_DEPTH} levels"));
    }
    Ok(value)
}

/// Returns what is left of `budget` after the deepest nesting (serde_json itself stops at 128 levels).
fn depth(value: &Value, budget: usize) -> Option<usize> {
    let left = budget.checked_sub(1)?;
    match value {
        Value::Array(items) => {
            items.iter().try_fold(left, |least, v| Some(least.min(depth(v, left)?)))
        }
        Value::Object(items) => {
            items.values().try_fold(left, |least, v| Some(least.min(depth(v, left)?)))
        }
        _ => Some(left),
    }
}

/// Checks the name of a program: one file name, nothing that leads out of the folders searched.
fn program(value: Option<&Value>, key: &str) -> Result<String, String> {
    let Some(name) = value.and_then(Value::as_str) else {
        return Err(format!("has a plugin without a {key:?}"));
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let one_file = !name.is_empty() && name.len() <= 255 && name.bytes().all(plain);
    if !one_file || name.starts_with('.') || name.contains("..") {
        let shown: String = name.chars().take(64).collect();
        return Err(format!("has the plugin {key} {shown:?}, which is not the name of a program"));
    }
    Ok(name.to_owned())
}

/// Checks the network's name (CNI specification, "Network configuration format").
fn network_name(object: &Map<String, Value>) -> Result<String, String> {
    let Some(name) = object.get("name").and_then(Value::as_str) else {
        return Err("has no name".to_owned());
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !starts || name.len() > 255 || !name.bytes().all(plain) {
        return Err("has a name that is not letters, digits, '_', '-' and '.'".to_owned());
    }
    Ok(name.to_owned())
}

/// Picks the newest version that both the configuration and this crate speak.
fn version(object: &Map<String, Value>) -> Result<Version, String> {
    let offered =
        object.get("cniVersions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let texts = object.get("cniVersion").into_iter().chain(offered).filter_map(Value::as_str);
    texts.filter_map(Version::parse).max().ok_or_else(|| match object.get("cniVersion") {
        None => "has no cniVersion".to_owned(),
        Some(version) => format!("has cniVersion {version}, which is not one of 0.3.0 to 1.1.0"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Conflist, String> {
        Conflist::parse(Path::new("x.conflist"), text.as_bytes())
    }

    #[test]
    fn a_list_keeps_its_plugins_whole_and_survives_its_own_form() {
        let parsed = list(
            r#"{"cniVersion":"0.4.0","cniVersions":["1.0.0","9.9.9"],"name":"n","plugins":[
                {"type":"bridge","x":{"y":[1]},"ipam":{"type":"host-local"}},
                {"type":"portmap","capabilities":{"portMappings":true,"dns":false}}]}"#,
        )
        .unwrap();
        assert_eq!(parsed.version, Version::V1_0_0);
        assert_eq!(parsed.plugins[1].capabilities, ["portMappings"]);
        assert_eq!(parsed.plugins[0].conf["x"], json!({ "y": [1] }));
        assert_eq!(Conflist::from_value(&parsed.to_value()).unwrap(), parsed);
    }

    #[test]
    fn a_plugin_type_that_leads_elsewhere_is_refused() {
        for kind in
            ["../../sbin/reboot", "/sbin/reboot", "..", "a/b", "", ".hidden", "a..b", "a\\b"]
        {
            let conf = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [{ "type": kind }] });
            assert!(list(&conf.to_string()).is_err(), "{kind}");
            let ipam = json!({ "cniVersion": "1.0.0", "name": "n",
                "plugins": [{ "type": "bridge", "ipam": { "type": kind } }] });
            assert!(list(&ipam.to_string()).is_err(), "{kind}");
        }
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let text = br#"{"cniVersion":"0.3.1","name":"n","type":"ptp"}"#;
        let parsed = Conflist::parse(Path::new("x.conf"), text).unwrap();
        assert_eq!(parsed.plugins.len(), 1);
        assert_eq!(parsed.plugins[0].kind, "ptp");
        let list = br#"{"cniVersion":"0.3.1","name":"n","plugins":[{"type":"ptp"}]}"#;
        assert!(Conflist::parse(Path::new("x.conf"), list).is_err());
    }

    #[test]
    fn malformed_configurations_are_refused_with_a_reason() {
        let deep = format!(
            r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"a","x":{}{}}}]}}"#,
            "[".repeat(70),
            "]".repeat(70)
        );
        for text in [
            "",
            "[]",
            "{",
            r#"{"name":"n","plugins":[{"type":"a"}]}"#,
            r#"{"cniVersion":"0.2.0","name":"n","plugins":[{"type":"a"}]}"#,
            r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#,
            r#"{"cniVersion":"1.0.0","name":"../n","plugins":[{"type":"a"}]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":["a"]}"#,
            &deep,
        ] {
            assert!(list(text).is_err(), "{text}");
        }
    }
}

//! One file: its form, and what makes it unusable.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::name::{is_device, is_kind};

/// Larger than any vendor's file; those of machines with many devices have some hundred kilobytes.
const MAX_BYTES: u64 = 4 << 20;

/// A file's content.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CdiFile {
    #[serde(rename = "cdiVersion")]
    pub version: String,
    /// Vendor and class.
    pub kind: String,
    #[serde(default)]
    pub devices: Vec<CdiDevice>,
    /// For every container that gets one of the devices.
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CdiDevice {
    pub name: String,
    #[serde(default)]
    pub container_edits: ContainerEdits,
}

/// What is to be changed of a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerEdits {
    pub env: Vec<String>,
    pub device_nodes: Vec<DeviceNode>,
    pub net_devices: Vec<NetDevice>,
    pub hooks: Vec<Hook>,
    pub mounts: Vec<Mount>,
    pub intel_rdt: Option<serde::de::IgnoredAny>,
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

/// A device node; what is not said is as on the host.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeviceNode {
    pub path: PathBuf,
    pub host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub file_mode: Option<u32>,
    pub permissions: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// A network device of the host's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetDevice {
    pub host_interface_name: String,
    pub name: String,
}

/// A program to be run at some point of a container's life.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hook {
    pub hook_name: String,
    pub path: PathBuf,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    pub timeout: Option<i64>,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub options: Vec<String>,
}

const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Whether a name in one of the folders is that of such a file.
pub(super) fn is_named_like_one(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json" || extension == "yaml")
}

/// Reads and checks a file.
///
/// # Errors
/// Says why it cannot be used.
pub(super) fn read(path: &Path) -> Result<CdiFile, String> {
    let failed = |error: std::io::Error| error.to_string();
    // Whatever has its name must not be waited for.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    parse(&bytes, path.extension().is_some_and(|extension| extension == "json"))
}

fn parse(bytes: &[u8], is_json: bool) -> Result<CdiFile, String> {
    let file: CdiFile = if is_json {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?
    } else {
        serde_saphyr::from_slice(bytes).map_err(|error| brief(&error.to_string()))?
    };
    check(&file)?;
    Ok(file)
}

/// The first line of a message that shows the text, too.
fn brief(message: &str) -> String {
    message.lines().next().unwrap_or_default().chars().take(200).collect()
}

fn check(file: &CdiFile) -> Result<(), String> {
    if !is_version(&file.version) {
        return Err(format!("version {:?} is not one from 0.3.0 to 1", file.version));
    }
    if !is_kind(&file.kind) {
        return Err(format!("kind {:?} is not a vendor's class", file.kind));
    }
    if file.devices.is_empty() {
        return Err("it has no devices".into());
    }
    check_edits(&file.container_edits)?;
    for (at, device) in file.devices.iter().enumerate() {
        if !is_device(&device.name) {
            return Err(format!("device {:?} is not a name", device.name));
        }
        if file.devices[..at].iter().any(|other| other.name == device.name) {
            return Err(format!("device {} is there twice", device.name));
        }
        check_edits(&device.container_edits)
            .map_err(|why| format!("device {}: {why}", device.name))?;
    }
    Ok(())
}

fn is_version(text: &str) -> bool {
    let numbers: Option<Vec<u32>> =
        text.split('.').map(|part| part.parse().ok().filter(|_| part.len() < 4)).collect();
    match numbers.as_deref() {
        Some([0, minor, _]) => (3..=9).contains(minor),
        Some([1, _, _]) => true,
        _ => false,
    }
}

fn check_edits(edits: &ContainerEdits) -> Result<(), String> {
    let clean = |path: &Path| {
        let text = path.to_string_lossy();
        crate::grammar::absolute(&text).map(drop)
    };
    for variable in &edits.env {
        let named = variable.split_once('=').is_some_and(|(name, _)| !name.is_empty());
        if !named || variable.contains('\0') {
            return Err(format!("{variable:?} is not an environment variable"));
        }
    }
    for node in &edits.device_nodes {
        clean(&node.path)?;
        node.host_path.as_deref().map_or(Ok(()), clean)?;
        let kinds = ["b", "c", "u", "p", ""];
        let letters = node.permissions.as_deref().unwrap_or_default();
        if !kinds.contains(&node.kind.as_deref().unwrap_or_default())
            || !letters.bytes().all(|letter| b"rwm".contains(&letter))
        {
            return Err(format!("device node {} is none", node.path.display()));
        }
    }
    for hook in &edits.hooks {
        clean(&hook.path)?;
        if !HOOKS.contains(&hook.hook_name.as_str()) {
            return Err(format!("{:?} is not a hook", hook.hook_name));
        }
    }
    for mount in &edits.mounts {
        clean(&mount.host_path)?;
        clean(&mount.container_path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/device
containerEdits:
  env: [COMMON=1]
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - path: /dev/vendor0
          hostPath: /dev/null
          permissions: rw
      hooks:
        - hookName: createContainer
          path: /bin/true
          args: [true, --all]
"#;

    #[test]
    fn yaml_and_json_are_read_alike() {
        let yaml = parse(GOOD.replace("[true,", "[\"true\",").as_bytes(), false).unwrap();
        let json = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/device", "containerEdits": {"env": ["COMMON=1"]},
            "devices": [{"name": "0", "containerEdits": {
                "deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/null", "permissions": "rw"}],
                "hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true", "--all"]}]}}]}"#;
        let json = parse(json.as_bytes(), true).unwrap();
        assert_eq!(
            yaml.devices[0].container_edits.device_nodes,
            json.devices[0].container_edits.device_nodes
        );
        assert_eq!(yaml.devices[0].container_edits.hooks, json.devices[0].container_edits.hooks);
        assert_eq!(yaml.container_edits.env, ["COMMON=1"]);
    }

    #[test]
    fn a_file_that_cannot_be_right_is_refused_with_a_reason() {
        let good = r#"{"cdiVersion": "1.0.0", "kind": "v.com/c", "devices": [{"name": "a"}]}"#;
        assert!(parse(good.as_bytes(), true).is_ok());
        for (what, with) in [
            ("1.0.0", "0.2.0"),
            ("1.0.0", "2.0.0"),
            ("1.0.0", "latest"),
            ("v.com/c", "vendor"),
            (r#"{"name": "a"}"#, ""),
            (r#"{"name": "a"}"#, r#"{"name": "a"}, {"name": "a"}"#),
            (r#"{"name": "a"}"#, r#"{"name": "a b"}"#),
            (r#"{"name": "a"}"#, r#"{"name": "a", "containerEdits": {"env": ["NOVALUE"]}}"#),
            (
                r#"{"name": "a"}"#,
                r#"{"name": "a", "containerEdits": {"deviceNodes": [{"path": "dev/x"}]}}"#,
            ),
            (
                r#"{"name": "a"}"#,
                r#"{"name": "a", "containerEdits": {"deviceNodes": [{"path": "/dev/x", "permissions": "all"}]}}"#,
            ),
            (
                r#"{"name": "a"}"#,
                r#"{"name": "a", "containerEdits": {"hooks": [{"hookName": "never", "path": "/x"}]}}"#,
            ),
            (
                r#"{"name": "a"}"#,
                r#"{"name": "a", "containerEdits": {"mounts": [{"hostPath": "/a/../b", "containerPath": "/x"}]}}"#,
            ),
            (r#"{"name": "a"}"#, r#"{"name": 5}"#),
        ] {
            let bad = good.replacen(what, with, 1);
            assert!(parse(bad.as_bytes(), true).is_err(), "{bad}");
        }
        assert!(parse(b"", true).is_err() && parse(b"", false).is_err());
    }

    #[test]
    fn a_text_that_grows_when_it_is_read_is_an_error_and_no_end_of_memory() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..20 {
            let refs = vec![format!("*a{}", level - 1); 9].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        bomb.push_str("cdiVersion: \"1.0.0\"\nkind: v.com/c\ndevices: [{name: a, containerEdits: {env: *a19}}]\n");
        assert!(parse(bomb.as_bytes(), false).is_err());
        let deep = format!("kind: {}", "[".repeat(100_000));
        assert!(parse(deep.as_bytes(), false).is_err());
        assert!(parse("[".repeat(100_000).as_bytes(), true).is_err());
    }
}

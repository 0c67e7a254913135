//! The image configuration: how a container of it is meant to run, and which layers it has.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{Digest, ImageError};

/// What an image asks for, all of it untrusted data (OCI image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group`, … or empty; not yet resolved.
    pub user: String,
    /// `NAME=value` entries.
    pub env: Vec<String>,
    /// The command's fixed part.
    pub entrypoint: Vec<String>,
    /// The command's default arguments.
    pub cmd: Vec<String>,
    /// The directory to start in, or empty.
    pub working_dir: String,
    /// The signal that asks it to stop.
    pub stop_signal: Option<String>,
    /// Paths that the image wants as volumes.
    pub volumes: Vec<String>,
    /// Free labels; they are shown and never obeyed.
    pub labels: BTreeMap<String, String>,
}

/// An image configuration with what unpacking needs to know.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) config: ImageConfig,
    /// The layers' uncompressed digests, bottom first; all sha256.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    config: Option<Section>,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Section {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
}

/// Reads a configuration; unknown keys are ignored, known ones must have their type and occur once.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, ImageError> {
    let object = "the image configuration";
    let document: Document =
        serde_json::from_slice(bytes).map_err(|e| ImageError::corrupt(object, e.to_string()))?;
    let diff_ids = document.rootfs.map(|r| r.diff_ids).unwrap_or_default();
    if diff_ids.iter().any(|d| !d.is_sha256()) {
        return Err(ImageError::unsupported(object, "it has diff ids other than sha256"));
    }
    let section = document.config.unwrap_or_default();
    let config = ImageConfig {
        user: section.user.unwrap_or_default(),
        env: section.env.unwrap_or_default(),
        entrypoint: section.entrypoint.unwrap_or_default(),
        cmd: section.cmd.unwrap_or_default(),
        working_dir: section.working_dir.unwrap_or_default(),
        stop_signal: section.stop_signal.filter(|s| !s.is_empty()),
        volumes: section.volumes.unwrap_or_default().into_keys().collect(),
        labels: section.labels.unwrap_or_default(),
    };
    let (os, architecture, variant) = (document.os, document.architecture, document.variant);
    Ok(Parsed { config, diff_ids, os, architecture, variant })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_nulls_are_fine() {
        let parsed = parse(
            br#"{"os":"linux","new":1,"config":{"Env":null,"Cmd":["sh"],"OnBuild":null,"Volumes":{"/data":{}},
                 "StopSignal":"","Healthcheck":{"Test":["NONE"]}},"rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .unwrap();
        assert_eq!(
            (parsed.config.cmd, parsed.config.volumes),
            (vec!["sh".into()], vec!["/data".into()])
        );
        assert_eq!((parsed.config.stop_signal, parsed.os.as_str()), (None, "linux"));
    }

    #[test]
    fn wrong_types_and_repeated_keys_are_refused() {
        for bad in [
            r#"{"config":{"Cmd":"sh"}}"#,
            r#"{"config":{"Env":{"A":"b"}}}"#,
            r#"{"config":{"User":0}}"#,
            r#"{"os":"linux","os":"windows"}"#,
            r#"{"rootfs":{"diff_ids":["md5:00"]}}"#,
            r"[]",
            "",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}

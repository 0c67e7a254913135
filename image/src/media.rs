//! Manifests and indexes, of OCI and of Docker, as one typed document.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::platform::Platform;
use crate::{Digest, ImageError};

/// Entries of one index, and layers of one manifest, before it is refused.
const MAX_MANIFESTS: usize = 4096;
/// overlayfs takes at most 500 lower directories (kernel source, fs/overlayfs/params.c, `OVL_MAX_STACK`).
const MAX_LAYERS: usize = 499;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYER_PREFIXES: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// A pointer to content. Its `urls`, if it has any, are not even read: content comes from the registry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
}

/// What a registry serves below `manifests/`.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// One image for one platform.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// Bottom first.
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<IgnoredAny>,
}

/// The Accept header of a manifest request.
pub(crate) fn accept() -> String {
    [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, "*/*;q=0.1"].join(", ")
}

/// Parses a document that was announced as `media_type` by its descriptor or by the Content-Type header.
///
/// A document is refused if it can be read as both an index and a manifest, or if it contradicts the announcement:
/// one digest must mean one thing (OCI image-spec, "manifest.md", `mediaType`; CVE-2021-41190).
pub(crate) fn parse(bytes: &[u8], media_type: &str, object: &str) -> Result<Document, ImageError> {
    let corrupt = |why: String| ImageError::corrupt(object, why);
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
    if raw.fs_layers.is_some() {
        return Err(ImageError::unsupported(object, "it is a Docker schema 1 manifest"));
    }
    if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
        return Err(corrupt("it has both layers and manifests".to_owned()));
    }
    let is_index = raw.manifests.is_some();
    for announced in raw.media_type.as_deref().into_iter().chain([media_type]) {
        let clash = match announced {
            OCI_INDEX | DOCKER_LIST => !is_index,
            OCI_MANIFEST | DOCKER_MANIFEST => is_index,
            _ => false,
        };
        if clash
            || (is_known(announced)
                && raw.media_type.as_deref().is_some_and(|own| own != announced))
        {
            return Err(corrupt(format!("it is announced as {announced} and is something else")));
        }
    }
    match raw {
        Raw { manifests: Some(manifests), .. } if manifests.len() > MAX_MANIFESTS => Err(corrupt(
            format!("it lists {} manifests, more than {MAX_MANIFESTS}", manifests.len()),
        )),
        Raw { manifests: Some(manifests), .. } => Ok(Document::Index(manifests)),
        Raw { config: Some(config), layers: Some(layers), .. } => {
            check_manifest(Manifest { config, layers }, object).map(Document::Manifest)
        }
        _ => Err(ImageError::unsupported(object, "it is neither an image manifest nor an index")),
    }
}

fn is_known(media_type: &str) -> bool {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].contains(&media_type)
}

fn check_manifest(manifest: Manifest, object: &str) -> Result<Manifest, ImageError> {
    let refuse = |why: String| Err(ImageError::unsupported(object, why));
    if !CONFIGS.contains(&manifest.config.media_type.as_str()) {
        return refuse(format!(
            "its configuration is a {:?}, not an image's",
            manifest.config.media_type
        ));
    }
    if !manifest.config.digest.is_sha256() {
        return refuse("its configuration has a digest other than sha256".to_owned());
    }
    if manifest.layers.len() > MAX_LAYERS {
        return refuse(format!("it has {} layers, more than {MAX_LAYERS}", manifest.layers.len()));
    }
    let is_layer = |media_type: &str| {
        let tail = LAYER_PREFIXES.iter().find_map(|prefix| media_type.strip_prefix(prefix));
        matches!(tail, Some("" | "+gzip" | ".gzip" | "+zstd" | ".zstd"))
    };
    match manifest.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        Some(layer) => refuse(format!("its layer {} is a {:?}", layer.digest, layer.media_type)),
        None => Ok(manifest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn kind(json: &str, announced: &str) -> ErrorKind {
        parse(json.as_bytes(), announced, "a test").unwrap_err().kind()
    }

    fn manifest(layer_type: &str) -> String {
        let d = Digest::of(b"");
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{}","digest":"{d}","size":2}},
                "layers":[{{"mediaType":"{layer_type}","digest":"{d}","size":0,"urls":["http://evil"]}}]}}"#,
            CONFIGS[0]
        )
    }

    #[test]
    fn a_document_that_is_both_is_refused_whatever_it_is_announced_as() {
        let d = Digest::of(b"");
        let both = format!(r#"{{"layers":[],"manifests":[{{"digest":"{d}","size":1}}]}}"#);
        for announced in [OCI_INDEX, OCI_MANIFEST, ""] {
            assert_eq!(kind(&both, announced), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn a_document_must_be_what_it_is_announced_as() {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert!(parse(manifest(layer).as_bytes(), "application/json", "a test").is_ok());
        assert!(parse(manifest(layer).as_bytes(), OCI_MANIFEST, "a test").is_ok());
        for announced in [OCI_INDEX, DOCKER_MANIFEST] {
            assert_eq!(kind(&manifest(layer), announced), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn things_that_are_not_images_are_unsupported() {
        assert_eq!(
            kind(&manifest("application/vnd.oci.image.layer.v1.tar+lzma"), ""),
            ErrorKind::Unsupported
        );
        assert_eq!(kind(r#"{"schemaVersion":1,"fsLayers":[]}"#, ""), ErrorKind::Unsupported);
        assert_eq!(kind("{}", ""), ErrorKind::Unsupported);
    }

    #[test]
    fn sizes_and_digests_are_parsed_strictly() {
        let good = manifest("application/vnd.oci.image.layer.v1.tar");
        for (from, to) in
            [("\"size\":2", "\"size\":-2"), ("\"size\":2", "\"size\":2.5"), ("sha256:", "md5:")]
        {
            assert_eq!(kind(&good.replace(from, to), ""), ErrorKind::Corrupt);
        }
    }
}

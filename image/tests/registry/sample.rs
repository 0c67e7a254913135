//! Images made on the spot.

use std::collections::HashMap;
use std::io::Write;

use image::Digest;

use crate::server::{Asked, Reply};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A repository's content, served by tag and digest.
#[derive(Clone, Default)]
pub struct Sample {
    /// By what follows `manifests/`: the media type and the document.
    pub manifests: HashMap<String, (String, Vec<u8>)>,
    pub blobs: HashMap<String, Vec<u8>>,
    /// The layers' blobs, bottom first.
    pub layers: Vec<String>,
    /// The configuration's digest: the image's id.
    pub id: String,
    /// The manifest's digest.
    pub manifest: String,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Packing {
    Gzip,
    Zstd,
    Plain,
}

/// This machine in Go's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A layer with these files.
pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

impl Sample {
    /// An OCI image of gzip layers, tagged `latest`.
    pub fn new(layers: &[Vec<u8>]) -> Self {
        Self::packed(layers, Packing::Gzip, OCI_MANIFEST)
    }

    /// An image with one small layer that says who it is.
    pub fn named(who: &str) -> Self {
        Self::new(&[layer(&[("base", b"base")]), layer(&[("etc/who", who.as_bytes())])])
    }

    pub fn packed(layers: &[Vec<u8>], packing: Packing, manifest_type: &str) -> Self {
        let mut sample = Self::default();
        let docker = manifest_type == DOCKER_MANIFEST;
        let (base, suffix) = match (docker, packing) {
            (true, Packing::Gzip) => ("application/vnd.docker.image.rootfs.diff.tar", ".gzip"),
            (true, _) => ("application/vnd.docker.image.rootfs.diff.tar", ""),
            (false, Packing::Gzip) => ("application/vnd.oci.image.layer.v1.tar", "+gzip"),
            (false, Packing::Zstd) => ("application/vnd.oci.image.layer.v1.tar", "+zstd"),
            (false, Packing::Plain) => ("application/vnd.oci.image.layer.v1.tar", ""),
        };
        let mut listed = Vec::new();
        let mut diff_ids = Vec::new();
        for plain in layers {
            let blob = match packing {
                Packing::Gzip => gzip(plain),
                Packing::Zstd => zstd::encode_all(&plain[..], 3).unwrap(),
                Packing::Plain => plain.clone(),
            };
            let (digest, size) = (Digest::of(&blob).to_string(), blob.len());
            // Nothing listens there: who followed it would fail. The real registry refuses to store such a layer.
            let urls = if packing == Packing::Gzip {
                ""
            } else {
                r#","urls":["http://127.0.0.1:1/foreign"]"#
            };
            listed.push(format!(
                r#"{{"mediaType":"{base}{suffix}","digest":"{digest}","size":{size}{urls}}}"#
            ));
            diff_ids.push(format!("\"{}\"", Digest::of(plain)));
            sample.blobs.insert(digest.clone(), blob);
            sample.layers.push(digest);
        }
        let config = format!(
            r#"{{"os":"linux","architecture":"{}","config":{{"Cmd":["/bin/sh"],"Env":["A=b"],"User":"7"}},
                "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            architecture(),
            diff_ids.join(",")
        );
        sample.set_config(config.into_bytes(), &listed.join(","), manifest_type);
        sample
    }

    fn set_config(&mut self, config: Vec<u8>, layers: &str, manifest_type: &str) {
        let config_type = match manifest_type {
            DOCKER_MANIFEST => "application/vnd.docker.container.image.v1+json",
            _ => "application/vnd.oci.image.config.v1+json",
        };
        let (digest, size) = (Digest::of(&config).to_string(), config.len());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{manifest_type}",
                "config":{{"mediaType":"{config_type}","digest":"{digest}","size":{size}}},"layers":[{layers}]}}"#
        );
        self.blobs.insert(digest.clone(), config);
        self.id = digest;
        self.manifest = self.add(manifest.into_bytes(), manifest_type, &["latest"]);
    }

    /// Adds a document under its digest and these tags; returns the digest.
    pub fn add(&mut self, document: Vec<u8>, media_type: &str, tags: &[&str]) -> String {
        let digest = Digest::of(&document).to_string();
        for name in tags.iter().copied().chain([digest.as_str()]) {
            self.manifests.insert(name.to_owned(), (media_type.to_owned(), document.clone()));
        }
        digest
    }

    /// Puts an index with these `(digest, platform json)` entries in front, as `latest`.
    pub fn index(&mut self, media_type: &str, entries: &[(&str, String)]) -> String {
        let entries: Vec<String> = entries
            .iter()
            .map(|(digest, platform)| {
                let (kind, bytes) = &self.manifests[*digest];
                let platform = if platform.is_empty() {
                    String::new()
                } else {
                    format!(r#","platform":{platform}"#)
                };
                format!(
                    r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}{platform}}}"#,
                    bytes.len()
                )
            })
            .collect();
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{}]}}"#,
            entries.join(",")
        );
        self.add(index.into_bytes(), media_type, &["latest"])
    }

    /// What a good registry answers.
    pub fn serve(&self, asked: &Asked) -> Reply {
        let path = asked.path.split('?').next().unwrap_or("");
        let after = |folder| path.split_once(folder).map(|(_, name)| name);
        if let Some((media_type, document)) =
            after("/manifests/").and_then(|n| self.manifests.get(n))
        {
            let digest = Digest::of(document).to_string();
            return Reply::new(200, document.clone())
                .header("Content-Type", media_type)
                .header("Docker-Content-Digest", digest);
        }
        if let Some(blob) = after("/blobs/").and_then(|digest| self.blobs.get(digest)) {
            return Reply::new(200, blob.clone()).ranged(asked);
        }
        let error = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        Reply::new(404, error).header("Content-Type", "application/json")
    }

    /// The path of a layer's blob.
    pub fn blob(&self, number: usize) -> String {
        format!("/blobs/{}", self.layers[number])
    }
}

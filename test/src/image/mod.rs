//! Images made here: the same inputs give the same digests, in every format a registry may serve.

pub mod big;
pub mod catalog;
pub mod critest;
pub mod hostile;
mod layer;
mod store;

pub use layer::{Blob, Compression, Layer};
pub use store::{Manifest, Store, digest};

use serde_json::{Value, json};

/// Whose names for the media types an image uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OCI image index and manifest.
    Oci,
    /// Docker manifest list and schema 2.
    Docker,
}

/// An image to be put into a [`Store`].
#[derive(Debug)]
pub struct Image {
    format: Format,
    architecture: String,
    layers: Vec<Blob>,
    config: Value,
}

impl Image {
    /// An image for this machine without layers, whose process gets a usual `PATH`.
    pub fn new(format: Format) -> Self {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            format,
            architecture: architecture().into(),
            layers: Vec::new(),
            config: json!({ "Env": [path] }),
        }
    }

    /// Adds a layer on top.
    pub fn layer(mut self, blob: Blob) -> Self {
        self.layers.push(blob);
        self
    }

    /// Sets a key of the `config` object, such as `Cmd` or `User`.
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Says that the image is for another architecture.
    pub fn architecture(mut self, name: &str) -> Self {
        self.architecture = name.into();
        self
    }

    /// Puts the image into the store, as an index of one manifest, under these tags.
    pub fn put(self, store: &mut Store, repository: &str, tags: &[&str]) {
        let config = json!({
            "architecture": self.architecture, "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": { "type": "layers",
                "diff_ids": self.layers.iter().map(|blob| &blob.diff_id).collect::<Vec<_>>() },
        });
        let types = MediaTypes::of(self.format);
        let config = config.to_string().into_bytes();
        let layers: Vec<Value> = self.layers.iter().map(|blob| types.layer(blob)).collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": types.manifest, "layers": layers,
            "config": { "mediaType": types.config, "size": config.len(), "digest": digest(&config) } });
        store.blob(config);
        for blob in self.layers {
            store.blob(blob.bytes);
        }
        let manifest = Manifest::new(types.manifest, &manifest);
        let index = json!({ "schemaVersion": 2, "mediaType": types.index, "manifests": [{
            "mediaType": types.manifest, "size": manifest.bytes.len(), "digest": manifest.digest(),
            "platform": { "architecture": self.architecture, "os": "linux" } }] });
        let index = Manifest::new(types.index, &index);
        store.manifest(repository, &manifest.digest(), manifest);
        for tag in tags {
            store.manifest(repository, tag, index.clone());
        }
        store.manifest(repository, &index.digest(), index);
    }
}

/// The names of one format's media types.
struct MediaTypes {
    index: &'static str,
    manifest: &'static str,
    config: &'static str,
    format: Format,
}

impl MediaTypes {
    fn of(format: Format) -> Self {
        match format {
            Format::Oci => Self {
                index: "application/vnd.oci.image.index.v1+json",
                manifest: "application/vnd.oci.image.manifest.v1+json",
                config: "application/vnd.oci.image.config.v1+json",
                format,
            },
            Format::Docker => Self {
                index: "application/vnd.docker.distribution.manifest.list.v2+json",
                manifest: "application/vnd.docker.distribution.manifest.v2+json",
                config: "application/vnd.docker.container.image.v1+json",
                format,
            },
        }
    }

    /// A layer's descriptor. Docker has a name for gzip only; whoever compresses otherwise uses OCI's.
    fn layer(&self, blob: &Blob) -> Value {
        let kind = match (self.format, blob.compression) {
            (Format::Docker, Compression::Gzip) => {
                "application/vnd.docker.image.rootfs.diff.tar.gzip"
            }
            (_, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (_, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (_, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
        };
        json!({ "mediaType": kind, "size": blob.bytes.len(), "digest": digest(&blob.bytes) })
    }
}

/// This machine's architecture as images call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

//! What a registry serves: blobs by digest, manifests by repository and tag or digest.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The `sha256:<hex>` digest of these bytes.
pub fn digest(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A manifest or an index as served.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

impl Manifest {
    /// A manifest of this type with this content.
    pub fn new(media_type: &str, content: &Value) -> Self {
        Self { media_type: media_type.into(), bytes: content.to_string().into_bytes() }
    }

    /// The digest of its bytes.
    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }
}

/// The content of a registry, in memory.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// By digest.
    pub blobs: BTreeMap<String, Arc<Vec<u8>>>,
    /// By repository, then by tag or digest.
    pub manifests: BTreeMap<String, BTreeMap<String, Manifest>>,
}

impl Store {
    /// Adds a blob.
    pub fn blob(&mut self, bytes: Vec<u8>) {
        self.blobs.insert(digest(&bytes), Arc::new(bytes));
    }

    /// Adds a manifest under a tag or a digest.
    pub fn manifest(&mut self, repository: &str, reference: &str, manifest: Manifest) {
        let repository = self.manifests.entry(repository.into()).or_default();
        repository.insert(reference.into(), manifest);
    }

    /// The manifest a tag points to: its digest, as in `RepoDigests`.
    pub fn digest_of(&self, repository: &str, tag: &str) -> String {
        self.manifests[repository][tag].digest()
    }
}

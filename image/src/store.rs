//! What is known of images on the disk.
//!
//! ```text
//! content/sha256/<hex>     manifests, indexes and configurations, by digest
//! images/<hex>.json        one record per image, named by its configuration's digest; written last
//! ```
//!
//! Every file is written durably before anything refers to it. What is damaged is renamed to `*.bad`.

mod content;
mod record;

pub(crate) use content::Content;
pub(crate) use record::{Record, Records};

use std::path::Path;

/// Sets a damaged file aside.
fn quarantine(path: &Path, why: &str) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".bad");
    tracing::warn!(path = %path.display(), why, "damaged file set aside");
    if let Err(error) = std::fs::rename(path, &aside) {
        tracing::warn!(%error, path = %path.display(), "cannot set a damaged file aside");
    }
}

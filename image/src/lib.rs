//! Images: from a name to layers on the disk.
//!
//! ```text
//!  Reference ─► registry ─► manifest, config ─► one task per layer ─► commit, bottom first ─► record
//!               hosts.toml   verified, capped     download ─► hash ─► decompress ─► hash ─► unpack
//!               auth, retry                       (resumes)           (bounded channels, one pass)
//! ```
//!
//! - `reference`, `digest`, `media`, `platform`, `config`: what names and documents say; pure.
//! - `registry`: the distribution protocol: endpoints, TLS, tokens, retries, a blob stream that survives broken links.
//! - `layer`: an archive becomes a layer directory, by fd, with limits.
//! - `store`: content and image records on the disk.
//! - [`Images`]: the verbs. `pull/`, `remove`: one file per verb.
//!
//! Invariants: nothing is referred to before it was verified and flushed; a record is written only when all its
//! layers are committed; lists and look-ups answer from memory and wait for nobody.

#![forbid(unsafe_code)]

mod auth;
mod config;
mod digest;
mod error;
mod images;
mod layer;
mod lease;
mod media;
mod platform;
mod pull;
mod reference;
mod registry;
mod remove;
mod store;

pub use auth::Auth;
pub use config::ImageConfig;
pub use digest::Digest;
pub use error::{ErrorKind, ImageError};
pub use images::{Image, ImageId, Images, ImagesConfig};
pub use reference::Reference;

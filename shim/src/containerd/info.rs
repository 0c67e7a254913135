//! `-info` and `-v`: what this runtime is.

use prost::Message;
use prost_types::Any;
use proto::shim::types::{RuntimeInfo, RuntimeVersion};

use super::{NAME, said};
use crate::Failure;

/// The message, with the options that were said on standard input.
///
/// # Errors
/// Standard input cannot be read.
pub fn info() -> Result<Vec<u8>, Failure> {
    let said = said()?;
    let info = RuntimeInfo {
        name: "io.containerd.wherry.v2".to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: String::new(),
        }),
        options: Any::decode(said.as_slice()).ok().filter(|any| !any.type_url.is_empty()),
        ..RuntimeInfo::default()
    };
    Ok(info.encode_to_vec())
}

/// For people.
pub fn version() -> String {
    format!("{NAME}:\n  Version: {}\n", env!("CARGO_PKG_VERSION"))
}

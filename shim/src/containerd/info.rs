//! `-info` and `-v`: what this runtime is.

use std::io::{self, Read};

use prost::Message;
use prost_types::Any;
use proto::shim::types::{RuntimeInfo, RuntimeVersion};

use super::NAME;
use crate::Failure;

/// More than any options.
const MAX_OPTIONS: u64 = 1 << 20;

/// The message, with the options that were said on standard input.
///
/// # Errors
/// Standard input cannot be read.
pub fn info() -> Result<Vec<u8>, Failure> {
    let mut said = Vec::new();
    if !rustix::termios::isatty(io::stdin()) {
        io::stdin()
            .take(MAX_OPTIONS)
            .read_to_end(&mut said)
            .map_err(|e| Failure::os("read", "standard input", e))?;
    }
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

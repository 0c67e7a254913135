//! A container's name on the command line, which is a folder's name too.

use std::ffi::OsStr;
use std::fmt;

use crate::{Failure, FailureKind};

/// Longest name of a folder (NAME_MAX).
const MAX_LENGTH: usize = 255;

/// A name that has been checked: letters, digits and `_+-.`, as runc has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks a name.
    ///
    /// # Errors
    /// `InvalidArgument`: it is none.
    pub fn parse(text: &OsStr) -> Result<Self, Failure> {
        let refuse = |cause| {
            let object = text.to_string_lossy().into_owned();
            Err(Failure::new(FailureKind::InvalidArgument, "use container id", object, cause))
        };
        let Some(id) = text.to_str() else { return refuse("not valid UTF-8") };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        match id {
            "" => refuse("container id cannot be empty"),
            "." | ".." => refuse("invalid id format"),
            _ if id.len() > MAX_LENGTH => refuse("longer than 255 bytes"),
            _ if !id.bytes().all(known) => refuse("invalid id format"),
            _ => Ok(Self(id.to_owned())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_folder_of_all_containers() {
        for id in ["a", "A-1_b+c.d", "..a", "a".repeat(255).as_str()] {
            assert_eq!(ContainerId::parse(OsStr::new(id)).unwrap().as_str(), id);
        }
        for id in ["", ".", "..", "a/b", "/", "a\0", "a b", "é", "a".repeat(256).as_str()] {
            assert!(ContainerId::parse(OsStr::new(id)).is_err(), "{id}");
        }
    }
}

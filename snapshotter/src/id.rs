//! The names of layers and root filesystems, parsed once.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::SnapshotError;

/// The identity of a layer over all the layers below it: `sha256:` and 64 hex digits.
///
/// Defined in the OCI image specification, config.md, "Layer ChainID".
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChainId(String);

impl ChainId {
    /// Parses `sha256:<64 lower-case hex digits>`.
    ///
    /// # Errors
    /// [`SnapshotError::Invalid`] for anything else.
    pub fn parse(text: &str) -> Result<Self, SnapshotError> {
        let hex = text.strip_prefix("sha256:").unwrap_or("");
        let valid = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(SnapshotError::invalid("chain id", text))
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a container's rootfs: the container's id, 1 to 64 of `[a-z0-9]`; a view of another image that it has
/// mounted is named by a number, too: `<id>-<number>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootfsKey(String);

impl RootfsKey {
    /// Parses a container id, with or without a number.
    ///
    /// # Errors
    /// [`SnapshotError::Invalid`] if it is empty, too long, or has another character.
    pub fn parse(text: &str) -> Result<Self, SnapshotError> {
        let (id, number) = text.split_once('-').unwrap_or((text, "0"));
        let valid = (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && (1..=5).contains(&number.len())
            && number.bytes().all(|b| b.is_ascii_digit());
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(SnapshotError::invalid("rootfs key", text))
        }
    }

    /// The name of one of the container's views.
    #[must_use]
    pub fn view(&self, number: u16) -> Self {
        Self(format!("{}-{number}", self.container()))
    }

    /// The container's id.
    pub fn container(&self) -> &str {
        self.0.split('-').next().unwrap_or(&self.0)
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ChainId {
    type Error = SnapshotError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ChainId> for String {
    fn from(id: ChainId) -> Self {
        id.0
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RootfsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_grammar_are_refused() {
        let hex = "a".repeat(64);
        assert!(ChainId::parse(&format!("sha256:{hex}")).is_ok());
        for bad in [
            hex.as_str(),
            "sha256:",
            "sha256:../..",
            &format!("sha512:{hex}"),
            &format!("sha256:{}", hex.to_uppercase()),
        ] {
            assert!(ChainId::parse(bad).is_err(), "{bad}");
        }
        assert!(RootfsKey::parse("c0ffee").is_ok());
        let view = RootfsKey::parse("c0ffee").unwrap().view(12);
        assert_eq!((view.as_str(), view.container()), ("c0ffee-12", "c0ffee"));
        assert_eq!(RootfsKey::parse("c0ffee-12").unwrap(), view);
        for bad in ["", "..", "a/b", "A", "a-", "-1", "a-b", "a-1-2", "a-123456", &"a".repeat(65)] {
            assert!(RootfsKey::parse(bad).is_err(), "{bad}");
        }
    }
}

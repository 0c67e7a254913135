//! Names of devices: `vendor.com/class=device`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longer than any name.
const MAX_BYTES: usize = 512;

/// A device's whole name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName {
    kind: String,
    device: String,
}

impl DeviceName {
    /// Parses `vendor/class=device`.
    ///
    /// # Errors
    /// Says that it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text
            .split_once('=')
            .filter(|(kind, device)| text.len() <= MAX_BYTES && is_kind(kind) && is_device(device));
        match name {
            Some((kind, device)) => Ok(Self { kind: kind.into(), device: device.into() }),
            None => Err(format!("{text:?} is not the name of a CDI device")),
        }
    }

    /// Of a kind and a device that are checked.
    pub(super) fn new(kind: &str, device: &str) -> Self {
        Self { kind: kind.into(), device: device.into() }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// `vendor.com/class`: letters, digits and a few signs, begun by a letter and ended by a letter or digit.
pub(super) fn is_kind(text: &str) -> bool {
    text.split_once('/').is_some_and(|(vendor, class)| {
        let letter = |text: &str| text.starts_with(|first: char| first.is_ascii_alphabetic());
        letter(vendor) && is_made_of(vendor, "_-.") && letter(class) && is_made_of(class, "_-")
    })
}

/// A device's own name.
pub(super) fn is_device(text: &str) -> bool {
    is_made_of(text, "_-.:")
}

fn is_made_of(text: &str, signs: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.iter().all(|end| end.is_some_and(plain))
        && text.bytes().all(|byte| plain(byte) || signs.as_bytes().contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_vendor_a_class_and_a_device() {
        for text in ["vendor.com/gpu=0", "nvidia.com/gpu=all", "a/b=c", "v-1.x/n_e-t=GPU-1:2.3"] {
            assert_eq!(DeviceName::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "gpu",
            "vendor.com/gpu",
            "vendor.com=0",
            "/gpu=0",
            "vendor.com/=0",
            "vendor.com/gpu=",
            "1endor/gpu=0",
            "vendor/1=0",
            "vendor./gpu=0",
            "vendor/gpu/x=0",
            "vendor/gpu=a b",
            "vendor/gpu=-a",
            "vendor/gpu=a\n",
            "../x=1",
        ] {
            assert!(DeviceName::parse(text).is_err(), "{text:?}");
        }
        assert!(DeviceName::parse(&format!("vendor/gpu={}", "a".repeat(600))).is_err());
    }
}

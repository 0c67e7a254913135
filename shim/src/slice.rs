//! systemd's form of a cgroup path, `slice:prefix:name`: a scope in a slice, and where both are in a hierarchy.

use std::path::{Path, PathBuf};

/// Where a scope goes when its slice is not named.
const DEFAULT_SLICE: &str = "system.slice";
/// Longest name of a unit (UNIT_NAME_MAX, without the final zero).
const UNIT_BYTES: usize = 255;

/// A container's scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeName {
    /// The slice that it is in.
    pub slice: String,
    /// The scope itself.
    pub unit: String,
}

impl ScopeName {
    /// Whether a spec's cgroup path is of this form rather than a path.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        !text.starts_with('/') && text.matches(':').count() == 2
    }

    /// Parses `slice:prefix:name`; an empty slice is the system's, an empty prefix is left out.
    ///
    /// # Errors
    /// Why it is no scope in a slice.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.split(':');
        let (Some(slice), Some(prefix), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("is not slice:prefix:name");
        };
        if name.is_empty() {
            return Err("has no name");
        }
        let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
        let unit = match prefix {
            "" => format!("{}.scope", escape(name)),
            prefix => format!("{}-{}.scope", escape(prefix), escape(name)),
        };
        if unit.len() > UNIT_BYTES {
            return Err("is too long for a unit's name");
        }
        slice_path(slice).ok_or("does not begin with a slice")?;
        Ok(Self { slice: slice.to_owned(), unit })
    }

    /// Below a hierarchy's mount point.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        slice_path(&self.slice).unwrap_or_default().join(&self.unit)
    }
}

/// The folder of a slice: `a-b.slice` is in `a.slice`, and `-.slice` is the root.
#[must_use]
pub fn slice_path(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\-".contains(&byte);
    if slice.len() > UNIT_BYTES || !name.bytes().all(valid) || name.starts_with('.') {
        return None;
    }
    let mut path = PathBuf::new();
    let mut above = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return None;
        }
        if !above.is_empty() {
            above.push('-');
        }
        above.push_str(part);
        path.push(Path::new(&format!("{above}.slice")));
    }
    Some(path)
}

/// As systemd-escape: what a unit's name may not have becomes `\xNN`.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for (at, byte) in text.bytes().enumerate() {
        let first_dot = at == 0 && byte == b'.';
        if (byte.is_ascii_alphanumeric() || b":_.-".contains(&byte)) && !first_dot {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("\\x{byte:02x}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> String {
        ScopeName::parse(text).unwrap().path().display().to_string()
    }

    #[test]
    fn a_slice_is_in_the_slices_that_its_name_begins_with() {
        let pod = "kubepods-burstable-pod1_2.slice:cri-wherry:abc";
        assert_eq!(
            path(pod),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-wherry-abc.scope"
        );
        assert_eq!(path(":libpod:abc"), "system.slice/libpod-abc.scope");
        assert_eq!(path("-.slice::abc"), "abc.scope");
    }

    #[test]
    fn what_leads_elsewhere_is_no_scope() {
        for text in [
            "a:b",
            "a:b:c",
            "a.slice:b:",
            "a--b.slice:x:y",
            "-a.slice:x:y",
            "a-.slice:x:y",
            "../a.slice:x:y",
            "a/b.slice:x:y",
            ".slice:x:y",
            "..slice:x:y",
        ] {
            assert!(ScopeName::parse(text).is_err(), "{text}");
        }
        assert_eq!(path("a.slice:x/../y:z"), "a.slice/x\\x2f..\\x2fy-z.scope");
        assert_eq!(path("a.slice::.."), "a.slice/\\x2e..scope");
        assert!(ScopeName::is_meant("a.slice:b:c") && !ScopeName::is_meant("/a:b:c"));
    }
}

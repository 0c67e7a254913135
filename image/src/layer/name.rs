//! Names in archives: cleaned, and told whether they are whiteouts.
//!
//! Cleaning is not what keeps an entry inside (the kernel does); it makes two spellings of a name one.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::LayerError;

/// The kernel's limits: NAME_MAX, and PATH_MAX with its terminator (linux/limits.h).
const MAX_COMPONENT: usize = 255;
const MAX_PATH: usize = 4095;
const MAX_DEPTH: usize = 1024;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry's name asks for (OCI image-spec, layer.md, "Whiteouts").
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Something at this path; empty for the root itself.
    Entry(PathBuf),
    /// Hides this path of the layers below.
    Whiteout(PathBuf),
    /// Hides all that the layers below have in this directory.
    Opaque(PathBuf),
}

/// The relative path that a name means inside its root: no empty, `.` or `..` components are left.
pub(super) fn clean(name: &[u8]) -> Result<PathBuf, LayerError> {
    let refuse = |why: &str| {
        let shown: String = String::from_utf8_lossy(name).chars().take(80).collect();
        Err(LayerError::malformed(format!("its entry {shown:?} {why}")))
    };
    if name.contains(&0) {
        return refuse("has a zero byte in its name");
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            // Above the root is the root.
            b".." => drop(parts.pop()),
            part if part.len() > MAX_COMPONENT => {
                return refuse("has a component longer than 255 bytes");
            }
            part => parts.push(part),
        }
    }
    if parts.len() > MAX_DEPTH {
        return refuse("lies deeper than 1024 directories");
    }
    let joined = parts.join(&b'/');
    if joined.len() > MAX_PATH {
        return refuse("has a name longer than 4095 bytes");
    }
    Ok(PathBuf::from(OsString::from_vec(joined)))
}

/// What a cleaned path asks for.
pub(super) fn target(path: PathBuf) -> Result<Target, LayerError> {
    let refuse =
        || Err(LayerError::malformed(format!("its entry {path:?} is an invalid whiteout")));
    let parent = path.parent().unwrap_or(Path::new("")).to_owned();
    if parent.iter().any(|part| part.as_bytes().starts_with(WHITEOUT)) {
        return refuse();
    }
    let name = path.file_name().unwrap_or_default().as_bytes();
    if name == OPAQUE {
        return Ok(Target::Opaque(parent));
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Target::Entry(path)),
        Some(b"" | b"." | b"..") => refuse(),
        Some(hidden) if hidden.starts_with(WHITEOUT) => refuse(),
        Some(hidden) => Ok(Target::Whiteout(parent.join(OsStr::from_bytes(hidden)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_ends_inside() {
        for (name, path) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/a", "a"),
            ("../../a", "a"),
            ("a/../../b", "b"),
            ("..", ""),
            ("./", ""),
            ("", ""),
        ] {
            assert_eq!(clean(name.as_bytes()).unwrap(), Path::new(path), "{name}");
        }
    }

    #[test]
    fn impossible_names_are_refused() {
        let (long, deep, far) =
            ("x".repeat(256), "a/".repeat(1025), format!("{}/", "x".repeat(200)).repeat(21));
        for name in ["a\0b", &long, &deep, &far] {
            assert!(clean(name.as_bytes()).is_err());
        }
    }

    #[test]
    fn whiteouts_are_told_from_entries() {
        let read = |name: &str| target(PathBuf::from(name));
        assert_eq!(read("a/.wh.b").unwrap(), Target::Whiteout("a/b".into()));
        assert_eq!(read("a/.wh..wh..opq").unwrap(), Target::Opaque("a".into()));
        assert_eq!(read(".wh..wh..opq").unwrap(), Target::Opaque("".into()));
        assert_eq!(read("a/.wh").unwrap(), Target::Entry("a/.wh".into()));
        for bad in
            [".wh.", ".wh..", ".wh...", ".wh..wh.plnk", ".wh..wh.x/y", ".wh.a/b", "a/.wh..wh..wh."]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

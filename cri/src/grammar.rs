//! The forms that texts from outside must have before they reach the operating system.

use std::path::{Component, Path, PathBuf};

/// A host name by RFC 1123, as hostname(7) wants it: labels of letters, digits and hyphens, 64 bytes at most.
#[must_use]
pub fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 64 && text.split('.').all(label)
}

/// One line of printable text of at most `limit` bytes.
#[must_use]
pub fn is_plain(text: &str, limit: usize) -> bool {
    text.len() <= limit && !text.chars().any(char::is_control)
}

/// A kernel parameter's name: no dots that climb, nothing but what names under /proc/sys are made of.
#[must_use]
pub fn is_sysctl(key: &str) -> bool {
    let parts = key.split(['.', '/']);
    let byte =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*".contains(&byte);
    key.len() <= 256
        && parts.clone().count() > 1
        && parts.into_iter().all(|part| !part.is_empty() && part.bytes().all(byte))
}

/// An absolute path without `.`, `..` or control characters.
///
/// # Errors
/// Says what is wrong with it.
pub fn absolute(path: &str) -> Result<PathBuf, String> {
    if !path.starts_with('/') {
        return Err(format!("path {path:?} is not absolute"));
    }
    if !is_clean(path) {
        return Err(format!("path {path:?} is not clean"));
    }
    Ok(PathBuf::from(path))
}

/// A path inside something, without `.`, `..` or control characters; an empty text is none.
///
/// # Errors
/// Says what is wrong with it.
pub fn inside(path: &str) -> Result<Option<PathBuf>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    if path.starts_with('/') || !is_clean(path) {
        return Err(format!("path {path:?} is not a clean relative path"));
    }
    Ok(Some(Path::new(path).components().collect()))
}

/// The folder for a pod's logs; an empty text is none.
///
/// # Errors
/// Says what is wrong with it.
pub fn log_directory(path: &str) -> Result<Option<PathBuf>, String> {
    if path.is_empty() { Ok(None) } else { absolute(path).map(Some) }
}

/// A log's path below the pod's folder; an empty text is none.
///
/// # Errors
/// Says what is wrong with it.
pub fn log_path(path: &str) -> Result<Option<PathBuf>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.starts_with('/') || !plain || !is_clean(path) {
        return Err(format!("log path {path:?} is not a clean relative path"));
    }
    Ok(Some(PathBuf::from(path)))
}

fn is_clean(path: &str) -> bool {
    path.len() < 4096
        && !path.chars().any(char::is_control)
        && !path.split('/').any(|part| part == ".." || part == ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_path_cannot_leave_its_folder() {
        assert_eq!(log_path("web/0.log").unwrap(), Some(PathBuf::from("web/0.log")));
        assert_eq!(log_path("").unwrap(), None);
        for path in ["/etc/passwd", "../x", "a/../../x", "a/./b", "a\0b", "a\nb"] {
            assert!(log_path(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn host_names_are_those_of_rfc_1123() {
        for name in ["web-0", "a.b.c", "node1"] {
            assert!(is_hostname(name), "{name}");
        }
        for name in ["", "-a", "a-", "a..b", "a b", "a\n", &"x".repeat(65)] {
            assert!(!is_hostname(name), "{name}");
        }
    }

    #[test]
    fn a_sysctl_name_has_parts_of_plain_letters() {
        assert!(is_sysctl("net.ipv4.tcp_syncookies"));
        for key in ["net", "", "net..x", "net.ipv4.+x", "kernel.shm_rmid_forced=1", "net/../x"] {
            assert!(!is_sysctl(key), "{key}");
        }
    }
}

//! Image names as people write them, and the full name they stand for.
//!
//! The grammar is that of the distribution project's `reference` package; the short forms are Docker's: no domain
//! means docker.io, one component there means `library/`, no tag and no digest mean `latest`.

use std::fmt;

use crate::{Digest, ImageError};

const MAX_REFERENCE: usize = 4096;
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// Where an image is: registry, repository, and which of its manifests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

/// Which manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    /// Parses and completes a name; of `name:tag@digest` the digest counts and the tag is dropped.
    ///
    /// # Errors
    /// [`ImageError::InvalidReference`] with the part that is outside the grammar.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        Self::read(text).map_err(|why| ImageError::InvalidReference {
            text: text.chars().take(200).collect(),
            why,
        })
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        match text.len() {
            0 => return Err("it is empty"),
            n if n > MAX_REFERENCE => return Err("it is longer than 4096 bytes"),
            64 if text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                return Err("64 hex digits are an id, not a name");
            }
            _ => {}
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest =
                    Digest::parse(digest).ok_or("its digest is neither a sha256 nor a sha512")?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err("its tag is outside the grammar");
        }
        let (registry, repository) = split_registry(name);
        if !is_registry(&registry) {
            return Err("its registry is not a host name with an optional port");
        }
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err("its repository has upper-case letters");
        }
        if !repository.split('/').all(is_path_component) {
            return Err("its repository is outside the grammar");
        }
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err("its name is longer than 255 bytes");
        }
        let tag = || Version::Tag(tag.unwrap_or("latest").to_owned());
        let version = digest.map_or_else(tag, Version::Digest);
        Ok(Self { registry, repository, version })
    }

    /// The registry's host, with its port if one was given; `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in that registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The digest, if the name has one.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Digest(digest) => Some(digest),
            Version::Tag(_) => None,
        }
    }

    pub(crate) fn version(&self) -> &Version {
        &self.version
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => f.write_str(digest.as_str()),
        }
    }
}

impl std::str::FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A colon after the last slash starts a tag; before it, a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn split_registry(name: &str) -> (String, String) {
    let is_host = |part: &str| {
        part.contains(['.', ':'])
            || part == "localhost"
            || part.bytes().any(|b| b.is_ascii_uppercase())
    };
    match name.split_once('/') {
        Some((host, rest)) if is_host(host) && host != "docker.io" && host != "index.docker.io" => {
            (host.to_owned(), rest.to_owned())
        }
        Some((host, rest)) if is_host(host) => hub(rest),
        _ => hub(name),
    }
}

fn hub(repository: &str) -> (String, String) {
    let official = !repository.contains('/') && !repository.is_empty();
    let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
    ("docker.io".to_owned(), repository)
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            return after.is_empty() || after.strip_prefix(':').is_some_and(is_port);
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= MAX_TAG
        && bytes.next().is_some_and(word)
        && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

/// Runs of `[a-z0-9]` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text
            .split(alphanumeric)
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn short_names_are_completed() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("user/app:1"), "docker.io/user/app:1");
        assert_eq!(full("docker.io/busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("index.docker.io/a/b"), "docker.io/a/b:latest");
        assert_eq!(full("localhost/a"), "localhost/a:latest");
        assert_eq!(full("localhost:5000/a/b:v1"), "localhost:5000/a/b:v1");
        assert_eq!(full("127.0.0.1:5000/a"), "127.0.0.1:5000/a:latest");
        assert_eq!(full("[::1]:5000/a"), "[::1]:5000/a:latest");
        assert_eq!(full("registry.k8s.io/pause:3.9"), "registry.k8s.io/pause:3.9");
        assert_eq!(full("a/b--c__d.e_f"), "docker.io/a/b--c__d.e_f:latest");
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = Digest::of(b"");
        let text = format!("quay.io/a/b:tag@{digest}");
        assert_eq!(full(&text), format!("quay.io/a/b@{digest}"));
        assert_eq!(Reference::parse(&text).unwrap().digest(), Some(&digest));
    }

    #[test]
    fn what_is_outside_the_grammar_is_refused() {
        let long = "a".repeat(256);
        let hex = "a".repeat(64);
        let tag = format!("a:{}", "t".repeat(129));
        for bad in [
            "",
            " ",
            "A",
            "a:",
            "a:b:c/d:",
            "a@",
            "a@sha256:12",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "quay.io",
            "quay.io/",
            "host:port/a",
            "host:99999/a",
            "a:-x",
            "https://quay.io/a",
            "a b",
            "a\n",
            "../a",
            "[::1/a",
            "[x]/a",
            "ex-.com/a",
            &long,
            &hex,
            &tag,
            &"x".repeat(5000),
        ] {
            // A bare domain is a legal repository on Docker Hub.
            if bad == "quay.io" {
                assert_eq!(full(bad), "docker.io/library/quay.io:latest");
            } else {
                assert!(Reference::parse(bad).is_err(), "{bad:?} was accepted");
            }
        }
    }
}

//! Scheme, host and port: what credentials are bound to.

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};

/// The part of a URI that names a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The server of an absolute http or https URI.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let standard = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let host = uri.host()?.to_ascii_lowercase();
        Some(Self { scheme, host, port: uri.port_u16().unwrap_or(standard) })
    }

    pub(super) fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }
}

/// Resolves a `Location` against the URI that answered with it (RFC 9110, section 10.2.2).
pub(super) fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let target: Uri = if location.starts_with("//") {
        format!("{}:{location}", base.scheme_str()?).parse().ok()?
    } else if location.contains("://") || location.starts_with('/') {
        location.parse().ok()?
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{location}").parse().ok()?
    };
    if target.scheme().is_some() {
        return Origin::of(&target).map(|_| target);
    }
    let scheme: Scheme = base.scheme()?.clone();
    let authority: Authority = base.authority()?.clone();
    let path: PathAndQuery = target.path_and_query()?.clone();
    Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_against_their_base() {
        let base: Uri = "https://a.io:5000/v2/x/blobs/1?q".parse().unwrap();
        let joined = |l| join(&base, l).map(|u| u.to_string());
        assert_eq!(joined("https://b.io/c").as_deref(), Some("https://b.io/c"));
        assert_eq!(joined("/c?d#e").as_deref(), Some("https://a.io:5000/c?d"));
        assert_eq!(joined("//b.io/c").as_deref(), Some("https://b.io/c"));
        assert_eq!(joined("2").as_deref(), Some("https://a.io:5000/v2/x/blobs/2"));
        assert_eq!(joined("file:///etc/passwd"), None);
        assert_eq!(joined("\0"), None);
    }

    #[test]
    fn the_standard_port_is_the_same_origin() {
        let origin = |u: &str| Origin::of(&u.parse().unwrap());
        assert_eq!(origin("https://a.io/"), origin("https://A.io:443/x"));
        assert_ne!(origin("https://a.io/"), origin("http://a.io/"));
        assert_ne!(origin("http://a.io/"), origin("http://a.io:81/"));
        assert_eq!(origin("/relative"), None);
    }
}

//! Credentials of one pull.

use std::fmt;

use crate::Reference;

/// What the caller may show to the image's registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Auth {
    /// A user and a password, for Basic authentication and for the token service.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token, to be exchanged at the token service.
    IdentityToken(String),
    /// A bearer token, to be shown as it is.
    RegistryToken(String),
}

impl Auth {
    /// Whether credentials that name `server_address` are meant for the registry of `image`.
    ///
    /// The address may be a host or a URL, as in a Docker configuration file; an empty one is meant for any.
    pub fn is_for(server_address: &str, image: &Reference) -> bool {
        let host = server_address.split_once("://").map_or(server_address, |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or("");
        let hub = |host| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
        host.is_empty() || host == image.registry() || (hub(host) && hub(image.registry()))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Basic { .. } => "Basic",
            Self::IdentityToken(_) => "IdentityToken",
            Self::RegistryToken(_) => "RegistryToken",
        };
        write!(f, "{kind}(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_meant_for_their_server_only() {
        let hub = Reference::parse("busybox").unwrap();
        let quay = Reference::parse("quay.io/a").unwrap();
        assert!(Auth::is_for("", &quay) && Auth::is_for("quay.io", &quay));
        assert!(Auth::is_for("https://index.docker.io/v1/", &hub));
        assert!(!Auth::is_for("https://index.docker.io/v1/", &quay));
        assert!(!Auth::is_for("quay.io:8443", &quay));
    }

    #[test]
    fn secrets_are_not_printed() {
        let auth = Auth::Basic { username: "u".into(), password: "hunter2".into() };
        assert!(!format!("{auth:?}").contains("hunter2"));
    }
}

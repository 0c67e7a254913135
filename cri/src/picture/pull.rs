//! PullImage.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{Auth, Reference};
use proto::cri;

use crate::error::Error;
use crate::runtime::Runtime;

/// Pulls an image and returns its id, the same that every other RPC gives it.
///
/// # Errors
/// `Invalid` for a reference or credentials that do not parse; the image store's own otherwise.
pub async fn pull(runtime: &Runtime, request: cri::PullImageRequest) -> Result<String, Error> {
    let name = request.image.unwrap_or_default().image;
    let operation = format!("pull image {name:?}");
    let reference = Reference::parse(&name)
        .map_err(|source| Error::Image { operation: operation.clone(), source })?;
    // Credentials that name another registry are none for this one.
    let auth = request.auth.filter(|auth| Auth::is_for(&auth.server_address, &reference));
    let auth = auth.map(credentials).transpose();
    let auth = auth.map_err(|reason| Error::Invalid { operation: operation.clone(), reason })?;
    let image = runtime.images.pull(&reference, auth.flatten()).await;
    image.map(|image| image.id.to_string()).map_err(|source| Error::Image { operation, source })
}

/// The credentials in the form they come in: one of four, or none.
///
/// The text of an error never repeats a secret.
fn credentials(auth: cri::AuthConfig) -> Result<Option<Auth>, String> {
    if !auth.identity_token.is_empty() {
        return Ok(Some(Auth::IdentityToken(auth.identity_token)));
    }
    if !auth.registry_token.is_empty() {
        return Ok(Some(Auth::RegistryToken(auth.registry_token)));
    }
    if !auth.username.is_empty() {
        return Ok(Some(Auth::Basic { username: auth.username, password: auth.password }));
    }
    if auth.auth.is_empty() {
        return Ok(None);
    }
    let malformed = || "the credentials' auth is not base64 of user:password".to_owned();
    let decoded = STANDARD.decode(auth.auth.trim()).map_err(|_| malformed())?;
    let text = String::from_utf8(decoded).map_err(|_| malformed())?;
    let (username, password) = text.split_once(':').ok_or_else(malformed)?;
    // Docker pads what it stores with NUL bytes.
    let password = password.trim_end_matches('\0');
    Ok(Some(Auth::Basic { username: username.to_owned(), password: password.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> cri::AuthConfig {
        cri::AuthConfig { auth: STANDARD.encode(text), ..Default::default() }
    }

    #[test]
    fn docker_style_credentials_are_decoded() {
        let Ok(Some(Auth::Basic { username, password })) = credentials(encoded("me:a:b\0")) else {
            panic!("not basic");
        };
        assert_eq!((username.as_str(), password.as_str()), ("me", "a:b"));
    }

    #[test]
    fn malformed_credentials_are_refused_without_repeating_them() {
        let bad = cri::AuthConfig { auth: "c2VjcmV0".into(), ..Default::default() };
        let reason = credentials(bad).unwrap_err();
        assert!(!reason.contains("secret") && !reason.contains("c2VjcmV0"), "{reason}");
        assert!(credentials(cri::AuthConfig::default()).unwrap().is_none());
    }
}

//! Answers to challenges: the Authorization header of one source.
//!
//! Credentials are shown to the source they were given for, and to the token service which that source names if it
//! is reached over https (or, for a source that is configured as plain http, on the same host). A token is kept
//! for the length of the pull and renewed when the source stops accepting it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Request, Uri};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::challenge::{self, Bearer, Challenge};
use super::failure::Failure;
use super::origin::Origin;
use super::transport::{self, Transport};
use crate::Auth;

/// A token service's answer is refused beyond this.
const MAX_TOKEN: u64 = 64 << 10;

/// Keeps the header that a source accepts.
#[derive(Debug)]
pub(super) struct Authorizer {
    auth: Option<Auth>,
    /// The scope to ask for when the challenge has none.
    scope: String,
    /// Held while a token is fetched, so that parallel requests share it.
    header: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Authorizer {
    pub(super) fn new(auth: Option<Auth>, repository: &str) -> Self {
        let header = match &auth {
            Some(Auth::RegistryToken(token)) => sensitive(&format!("Bearer {token}")),
            _ => None,
        };
        let scope = format!("repository:{repository}:pull");
        Self { auth, scope, header: Mutex::new(header) }
    }

    /// The header to send, if one is known to be wanted.
    pub(super) async fn header(&self) -> Option<HeaderValue> {
        self.header.lock().await.clone()
    }

    /// Answers a 401 that was the reply to `used`.
    pub(super) async fn renew(
        &self,
        transport: &Transport,
        source: &Uri,
        answer: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<(), Failure> {
        let mut header = self.header.lock().await;
        if header.as_ref() != used {
            // Another request has renewed it meanwhile.
            return Ok(());
        }
        let challenges: Vec<Challenge> = answer
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let bearer = challenges.iter().find_map(|c| match c {
            Challenge::Bearer(bearer) => Some(bearer),
            Challenge::Basic => None,
        });
        *header = match (&self.auth, bearer) {
            (Some(Auth::RegistryToken(_)), _) => {
                return Err(refused("the registry token is not accepted"));
            }
            (_, Some(bearer)) => Some(self.fetch_token(transport, source, bearer).await?),
            (Some(Auth::Basic { username, password }), None)
                if challenges.contains(&Challenge::Basic) =>
            {
                let value = basic(username, password)?;
                if used == Some(&value) {
                    return Err(refused("the user and password are not accepted"));
                }
                Some(value)
            }
            (None, None) => return Err(refused("credentials are required and none were given")),
            (Some(_), None) => {
                return Err(refused("the given kind of credentials is not asked for"));
            }
        };
        Ok(())
    }

    async fn fetch_token(
        &self,
        transport: &Transport,
        source: &Uri,
        bearer: &Bearer,
    ) -> Result<HeaderValue, Failure> {
        let realm: Uri = bearer
            .realm
            .parse()
            .map_err(|_| refused(&format!("its token service {:?} is not a URL", bearer.realm)))?;
        check_realm(source, &realm)?;
        let scope = bearer.scope.as_deref().unwrap_or(&self.scope);
        let mut fields = vec![("scope", scope)];
        fields.extend(bearer.service.as_deref().map(|service| ("service", service)));
        let request = match &self.auth {
            Some(Auth::IdentityToken(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "wherry"),
                    ("refresh_token", token),
                ]);
                Request::post(&realm)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(transport::full(form(&fields)))
            }
            auth => {
                let joint = if realm.query().is_some() { '&' } else { '?' };
                let mut request = Request::get(format!("{realm}{joint}{}", form(&fields)));
                if let Some(Auth::Basic { username, password }) = auth {
                    request = request.header(AUTHORIZATION, basic(username, password)?);
                }
                request.body(transport::full(String::new()))
            }
        };
        let request =
            request.map_err(|e| refused(&format!("its token service cannot be asked: {e}")))?;
        let (parts, body) = transport.send(request).await?.into_parts();
        if parts.status.is_client_error() && !super::is_transient(parts.status) {
            return Err(refused(&format!(
                "its token service {} answers {}",
                bearer.realm, parts.status
            )));
        }
        if !parts.status.is_success() {
            let detail = format!("from the token service {}", bearer.realm);
            return Err(Failure::Status { status: parts.status, retry_after: None, detail });
        }
        let bytes = transport.collect(body, MAX_TOKEN).await?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&bytes).ok();
        answer
            .and_then(|a| a.token.or(a.access_token))
            .filter(|token| !token.is_empty())
            .and_then(|token| sensitive(&format!("Bearer {token}")))
            .ok_or_else(|| refused("its token service sent no token"))
    }
}

fn refused(why: &str) -> Failure {
    Failure::Unauthorized { why: why.to_owned() }
}

/// Whether credentials may be shown to the realm that a source names.
fn check_realm(source: &Uri, realm: &Uri) -> Result<(), Failure> {
    let allowed = match (Origin::of(source), Origin::of(realm)) {
        (_, Some(realm)) if realm.is_https() => true,
        (Some(source), Some(realm)) => !source.is_https() && source.host() == realm.host(),
        _ => false,
    };
    if allowed {
        Ok(())
    } else {
        Err(refused(&format!("its token service {realm} is not reached over https")))
    }
}

fn basic(username: &str, password: &str) -> Result<HeaderValue, Failure> {
    sensitive(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
        .ok_or_else(|| refused("the credentials do not fit in a header"))
}

/// A header value that is never printed.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = fields.iter().map(|(n, v)| format!("{n}={}", escape(v))).collect();
    pairs.join("&")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_https_realms_or_to_the_plain_sources_own_host() {
        let allowed = |source: &str, realm: &str| {
            check_realm(&source.parse().unwrap(), &realm.parse().unwrap()).is_ok()
        };
        assert!(allowed("https://a.io/v2", "https://auth.b.io/token"));
        assert!(allowed("http://127.0.0.1:5000/v2", "http://127.0.0.1:5001/token"));
        assert!(!allowed("https://a.io/v2", "http://a.io/token"));
        assert!(!allowed("http://a.io/v2", "http://b.io/token"));
        assert!(!allowed("http://a.io/v2", "/token"));
    }

    #[test]
    fn fields_are_escaped() {
        assert_eq!(
            form(&[("scope", "repository:a/b:pull"), ("x", "ä&")]),
            "scope=repository%3Aa%2Fb%3Apull&x=%C3%A4%26"
        );
    }
}

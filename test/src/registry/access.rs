//! Who may read what: nobody asks, basic authentication, or bearer tokens from a token server on the same address.
//!
//! The token protocol is the distribution project's: 401 with `WWW-Authenticate: Bearer realm=…,service=…,scope=…`, a
//! token from the realm (GET with basic authentication or none; POST with a refresh token), then `Authorization: Bearer`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use serde_json::json;

use super::server::{Answer, respond};
use super::{IDENTITY_TOKEN, PASSWORD, USER};

/// How a registry decides who may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody may.
    #[default]
    Anonymous,
    /// Basic authentication for everything.
    Basic,
    /// Tokens: anybody gets one for `open/*`, only [`USER`] one for `secret/*`.
    Token,
}

const OPEN: &str = "token-for-open";
const SECRET: &str = "token-for-secret";

impl Access {
    /// The refusal for this request, if it must be refused.
    pub(super) fn refuse(self, parts: &Parts, own_url: &str) -> Option<Answer> {
        let given = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let repository = parts.uri.path().trim_start_matches("/v2/");
        let secret = repository.starts_with("secret/");
        let (allowed, challenge) = match self {
            Self::Anonymous => return None,
            Self::Basic => (given == Some(basic().as_str()), "Basic realm=\"test\"".to_owned()),
            Self::Token => {
                let token = given.and_then(|value| value.strip_prefix("Bearer "));
                let allowed = token == Some(SECRET) || (!secret && token == Some(OPEN));
                (allowed, challenge(own_url, repository))
            }
        };
        (!allowed).then(|| {
            let mut answer = respond(StatusCode::UNAUTHORIZED, "application/json", REFUSAL.into());
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge.parse().unwrap());
            answer
        })
    }
}

const REFUSAL: &str = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

fn challenge(own_url: &str, path: &str) -> String {
    let repository = path.split("/manifests/").next().and_then(|p| p.split("/blobs/").next());
    let scope = repository
        .filter(|name| !name.is_empty())
        .map(|name| format!(",scope=\"repository:{name}:pull\""));
    format!("Bearer realm=\"{own_url}/token\",service=\"test\"{}", scope.unwrap_or_default())
}

/// The token server's answer.
pub(super) fn token(parts: &Parts, body: &[u8]) -> Answer {
    let query = parts.uri.query().unwrap_or_default();
    let body = String::from_utf8_lossy(body);
    let login = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let refresh = body.contains(&format!("refresh_token={IDENTITY_TOKEN}"));
    let known = login == Some(basic().as_str()) || refresh;
    let secret = format!("{query}&{body}").contains("secret");
    match (login.is_some() || body.contains("refresh_token"), known, secret) {
        (true, false, _) | (_, false, true) => {
            respond(StatusCode::UNAUTHORIZED, "application/json", REFUSAL.into())
        }
        (_, true, _) => granted(SECRET),
        (false, false, false) => granted(OPEN),
    }
}

fn granted(token: &str) -> Answer {
    let body = json!({ "token": token, "access_token": token, "expires_in": 300 }).to_string();
    respond(StatusCode::OK, "application/json", body.into())
}

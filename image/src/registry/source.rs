//! One host that serves a repository: requests with its headers, tokens, redirects and retries.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, USER_AGENT,
};
use hyper::{Request, Response, StatusCode, Uri};
use serde::Deserialize;

use super::Patience;
use super::authorizer::Authorizer;
use super::failure::Failure;
use super::hosts::Endpoint;
use super::origin::{self, Origin};
use super::transport::{self, Transport};
use crate::{Auth, Reference};

const MAX_REDIRECTS: usize = 10;
/// How much of an error's body is read, and how much of it is shown.
const MAX_ERROR_BODY: u64 = 64 << 10;
const MAX_DETAIL: usize = 200;

/// A host, ready to be asked.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) endpoint: Endpoint,
    repository: String,
    /// For a mirror: the registry it stands for, as containerd tells its mirrors with `?ns=`.
    namespace: Option<String>,
    transport: Transport,
    authorizer: Authorizer,
    patience: Patience,
}

/// One thing to get.
#[derive(Debug)]
pub(super) struct Get<'a> {
    /// Below the repository: `manifests/…`, `blobs/…`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'a str>,
    /// The first byte that is wanted.
    pub(super) from: u64,
}

/// The error document of the distribution-spec ("Error Codes").
#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Source {
    pub(super) fn new(
        endpoint: Endpoint,
        image: &Reference,
        auth: Option<Auth>,
        patience: Patience,
    ) -> Self {
        let transport = Transport::new(endpoint.tls.clone(), endpoint.dial_timeout, patience);
        let repository = image.repository().to_owned();
        let authorizer = Authorizer::new(auth, &repository);
        let namespace = (!endpoint.is_upstream).then(|| image.registry().to_owned());
        Self { endpoint, repository, namespace, transport, authorizer, patience }
    }

    /// Asks until the answer is a success, or trying again makes no sense.
    pub(super) async fn get(&self, get: &Get<'_>) -> Result<Response<Incoming>, Failure> {
        let mut tries = 0;
        loop {
            let failure = match self.authorized(get).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let Some(pause) = self.pause(tries, &failure) else { return Err(failure) };
            tracing::debug!(?failure, ?pause, path = get.path, "request failed, trying again");
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    /// How long to wait before the next try, if one makes sense.
    pub(super) fn pause(&self, tries: u32, failure: &Failure) -> Option<Duration> {
        failure.pause(tries, self.patience)
    }

    pub(super) async fn chunk(&self, body: &mut Incoming) -> Result<Option<bytes::Bytes>, Failure> {
        self.transport.chunk(body).await
    }

    pub(super) async fn collect(&self, body: Incoming, cap: u64) -> Result<Vec<u8>, Failure> {
        self.transport.collect(body, cap).await
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Asks, and answers at most one challenge.
    async fn authorized(&self, get: &Get<'_>) -> Result<Response<Incoming>, Failure> {
        let uri = self.uri(get.path)?;
        let mut challenged = false;
        loop {
            let header = self.authorizer.header().await;
            let (response, at_home) = self.follow(&uri, get, header.as_ref()).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            // Only the configured host may ask for credentials; where it redirects to may not.
            if status == StatusCode::UNAUTHORIZED && at_home && !challenged {
                challenged = true;
                self.authorizer
                    .renew(&self.transport, &uri, response.headers(), header.as_ref())
                    .await?;
                continue;
            }
            return Err(self.failure(response, at_home).await);
        }
    }

    /// Sends a request and follows redirects; tells whether the answer is the configured host's own.
    async fn follow(
        &self,
        uri: &Uri,
        get: &Get<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response<Incoming>, bool), Failure> {
        let home = Origin::of(uri);
        let mut target = uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let at_home = Origin::of(&target) == home;
            let mut request = Request::get(&target)
                .header(USER_AGENT, concat!("wherry/", env!("CARGO_PKG_VERSION")));
            if let Some(accept) = get.accept {
                request = request.header(ACCEPT, accept);
            }
            if get.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", get.from));
            }
            if at_home {
                for (name, value) in &self.endpoint.headers {
                    request = request.header(name, value);
                }
                if let Some(value) = authorization {
                    request = request.header(AUTHORIZATION, value);
                }
            }
            let request = request.body(transport::full(String::new())).map_err(|e| {
                Failure::Refused { why: format!("no request can be made of it: {e}") }
            })?;
            let response = self.transport.send(request).await?;
            if !is_redirect(response.status()) {
                return Ok((response, at_home));
            }
            target = next_hop(&target, response.headers())?;
        }
        Err(Failure::Refused { why: format!("more than {MAX_REDIRECTS} redirects") })
    }

    async fn failure(&self, response: Response<Incoming>, at_home: bool) -> Failure {
        let (parts, body) = response.into_parts();
        let retry_after = parts
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs);
        // What another host answers is nobody's business here: it may be a service that only this node reaches.
        let detail = match at_home {
            true => {
                self.collect(body, MAX_ERROR_BODY).await.map(|b| detail(&b)).unwrap_or_default()
            }
            false => "from the host it redirects to".to_owned(),
        };
        Failure::Status { status: parts.status, retry_after, detail }
    }

    fn uri(&self, path: &str) -> Result<Uri, Failure> {
        let endpoint = &self.endpoint;
        let query = self.namespace.as_ref().map(|ns| format!("?ns={ns}")).unwrap_or_default();
        let (scheme, authority, base) = (endpoint.scheme(), &endpoint.authority, &endpoint.path);
        format!("{scheme}://{authority}{base}/{}/{path}{query}", self.repository)
            .parse()
            .map_err(|e| Failure::Refused { why: format!("no URL can be made of it: {e}") })
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn next_hop(from: &Uri, headers: &HeaderMap) -> Result<Uri, Failure> {
    let refuse = |why: &str| Failure::Refused { why: why.to_owned() };
    let location = headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| refuse("a redirect without a readable location"))?;
    let target = origin::join(from, location)
        .ok_or_else(|| refuse("a redirect to something that is not a URL"))?;
    let is_https = |uri| Origin::of(uri).is_some_and(|origin| origin.is_https());
    if is_https(from) && !is_https(&target) {
        return Err(refuse("a redirect from https to http"));
    }
    Ok(target)
}

/// The first entry of an error document, printable and short.
fn detail(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<ErrorBody>(body) else { return String::new() };
    let Some(entry) = body.errors.into_iter().next() else { return String::new() };
    let text = format!("{} {}", entry.code, entry.message);
    text.trim().chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect()
}

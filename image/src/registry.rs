//! The distribution protocol (OCI distribution-spec), as a client that expects broken links and hostile servers.
//!
//! A [`Registry`] is one image's view of the network: the mirrors configured for its registry, in order, and the
//! registry itself last, each a [`Source`] with its own TLS, headers and tokens. It lives for one pull, so nothing
//! of TLS roots, tokens or idle connections stays in memory afterwards.

mod authorizer;
mod blob;
mod challenge;
mod failure;
mod hosts;
mod origin;
mod source;
mod tls;
mod transport;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

pub(crate) use blob::BlobStream;
use failure::Failure;
use source::{Get, Source};

use crate::media::Descriptor;
use crate::reference::Version;
use crate::{Auth, Digest, ImageError, Reference, media};

/// A manifest or an index is refused beyond this (containerd accepts about as much).
const MAX_MANIFEST: u64 = 4 << 20;

/// How long to wait, and how often to try again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Without a response or enough data for this long, a transfer is given up.
    pub(crate) no_progress: Duration,
    /// The pause before the second try; it doubles from try to try.
    pub(crate) retry_delay: Duration,
}

/// The sources of one repository.
#[derive(Debug)]
pub(crate) struct Registry {
    reference: Reference,
    sources: Vec<Arc<Source>>,
}

/// A document from below `manifests/`, verified if its digest was known.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    /// As announced by the Content-Type header.
    pub(crate) media_type: String,
}

impl Registry {
    /// Reads the hosts' configuration for the image's registry. Blocks on the disk; nothing is sent yet.
    pub(crate) fn open(
        certs_dir: Option<&Path>,
        reference: &Reference,
        auth: Option<Auth>,
        patience: Patience,
    ) -> Result<Self, ImageError> {
        let endpoints = hosts::endpoints(certs_dir, reference.registry())?;
        let sources = endpoints
            .into_iter()
            // The operator's word on who serves a registry counts for its credentials too, as with containerd: a
            // mirror of private images wants them. Nobody else sees them, redirects least of all.
            .map(|endpoint| Arc::new(Source::new(endpoint, reference, auth.clone(), patience)))
            .collect();
        Ok(Self { reference: reference.clone(), sources })
    }

    /// The document that the reference names, from the first source that has it.
    pub(crate) async fn manifest(&self) -> Result<Fetched, ImageError> {
        let object = format!("manifest of {}", self.reference);
        let expected = self.reference.digest();
        let by_tag = matches!(self.reference.version(), Version::Tag(_));
        let usable = |s: &Source| if by_tag { s.endpoint.resolve } else { s.endpoint.pull };
        self.first_manifest(&self.reference.version().to_string(), expected, &object, usable).await
    }

    /// The document that an index names.
    pub(crate) async fn manifest_by(&self, descriptor: &Descriptor) -> Result<Fetched, ImageError> {
        let object = format!("manifest {} of {}", descriptor.digest, self.reference.name());
        let digest = &descriptor.digest;
        let fetched = self
            .first_manifest(digest.as_str(), Some(digest), &object, |s| s.endpoint.pull)
            .await?;
        if u64::try_from(fetched.bytes.len()).ok() != Some(descriptor.size) {
            let why = format!(
                "it has {} bytes, its descriptor says {}",
                fetched.bytes.len(),
                descriptor.size
            );
            return Err(ImageError::corrupt(object, why));
        }
        Ok(fetched)
    }

    /// A small blob in memory, verified.
    pub(crate) async fn small_blob(
        &self,
        descriptor: &Descriptor,
        cap: u64,
    ) -> Result<Vec<u8>, ImageError> {
        let object = format!("blob {} of {}", descriptor.digest, self.reference.name());
        if descriptor.size > cap {
            return Err(ImageError::corrupt(
                object,
                format!("it has {} bytes, more than {cap}", descriptor.size),
            ));
        }
        let mut last = None;
        for first in 0..self.blob_sources().len() {
            let mut bytes = Vec::new();
            let mut stream = self.blob(descriptor, first);
            let outcome = loop {
                match stream.next().await {
                    Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            match outcome {
                Ok(()) => return Ok(bytes),
                // The stream has tried the other sources already, unless a source sent the wrong content.
                Err(error @ ImageError::Corrupt { .. }) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| self.no_source(object)))
    }

    /// A blob as a verified stream, asking the sources from the `first` one on.
    pub(crate) fn blob(&self, descriptor: &Descriptor, first: usize) -> BlobStream {
        let sources = self.blob_sources().split_off(first);
        BlobStream::new(sources, &self.reference, descriptor)
    }

    /// How many sources serve blobs.
    pub(crate) fn blob_source_count(&self) -> usize {
        self.blob_sources().len()
    }

    fn blob_sources(&self) -> Vec<Arc<Source>> {
        self.sources.iter().filter(|s| s.endpoint.pull).cloned().collect()
    }

    fn no_source(&self, object: String) -> ImageError {
        let host = self.reference.registry().to_owned();
        ImageError::Unavailable { object, host, why: "no configured host may serve it".to_owned() }
    }

    /// Tries the sources in order. The last error counts, because it is the registry's own, unless that only says
    /// that nobody answers and an earlier source had more to say.
    async fn first_manifest(
        &self,
        version: &str,
        expected: Option<&Digest>,
        object: &str,
        usable: impl Fn(&Source) -> bool,
    ) -> Result<Fetched, ImageError> {
        let mut last = None;
        let sources: Vec<&Arc<Source>> = self.sources.iter().filter(|s| usable(s)).collect();
        for source in sources {
            match fetch_manifest(source, version, expected, object).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => {
                    tracing::debug!(%error, host = source.endpoint.authority, "source does not serve it");
                    let silent = matches!(error, ImageError::Unavailable { .. });
                    last = last.filter(|_| silent).or(Some(error));
                }
            }
        }
        Err(last.unwrap_or_else(|| self.no_source(object.to_owned())))
    }
}

async fn fetch_manifest(
    source: &Source,
    version: &str,
    expected: Option<&Digest>,
    object: &str,
) -> Result<Fetched, ImageError> {
    let accept = media::accept();
    let get = Get { path: &format!("manifests/{version}"), accept: Some(&accept), from: 0 };
    let fail = |failure: Failure| failure.into_error(object, &source.endpoint.authority);
    let mut tries = 0;
    let (headers, bytes) = loop {
        let response = source.get(&get).await.map_err(fail)?;
        let (parts, body) = response.into_parts();
        match source.collect(body, MAX_MANIFEST).await {
            Ok(bytes) => break (parts.headers, bytes),
            Err(failure) => match source.pause(tries, &failure) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(fail(failure)),
            },
        }
        tries += 1;
    };
    let header = |name: &str| {
        headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").trim().to_owned()
    };
    let announced = Digest::parse(&header("docker-content-digest"));
    let digest = match (expected, announced) {
        (Some(digest), _) => digest.clone(),
        (None, Some(digest)) => digest,
        (None, None) => Digest::of(&bytes),
    };
    if !digest.matches(&bytes) {
        let why = format!(
            "{} sent {} bytes that are not {digest}",
            source.endpoint.authority,
            bytes.len()
        );
        return Err(ImageError::corrupt(object, why));
    }
    let content_type = header("content-type");
    let media_type = content_type.split(';').next().unwrap_or("").trim().to_owned();
    Ok(Fetched { bytes, digest, media_type })
}

/// Whether a status promises that the same request may succeed later.
fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}

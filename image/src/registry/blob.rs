//! A blob as a stream that is verified and survives broken links.
//!
//! When a connection breaks, the next request asks for the rest with `Range`, and hashing goes on; a server that
//! does not know ranges sends everything again and what is known already is skipped. A link that brings a little
//! with every try is used for as long as it does. A wrong digest is final: trying again would bring the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use tokio::time::Instant;

use super::failure::Failure;
use super::source::{Get, Source};
use crate::digest::Hasher;
use crate::media::Descriptor;
use crate::{Digest, ImageError, Reference};

/// A connection that broke after at least this much does not count as a failed try.
const WORTHWHILE: u64 = 64 << 10;
/// A transfer must bring this much within the no-progress time.
const SLOWEST: u64 = 16 << 10;
/// Broken connections for one blob, worthwhile or not.
const MAX_BREAKS: u32 = 1000;

/// One blob on its way.
#[derive(Debug)]
pub(crate) struct BlobStream {
    sources: Vec<Arc<Source>>,
    at: usize,
    path: String,
    object: String,
    digest: Digest,
    size: u64,
    /// Bytes received and hashed.
    offset: u64,
    hasher: Option<Hasher>,
    transfer: Option<Transfer>,
    tries: u32,
    breaks: u32,
}

/// An open response.
#[derive(Debug)]
struct Transfer {
    body: Incoming,
    /// Bytes at its head that are known already.
    skip: u64,
    brought: u64,
    window: Window,
}

/// Notices a transfer that drips.
#[derive(Debug)]
struct Window {
    since: Instant,
    bytes: u64,
}

impl BlobStream {
    pub(super) fn new(
        sources: Vec<Arc<Source>>,
        image: &Reference,
        descriptor: &Descriptor,
    ) -> Self {
        Self {
            sources,
            at: 0,
            path: format!("blobs/{}", descriptor.digest),
            object: format!("blob {} of {}", descriptor.digest, image.name()),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            offset: 0,
            hasher: Some(descriptor.digest.hasher()),
            transfer: None,
            tries: 0,
            breaks: 0,
        }
    }

    /// The next piece; `None` once all of it has come and its digest was verified.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ImageError> {
        loop {
            if self.offset == self.size {
                self.transfer = None;
                return self.verify().map(|()| None);
            }
            let Some(source) = self.sources.get(self.at).cloned() else {
                return Err(self.unavailable("no configured host may serve it"));
            };
            match self.advance(&source).await {
                Ok(Some(bytes)) => {
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&bytes);
                    }
                    return Ok(Some(bytes));
                }
                Ok(None) => {}
                Err(failure) => self.recover(&source, failure).await?,
            }
        }
    }

    /// Reads a piece of the open response, or opens one.
    async fn advance(&mut self, source: &Source) -> Result<Option<Bytes>, Failure> {
        let Some(transfer) = &mut self.transfer else {
            self.transfer = Some(self.open(source).await?);
            return Ok(None);
        };
        let Some(mut bytes) = source.chunk(&mut transfer.body).await? else {
            let why = format!("the response ended at {} of {} bytes", self.offset, self.size);
            return Err(Failure::Broken { why });
        };
        let length = bytes.len() as u64;
        if !transfer.window.keeps_up(length, source.patience().no_progress) {
            return Err(Failure::Broken { why: "it comes too slowly".to_owned() });
        }
        let known = transfer.skip.min(length);
        transfer.skip -= known;
        bytes.advance(usize::try_from(known).unwrap_or(usize::MAX));
        let fresh = length - known;
        if fresh > self.size - self.offset {
            return Err(Failure::Wrong {
                why: format!("it is longer than its {} bytes", self.size),
            });
        }
        transfer.brought += fresh;
        self.offset += fresh;
        Ok(Some(bytes).filter(|b| !b.is_empty()))
    }

    async fn open(&self, source: &Source) -> Result<Transfer, Failure> {
        let get = Get { path: &self.path, accept: None, from: self.offset };
        let response = source.get(&get).await?;
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(self.offset) => {
                0
            }
            StatusCode::PARTIAL_CONTENT => {
                return Err(Failure::Wrong {
                    why: "it answers with another range than the asked one".to_owned(),
                });
            }
            _ => self.offset,
        };
        let expected = self.size - self.offset + skip;
        if let Some(length) =
            content_length(response.headers()).filter(|length| *length != expected)
        {
            let why = format!("{length} bytes are announced, its descriptor says {expected}");
            return Err(Failure::Wrong { why });
        }
        let window = Window { since: Instant::now(), bytes: 0 };
        Ok(Transfer { body: response.into_body(), skip, brought: 0, window })
    }

    /// Decides what a failure means: another try, another source, or the end.
    async fn recover(&mut self, source: &Source, failure: Failure) -> Result<(), ImageError> {
        let transfer = self.transfer.take();
        let streamed = transfer.is_some();
        let brought = transfer.map_or(0, |transfer| transfer.brought);
        self.breaks += 1;
        if brought >= WORTHWHILE {
            self.tries = 0;
        }
        // What failed before it streamed was tried again by the source already, and so were other failures.
        let broken =
            streamed && matches!(failure, Failure::Broken { .. }) && self.breaks < MAX_BREAKS;
        if let Some(pause) = broken.then(|| source.pause(self.tries, &failure)).flatten() {
            tracing::debug!(
                ?failure,
                ?pause,
                offset = self.offset,
                object = self.object,
                "blob transfer broke, resuming"
            );
            self.tries += 1;
            tokio::time::sleep(pause).await;
            return Ok(());
        }
        let error = failure.into_error(&self.object, &source.endpoint.authority);
        if self.at + 1 < self.sources.len() {
            tracing::debug!(%error, "source does not serve the blob, asking the next");
            self.at += 1;
            self.tries = 0;
            return Ok(());
        }
        Err(error)
    }

    fn verify(&mut self) -> Result<(), ImageError> {
        // Asking again after the end repeats the answer.
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let digest = hasher.finish();
        if digest == self.digest {
            return Ok(());
        }
        Err(ImageError::corrupt(
            &self.object,
            format!("its {} bytes have the digest {digest}", self.size),
        ))
    }

    fn unavailable(&self, why: &str) -> ImageError {
        let host = self.sources.last().map_or_else(String::new, |s| s.endpoint.authority.clone());
        ImageError::Unavailable { object: self.object.clone(), host, why: why.to_owned() }
    }
}

impl Window {
    /// Counts received bytes; false when too few came for too long.
    fn keeps_up(&mut self, bytes: u64, patience: Duration) -> bool {
        self.bytes += bytes;
        if self.bytes >= SLOWEST {
            *self = Self { since: Instant::now(), bytes: 0 };
        }
        self.since.elapsed() <= patience
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// The first byte of `bytes first-last/length` (RFC 9110, section 14.4).
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    value.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

//! Pushing a [`Store`] into a real registry over HTTP.

use std::io;
use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::image::Store;

/// Puts everything in the store into the registry at this address.
pub async fn push(address: SocketAddr, store: &Store) -> io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let mut client = Client { sender, address };
    for (repository, manifests) in &store.manifests {
        // Only what the repository's own manifests name: a registry of all blobs in each is some thousand uploads.
        let texts: Vec<_> =
            manifests.values().map(|one| String::from_utf8_lossy(&one.bytes)).collect();
        for (digest, bytes) in &store.blobs {
            if texts.iter().any(|text| text.contains(digest.as_str())) {
                client.blob(repository, digest, bytes).await?;
            }
        }
        // By digest first: an index may only name manifests that are there.
        let (by_digest, by_tag): (Vec<_>, Vec<_>) =
            manifests.iter().partition(|(reference, _)| reference.starts_with("sha256:"));
        let (indexes, plain): (Vec<_>, Vec<_>) = by_digest
            .into_iter()
            .partition(|(_, m)| m.media_type.contains("index") || m.media_type.contains("list"));
        for (reference, manifest) in plain.into_iter().chain(indexes).chain(by_tag) {
            let path = format!("/v2/{repository}/manifests/{reference}");
            let body = manifest.bytes.clone();
            client.put(&path, &manifest.media_type, body).await?;
        }
    }
    Ok(())
}

struct Client {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Client {
    async fn blob(&mut self, repository: &str, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        if self.send(Method::HEAD, &path, "", Bytes::new()).await?.status() == StatusCode::OK {
            return Ok(());
        }
        let path = format!("/v2/{repository}/blobs/uploads/");
        let upload = self.send(Method::POST, &path, "", Bytes::new()).await?;
        let location = upload.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| io::Error::other("an upload without a location"))?;
        let path = location.find("/v2/").map_or(location, |start| &location[start..]);
        let join = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{join}digest={digest}");
        self.put(&path, "application/octet-stream", bytes.to_vec()).await
    }

    async fn put(&mut self, path: &str, media_type: &str, body: Vec<u8>) -> io::Result<()> {
        let answer = self.send(Method::PUT, path, media_type, body.into()).await?;
        match answer.status() {
            StatusCode::CREATED => Ok(()),
            status => Err(io::Error::other(format!("PUT {path}: {status}"))),
        }
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        media_type: &str,
        body: Bytes,
    ) -> io::Result<Response<hyper::body::Incoming>> {
        self.sender.ready().await.map_err(io::Error::other)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, media_type)
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        self.sender.send_request(request).await.map_err(io::Error::other)
    }
}

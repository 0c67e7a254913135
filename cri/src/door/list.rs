//! Lists whose items come encoded: the RPCs with thousands of items, answered without making a message of each.
//!
//! A service around the typed one. It takes the calls of its few paths and hands every other on; the typed service has
//! nothing under these names.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use futures_util::stream;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use proto::cri;
use proto::cri::runtime_service_server::{RuntimeServiceServer, SERVICE_NAME};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, BoxStream, Bytes, Service, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};

use super::{Door, MESSAGE_BYTES, refuse};
use crate::stats::metric;

/// The most that one message of a stream weighs.
const BATCH_BYTES: usize = 1 << 20;

/// The field of every list's items is number 1, of bytes.
const ITEM: u64 = 1 << 3 | 2;

/// The RuntimeService: the typed one and, before it, the lists.
#[derive(Clone, Debug)]
pub struct Lists {
    typed: RuntimeServiceServer<Door>,
    door: Door,
}

impl Lists {
    /// Before the typed service.
    pub(super) fn before(typed: RuntimeServiceServer<Door>, door: Door) -> Self {
        Self { typed, door }
    }
}

impl NamedService for Lists {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for Lists {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let door = self.door.clone();
        match request.uri().path() {
            "/runtime.v1.RuntimeService/ListPodSandboxMetrics" => Box::pin(async move {
                Ok(grpc::<cri::ListPodSandboxMetricsRequest>().unary(Metrics(door), request).await)
            }),
            "/runtime.v1.RuntimeService/StreamPodSandboxMetrics" => Box::pin(async move {
                let mut grpc = grpc::<cri::StreamPodSandboxMetricsRequest>();
                Ok(grpc.server_streaming(Metrics(door), request).await)
            }),
            _ => self.typed.call(request),
        }
    }
}

/// ListPodSandboxMetrics and StreamPodSandboxMetrics.
struct Metrics(Door);

impl UnaryService<cri::ListPodSandboxMetricsRequest> for Metrics {
    type Response = Vec<Bytes>;
    type Future = BoxFuture<Response<Vec<Bytes>>, Status>;

    fn call(&mut self, _: Request<cri::ListPodSandboxMetricsRequest>) -> Self::Future {
        let runtime = self.0.runtime.clone();
        Box::pin(async move {
            let items = metric::list(&runtime).await.map_err(refuse("ListPodSandboxMetrics"))?;
            Ok(Response::new(items))
        })
    }
}

impl ServerStreamingService<cri::StreamPodSandboxMetricsRequest> for Metrics {
    type Response = Vec<Bytes>;
    type ResponseStream = BoxStream<Vec<Bytes>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, _: Request<cri::StreamPodSandboxMetricsRequest>) -> Self::Future {
        let runtime = self.0.runtime.clone();
        Box::pin(async move {
            let items = metric::list(&runtime).await.map_err(refuse("StreamPodSandboxMetrics"))?;
            let batches = batches(items).into_iter().map(Ok);
            let batches: BoxStream<Vec<Bytes>> = Box::pin(stream::iter(batches));
            Ok(Response::new(batches))
        })
    }
}

/// Messages of less than [`BATCH_BYTES`] each, unless a single item is larger.
fn batches(items: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let mut batches = Vec::new();
    let mut bytes = BATCH_BYTES;
    for item in items {
        bytes += weight(&item);
        if bytes >= BATCH_BYTES {
            bytes = weight(&item);
            batches.push(Vec::new());
        }
        if let Some(batch) = batches.last_mut() {
            batch.push(item);
        }
    }
    batches
}

/// What an item adds to a message.
fn weight(item: &Bytes) -> usize {
    encoded_len_varint(ITEM) + encoded_len_varint(item.len() as u64) + item.len()
}

fn grpc<R: Message + Default + 'static>() -> Grpc<ListCodec<R>> {
    Grpc::new(ListCodec(PhantomData))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

/// Requests as messages, answers as items that are encoded already.
struct ListCodec<R>(PhantomData<R>);

impl<R: Message + Default + 'static> Codec for ListCodec<R> {
    type Encode = Vec<Bytes>;
    type Decode = R;
    type Encoder = ListEncoder;
    type Decoder = RequestDecoder<R>;

    fn encoder(&mut self) -> Self::Encoder {
        ListEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder(PhantomData)
    }
}

struct ListEncoder;

impl Encoder for ListEncoder {
    type Item = Vec<Bytes>;
    type Error = Status;

    fn encode(&mut self, items: Vec<Bytes>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(items.iter().map(weight).sum());
        for item in items {
            encode_varint(ITEM, out);
            encode_varint(item.len() as u64, out);
            bytes::BufMut::put_slice(out, &item);
        }
        Ok(())
    }
}

struct RequestDecoder<R>(PhantomData<R>);

impl<R: Message + Default> Decoder for RequestDecoder<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let request = R::decode(buffer);
        request.map(Some).map_err(|error| Status::internal(format!("decode a request: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_smaller_than_a_mebibyte_and_nothing_is_lost() {
        let items: Vec<Bytes> = (0..10).map(|_| vec![0; 400_000].into()).collect();
        let sizes: Vec<usize> = batches(items).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 2, 2, 2]);
        let huge = vec![Bytes::from(vec![0; 3 << 20]), Bytes::from_static(b"x")];
        assert_eq!(batches(huge).len(), 2);
        assert!(batches(Vec::new()).is_empty());
    }
}

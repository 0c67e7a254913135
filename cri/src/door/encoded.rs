//! RPCs that are answered in encoded form: lists, statistics and metrics, whose hundreds of items are never messages.
//!
//! A service around the typed one. It takes the calls of its paths and hands every other on; the typed service has
//! nothing under these names. All of these answers have one field: number 1, the items.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut;
use futures_util::{FutureExt, stream};
use prost::Message;
use proto::cri;
use proto::cri::runtime_service_server::{RuntimeServiceServer, SERVICE_NAME};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, BoxStream, Bytes, Service, http};
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};

use super::{Door, MESSAGE_BYTES, refuse};
use crate::encode::Items;
use crate::error::Error;
use crate::runtime::Runtime;
use crate::stats::metric;
use crate::{container, sandbox};

/// The RuntimeService: the typed one and, before it, what is answered in encoded form.
#[derive(Clone, Debug)]
pub struct Encoded {
    typed: RuntimeServiceServer<Door>,
    door: Door,
}

impl Encoded {
    /// Before the typed service.
    pub(super) fn before(typed: RuntimeServiceServer<Door>, door: Door) -> Self {
        Self { typed, door }
    }
}

impl NamedService for Encoded {
    const NAME: &'static str = SERVICE_NAME;
}

type Answer = BoxFuture<http::Response<Body>, Infallible>;

impl Service<http::Request<Body>> for Encoded {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let call = Call { runtime: Arc::clone(&self.door.runtime), request };
        match call.name() {
            "ListPodSandbox" => {
                call.whole(|runtime, r: cri::ListPodSandboxRequest| pods(runtime, r.filter))
            }
            "StreamPodSandboxes" => {
                call.batches(|runtime, r: cri::StreamPodSandboxesRequest| pods(runtime, r.filter))
            }
            "ListContainers" => {
                call.whole(|runtime, r: cri::ListContainersRequest| containers(runtime, r.filter))
            }
            "StreamContainers" => call
                .batches(|runtime, r: cri::StreamContainersRequest| containers(runtime, r.filter)),
            "PodSandboxStats" => call.whole(|runtime, r: cri::PodSandboxStatsRequest| {
                sandbox::stats::stats(runtime, r.pod_sandbox_id)
            }),
            "ListPodSandboxStats" => call.whole(|runtime, r: cri::ListPodSandboxStatsRequest| {
                sandbox::stats::list(runtime, r.filter)
            }),
            "StreamPodSandboxStats" => {
                call.batches(|runtime, r: cri::StreamPodSandboxStatsRequest| {
                    sandbox::stats::list(runtime, r.filter)
                })
            }
            "ContainerStats" => call.whole(|runtime, r: cri::ContainerStatsRequest| {
                container::stats::stats(runtime, r.container_id)
            }),
            "ListContainerStats" => call.whole(|runtime, r: cri::ListContainerStatsRequest| {
                container::stats::list(runtime, r.filter)
            }),
            "StreamContainerStats" => {
                call.batches(|runtime, r: cri::StreamContainerStatsRequest| {
                    container::stats::list(runtime, r.filter)
                })
            }
            "ListPodSandboxMetrics" => {
                call.whole(|runtime, _: cri::ListPodSandboxMetricsRequest| metric::list(runtime))
            }
            "StreamPodSandboxMetrics" => call
                .batches(|runtime, _: cri::StreamPodSandboxMetricsRequest| metric::list(runtime)),
            _ => self.typed.call(call.request),
        }
    }
}

async fn pods(
    runtime: Arc<Runtime>,
    filter: Option<cri::PodSandboxFilter>,
) -> Result<Items, Error> {
    Ok(sandbox::list::list(&runtime, filter))
}

async fn containers(
    runtime: Arc<Runtime>,
    filter: Option<cri::ContainerFilter>,
) -> Result<Items, Error> {
    Ok(container::list::list(&runtime, filter))
}

/// A call on its way to the verb that makes its items.
struct Call {
    runtime: Arc<Runtime>,
    request: http::Request<Body>,
}

impl Call {
    /// The RPC, if it is one of this service.
    fn name(&self) -> &str {
        let path = self.request.uri().path().strip_prefix('/').unwrap_or_default();
        path.strip_prefix(SERVICE_NAME).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default()
    }

    fn rpc<R, V>(&self, verb: V) -> Rpc<R, V> {
        let (name, runtime) = (self.name().to_owned(), Arc::clone(&self.runtime));
        Rpc { name, runtime, verb, request: PhantomData }
    }

    /// Answers in one message.
    fn whole<R, V, F>(self, verb: V) -> Answer
    where
        R: Message + Default + 'static,
        V: Fn(Arc<Runtime>, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Items, Error>> + Send + 'static,
    {
        let rpc = self.rpc(verb);
        Box::pin(async move { Ok(grpc::<R>().unary(rpc, self.request).await) })
    }

    /// Answers in messages of a bounded size.
    fn batches<R, V, F>(self, verb: V) -> Answer
    where
        R: Message + Default + 'static,
        V: Fn(Arc<Runtime>, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Items, Error>> + Send + 'static,
    {
        let rpc = self.rpc(verb);
        Box::pin(async move { Ok(grpc::<R>().server_streaming(rpc, self.request).await) })
    }
}

/// One RPC: its name for the log, and its verb.
struct Rpc<R, V> {
    name: String,
    runtime: Arc<Runtime>,
    verb: V,
    request: PhantomData<fn(R)>,
}

impl<R, V, F> Rpc<R, V>
where
    V: Fn(Arc<Runtime>, R) -> F,
    F: Future<Output = Result<Items, Error>> + Send + 'static,
{
    fn items(
        &self,
        request: Request<R>,
    ) -> impl Future<Output = Result<Items, Status>> + Send + use<R, V, F> {
        let made = (self.verb)(Arc::clone(&self.runtime), request.into_inner());
        let refuse = refuse(self.name.clone());
        made.map(|items| items.map_err(refuse))
    }
}

impl<R, V, F> UnaryService<R> for Rpc<R, V>
where
    R: 'static,
    V: Fn(Arc<Runtime>, R) -> F + 'static,
    F: Future<Output = Result<Items, Error>> + Send + 'static,
{
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let items = self.items(request);
        Box::pin(async move { Ok(Response::new(items.await?.whole())) })
    }
}

impl<R, V, F> ServerStreamingService<R> for Rpc<R, V>
where
    R: 'static,
    V: Fn(Arc<Runtime>, R) -> F + 'static,
    F: Future<Output = Result<Items, Error>> + Send + 'static,
{
    type Response = Bytes;
    type ResponseStream = BoxStream<Bytes>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let items = self.items(request);
        Box::pin(async move {
            let batches = items.await?.batches().into_iter().map(Ok);
            let batches: BoxStream<Bytes> = Box::pin(stream::iter(batches));
            Ok(Response::new(batches))
        })
    }
}

fn grpc<R: Message + Default + 'static>() -> Grpc<ItemsCodec<R>> {
    Grpc::new(ItemsCodec(PhantomData))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

/// Requests as messages, answers as bytes that are a message already.
struct ItemsCodec<R>(PhantomData<fn(R)>);

impl<R: Message + Default + 'static> Codec for ItemsCodec<R> {
    type Encode = Bytes;
    type Decode = R;
    type Encoder = ItemsEncoder;
    type Decoder = RequestDecoder<R>;

    fn encoder(&mut self) -> Self::Encoder {
        ItemsEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder(PhantomData)
    }
}

struct ItemsEncoder;

impl Encoder for ItemsEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(message.len());
        out.put_slice(&message);
        Ok(())
    }
}

struct RequestDecoder<R>(PhantomData<fn(R)>);

impl<R: Message + Default> Decoder for RequestDecoder<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let request = R::decode(buffer);
        request.map(Some).map_err(|error| Status::internal(format!("decode a request: {error}")))
    }
}

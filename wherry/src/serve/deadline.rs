//! A call that runs past its caller's deadline is answered with DEADLINE_EXCEEDED.
//!
//! tonic says CANCELLED there, which to a caller means that somebody else gave the call up. So the time is kept here, too:
//! this layer is inside of tonic's and begins first, so that its answer is the one that counts.
//! Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md, `Timeout`), gRPC's list of status codes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower_layer::Layer;

/// Puts a [`Deadline`] around services.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines;

/// A service whose calls end when the caller has said.
#[derive(Clone, Debug)]
pub struct Deadline<S>(S);

impl<S> Layer<S> for Deadlines {
    type Service = Deadline<S>;

    fn layer(&self, service: S) -> Deadline<S> {
        Deadline(service)
    }
}

impl<S, B, A> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    A: Default,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Not in the future, which is polled later: tonic's own clock would run by then.
        let deadline = timeout(request.headers()).map(tokio::time::sleep);
        let answer = self.0.call(request);
        Box::pin(async move {
            let Some(deadline) = deadline else { return answer.await };
            tokio::select! {
                biased;
                answer = answer => answer,
                () = deadline => {
                    Ok(Status::deadline_exceeded("the caller's deadline has passed").into_http())
                }
            }
        })
    }
}

/// The caller's patience: up to eight digits and a unit. What is written otherwise is none, as tonic has it.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers never.
    #[derive(Clone)]
    struct Silent;

    impl Service<Request<()>> for Silent {
        type Response = Response<String>;
        type Error = std::convert::Infallible;
        type Future = std::future::Pending<Result<Response<String>, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            std::future::pending()
        }
    }

    fn request(timeout: &str) -> Request<()> {
        Request::builder().header("grpc-timeout", timeout).body(()).unwrap()
    }

    #[tokio::test]
    async fn a_call_past_its_deadline_has_exceeded_it() {
        let answer = Deadlines.layer(Silent).call(request("1m")).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let of = |text| timeout(request(text).headers());
        assert_eq!(of("2S"), Some(Duration::from_secs(2)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(of("5n"), Some(Duration::from_nanos(5)));
        for text in ["", "S", "5", "-5S", "+5S", "5s", "123456789S", "5 S", "5SS"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}

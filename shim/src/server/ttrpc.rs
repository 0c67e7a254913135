//! ttrpc's frames (github.com/containerd/ttrpc, PROTOCOL.md): ten bytes of header, then a message.
//!
//! Only unary calls: of the flags none is needed, and of the types only request and response.

use crate::{Failure, FailureKind, type_name};
use prost::Message;
use prost_types::Any;
use proto::shim::ttrpc::{Request as WireRequest, Response, Status};

const HEADER: usize = 10;
const MAX_MESSAGE: usize = 4 << 20;
const TYPE_REQUEST: u8 = 1;
const TYPE_RESPONSE: u8 = 2;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The connection's slot.
    pub slot: u32,
    /// Which of the slot's connections it was.
    pub generation: u32,
    /// The call, on that connection.
    pub stream: u32,
}

/// A call.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Its number on the connection.
    pub stream: u32,
    /// The service with its package.
    pub service: String,
    /// The method.
    pub method: String,
    /// The method's message.
    pub payload: Vec<u8>,
}

/// What the beginning of a buffer is.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole call and the bytes it takes.
    Request(Request, usize),
    /// A whole frame that asks nothing, and the bytes it takes.
    Other(usize),
    /// Not yet a whole frame.
    Partial,
    /// Nothing that this protocol knows.
    Broken,
}

/// Reads one frame.
pub fn parse(bytes: &[u8]) -> Parsed {
    let Some(&[l0, l1, l2, l3, s0, s1, s2, s3, kind, _]) = bytes.first_chunk::<HEADER>() else {
        return Parsed::Partial;
    };
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > MAX_MESSAGE {
        return Parsed::Broken;
    }
    let Some(message) = bytes.get(HEADER..HEADER + length) else { return Parsed::Partial };
    if kind != TYPE_REQUEST {
        return Parsed::Other(HEADER + length);
    }
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    match WireRequest::decode(message) {
        Ok(WireRequest { service, method, payload, .. }) => {
            Parsed::Request(Request { stream, service, method, payload }, HEADER + length)
        }
        Err(_) => Parsed::Broken,
    }
}

/// The frame of an answer.
pub fn response(stream: u32, result: Result<Vec<u8>, Failure>) -> Vec<u8> {
    let response = match result {
        Ok(payload) => Response { status: None, payload },
        Err(failure) => Response { status: Some(status(&failure)), payload: Vec::new() },
    };
    let length = response.encoded_len();
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[TYPE_RESPONSE, 0]);
    response.encode_raw(&mut frame);
    frame
}

/// The frame of a call of ours.
pub fn request(stream: u32, service: &str, method: &str, payload: Vec<u8>) -> Vec<u8> {
    let request = WireRequest {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        ..WireRequest::default()
    };
    let length = request.encoded_len();
    let mut frame = Vec::with_capacity(HEADER + length);
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(&[TYPE_REQUEST, 0]);
    request.encode_raw(&mut frame);
    frame
}

/// What somebody whom we have called has answered.
#[derive(Debug)]
pub enum Answered {
    /// The number of the call, its answer, and the bytes that it takes.
    Whole(u32, Response, usize),
    /// Not yet a whole frame.
    Partial,
    /// Nothing that this protocol knows.
    Broken,
}

/// Reads one answer.
pub fn parse_answer(bytes: &[u8]) -> Answered {
    let Some(&[l0, l1, l2, l3, s0, s1, s2, s3, kind, _]) = bytes.first_chunk::<HEADER>() else {
        return Answered::Partial;
    };
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > MAX_MESSAGE || kind != TYPE_RESPONSE {
        return Answered::Broken;
    }
    let Some(message) = bytes.get(HEADER..HEADER + length) else { return Answered::Partial };
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    Response::decode(message)
        .map_or(Answered::Broken, |response| Answered::Whole(stream, response, HEADER + length))
}

/// What an answer comes to: its message, or the refusal as a failure of `operation`.
///
/// # Errors
/// The refusal.
pub fn outcome(
    operation: &'static str,
    object: &str,
    response: Response,
) -> Result<Vec<u8>, Failure> {
    let Some(status) = response.status.filter(|status| status.code != 0) else {
        return Ok(response.payload);
    };
    let kind = match status.code {
        3 => FailureKind::InvalidArgument,
        5 => FailureKind::NotFound,
        6 => FailureKind::AlreadyExists,
        9 => FailureKind::FailedPrecondition,
        12 => FailureKind::Unsupported,
        _ => FailureKind::Internal,
    };
    Err(Failure::new(kind, operation, object, status.message))
}

/// Whether a frame is there with its last byte.
pub fn is_whole(bytes: &[u8]) -> bool {
    !matches!(parse(bytes), Parsed::Partial)
}

/// gRPC's codes (google.rpc.Code).
fn status(failure: &Failure) -> Status {
    let code = match failure.kind {
        FailureKind::InvalidArgument => 3,
        FailureKind::NotFound => 5,
        FailureKind::AlreadyExists => 6,
        FailureKind::ResourceExhausted => 8,
        FailureKind::FailedPrecondition | FailureKind::StartFailed => 9,
        FailureKind::Unsupported => 12,
        FailureKind::Internal => 13,
    };
    let detail =
        Any { type_url: type_name::FAILURE.to_owned(), value: failure.to_wire().encode_to_vec() };
    Status { code, message: failure.to_string(), details: vec![detail] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8) -> Vec<u8> {
        let request = WireRequest {
            service: "s".to_owned(),
            method: "m".to_owned(),
            payload: vec![1, 2],
            ..WireRequest::default()
        };
        let body = request.encode_to_vec();
        let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(&[0, 0, 0, 3, kind, 0]);
        frame.extend(body);
        frame
    }

    #[test]
    fn a_request_is_read_when_its_last_byte_is_there() {
        let bytes = frame(TYPE_REQUEST);
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Parsed::Partial, "{cut}");
        }
        let Parsed::Request(request, length) = parse(&bytes) else { panic!("no request") };
        assert_eq!((request.stream, length), (3, bytes.len()));
        assert_eq!((request.service.as_str(), request.method.as_str()), ("s", "m"));
        assert_eq!(request.payload, [1, 2]);
    }

    #[test]
    fn frames_of_other_types_are_passed_over_and_wrong_ones_end_the_connection() {
        let bytes = frame(3);
        assert_eq!(parse(&bytes), Parsed::Other(bytes.len()));
        assert_eq!(parse(&[0, 64, 0, 1, 0, 0, 0, 1, 1, 0]), Parsed::Broken);
        assert_eq!(parse(&[0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0xff]), Parsed::Broken);
    }

    #[test]
    fn an_answer_is_read_whole_and_a_refusal_is_a_failure() {
        let failure = Failure::new(FailureKind::NotFound, "find", "x", "y");
        let bytes = response(7, Err(failure));
        for cut in 0..bytes.len() {
            assert!(matches!(parse_answer(&bytes[..cut]), Answered::Partial), "{cut}");
        }
        let Answered::Whole(7, answer, length) = parse_answer(&bytes) else { panic!("no answer") };
        assert_eq!(length, bytes.len());
        let refused = outcome("kill", "container", answer).unwrap_err();
        assert_eq!(refused.to_string(), "kill container: find x: y");
        assert_eq!(refused.kind, FailureKind::NotFound);
        assert!(matches!(parse_answer(&frame(TYPE_REQUEST)), Answered::Broken));
    }

    #[test]
    fn a_failed_start_is_told_by_its_detail() {
        let failure = Failure::new(FailureKind::StartFailed, "execute", "x", "y");
        let bytes = response(5, Err(failure.clone()));
        let answer = Response::decode(&bytes[HEADER..]).unwrap();
        let status = answer.status.unwrap();
        assert_eq!((status.code, status.message.as_str()), (9, "execute x: y"));
        let wire = proto::shim::container::Failure::decode(&*status.details[0].value).unwrap();
        assert_eq!(Failure::from_wire(wire), failure);
    }
}

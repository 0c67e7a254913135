//! The request of an upgrade, and what is answered: pure, so that it can be tried with anything.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Method, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::status::Version;
use super::ticket::Order;

/// What the client offers, and what the server has chosen (SPDY).
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What the server would have taken.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const SOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
const SOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const CONNECTION: HeaderName = HeaderName::from_static("connection");
const UPGRADE: HeaderName = HeaderName::from_static("upgrade");

const FORWARD: &str = "portforward.k8s.io";
const TUNNELLED_FORWARD: &str = "SPDY/3.1+portforward.k8s.io";

/// What is spoken after the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// A command over SPDY.
    Spdy(Version),
    /// A command in a WebSocket's channels.
    Socket(Version),
    /// Port-forward over SPDY.
    Forward,
    /// Port-forward over SPDY in a WebSocket.
    TunnelledForward,
}

/// A request that can be granted: what is spoken, and the headers of the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    /// What is spoken.
    pub speech: Speech,
    /// Headers of the answer.
    pub headers: Vec<(HeaderName, String)>,
}

/// A request that cannot.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's text.
    pub text: String,
    /// What would have been taken.
    pub accepted: Vec<(HeaderName, String)>,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), accepted: Vec::new() }
    }
}

/// Decides on a request for an order.
///
/// # Errors
/// It is no upgrade, or to nothing that is spoken here.
pub fn negotiate(method: &Method, headers: &HeaderMap, order: &Order) -> Result<Grant, Refusal> {
    let wants = |name: HeaderName, word: &str| {
        words(headers, &name).any(|one| one.eq_ignore_ascii_case(word))
    };
    if !wants(CONNECTION, "upgrade") {
        let text = "this is for clients that upgrade to SPDY/3.1 or WebSocket";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    if wants(UPGRADE, "websocket") {
        socket(method, headers, order)
    } else if wants(UPGRADE, "spdy/3.1") {
        spdy(method, headers, order)
    } else {
        let text = "the connection can be upgraded to SPDY/3.1 and to websocket";
        Err(Refusal::new(StatusCode::BAD_REQUEST, text))
    }
}

fn spdy(method: &Method, headers: &HeaderMap, order: &Order) -> Result<Grant, Refusal> {
    if method != Method::POST && method != Method::GET {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "POST and GET are understood"));
    }
    let known: &[(&str, Speech)] = match order {
        Order::Forward(_) => &[(FORWARD, Speech::Forward)],
        Order::Exec(_) | Order::Attach(_) => &SPDY_VERSIONS,
    };
    let (name, speech) = choose(headers, &PROTOCOL, known)?;
    let headers = vec![
        (CONNECTION, "Upgrade".to_owned()),
        (UPGRADE, "SPDY/3.1".to_owned()),
        (PROTOCOL, name.to_owned()),
    ];
    Ok(Grant { speech, headers })
}

fn socket(method: &Method, headers: &HeaderMap, order: &Order) -> Result<Grant, Refusal> {
    if method != Method::GET {
        let text = "a WebSocket is opened with GET";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    if words(headers, &SOCKET_VERSION).next() != Some("13") {
        let text = "version 13 of WebSocket is understood";
        let mut refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, text);
        refusal.accepted.push((SOCKET_VERSION, "13".to_owned()));
        return Err(refusal);
    }
    // RFC 6455, section 4.2.1: sixteen bytes.
    let key = words(headers, &SOCKET_KEY).next().unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |bytes| bytes.len()) != 16 {
        let text = "the header Sec-WebSocket-Key is not 16 bytes in base64";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let known: &[(&str, Speech)] = match order {
        Order::Forward(_) => &[(TUNNELLED_FORWARD, Speech::TunnelledForward)],
        Order::Exec(_) | Order::Attach(_) => &SOCKET_VERSIONS,
    };
    let (name, speech) = choose(headers, &SOCKET_PROTOCOL, known)?;
    let headers = vec![
        (CONNECTION, "Upgrade".to_owned()),
        (UPGRADE, "websocket".to_owned()),
        (SOCKET_ACCEPT, derive_accept_key(key.as_bytes())),
        (SOCKET_PROTOCOL, name.to_owned()),
    ];
    Ok(Grant { speech, headers })
}

const SPDY_VERSIONS: [(&str, Speech); 4] = [
    ("v4.channel.k8s.io", Speech::Spdy(Version::V4)),
    ("v3.channel.k8s.io", Speech::Spdy(Version::V3)),
    ("v2.channel.k8s.io", Speech::Spdy(Version::V2)),
    ("channel.k8s.io", Speech::Spdy(Version::V1)),
];

const SOCKET_VERSIONS: [(&str, Speech); 2] = [
    ("v5.channel.k8s.io", Speech::Socket(Version::V5)),
    ("v4.channel.k8s.io", Speech::Socket(Version::V4)),
];

/// The first that the client offers and the server knows.
fn choose<'a>(
    headers: &HeaderMap,
    header: &HeaderName,
    known: &[(&'a str, Speech)],
) -> Result<(&'a str, Speech), Refusal> {
    let mut offered = words(headers, header).peekable();
    if offered.peek().is_none() {
        let text = format!("the header {header} names no protocol");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let find = |word: &str| known.iter().find(|(name, _)| *name == word).copied();
    offered.find_map(find).ok_or_else(|| {
        let accepted = known.iter().map(|(name, _)| (ACCEPTED, (*name).to_owned())).collect();
        let text = "none of the offered protocols is spoken here".to_owned();
        Refusal { status: StatusCode::FORBIDDEN, text, accepted }
    })
}

/// The words of all headers of a name, separated by commas.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streaming::ticket::Command;

    fn exec() -> Order {
        Order::Exec(Command {
            container: "a".repeat(64).parse().unwrap(),
            args: vec!["sh".into()],
            terminal: false,
            stdin: false,
            stdout: true,
            stderr: false,
        })
    }

    fn forward() -> Order {
        Order::Forward("a".repeat(64).parse().unwrap())
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    fn answer(lines: &[(&str, &str)], order: &Order) -> Result<Speech, u16> {
        negotiate(&Method::GET, &headers(lines), order)
            .map(|grant| grant.speech)
            .map_err(|refusal| refusal.status.as_u16())
    }

    const SPDY: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    const SOCKET: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn with<const N: usize>(
        base: [(&'static str, &'static str); N],
        name: &'static str,
        value: &'static str,
    ) -> Vec<(&'static str, &'static str)> {
        let mut lines = base.to_vec();
        lines.push((name, value));
        lines
    }

    #[test]
    fn the_clients_first_choice_that_is_known_is_taken() {
        let name = "x-stream-protocol-version";
        let v4 = with(SPDY, name, "v5.channel.k8s.io, v4.channel.k8s.io,channel.k8s.io");
        assert_eq!(answer(&v4, &exec()), Ok(Speech::Spdy(Version::V4)));
        let mut apart = with(SPDY, name, "v9.channel.k8s.io");
        apart.push((name, "v2.channel.k8s.io"));
        assert_eq!(answer(&apart, &exec()), Ok(Speech::Spdy(Version::V2)));
        assert_eq!(answer(&with(SPDY, name, "v9.channel.k8s.io"), &exec()), Err(403));
        assert_eq!(answer(&with(SPDY, name, " , "), &exec()), Err(400));
        assert_eq!(answer(&with(SPDY, name, FORWARD), &exec()), Err(403));
        assert_eq!(answer(&with(SPDY, name, FORWARD), &forward()), Ok(Speech::Forward));
    }

    #[test]
    fn a_refusal_names_what_would_have_been_taken() {
        let lines = with(SPDY, "x-stream-protocol-version", "nonsense");
        let refusal = negotiate(&Method::POST, &headers(&lines), &exec()).unwrap_err();
        assert_eq!(refusal.accepted.len(), 4);
        assert_eq!(refusal.accepted[0], (ACCEPTED, "v4.channel.k8s.io".to_owned()));
    }

    #[test]
    fn a_websocket_is_accepted_with_the_key_that_its_own_standard_gives_as_example() {
        let lines = with(SOCKET, "sec-websocket-protocol", "v5.channel.k8s.io");
        let grant = negotiate(&Method::GET, &headers(&lines), &exec()).unwrap();
        assert_eq!(grant.speech, Speech::Socket(Version::V5));
        let accept = (SOCKET_ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned());
        assert!(grant.headers.contains(&accept), "{:?}", grant.headers);
        let tunnel = with(SOCKET, "sec-websocket-protocol", TUNNELLED_FORWARD);
        assert_eq!(answer(&tunnel, &forward()), Ok(Speech::TunnelledForward));
        assert_eq!(answer(&tunnel, &exec()), Err(403));
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        assert_eq!(answer(&[], &exec()), Err(400));
        assert_eq!(answer(&[("connection", "upgrade"), ("upgrade", "h2c")], &exec()), Err(400));
        assert_eq!(answer(&SPDY, &exec()), Err(400));
        let mut old = with(SOCKET, "sec-websocket-protocol", "v5.channel.k8s.io");
        old[2].1 = "8";
        assert_eq!(answer(&old, &exec()), Err(426));
        let mut short = with(SOCKET, "sec-websocket-protocol", "v5.channel.k8s.io");
        short[3].1 = "c2hvcnQ=";
        assert_eq!(answer(&short, &exec()), Err(400));
        let post = negotiate(&Method::POST, &headers(&SOCKET), &exec()).unwrap_err();
        assert_eq!(post.status, StatusCode::METHOD_NOT_ALLOWED);
    }
}

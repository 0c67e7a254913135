//! Tickets: what was asked for over CRI, fetched over HTTP by whoever knows the token. Once, and soon.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::id::{ContainerId, SandboxId};

/// Bytes of a token: as many as nobody guesses.
const TOKEN_BYTES: usize = 16;
/// Letters of a token in an address.
const TOKEN_LETTERS: usize = 22;
/// How long a token is good: the kubelet connects at once.
const LIFETIME: Duration = Duration::from_secs(60);
/// Tokens that may be outstanding.
const OUTSTANDING: usize = 1000;

/// A command's streams, as the client wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// In which container.
    pub container: ContainerId,
    /// What to execute; empty attaches to the container's first process.
    pub args: Vec<String>,
    /// With a terminal, which has no standard error of its own.
    pub terminal: bool,
    /// The client will send standard input.
    pub stdin: bool,
    /// The client takes standard output.
    pub stdout: bool,
    /// The client takes standard error.
    pub stderr: bool,
}

/// What a ticket is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Execute a command.
    Exec(Command),
    /// Attach to the first process.
    Attach(Command),
    /// Forward ports of a pod.
    Forward(SandboxId),
}

impl Order {
    /// The word for it in an address.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::Forward(_) => "portforward",
        }
    }
}

/// Too many tickets wait to be fetched.
#[derive(Debug, thiserror::Error)]
#[error("{OUTSTANDING} streaming requests are outstanding already")]
pub struct Full;

/// All tickets that wait to be fetched.
#[derive(Debug)]
pub struct Tickets {
    /// `http://host:port`.
    base: String,
    waiting: Mutex<HashMap<String, (Order, Instant)>>,
}

impl Tickets {
    /// Tickets for a server that listens there.
    #[must_use]
    pub fn new(address: SocketAddr, encrypted: bool) -> Self {
        let scheme = if encrypted { "https" } else { "http" };
        // Who listens everywhere is reached here, too: the kubelet is on this node.
        let host = match address {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => "127.0.0.1".to_owned(),
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => "[::1]".to_owned(),
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        let base = format!("{scheme}://{host}:{}", address.port());
        Self { base, waiting: Mutex::default() }
    }

    /// Keeps an order, and says where to fetch it.
    ///
    /// # Errors
    /// Too many are outstanding, or the kernel gives no random numbers.
    pub fn issue(&self, order: Order) -> Result<String, io::Error> {
        self.issue_at(order, Instant::now())
    }

    fn issue_at(&self, order: Order, now: Instant) -> Result<String, io::Error> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let token = URL_SAFE_NO_PAD.encode(bytes);
        let url = format!("{}/{}/{token}", self.base, order.word());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= OUTSTANDING {
            waiting.retain(|_, (_, until)| *until > now);
        }
        if waiting.len() >= OUTSTANDING {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, Full));
        }
        waiting.insert(token, (order, now + LIFETIME));
        Ok(url)
    }

    /// Hands an order out, for the one time. `path` is an address's: `/exec/TOKEN`.
    #[must_use]
    pub fn fetch(&self, path: &str) -> Option<Order> {
        self.fetch_at(path, Instant::now())
    }

    fn fetch_at(&self, path: &str, now: Instant) -> Option<Order> {
        let (word, token) = parse(path)?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (order, until) = waiting.remove(token)?;
        (until > now && order.word() == word).then_some(order)
    }
}

/// The word and the token of an address's path.
fn parse(path: &str) -> Option<(&str, &str)> {
    let (word, token) = path.strip_prefix('/')?.split_once('/')?;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (token.len() == TOKEN_LETTERS && token.bytes().all(letter)).then_some((word, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets() -> Tickets {
        Tickets::new("127.0.0.1:4000".parse().unwrap(), false)
    }

    fn order() -> Order {
        Order::Forward("a".repeat(64).parse().unwrap())
    }

    fn path(url: &str) -> &str {
        url.strip_prefix("http://127.0.0.1:4000").unwrap()
    }

    #[test]
    fn a_ticket_is_good_once() {
        let tickets = tickets();
        let url = tickets.issue(order()).unwrap();
        assert!(path(&url).starts_with("/portforward/"), "{url}");
        assert_eq!(tickets.fetch(path(&url)), Some(order()));
        assert_eq!(tickets.fetch(path(&url)), None);
    }

    #[test]
    fn a_ticket_is_good_for_a_minute_and_for_its_own_purpose() {
        let (tickets, now) = (tickets(), Instant::now());
        let late = tickets.issue_at(order(), now).unwrap();
        assert_eq!(tickets.fetch_at(path(&late), now + LIFETIME), None);
        let other = tickets.issue_at(order(), now).unwrap();
        assert_eq!(tickets.fetch_at(&path(&other).replace("portforward", "exec"), now), None);
    }

    #[test]
    fn a_thousand_may_be_outstanding_and_old_ones_make_room() {
        let (tickets, now) = (tickets(), Instant::now());
        for _ in 0..OUTSTANDING {
            tickets.issue_at(order(), now).unwrap();
        }
        let refused = tickets.issue_at(order(), now).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
        tickets.issue_at(order(), now + LIFETIME).unwrap();
    }

    #[test]
    fn what_is_no_token_is_not_looked_up() {
        let long = format!("/exec/{}", "a".repeat(23));
        let odd = format!("/exec/{}", "/".repeat(22));
        for path in ["", "/", "/exec", "/exec/", "/exec/../../etc", &long, &odd] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    #[test]
    fn an_address_is_absolute_and_can_be_reached() {
        for (address, encrypted, begin) in [
            ("127.0.0.1:80", false, "http://127.0.0.1:80/portforward/"),
            ("0.0.0.0:80", true, "https://127.0.0.1:80/portforward/"),
            ("[::]:80", false, "http://[::1]:80/portforward/"),
            ("[fd00::1]:80", false, "http://[fd00::1]:80/portforward/"),
        ] {
            let url = Tickets::new(address.parse().unwrap(), encrypted).issue(order()).unwrap();
            assert!(url.starts_with(begin), "{url}");
        }
    }
}

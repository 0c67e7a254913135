//! A client of the streaming server's own: SPDY/3.1 written again, by hand, so that it can misbehave.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Both sides of SPDY know it (draft 3.1, section 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("../../cri/src/streaming/spdy/dictionary.bin");
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// An address that an RPC has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `127.0.0.1:4000`.
    pub host: String,
    /// `/exec/TOKEN`.
    pub path: String,
    /// Whether it begins with `https`.
    pub encrypted: bool,
}

impl Url {
    /// Parses an absolute address.
    pub fn parse(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").expect(url);
        let (host, path) = rest.split_once('/').expect(url);
        let encrypted = scheme == "https";
        assert!(encrypted || scheme == "http", "{url}");
        Self { host: host.into(), path: format!("/{path}"), encrypted }
    }

    /// A connection to it.
    pub async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.host).await.unwrap();
        // As Go's clients have it: a small frame does not wait for the last one's acknowledgement.
        stream.set_nodelay(true).unwrap();
        stream
    }
}

/// Anything that can be spoken over.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// An answer to a request: its status, and its head as text.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 101 for an upgrade.
    pub status: u16,
    /// All lines.
    pub head: String,
}

/// Sends a request and reads the head of its answer.
pub async fn request(wire: &mut dyn Wire, text: &str) -> io::Result<Answer> {
    wire.write_all(text.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(PATIENCE, wire.read_u8()).await??;
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect(&head);
    Ok(Answer { status, head })
}

/// The request of an upgrade to SPDY.
pub fn upgrade(path: &str, protocols: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocols}\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Data of a stream.
    Data {
        /// Whose.
        stream: u32,
        /// Whether they are its last.
        fin: bool,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Anything else.
    Control {
        /// Which frame: 2 is SYN_REPLY, 3 RST_STREAM, 6 PING, 7 GOAWAY, 9 WINDOW_UPDATE.
        kind: u16,
        /// Its payload.
        payload: Vec<u8>,
    },
}

/// A session.
pub struct Spdy {
    wire: Box<dyn Wire>,
    deflate: Compress,
    inflate: Decompress,
    next: u32,
}

impl std::fmt::Debug for Spdy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spdy").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Spdy {
    /// Fetches an address; the protocol that the server has chosen must be this.
    pub async fn connect(url: &str, protocol: &str) -> Self {
        let url = Url::parse(url);
        let stream = url.connect().await;
        Self::over(Box::new(stream), &url.path, protocol).await
    }

    /// As [`Spdy::connect`], over a connection that is there already.
    pub async fn over(mut wire: Box<dyn Wire>, path: &str, protocol: &str) -> Self {
        let answer = request(&mut *wire, &upgrade(path, protocol)).await.unwrap();
        assert_eq!(answer.status, 101, "{}", answer.head);
        assert!(answer.head.to_lowercase().contains(&protocol.to_lowercase()), "{}", answer.head);
        Self::bare(wire)
    }

    /// A session on a connection that is upgraded.
    pub fn bare(wire: Box<dyn Wire>) -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(DICTIONARY).unwrap();
        Self { wire, deflate, inflate: Decompress::new(true), next: 1 }
    }

    /// Opens a stream and gives its number; the answer is read with the frames.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let stream = self.next;
        self.next += 2;
        let block = self.block(headers);
        self.control(1, 0, &[&stream.to_be_bytes()[..], &[0; 6], &block].concat()).await?;
        Ok(stream)
    }

    /// Opens the streams of a command, in this order, and waits for their answers.
    pub async fn command(&mut self, kinds: &[&str]) -> HashMap<String, u32> {
        let mut streams = HashMap::new();
        for kind in kinds {
            let stream = self.open(&[("streamtype", kind)]).await.unwrap();
            self.reply(stream).await;
            streams.insert((*kind).to_owned(), stream);
        }
        streams
    }

    /// Waits for a stream's SYN_REPLY. Frames before it are dropped.
    pub async fn reply(&mut self, stream: u32) {
        loop {
            match self.frame().await.unwrap() {
                Frame::Control { kind: 2, payload } if payload[..4] == stream.to_be_bytes() => {
                    let headers = self.inflate(&payload[4..]);
                    assert_eq!(headers, 0_u32.to_be_bytes(), "a reply has no headers");
                    return;
                }
                Frame::Control { kind: 3, payload } => panic!("stream refused: {payload:?}"),
                _ => {}
            }
        }
    }

    /// Compresses headers.
    pub fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let length = |length: usize| u32::try_from(length).unwrap().to_be_bytes();
        let mut plain = length(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&length(text.len()));
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 4096);
        self.deflate.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        block
    }

    fn inflate(&mut self, block: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(4096);
        let mut rest = block;
        let before = self.inflate.total_in();
        let first = self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
        if first.is_err_and(|error| error.needs_dictionary().is_some()) {
            self.inflate.set_dictionary(DICTIONARY).unwrap();
            rest = &rest[usize::try_from(self.inflate.total_in() - before).unwrap()..];
            self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync).unwrap();
        }
        plain
    }

    /// Sends data.
    pub async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let head = [&stream.to_be_bytes()[..], &[u8::from(fin)], &length[1..]].concat();
        self.wire.write_all(&head).await?;
        self.wire.write_all(bytes).await
    }

    /// Sends a control frame.
    pub async fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&[0x80, 3][..], &kind.to_be_bytes(), &[flags], &length[1..]].concat();
        self.wire.write_all(&[&head, payload].concat()).await
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes).await
    }

    /// Reads a frame.
    pub async fn frame(&mut self) -> io::Result<Frame> {
        timeout(PATIENCE, self.next_frame()).await?
    }

    async fn next_frame(&mut self) -> io::Result<Frame> {
        let mut head = [0; 8];
        self.wire.read_exact(&mut head).await?;
        let word = u32::from_be_bytes(head[..4].try_into().unwrap());
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
        let mut bytes = vec![0; length as usize];
        self.wire.read_exact(&mut bytes).await?;
        Ok(if head[0] & 0x80 == 0 {
            Frame::Data { stream: word, fin: head[4] & 1 != 0, bytes }
        } else {
            Frame::Control { kind: u16::from_be_bytes([head[2], head[3]]), payload: bytes }
        })
    }

    /// Reads data of a stream until they contain this text; what came on it.
    pub async fn until(&mut self, wanted: u32, text: &str) -> String {
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains(text) {
            match self.frame().await.unwrap() {
                Frame::Data { stream, bytes, .. } if stream == wanted => all.extend(bytes),
                Frame::Control { kind: 7, .. } => {
                    panic!("no {text:?} in {:?}", String::from_utf8_lossy(&all))
                }
                _ => {}
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Reads to the session's end: what came on each stream.
    pub async fn rest(&mut self) -> HashMap<u32, Vec<u8>> {
        let mut all: HashMap<u32, Vec<u8>> = HashMap::new();
        loop {
            match self.frame().await {
                Ok(Frame::Data { stream, bytes, .. }) => {
                    all.entry(stream).or_default().extend(bytes)
                }
                Ok(Frame::Control { kind: 7, .. }) => return all,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    panic!("the session does not end; so far: {:?}", all.keys())
                }
                Err(_) => return all,
            }
        }
    }

    /// Whether the server ends the session within a few seconds.
    pub async fn is_ended(&mut self) -> bool {
        let ended = async {
            while !matches!(self.next_frame().await, Err(_) | Ok(Frame::Control { kind: 7, .. })) {}
        };
        timeout(Duration::from_secs(5), ended).await.is_ok()
    }
}

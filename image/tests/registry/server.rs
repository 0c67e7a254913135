//! A registry by script: raw HTTP/1.1 over TCP, one response per connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// What came in.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The first byte of a `Range: bytes=n-`.
    pub fn from(&self) -> Option<usize> {
        self.header("range").strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What goes out.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    fault: Fault,
}

/// How a response goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    None,
    /// The connection ends after this much of the body.
    Break(usize),
    /// Nothing more comes after this much of the body.
    Stall(usize),
    /// Single bytes, one every few milliseconds.
    Drip,
    /// A chunked body without end.
    Endless,
    /// A chunked body that ends early, cleanly.
    Short(usize),
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), fault: Fault::None }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// Answers a `Range` as a good server does.
    pub fn ranged(mut self, asked: &Asked) -> Self {
        if let Some(from) = asked.from() {
            let total = self.body.len();
            self.status = 206;
            self.headers
                .push(("Content-Range".into(), format!("bytes {from}-{}/{total}", total - 1)));
            self.body.drain(..from);
        }
        self
    }
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A running server; it ends with this value.
pub struct Server {
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::over(None, script).await
    }

    /// Starts it over TLS, if there is a configuration for it.
    pub async fn over(
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (script, seen): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&log));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                let tls = tls.clone().map(TlsAcceptor::from);
                connections.spawn(async move {
                    let served = match tls {
                        None => serve(stream, script.as_ref(), &seen).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, script.as_ref(), &seen).await,
                            Err(error) => Err(error),
                        },
                    };
                    served.ok();
                });
            }
        });
        Self { address, log, _tasks: tasks }
    }

    /// A full name in this registry.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn log(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    pub fn count(&self, part: &str) -> usize {
        self.log().iter().filter(|asked| asked.path.contains(part)).count()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: &Script,
    log: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let Some(asked) = read(&mut stream).await? else { return Ok(()) };
    log.lock().unwrap().push(asked.clone());
    let reply = script(&asked);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let chunked = matches!(reply.fault, Fault::Endless | Fault::Short(_));
    if chunked {
        head += "Transfer-Encoding: chunked\r\n";
    } else if !reply.headers.iter().any(|(name, _)| name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    body(&mut stream, &reply).await?;
    stream.flush().await?;
    stream.shutdown().await
}

async fn body(stream: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> std::io::Result<()> {
    let all = &reply.body;
    match reply.fault {
        Fault::None => stream.write_all(all).await,
        Fault::Break(at) => stream.write_all(&all[..at.min(all.len())]).await,
        Fault::Stall(at) => {
            stream.write_all(&all[..at.min(all.len())]).await?;
            stream.flush().await?;
            tokio::time::sleep(Duration::from_secs(30)).await;
            Ok(())
        }
        Fault::Drip => {
            for byte in all {
                stream.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        }
        Fault::Endless => loop {
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
            stream.write_all(chunk.as_bytes()).await?;
        },
        Fault::Short(at) => {
            let part = &all[..at.min(all.len())];
            stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await?;
            stream.write_all(part).await?;
            stream.write_all(b"\r\n0\r\n\r\n").await
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Asked>> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break String::from_utf8_lossy(&bytes[..end]).into_owned();
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or("").split(' ').map(str::to_owned);
    let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(head.len() + 4);
    while body.len() < length && stream.read_buf(&mut body).await? > 0 {}
    Ok(Some(Asked { method, path, headers, body: String::from_utf8_lossy(&body).into_owned() }))
}

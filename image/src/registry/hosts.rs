//! The hosts that serve a registry: containerd's `certs.d` tree, so that nodes keep theirs.
//!
//! For `example.io:5000` the first of these directories that exists counts: `example.io_5000_`, `example.io:5000`,
//! `_default`. Its `hosts.toml` lists mirrors, asked in the order of the file, and the `server` asked last. A directory
//! without that file may hold `*.crt` and `*.cert` with `*.key`, as Docker's does. (containerd, docs/hosts.md)

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::tls::TlsFiles;
use crate::ImageError;

/// Longer than any sensible hosts.toml.
const MAX_FILE: u64 = 1 << 20;

/// Where and how one host is reached.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// Plain http, by the operator's wish or because it is this node itself.
    pub(super) is_plain: bool,
    /// Host and port.
    pub(super) authority: String,
    /// The path in front of the repository, `/v2` by default.
    pub(super) path: String,
    /// It may serve content by digest.
    pub(super) pull: bool,
    /// It may say what a tag means.
    pub(super) resolve: bool,
    /// It is the image's registry itself, not a mirror.
    pub(super) is_upstream: bool,
    pub(super) tls: TlsFiles,
    pub(super) headers: HeaderMap,
    pub(super) dial_timeout: Option<Duration>,
}

impl Endpoint {
    pub(super) fn scheme(&self) -> &'static str {
        if self.is_plain { "http" } else { "https" }
    }
}

#[derive(Deserialize, Default)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: toml::Table,
    #[serde(flatten)]
    upstream: Host,
}

/// The keys of one host, and at the top of the file those of the server.
#[derive(Deserialize, Default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    header: Option<toml::Table>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Files(Vec<String>),
    Pairs(Vec<Vec<String>>),
}

/// The hosts to ask for images of `registry`, in order. Blocks on the disk.
pub(super) fn endpoints(
    certs_dir: Option<&Path>,
    registry: &str,
) -> Result<Vec<Endpoint>, ImageError> {
    let Some(dir) = certs_dir.and_then(|root| directory(root, registry)) else {
        return Ok(vec![upstream(registry, None)]);
    };
    let path = dir.join("hosts.toml");
    match read(&path) {
        Ok(text) => parse(&text, &dir, registry).map_err(|why| {
            ImageError::local("parse", &path, io::Error::new(io::ErrorKind::InvalidData, why))
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let tls = docker_files(&dir).map_err(|e| ImageError::local("list", &dir, e))?;
            let secure = (tls != TlsFiles::default()).then_some(false);
            Ok(vec![Endpoint { tls, ..upstream(registry, secure) }])
        }
        Err(e) => Err(ImageError::local("read", &path, e)),
    }
}

fn directory(root: &Path, registry: &str) -> Option<PathBuf> {
    let with_port = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let names = with_port.iter().map(String::as_str).chain([registry, "_default"]);
    names.map(|name| root.join(name)).find(|dir| dir.is_dir())
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 1 MiB"));
    }
    fs::read_to_string(path)
}

/// The registry itself; without a wish, this node's own is reached over plain http unless the port is https's.
fn upstream(registry: &str, is_plain: Option<bool>) -> Endpoint {
    let authority = match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    let local =
        is_loopback(host_of(authority)) && !matches!(port_of(authority), None | Some("443"));
    Endpoint {
        is_plain: is_plain.unwrap_or(local),
        authority: authority.to_owned(),
        path: "/v2".to_owned(),
        pull: true,
        resolve: true,
        is_upstream: true,
        tls: TlsFiles::default(),
        headers: HeaderMap::new(),
        dial_timeout: None,
    }
}

fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or(authority),
    }
}

fn port_of(authority: &str) -> Option<&str> {
    let after = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    after.rsplit_once(':').map(|(_, port)| port)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn parse(text: &str, dir: &Path, registry: &str) -> Result<Vec<Endpoint>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut endpoints = Vec::new();
    for (url, value) in file.host {
        let host: Host =
            value.try_into().map_err(|e: toml::de::Error| format!("host {url:?}: {e}"))?;
        endpoints.push(endpoint(&url, host, dir).map_err(|why| format!("host {url:?}: {why}"))?);
    }
    let server = file.server.filter(|server| !server.is_empty());
    let last = match server {
        Some(server) => {
            let endpoint = endpoint(&server, file.upstream, dir)
                .map_err(|why| format!("server {server:?}: {why}"))?;
            let hub = matches!(endpoint.authority.as_str(), "docker.io" | "index.docker.io");
            let authority =
                if hub { "registry-1.docker.io".to_owned() } else { endpoint.authority.clone() };
            let is_upstream = authority == upstream(registry, None).authority;
            Endpoint { authority, is_upstream, ..endpoint }
        }
        None => {
            let plain = upstream(registry, None);
            let url = format!("{}://{}", plain.scheme(), plain.authority);
            Endpoint { is_upstream: true, ..endpoint(&url, file.upstream, dir)? }
        }
    };
    // Many files name one host twice, with its CA in the first place only: asked again, it would fail for another reason.
    let same = |one: &Endpoint| {
        one.is_plain == last.is_plain
            && one.authority == last.authority
            && one.path == last.path
            && one.pull
            && one.resolve
    };
    if !endpoints.iter().any(same) {
        endpoints.push(last);
    }
    Ok(endpoints)
}

fn endpoint(url: &str, host: Host, dir: &Path) -> Result<Endpoint, String> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, url),
    };
    let uri: Uri = format!("https://{rest}").parse().map_err(|_| "not a URL".to_owned())?;
    let authority =
        uri.authority().map(ToString::to_string).filter(|a| !a.contains('@')).ok_or("not a URL")?;
    let is_plain = match scheme.as_deref() {
        Some("https") => false,
        Some("http") => true,
        None => upstream(&authority, None).is_plain,
        Some(_) => return Err("neither http nor https".to_owned()),
    };
    let trimmed = uri.path().trim_end_matches('/');
    let path = match host.override_path {
        Some(true) => trimmed.to_owned(),
        _ if trimmed.ends_with("/v2") => trimmed.to_owned(),
        _ => format!("{trimmed}/v2"),
    };
    let can =
        |what: &str| host.capabilities.as_ref().is_none_or(|list| list.iter().any(|c| c == what));
    let (pull, resolve) = (can("pull"), can("resolve"));
    if let Some(unknown) = host.capabilities.iter().flatten().find(|c| !is_capability(c)) {
        return Err(format!("unknown capability {unknown:?}"));
    }
    Ok(Endpoint {
        is_plain,
        authority,
        path,
        pull,
        resolve,
        is_upstream: false,
        tls: tls_files(host.ca, host.client, host.skip_verify, dir)?,
        headers: headers(host.header.unwrap_or_default())?,
        dial_timeout: host.dial_timeout.as_deref().map(duration).transpose()?,
    })
}

fn is_capability(text: &str) -> bool {
    matches!(text, "pull" | "resolve" | "push" | "referrers")
}

fn tls_files(
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    dir: &Path,
) -> Result<TlsFiles, String> {
    let authorities = match ca {
        None => Vec::new(),
        Some(OneOrMany::One(path)) => vec![dir.join(path)],
        Some(OneOrMany::Many(paths)) => paths.into_iter().map(|path| dir.join(path)).collect(),
    };
    let pair = |parts: Vec<String>| match parts.as_slice() {
        [both] => Ok((dir.join(both), None)),
        [certificate, key] if key.is_empty() => Ok((dir.join(certificate), None)),
        [certificate, key] => Ok((dir.join(certificate), Some(dir.join(key)))),
        _ => Err("client takes a certificate and a key".to_owned()),
    };
    let pairs = match client {
        None => Vec::new(),
        Some(Client::One(path)) => vec![vec![path]],
        Some(Client::Files(paths)) => paths.into_iter().map(|path| vec![path]).collect(),
        Some(Client::Pairs(pairs)) => pairs,
    };
    let identities = pairs.into_iter().map(pair).collect::<Result<_, _>>()?;
    Ok(TlsFiles { authorities, identities, skip_verify: skip_verify.unwrap_or(false) })
}

fn headers(table: toml::Table) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let wrong = |_| format!("header {name:?}: neither a string nor a list of strings");
        let values: OneOrMany = value.try_into().map_err(|e: toml::de::Error| wrong(e))?;
        let values = match values {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        };
        let parsed =
            HeaderName::try_from(&name).map_err(|_| format!("{name:?} is not a header's name"))?;
        for value in values {
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| format!("header {name:?}: not a header's value"))?;
            value.set_sensitive(true);
            headers.append(parsed.clone(), value);
        }
    }
    Ok(headers)
}

/// Go's duration syntax, without signs and fractions: `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("dial_timeout {text:?} is not a duration like 3s");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end =
            rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        let unit = match &rest[digits..unit_end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        total = total.saturating_add(unit.saturating_mul(number));
        rest = &rest[unit_end..];
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

fn docker_files(dir: &Path) -> io::Result<TlsFiles> {
    let mut files = TlsFiles::default();
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => files.authorities.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                files.identities.push((path, Some(key)));
            }
            _ => {}
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests;

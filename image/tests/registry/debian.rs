//! The registry that Debian packages, filled over its own API.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::sample::*;
use crate::{ErrorKind, Node, run};

/// Debian's registry, wherever it is (package docker-registry).
fn program() -> PathBuf {
    std::env::var_os("WHERRY_TEST_REGISTRY")
        .map_or_else(|| "/usr/bin/docker-registry".into(), PathBuf::from)
}

/// A running registry; it ends with this value.
struct Registry {
    child: Child,
    address: SocketAddr,
}

impl Registry {
    fn start(dir: &Path) -> Option<Self> {
        if !program().exists() {
            eprintln!("SKIPPED: {} is not installed", program().display());
            return None;
        }
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let data = dir.join("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            data.display()
        );
        std::fs::write(dir.join("registry.yml"), config).unwrap();
        let child = Command::new(program())
            .arg("serve")
            .arg(dir.join("registry.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, address };
        for _ in 0..100 {
            if TcpStream::connect(address).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the registry does not answer");
    }

    /// One request; the status and the head of the response.
    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {media_type}\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        (text.split(' ').nth(1).unwrap().parse().unwrap(), text)
    }

    fn push(&self, repository: &str, sample: &Sample) {
        for (digest, blob) in &sample.blobs {
            let (status, head) =
                self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
            assert_eq!(status, 202, "{head}");
            let location = head.lines().find_map(|l| l.strip_prefix("Location: ")).unwrap().trim();
            let path = location.split_once(&self.address.to_string()).unwrap().1;
            let path = format!("{path}&digest={digest}");
            assert_eq!(self.send("PUT", &path, "application/octet-stream", blob).0, 201);
        }
        let mut names: Vec<_> = sample.manifests.iter().collect();
        // What an index names has to be there before it; manifests are shorter than the indexes made here.
        names.sort_by_key(|(name, (media_type, _))| {
            (media_type.contains("index"), *name == "latest")
        });
        for (name, (media_type, document)) in names {
            let path = format!("/v2/{repository}/manifests/{name}");
            let (status, text) = self.send("PUT", &path, media_type, document);
            assert_eq!(status, 201, "{text}");
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn an_image_comes_from_the_real_registry() {
    run(async {
        let node =
            Node::with("debian", |config| config.no_progress_timeout = Duration::from_secs(10));
        let Some(registry) = Registry::start(&node.dir) else { return };
        let mut sample = Sample::new(&[
            layer(&[("base", &noise(3_000_000, 5))]),
            layer(&[("etc/who", b"debian")]),
        ]);
        let inner = sample.manifest.clone();
        let here = format!(r#"{{"os":"linux","architecture":"{}"}}"#, architecture());
        sample.index(OCI_INDEX, &[(&inner, here)]);
        registry.push("team/app", &sample);
        let name = format!("{}/team/app", registry.address);
        let image = node.pull(&name).await.unwrap();
        assert_eq!(image.id.as_str(), sample.id);
        assert_eq!(node.read(&image, "etc/who").as_deref(), Some("debian"));
        assert_eq!(node.failure(&format!("{name}:missing")).await, ErrorKind::NotFound);
        assert_eq!(node.failure(&format!("{}/none", registry.address)).await, ErrorKind::NotFound);
    });
}

#[test]
fn a_blob_that_is_truncated_in_the_registry_is_corrupt() {
    run(async {
        let node = Node::new("debian-cut");
        let Some(registry) = Registry::start(&node.dir) else { return };
        let sample = Sample::new(&[layer(&[("base", &noise(500_000, 6))])]);
        registry.push("app", &sample);
        let hex = sample.layers[0].strip_prefix("sha256:").unwrap();
        let data = node
            .dir
            .join("registry/docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data");
        let whole = std::fs::read(&data).unwrap();
        std::fs::write(&data, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(node.failure(&format!("{}/app", registry.address)).await, ErrorKind::Corrupt);
        assert!(node.images.list().is_empty());
    });
}

//! Registries on loopback: Debian's real one, and one of our own for what a real one does not do on demand.
//!
//! | name          | what it is                                                                    |
//! |---------------|-------------------------------------------------------------------------------|
//! | `plain.test`  | `docker-registry`, plain HTTP (ours where that program is missing)             |
//! | `secure.test` | ours, HTTPS with a CA of its own, bearer tokens; `secret/*` needs a login      |
//! | `basic.test`  | ours, plain HTTP, basic authentication                                        |
//! | `evil.test`   | ours, misbehaves by the repository's name (see [`fault`])                      |
//! | `down.test`   | nobody listens                                                                |
//!
//! Runtimes find them through a `certs.d/<name>/hosts.toml` tree, as on a node with mirrors.

pub mod access;
pub mod debian;
pub mod fault;
pub mod push;
pub mod server;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use access::Access;
use debian::DebianRegistry;
use server::{Registry, Settings};

use crate::image::{Store, catalog};

/// Who may read `secret/*`.
pub const USER: &str = "carol";
/// The password of [`USER`].
pub const PASSWORD: &str = "correct horse";
/// The refresh token that `secure.test` accepts instead of a password.
pub const IDENTITY_TOKEN: &str = "identity-token-of-carol";

/// All registries of a run; they stop when this is dropped.
#[derive(Debug)]
pub struct Registries {
    /// `plain.test` as served by Debian's program, if that was found.
    pub debian: Option<DebianRegistry>,
    /// The registries of our own, by name.
    pub own: BTreeMap<&'static str, Registry>,
    /// What `plain.test` holds.
    pub content: Arc<Store>,
    certs_dir: PathBuf,
}

impl Registries {
    /// Starts them all; writes data and configuration below this folder.
    pub async fn start(folder: &Path) -> io::Result<Self> {
        let debian = DebianRegistry::start(&folder.join("registry")).await?;
        Self::with(folder, debian).await
    }

    /// Starts those of our own, for suites that are not about pulls: to push everything to a real one takes longer.
    pub async fn own(folder: &Path) -> io::Result<Self> {
        Self::with(folder, None).await
    }

    async fn with(folder: &Path, debian: Option<DebianRegistry>) -> io::Result<Self> {
        let certs_dir = folder.join("certs.d");
        let content = Arc::new(catalog::plain());
        let secure = Arc::new(catalog::secure());
        let evil = Arc::new(catalog::evil());
        let mut own = BTreeMap::new();
        let plain = if let Some(registry) = &debian {
            push::push(registry.address(), &content).await?;
            registry.address()
        } else {
            let registry = Registry::start(content.clone(), Settings::default()).await?;
            own.entry("plain.test").or_insert(registry).address()
        };
        describe(&certs_dir, "plain.test", &format!("http://{plain}"), None)?;
        let authority = crate::authority::Authority::new();
        let tls = Settings {
            access: Access::Token,
            tls: Some(authority.server_config()),
            ..Settings::default()
        };
        let registry = Registry::start(secure.clone(), tls).await?;
        let ca = certs_dir.join("secure.test/ca.pem");
        let url = format!("https://127.0.0.1:{}", registry.address().port());
        describe(&certs_dir, "secure.test", &url, Some(&ca))?;
        std::fs::write(ca, authority.pem())?;
        own.insert("secure.test", registry);
        for (name, settings, store) in [
            ("basic.test", Settings { access: Access::Basic, ..Settings::default() }, &secure),
            ("evil.test", Settings { faults: true, ..Settings::default() }, &evil),
        ] {
            let registry = Registry::start(store.clone(), settings).await?;
            describe(&certs_dir, name, &format!("http://{}", registry.address()), None)?;
            own.insert(name, registry);
        }
        describe(&certs_dir, "down.test", "http://127.0.0.1:1", None)?;
        Ok(Self { debian, own, content, certs_dir })
    }

    /// The tree of `hosts.toml` files.
    pub fn certs_dir(&self) -> &Path {
        &self.certs_dir
    }

    /// The login that `secret/*` needs.
    pub fn login() -> proto::cri::AuthConfig {
        proto::cri::AuthConfig {
            username: USER.into(),
            password: PASSWORD.into(),
            ..Default::default()
        }
    }
}

/// Writes the `hosts.toml` for the registry of this name, in containerd's format.
pub fn describe(certs_dir: &Path, name: &str, url: &str, ca: Option<&Path>) -> io::Result<()> {
    let folder = certs_dir.join(name);
    std::fs::create_dir_all(&folder)?;
    let ca = ca.map(|ca| format!("  ca = {:?}\n", ca.display().to_string())).unwrap_or_default();
    let hosts = format!(
        "server = \"{url}\"\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{ca}"
    );
    std::fs::write(folder.join("hosts.toml"), hosts)
}

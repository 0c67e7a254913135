//! Pulls from registries that misbehave by script, and from the real one that Debian packages.
//!
//! All traffic stays on the loopback; all files in a temporary folder. Unpacking needs root (chown, mknod, trusted
//! attributes); without it the tests say SKIPPED.

// The configured exemption of tests covers functions with `#[test]`, not what these are built from.
#![allow(clippy::unwrap_used)]

mod auth;
mod broken;
mod debian;
mod good;
mod sample;
mod server;
mod store;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use image::{Auth, ErrorKind, Image, ImageError, Images, ImagesConfig, Reference};
use snapshotter::{Overlay, Snapshotter};

/// A node: images and layers in a temporary folder.
struct Node {
    dir: PathBuf,
    images: Arc<Images>,
    layers: Arc<Overlay>,
}

impl Node {
    fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    fn with(name: &str, change: impl FnOnce(&mut ImagesConfig)) -> Self {
        let dir = std::env::temp_dir().join(format!("wherry-image-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (images, layers) = Self::open(&dir, change);
        Self { dir, images, layers }
    }

    fn open(dir: &Path, change: impl FnOnce(&mut ImagesConfig)) -> (Arc<Images>, Arc<Overlay>) {
        let layers = Arc::new(Overlay::open(&dir.join("snapshots")).unwrap());
        let mut config = ImagesConfig::new(dir);
        config.no_progress_timeout = Duration::from_millis(400);
        config.retry_delay = Duration::from_millis(10);
        config.certs_dir = Some(dir.join("certs.d"));
        change(&mut config);
        (Images::open(config, Arc::clone(&layers) as _).unwrap(), layers)
    }

    fn restart(&mut self) {
        let (images, layers) = Self::open(&self.dir, |_| {});
        (self.images, self.layers) = (images, layers);
    }

    async fn pull(&self, name: &str) -> Result<Arc<Image>, ImageError> {
        self.images.pull(&Reference::parse(name).unwrap(), None).await
    }

    async fn pull_as(
        &self,
        name: &str,
        user: &str,
        password: &str,
    ) -> Result<Arc<Image>, ImageError> {
        let auth = Auth::Basic { username: user.into(), password: password.into() };
        self.images.pull(&Reference::parse(name).unwrap(), Some(auth)).await
    }

    async fn failure(&self, name: &str) -> ErrorKind {
        let error = self.pull(name).await.unwrap_err();
        eprintln!("{name}: {error}");
        error.kind()
    }

    fn hosts(&self, registry: &str, toml: &str) {
        let dir = self.dir.join("certs.d").join(registry);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), toml).unwrap();
    }

    /// A file as the merged layers of an image have it.
    fn read(&self, image: &Image, path: &str) -> Option<String> {
        let dirs = self.layers.layer_dirs(image.layers.last()?).unwrap();
        dirs.iter().find_map(|dir| std::fs::read_to_string(dir.join(path)).ok())
    }

    /// No layer and no draft is on the disk but these.
    #[track_caller]
    fn holds_layers(&self, count: usize) {
        let is_layer = |name: &str| !["rootfs", "empty"].contains(&name);
        let names: Vec<String> = std::fs::read_dir(self.dir.join("snapshots"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| is_layer(name))
            .collect();
        assert_eq!((names.len(), self.layers.layers().len()), (count, count), "{names:?}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// Runs a test on two threads with a deadline, if it can run here.
fn run(test: impl Future<Output = ()>) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: unpacking layers needs root");
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("a minute is enough for any of these");
    });
}

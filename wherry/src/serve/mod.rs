//! `wherry serve`: lock, parts, recovery, socket, and a calm end.
//!
//! ```text
//!   lock root ─► open images, network, shim ─► recover ─► bind socket ─► READY=1 ─► serve
//!                                                             SIGTERM, SIGINT ─► finish what is in flight
//! ```

mod deadline;
mod facade;
mod lock;
mod memory;
mod socket;

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri::streaming::{Server, Settings, Tickets, TlsFiles};
use cri::{Door, Parts, Runtime};
use snapshotter::Snapshotter;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;

use crate::config::{self, Config};

/// Requests are short and the disk is waited for elsewhere: more threads would only cost memory.
const WORKERS: usize = 2;

/// Threads that wait for the disk; what is beyond waits in a queue.
const BLOCKING_THREADS: usize = 64;

/// Before a broken download is tried again; it doubles with each try.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Why the daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another daemon has this root.
    #[error("{} is in use by {holder}", root.display())]
    Locked {
        /// The durable folder.
        root: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// The operating system refused.
    #[error("{operation}")]
    Io {
        /// What was attempted, on what.
        operation: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A part cannot be opened.
    #[error("open {part}")]
    Part {
        /// Which one.
        part: &'static str,
        /// Its reason.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// What the last daemon left cannot be read.
    #[error("recover")]
    Recover(#[source] cri::Error),
    /// The server failed.
    #[error("serve")]
    Transport(#[source] tonic::transport::Error),
}

/// An error with all its causes.
#[must_use]
pub fn sentence(error: &dyn StdError) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        sentence.push_str(": ");
        sentence.push_str(&error.to_string());
        cause = error.source();
    }
    sentence
}

/// Serves until it is told to stop.
///
/// # Errors
/// The daemon cannot start; whoever runs is left alone.
pub fn serve(config: &Config) -> Result<(), ServeError> {
    sys::memory::give_back_early();
    let _lock = lock::take(&config.root)?;
    for folder in ["", "sandboxes", "containers"] {
        socket::make_folder(&config.state.join(folder))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("wherry")
        .enable_all()
        .build()
        .map_err(|source| ServeError::Io { operation: "start threads".into(), source })?;
    let served = runtime.block_on(run(config));
    // A thread that hangs on a dead disk must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

async fn run(config: &Config) -> Result<(), ServeError> {
    let mut told = Told::listen()?;
    let streaming = Server::bind(&streaming(config)).await.map_err(part("the streaming server"))?;
    let runtime = Arc::new(Runtime::new(open(config, streaming.tickets())?));
    runtime.probe_handlers();
    cri::recover(&runtime).await.map_err(ServeError::Recover)?;
    let listener = socket::bind(&config.address)?;
    let streams = tokio::spawn(streaming.run(Arc::clone(&runtime)));
    let _facade = facade::open(config, &runtime);
    tokio::spawn(memory::give_back());
    let door = Door::new(runtime);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tonic::transport::Server::builder()
        .layer(deadline::Deadlines)
        .add_service(door.runtime_service())
        .add_service(door.image_service())
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
            drop(stopped.await);
        });
    let server = tokio::spawn(server);
    tracing::info!(address = %config.address.display(), root = %config.root.display(), "serving");
    notify(sd_notify::NotifyState::Ready);
    let signal = told.wait().await;
    notify(sd_notify::NotifyState::Stopping);
    tracing::info!(signal, "finishing what is in flight; containers go on running");
    door.close();
    drop(stop);
    // Nobody new is let in; who streams goes on until the process ends.
    streams.abort();
    finish(server, Duration::from_secs(config.grpc.shutdown_timeout.into())).await
}

async fn finish(
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    patience: Duration,
) -> Result<(), ServeError> {
    match tokio::time::timeout(patience, server).await {
        Ok(Ok(served)) => served.map_err(ServeError::Transport),
        Ok(Err(source)) => {
            Err(ServeError::Io { operation: "serve".into(), source: io::Error::other(source) })
        }
        Err(_) => {
            tracing::warn!(?patience, "requests were still in flight and are given up");
            Ok(())
        }
    }
}

/// Tells systemd, if it asked to be told (sd_notify(3)).
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "notify the service manager");
    }
}

/// The signals that end the daemon.
struct Told {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Told {
    fn listen() -> Result<Self, ServeError> {
        let listen = |kind| {
            signal(kind)
                .map_err(|source| ServeError::Io { operation: "listen for signals".into(), source })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Opens the parts below the runtime.
fn open(config: &Config, streaming: Arc<Tickets>) -> Result<Parts, ServeError> {
    let snapshots = snapshotter::Overlay::open(&config.root.join("snapshots"));
    let snapshots: Arc<dyn Snapshotter> = Arc::new(snapshots.map_err(part("the snapshots"))?);
    let images = image::ImagesConfig {
        root: config.root.clone(),
        certs_dir: Some(config.registry.config_path.clone()),
        max_parallel_downloads: usize::from(config.image.max_parallel_downloads.get()),
        no_progress_timeout: Duration::from_secs(config.image.no_progress_timeout.get().into()),
        retry_delay: RETRY_DELAY,
        pinned: config.image.pinned.clone(),
    };
    let images =
        image::Images::open(images, Arc::clone(&snapshots)).map_err(part("the image store"))?;
    let network = cni::Network::open(network(config)?).map_err(part("the network"))?;
    let explicit = Some(config.shim.path.as_path()).filter(|path| !path.as_os_str().is_empty());
    let launcher = shim::Launcher::find(explicit).map_err(part("the shim"))?;
    Ok(Parts {
        root: config.root.clone(),
        state: config.state.clone(),
        images,
        snapshots,
        network,
        launcher,
        cgroup_driver: cgroup_driver(config.cgroup.driver),
        streaming,
        cdi_dirs: config.cdi.dirs.clone(),
        handlers: config::handlers(config),
    })
}

fn streaming(config: &Config) -> Settings {
    let config::Streaming { address, port, tls_certificate, tls_key, idle_timeout } =
        config.streaming.clone();
    let tls = (!tls_key.as_os_str().is_empty())
        .then_some(TlsFiles { certificate: tls_certificate, key: tls_key });
    let idle = Duration::from_secs(idle_timeout.get().into());
    Settings { address, port, tls, idle }
}

fn cgroup_driver(wanted: config::CgroupDriver) -> cri::CgroupDriver {
    let unified = || Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let systemd = || Path::new("/run/systemd/system").is_dir();
    match wanted {
        config::CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        config::CgroupDriver::Auto if !unified() || !systemd() => cri::CgroupDriver::Cgroupfs,
        config::CgroupDriver::Auto | config::CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
    }
}

fn network(config: &Config) -> Result<cni::NetworkConfig, ServeError> {
    let mut network = cni::NetworkConfig::new(config.root.join("cni"));
    network.conf_dir.clone_from(&config.cni.conf_dir);
    network.bin_dirs.clone_from(&config.cni.bin_dirs);
    network.timeout = Duration::from_secs(config.cni.timeout.get().into());
    network.bridge.name.clone_from(&config.network.bridge);
    network.bridge.follows_pod_cidr = config.network.subnet.is_empty();
    if !network.bridge.follows_pod_cidr {
        network.bridge.subnet = config.network.subnet.parse().map_err(part("the network"))?;
    }
    network.bridge.mtu = Some(config.network.mtu).filter(|mtu| *mtu != 0);
    network.bridge.masquerade = config.network.masquerade;
    Ok(network)
}

fn part<E: StdError + Send + Sync + 'static>(part: &'static str) -> impl Fn(E) -> ServeError {
    move |source| ServeError::Part { part, source: Box::new(source) }
}

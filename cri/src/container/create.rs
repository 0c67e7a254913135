//! CreateContainer: a chain of steps, each consuming the last, each registering its own undo.
//!
//! ```text
//!   Draft ──furnish──► Furnished ──launch──► Launched ──commit──► CREATED
//!     │ id, pod, image    │ root file system,   │ shim, process      record, index, watch
//!     │                   │ spec, bundle        │ at its barrier
//! ```
//!
//! The bundle's folder is the intent: recovery takes back every bundle that has no record.

use std::path::PathBuf;
use std::sync::Arc;

use image::Image;
use proto::cri;
use shim::{Bundle, CreateOptions, Created, Shim, UserRequest};
use snapshotter::{Rootfs, RootfsKey};

use super::config::ContainerConfig;
use super::security::{AppArmorProfile, PidView};
use super::state::State;
use super::{Container, Record, folder, prepare, volume, watch};
use crate::apparmor;
use crate::cdi;
use crate::clock::Nanos;
use crate::error::Error;
use crate::handler::Handler;
use crate::id::ContainerId;
use crate::record;
use crate::runtime::{Runtime, fingerprint};
use crate::sandbox::Sandbox;
use crate::sandbox::config::PidScope;
use crate::selinux;
use crate::signal::Signal;
use crate::spec::{self, PidNamespace};
use crate::undo::Undo;

/// Creates a container, or joins the call that is creating it.
///
/// # Errors
/// Everything that was made is taken back.
pub async fn create(
    runtime: &Arc<Runtime>,
    request: cri::CreateContainerRequest,
) -> Result<ContainerId, Error> {
    let config = ContainerConfig::parse(request.config.unwrap_or_default())?;
    let sandbox = runtime.sandboxes.find(&request.pod_sandbox_id)?;
    let key = (sandbox.id().clone(), config.metadata.clone());
    let work = make(Arc::clone(runtime), sandbox, config.clone());
    runtime.creates.join(key, fingerprint(&config), work).await
}

async fn make(
    runtime: Arc<Runtime>,
    sandbox: Arc<Sandbox>,
    config: ContainerConfig,
) -> Result<ContainerId, Error> {
    let known = runtime.containers_of(sandbox.id());
    let same = known.iter().find(|known| known.record.config.metadata == config.metadata);
    if let Some(container) = same {
        return repeated(container, &config);
    }
    let mut undo = Undo::default();
    let result = chain(runtime, sandbox, config, &mut undo).await;
    undo.settle(result).await
}

/// The answer to a retry whose first call has succeeded meanwhile.
fn repeated(container: &Container, config: &ContainerConfig) -> Result<ContainerId, Error> {
    if container.record.config == *config && matches!(*container.state.borrow(), State::Created) {
        return Ok(container.id().clone());
    }
    Err(Error::Conflict {
        operation: format!("create container {}", config.metadata.name),
        reason: format!("{} has its name and attempt; remove it first", container.id()),
    })
}

async fn chain(
    runtime: Arc<Runtime>,
    sandbox: Arc<Sandbox>,
    config: ContainerConfig,
    undo: &mut Undo,
) -> Result<ContainerId, Error> {
    let draft = Draft::new(runtime, sandbox, config)?;
    let furnished = draft.furnish(undo).await?;
    let launched = furnished.launch(undo).await?;
    launched.commit().await
}

/// A container with a name, a pod and an image.
struct Draft {
    runtime: Arc<Runtime>,
    sandbox: Arc<Sandbox>,
    id: ContainerId,
    config: ContainerConfig,
    image: Arc<Image>,
    /// The images that it mounts.
    volumes: volume::Images,
    stop_signal: Signal,
    pid_namespace: PidNamespace,
    log: Option<PathBuf>,
    handler: Arc<Handler>,
}

impl Draft {
    fn new(
        runtime: Arc<Runtime>,
        sandbox: Arc<Sandbox>,
        config: ContainerConfig,
    ) -> Result<Self, Error> {
        let operation = || format!("create container {}", config.metadata.name);
        let pod = &sandbox.record.config;
        if !sandbox.state().is_ready() {
            let reason = format!("sandbox {} is not ready", sandbox.id());
            return Err(Error::Refused { operation: operation(), reason });
        }
        if config.security.privileged && !pod.privileged {
            let reason = "a privileged container wants a privileged sandbox".into();
            return Err(Error::Invalid { operation: operation(), reason });
        }
        if config.security.users != pod.users {
            let reason = "its user namespace is not the one that its pod was run with".into();
            return Err(Error::Invalid { operation: operation(), reason });
        }
        let handler = Arc::clone(runtime.handlers.find(&pod.runtime_handler, &operation())?);
        let name = &config.image.image;
        let image = runtime
            .images
            .find(name)
            .ok_or_else(|| Error::NotFound { object: format!("image {name:?}") })?;
        let volumes = volume::images(&runtime, &config)?;
        let stop_signal = prepare::stop_signal(&config, &image)?;
        let pid_namespace = pid_namespace(&runtime, &sandbox, &config)?;
        let log = prepare::log_file(pod, &config);
        let id =
            ContainerId::draw().map_err(|source| Error::Io { operation: operation(), source })?;
        Ok(Self {
            runtime,
            sandbox,
            id,
            config,
            image,
            volumes,
            stop_signal,
            pid_namespace,
            log,
            handler,
        })
    }

    fn operation(&self, verb: &str) -> String {
        format!("{verb} container {} ({})", self.config.metadata.name, &self.id.as_str()[..12])
    }

    /// The AppArmor profile that is to be applied, and is loaded.
    async fn apparmor(&self) -> Result<Option<String>, Error> {
        let refused = |name: &str, reason: &str| Error::Refused {
            operation: self.operation("create"),
            reason: format!("AppArmor profile {name}: {reason}"),
        };
        let wanted = self.config.security.apparmor.clone();
        match wanted {
            AppArmorProfile::Unconfined => Ok(None),
            AppArmorProfile::RuntimeDefault if apparmor::is_enabled() => {
                let ready = apparmor::ensure_default().await?;
                Ok(ready.then(|| apparmor::DEFAULT_PROFILE.to_owned()))
            }
            AppArmorProfile::RuntimeDefault => Ok(None),
            AppArmorProfile::Localhost(name) if !apparmor::is_enabled() => {
                Err(refused(&name, "AppArmor is not enabled on this node"))
            }
            AppArmorProfile::Localhost(name) => {
                if apparmor::is_loaded(&name).await? {
                    return Ok(Some(name));
                }
                Err(refused(&name, "it is not loaded on this node"))
            }
        }
    }

    /// Makes the root file system and the bundle.
    async fn furnish(self, undo: &mut Undo) -> Result<Furnished, Error> {
        let apparmor = self.apparmor().await?;
        let key = rootfs_key(&self.id)?;
        undo.push("release the container's root file system", {
            let (snapshots, key) = (Arc::clone(&self.runtime.snapshots), key.clone());
            async move {
                let release = move || volume::release(snapshots.as_ref(), &key);
                let released = record::blocking("release a root file system", release).await;
                released.map_err(|error| error.sentence())
            }
        });
        undo.push_folder("remove the container's record", self.folder());
        undo.push_folder("remove the container's bundle", self.runtime.bundle_dir(&self.id));
        let operation = self.operation("furnish");
        record::blocking(&operation, move || self.furnish_now(&key, apparmor.as_deref())).await
    }

    /// Its durable folder.
    fn folder(&self) -> PathBuf {
        folder(self.runtime.root(), &self.id)
    }

    /// What of furnishing blocks on file systems.
    fn furnish_now(self, key: &RootfsKey, apparmor: Option<&str>) -> Result<Furnished, Error> {
        let mut config = self.config.clone();
        prepare::mount_sources(&mut config)?;
        let devices = prepare::devices(&config, &self.handler.defaults)?;
        let views = volume::views(self.runtime.snapshots.as_ref(), key, &self.volumes)?;
        let folders = volume::folders(&self.folder(), &config, &self.image)?;
        prepare::log_folder(self.log.as_deref())?;
        let seccomp = prepare::seccomp(&config)?;
        let pod = self.runtime.pod_paths(self.sandbox.id());
        let cdi = self
            .runtime
            .cdi
            .edits(&config.cdi)
            .map_err(|reason| Error::Refused { operation: self.operation("create"), reason })?;
        let mut spec = spec::build(&spec::Inputs {
            id: &self.id,
            config: &config,
            image: &self.image.config,
            sandbox_id: self.sandbox.id(),
            sandbox: &self.sandbox.record.config,
            pod: &pod,
            pid_namespace: self.pid_namespace.clone(),
            devices: &devices,
            views: &views,
            folders: &folders,
            apparmor,
            selinux: selinux::is_enabled(),
            seccomp: seccomp.as_ref(),
            devices_fenced: self.runtime.devices_fenced,
            defaults: &self.handler.defaults,
        })?;
        let groups = cdi.groups.clone();
        cdi::apply(cdi, &mut spec).map_err(|error| Error::Invalid {
            operation: self.operation("create"),
            reason: format!("CDI devices: {error}"),
        })?;
        let rootfs = self.runtime.snapshots.prepare(key, self.image.layers.last());
        let rootfs = rootfs.map_err(|source| Error::Snapshot {
            operation: self.operation("prepare the root file system of"),
            source,
        })?;
        let bundle = Bundle::create(&self.runtime.bundle_dir(&self.id), &spec);
        let bundle = bundle.map_err(|source| Error::Io {
            operation: self.operation("make the bundle of"),
            source: std::io::Error::other(source),
        })?;
        Ok(Furnished { draft: self, groups, rootfs, bundle })
    }
}

/// A container with a root file system and a bundle.
struct Furnished {
    draft: Draft,
    /// Supplementary groups that its devices need.
    groups: Vec<u32>,
    rootfs: Rootfs,
    bundle: Bundle,
}

impl Furnished {
    /// Starts the shim, which prepares the process up to its barrier.
    async fn launch(self, undo: &mut Undo) -> Result<Launched, Error> {
        let Self { draft, groups, rootfs, bundle } = self;
        let launched = draft.runtime.launcher.launch(&bundle).await;
        let shim = launched.map_err(|source| Error::Shim {
            operation: draft.operation("launch the shim of"),
            source,
        })?;
        undo.push("dismiss the container's shim", {
            let shim = shim.clone();
            async move { watch::dismiss(&shim).await.map_err(|error| error.to_string()) }
        });
        let created = shim.create(options(&draft, &groups, &rootfs)).await;
        let created = created
            .map_err(|source| Error::Shim { operation: draft.operation("create"), source })?;
        Ok(Launched { draft, shim, created })
    }
}

fn options(draft: &Draft, groups: &[u32], rootfs: &Rootfs) -> CreateOptions {
    let run_as = &draft.config.security.run_as;
    let mut mount = rootfs.mount();
    if !draft.runtime.devices_fenced && !draft.config.security.privileged {
        // Images may bring device nodes, which nothing else would make inert.
        mount.options.push("nodev".to_owned());
    }
    CreateOptions {
        rootfs: vec![shim::Mount {
            kind: mount.kind,
            source: mount.source,
            options: mount.options,
        }],
        log: draft.log.clone(),
        user: UserRequest {
            user: run_as.user.clone().unwrap_or_else(|| draft.image.config.user.clone()),
            group: run_as.group,
            supplemental: [&run_as.supplemental, groups].concat(),
            strict: run_as.strict,
        },
        terminal: draft.config.tty,
        stdin: draft.config.stdin,
        runtime: draft.handler.runtime.clone(),
    }
}

/// A container whose process waits at its barrier.
struct Launched {
    draft: Draft,
    shim: Shim,
    created: Created,
}

impl Launched {
    /// Makes the container known, unless its pod was stopped meanwhile.
    async fn commit(self) -> Result<ContainerId, Error> {
        let Self { draft, shim, created } = self;
        let (refused, folder) = (draft.operation("create"), draft.folder());
        let image_id = |(number, image): (&usize, &Arc<Image>)| {
            let path = draft.config.mounts[*number].container_path.clone();
            (path, image.id.to_string())
        };
        let image_volumes = draft.volumes.iter().map(image_id).collect();
        let record = Record {
            id: draft.id,
            sandbox: draft.sandbox.id().clone(),
            image_id: draft.image.id.to_string(),
            image_ref: prepare::image_ref(&draft.image),
            image_name: prepare::image_name(&draft.config.image, &draft.image),
            config: draft.config,
            image_volumes,
            created_at: Nanos::now(),
            stop_signal: draft.stop_signal,
            log: draft.log,
            user: created.user.into(),
            pid: created.pid,
        };
        record::create(folder, record.clone()).await?;
        let id = record.id.clone();
        let container = Arc::new(Container::alive(record, State::Created, shim));
        if !draft.runtime.admit_container(&draft.sandbox, &container) {
            let reason = "its sandbox was stopped meanwhile".into();
            return Err(Error::Refused { operation: refused, reason });
        }
        watch::spawn(&draft.runtime, container);
        Ok(id)
    }
}

/// The snapshotter's name for a container's root file system.
///
/// # Errors
/// None in practice: every id is such a name.
pub fn rootfs_key(id: &ContainerId) -> Result<RootfsKey, Error> {
    RootfsKey::parse(id.as_str()).map_err(|source| Error::Snapshot {
        operation: format!("name the root file system of {id}"),
        source,
    })
}

/// Which process namespace the container gets.
fn pid_namespace(
    runtime: &Runtime,
    sandbox: &Sandbox,
    config: &ContainerConfig,
) -> Result<PidNamespace, Error> {
    let refused = |reason: String| Error::Invalid {
        operation: format!("create container {}", config.metadata.name),
        reason,
    };
    let target = match &config.security.pid {
        PidView::Container => return Ok(PidNamespace::New),
        PidView::Node => return Ok(PidNamespace::Host),
        PidView::Pod if sandbox.record.config.pid == PidScope::Pod => {
            return Ok(PidNamespace::Join(runtime.pod_paths(sandbox.id()).pid()));
        }
        PidView::Pod => {
            return Err(refused("its pod was run without a process namespace to share".into()));
        }
        PidView::Target(target) => runtime.containers.find(target.as_str())?,
    };
    if &target.record.sandbox != sandbox.id() {
        return Err(refused(format!("{} is in another pod", target.name())));
    }
    if !matches!(*target.state.borrow(), State::Running { .. }) {
        return Err(refused(format!("{} does not run", target.name())));
    }
    Ok(PidNamespace::Join(PathBuf::from(format!("/proc/{}/ns/pid", target.record.pid))))
}

//! What the last daemon left behind: adopted if it lives, finished if it ended, taken back if it was half made.
//!
//! ```text
//!   record  volatile state            becomes
//!   ──────  ────────────────────────  ─────────────────────────────────────────────
//!   pod     ready mark, namespaces    READY
//!   pod     none (reboot), or broken  stopped: network given back, listed NOTREADY
//!   pod     no mark, same boot        never promised: taken back
//!   none    a folder                  never promised: taken back
//!   ctr     bundle, live shim         adopted in the state that the shim tells
//!   ctr     bundle, dead shim         EXITED as the shim wrote, or unseen; leftovers killed
//!   ctr     no bundle                 EXITED as recorded, or unseen (reboot)
//!   none    bundle                    never promised: killed and taken back
//! ```
//!
//! One damaged record is set aside with a warning and keeps nobody from starting. What may take long, giving back
//! networks above all, goes on while requests are served: by then every list is right, and what is taken back has a
//! name that no new request can get.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use shim::{Bundle, Shim, Status};

use crate::clock::Nanos;
use crate::container::state::{Ended, State};
use crate::container::{self, Container, watch};
use crate::error::Error;
use crate::id::SandboxId;
use crate::record;
use crate::runtime::{Runtime, remove_folder};
use crate::sandbox::config::{PidScope, PodScope};
use crate::sandbox::paths::PodPaths;
use crate::sandbox::{self, Sandbox, files, stop};

/// Rebuilds the runtime's knowledge, and takes back what nobody was promised.
///
/// # Errors
/// The durable folder cannot be read at all.
pub async fn recover(runtime: &Arc<Runtime>) -> Result<(), Error> {
    let same_boot = same_boot(&runtime.state)?;
    recover_containers(runtime).await?;
    recover_sandboxes(runtime, same_boot).await?;
    sweep_bundles(runtime).await?;
    sweep_pods(runtime)?;
    sweep_rootfs(runtime).await;
    sweep_networks(runtime);
    let images = Arc::clone(&runtime.images);
    tokio::spawn(async move { images.sweep().await });
    Ok(())
}

/// Whether the volatile folder is this boot's: a reboot voids everything in it (proc(5), random/boot_id).
fn same_boot(state: &Path) -> Result<bool, Error> {
    let path = state.join("boot_id");
    let error = |source| Error::Io { operation: format!("read {}", path.display()), source };
    let now = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(error)?;
    let same = std::fs::read_to_string(&path).is_ok_and(|before| before == now);
    if !same {
        sys::durable::write_volatile(&path, now.as_bytes()).map_err(error)?;
    }
    Ok(same)
}

/// Every folder's record; what cannot be read is set aside.
async fn records<T>(runtime: &Runtime, kind: &str) -> Result<Vec<T>, Error>
where
    T: serde::de::DeserializeOwned + Send + 'static,
{
    let (dir, root) = (runtime.root().join(kind), runtime.root().to_owned());
    record::blocking("read the records", move || {
        let mut records = Vec::new();
        for (_, folder) in record::folders(&dir)? {
            match record::read(&record::path_in(&folder)) {
                Ok(Some(found)) => records.push(found),
                // The folder of a request that was never finished.
                Ok(None) => clear(&folder),
                Err(error) => record::set_aside(&folder, &root, &error),
            }
        }
        Ok(records)
    })
    .await
}

async fn recover_containers(runtime: &Arc<Runtime>) -> Result<(), Error> {
    for record in records::<container::Record>(runtime, "containers").await? {
        let container = Arc::new(recover_container(runtime, record).await);
        runtime.containers.insert(container.id().as_str(), Arc::clone(&container));
        if container.shim.is_some() {
            container::exec::adopt(runtime, &container);
            container::attach::forget(runtime, &container);
            watch::spawn(runtime, container);
        }
    }
    Ok(())
}

async fn recover_container(runtime: &Runtime, record: container::Record) -> Container {
    let folder = container::folder(runtime.root(), &record.id);
    let container = recover_life(runtime, record, &folder).await;
    if let Some(limits) = container::update::settle(&folder, container.shim.as_ref()).await {
        container.set_limits(limits);
    }
    container
}

async fn recover_life(runtime: &Runtime, record: container::Record, folder: &Path) -> Container {
    if let Ok(Some(ended)) = record::read::<Ended>(&container::ended_path(folder)) {
        dissolve(runtime, record.id.as_str()).await;
        return Container::past(record, ended);
    }
    let dir = runtime.bundle_dir(&record.id);
    let bundle = Bundle::open(&dir).ok();
    if let Some(bundle) = &bundle
        && let Some((shim, state)) = adopt(bundle).await
    {
        return Container::alive(record, state, shim);
    }
    let started_at = bundle.as_ref().and_then(Bundle::started_at).map(Nanos::of);
    let ended = match bundle.as_ref().and_then(Bundle::exit) {
        Some(exit) => Ended::seen(started_at, exit),
        None => Ended::unseen(started_at, "nobody saw the container end"),
    };
    let path = container::ended_path(folder);
    let known = ended.clone();
    let written =
        record::blocking("write how a container ended", move || record::write(&path, &known));
    if let Err(error) = written.await {
        tracing::warn!(container = %record.id, error = error.sentence(), "recover a container");
    }
    dissolve(runtime, record.id.as_str()).await;
    Container::past(record, ended)
}

/// The live shim of a bundle, and what it says of its container.
async fn adopt(bundle: &Bundle) -> Option<(Shim, State)> {
    let shim = Shim::connect(bundle).await.ok()?;
    let state = shim.state().await.ok()?;
    let since = || bundle.started_at().map_or_else(Nanos::now, Nanos::of);
    let state = match state.status {
        Status::Created => State::Created,
        // An ended container has an exit that the watch will be told in a moment.
        Status::Running | Status::Stopped => State::Running { started_at: since() },
    };
    Some((shim, state))
}

/// Kills and frees whatever a bundle stands for, whether its shim lives or not.
async fn dissolve(runtime: &Runtime, id: &str) {
    let dir = container::bundle_dir(&runtime.state, id);
    let Ok(bundle) = Bundle::open(&dir) else {
        clear(&dir);
        return;
    };
    if let Err(error) = shim::dissolve(&runtime.launcher, bundle).await {
        tracing::warn!(container = id, %error, "take back what is left of a container");
    }
}

async fn recover_sandboxes(runtime: &Arc<Runtime>, same_boot: bool) -> Result<(), Error> {
    for record in records::<sandbox::Record>(runtime, "sandboxes").await? {
        let paths = runtime.pod_paths(&record.id);
        let ready = files::read_ready(&paths).ok().flatten();
        let state = match ready {
            Some(ips) if same_boot && is_whole(&record, &paths) => {
                sandbox::state::State::Ready { ips }
            }
            None if same_boot && paths.dir().exists() => {
                // Its folder is taken back as any that nobody knows.
                tracing::info!(sandbox = %record.id, "a sandbox was never finished");
                continue;
            }
            _ => sandbox::state::State::Stopping,
        };
        let sandbox = Arc::new(Sandbox::new(record, state));
        sandbox::update::recall(runtime, &sandbox).await;
        runtime.sandboxes.insert(sandbox.id().as_str(), Arc::clone(&sandbox));
        if !sandbox.state().is_ready() {
            tokio::spawn(give_back(Arc::clone(runtime), sandbox));
        }
    }
    Ok(())
}

/// Finishes the stop of a sandbox. If it fails, the kubelet's next stop or removal goes on from there.
async fn give_back(runtime: Arc<Runtime>, sandbox: Arc<Sandbox>) {
    if let Err(error) = stop::take_down(&runtime, &sandbox).await {
        let error = error.sentence();
        tracing::warn!(sandbox = %sandbox.id(), error, "give back what a sandbox held");
    }
}

/// Whether every namespace that the pod has for itself is still pinned.
fn is_whole(record: &sandbox::Record, paths: &PodPaths) -> bool {
    let config = &record.config;
    let mut pins = Vec::new();
    if config.network == PodScope::Pod {
        pins.extend([paths.net(), paths.uts()]);
    }
    if config.ipc == PodScope::Pod {
        pins.push(paths.ipc());
    }
    if config.users.is_some() {
        pins.push(paths.user());
    }
    if config.pid == PidScope::Pod {
        pins.push(paths.pid());
    }
    pins.iter().all(|pin| sys::netns::is_pinned(pin))
}

/// Undoes RunPodSandbox by name.
async fn take_back(runtime: Arc<Runtime>, id: SandboxId) {
    let paths = runtime.pod_paths(&id);
    let netns = paths.net();
    let failed = |error: String| tracing::warn!(sandbox = %id, error, "take back a sandbox");
    if let Err(error) = runtime.network.detach(id.as_str(), Some(&netns)).await {
        failed(error.to_string());
    }
    let folder = sandbox::folder(runtime.root(), &id);
    let removed = record::blocking("remove a pod's files", move || {
        files::remove(&paths)?;
        remove_folder(&folder)
    });
    if let Err(error) = removed.await {
        failed(error.sentence());
    }
}

/// Removes a folder that nobody knows; if it cannot go now, the next start tries again.
fn clear(folder: &Path) {
    if let Err(error) = remove_folder(folder) {
        tracing::warn!(error = error.sentence(), "clear what nobody knows");
    }
}

/// Bundles without a record: creations that were never finished.
async fn sweep_bundles(runtime: &Arc<Runtime>) -> Result<(), Error> {
    for (name, folder) in record::folders(&runtime.state.join("containers"))? {
        if runtime.containers.find(&name).is_err() {
            tracing::info!(container = name, "take back a container that was never finished");
            dissolve(runtime, &name).await;
            clear(&folder);
        }
    }
    Ok(())
}

/// Pods' folders without a record.
fn sweep_pods(runtime: &Arc<Runtime>) -> Result<(), Error> {
    for (name, folder) in record::folders(&runtime.state.join("sandboxes"))? {
        match (runtime.sandboxes.find(&name), name.parse::<SandboxId>()) {
            (Ok(_), _) => {}
            (Err(_), Ok(id)) => drop(tokio::spawn(take_back(Arc::clone(runtime), id))),
            (Err(_), Err(_)) => clear(&folder),
        }
    }
    Ok(())
}

async fn sweep_rootfs(runtime: &Arc<Runtime>) {
    for key in runtime.snapshots.rootfs_keys() {
        if runtime.containers.find(key.container()).is_ok() {
            continue;
        }
        let (snapshots, name) = (Arc::clone(&runtime.snapshots), key.as_str().to_owned());
        let released = tokio::task::spawn_blocking(move || snapshots.release(&key)).await;
        if let Ok(Err(error)) = released {
            tracing::warn!(rootfs = name, %error, "release a root file system that nobody has");
        }
    }
}

/// Attachments of pods that do not exist, and of pods that were stopped when the network was down.
fn sweep_networks(runtime: &Arc<Runtime>) {
    let ready: BTreeSet<String> = runtime
        .sandboxes
        .all()
        .iter()
        .filter(|sandbox| sandbox.state().is_ready())
        .map(|sandbox| sandbox.id().to_string())
        .collect();
    let mut stray = runtime.network.attached();
    stray.retain(|id| !ready.contains(id));
    let network = Arc::clone(&runtime.network);
    tokio::spawn(async move {
        for id in stray {
            if let Err(error) = network.detach(&id, None).await {
                tracing::warn!(sandbox = id, %error, "detach a pod that is gone from its network");
            }
        }
    });
}

//! The network of a node: attach, detach, and what is known of each pod in between.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::built_in::{BuiltIn, PodCidr, pod_cidr_path, recall_pod_cidr};
use crate::conf::{Choice, Conflist, Folder};
use crate::config::{NetworkConfig, Subnet};
use crate::error::NetworkError;
use crate::plugin::Chain;
use crate::pod::{Attachment, PodNetwork, is_id};
use crate::record::{Record, Records, Used};
use crate::status::{NetworkStatus, Prospect, Readiness, Report};
use crate::turn::{Turn, Turns};

/// The network that the node's pods are attached to. One per `state_dir`.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    folder: Folder,
    records: Records,
    /// Read by whoever attaches or detaches, changed while there is no pod on it.
    built_in: RwLock<BuiltIn>,
    turns: Turns,
    readiness: Readiness,
}

/// The first half of an attach: done, or still to be done by plugins.
enum Begun {
    Attached(Attachment),
    ForPlugins(Arc<Conflist>, Turn),
}

impl Network {
    /// Opens the node's network with the attachments of earlier runs. Changes nothing outside `state_dir`.
    ///
    /// # Errors
    /// `state_dir` cannot be used, or the bridge's name is none. A damaged record is no error; it is set aside.
    pub fn open(config: NetworkConfig) -> Result<Arc<Self>, NetworkError> {
        if let Some(fault) = config.bridge.name_fault() {
            let path = config.conf_dir;
            return Err(NetworkError::InvalidConfig { path, reason: fault.to_owned() });
        }
        let records = Records::open(&config.state_dir)?;
        let subnet = match recall_pod_cidr(&config) {
            Some(subnet) => subnet,
            None => config.bridge.subnet,
        };
        let built_in = BuiltIn::open(&config, subnet, &records)?;
        Ok(Arc::new(Self {
            folder: Folder::new(config.conf_dir.clone()),
            records,
            built_in: RwLock::new(built_in),
            turns: Turns::default(),
            readiness: Readiness::default(),
            config,
        }))
    }

    /// Gives a pod its network. Runs to its end even if the caller stops waiting.
    ///
    /// What is about to be used is on disk before anything is done; on error all of it has been undone, or the pod
    /// is still among the [`attached`](Self::attached) so that a detach can finish it.
    ///
    /// # Errors
    /// The pod's facts are unusable, it has an attachment already, the configuration is broken, a plugin or the
    /// kernel refuses, no address is left, or the time is over.
    pub async fn attach(self: &Arc<Self>, pod: &PodNetwork) -> Result<Attachment, NetworkError> {
        pod.check()?;
        let network = Arc::clone(self);
        let pod = Arc::new(pod.clone());
        to_end(tokio::spawn(async move {
            let turn = network.turn(&pod.id).await?;
            match network.begin(&pod, turn).await? {
                Begun::Attached(attachment) => Ok(attachment),
                Begun::ForPlugins(list, _turn) => network.attach_with_plugins(&pod, &list).await,
            }
        }))
        .await
    }

    /// Takes a pod off its network, as it was attached, and forgets it.
    ///
    /// `netns` is where its namespace is pinned now, if not where it was; one that is gone is told to plugins as such.
    /// Idempotent: a pod that is not attached is detached. Runs to its end even if the caller stops waiting.
    ///
    /// # Errors
    /// A plugin refuses; the pod stays among the [`attached`](Self::attached), and the call can be repeated.
    pub async fn detach(
        self: &Arc<Self>,
        id: &str,
        netns: Option<&Path>,
    ) -> Result<(), NetworkError> {
        if !is_id(id) {
            return Ok(());
        }
        let network = Arc::clone(self);
        let id = id.to_owned();
        let netns = netns.map(Path::to_owned);
        to_end(tokio::spawn(async move {
            let _turn = network.turn(&id).await?;
            network.detach_in_turn(&id, netns.as_deref()).await
        }))
        .await
    }

    /// Detaches all pods but those with the given ids, as recovery does for what nobody knows any more.
    ///
    /// # Errors
    /// What the detaches say, after all of them were tried.
    pub async fn retain(self: &Arc<Self>, ids: &[String]) -> Result<(), NetworkError> {
        let known: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let mut errors = Vec::new();
        for id in self.attached().into_iter().filter(|id| !known.contains(id.as_str())) {
            info!(id, "detaching a pod that is not known any more");
            errors.extend(self.detach(&id, None).await.err());
        }
        NetworkError::all(errors)
    }

    /// Returns the ids of all pods that are attached or were being attached or detached, sorted.
    #[must_use]
    pub fn attached(&self) -> Vec<String> {
        self.records.ids()
    }

    /// Returns what a pod got. From memory.
    ///
    /// For a pod of the built-in network this is known as soon as its attach has begun: after a crash it does not
    /// prove that the attach came to its end.
    #[must_use]
    pub fn attachment(&self, id: &str) -> Option<Attachment> {
        self.records.attachment(id).map(|attachment| Attachment::clone(&attachment))
    }

    /// Finds out whether pods can be attached. Cheap, but for plugins of CNI 1.1.0, which are asked now and then.
    pub async fn status(self: &Arc<Self>) -> NetworkStatus {
        let network = Arc::clone(self);
        let look = move || Ok(Prospect::of(&network.folder, &network.config.bin_dirs));
        match blocking(self.config.timeout, "look up network configuration", look).await {
            Ok(Prospect::Known(status)) => status,
            Ok(Prospect::AskPlugins(list)) => {
                self.readiness.ask(&list, &self.config.bin_dirs).await
            }
            Err(error) => NetworkStatus::not_ready("", error.to_string()),
        }
    }

    /// What the configuration folder has for pods, for whoever looks for a fault. Reads files if they have changed.
    ///
    /// # Errors
    /// The look takes too long.
    pub async fn report(self: &Arc<Self>) -> Result<Report, NetworkError> {
        let network = Arc::clone(self);
        let look = move || {
            let choice = network.folder.choice();
            Ok(Report {
                conf_dir: network.config.conf_dir.clone(),
                bin_dirs: network.config.bin_dirs.clone(),
                network: match &choice {
                    Choice::Plugins(list) => Some(list.to_value()),
                    _ => None,
                },
                fault: match choice {
                    Choice::Broken { path, reason } => {
                        Some(format!("{}: {reason}", path.display()))
                    }
                    _ => None,
                },
            })
        };
        blocking(self.config.timeout, "look up network configuration", look).await
    }

    /// Tells the range that the cluster has for this node's pods; the built-in network takes it if it may, and keeps it
    /// for later runs. Plugins have their own configuration, whatever it says.
    ///
    /// # Errors
    /// The old bridge cannot be removed, or the range cannot be written down.
    pub async fn set_pod_cidr(self: &Arc<Self>, subnet: Subnet) -> Result<PodCidr, NetworkError> {
        if !self.config.bridge.follows_pod_cidr {
            return Ok(PodCidr::Configured);
        }
        let network = Arc::clone(self);
        blocking(self.config.timeout, "change subnet", move || network.change_subnet(subnet)).await
    }

    fn change_subnet(&self, subnet: Subnet) -> Result<PodCidr, NetworkError> {
        let mut built_in = self.built_in.write().unwrap_or_else(PoisonError::into_inner);
        if built_in.subnet == subnet {
            return Ok(PodCidr::Known);
        }
        // Nobody is attaching either: an attach holds the lock until its lease is in the records.
        if !self.records.leases().is_empty() {
            return Ok(PodCidr::InUse);
        }
        let path = pod_cidr_path(&self.config);
        sys::durable::write(&path, subnet.to_string().as_bytes())
            .map_err(NetworkError::state("write", &path))?;
        built_in.bridge.teardown()?;
        *built_in = BuiltIn::open(&self.config, subnet, &self.records)?;
        Ok(PodCidr::Taken)
    }

    fn built_in(&self) -> RwLockReadGuard<'_, BuiltIn> {
        self.built_in.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the node's own part of the built-in network: the bridge and the table of rules. Idempotent.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn teardown_node(self: &Arc<Self>) -> Result<(), NetworkError> {
        let network = Arc::clone(self);
        blocking(self.config.timeout, "remove bridge", move || network.built_in().bridge.teardown())
            .await
    }

    async fn turn(&self, id: &str) -> Result<Turn, NetworkError> {
        let limit = self.config.timeout;
        timeout(limit, self.turns.take(id)).await.map_err(|_| NetworkError::Deadline {
            operation: "another operation on the network of pod",
            object: id.to_owned(),
            limit,
        })
    }

    /// Looks up which network it is, and attaches the pod if it is the built-in one.
    async fn begin(
        self: &Arc<Self>,
        pod: &Arc<PodNetwork>,
        turn: Turn,
    ) -> Result<Begun, NetworkError> {
        let (network, pod) = (Arc::clone(self), Arc::clone(pod));
        blocking(self.config.timeout, "attach pod", move || {
            if network.records.contains(&pod.id) {
                return Err(NetworkError::AlreadyAttached { id: pod.id.clone() });
            }
            match network.folder.choice() {
                // The turn is held in here: this goes on even if nobody waits for it any more.
                Choice::BuiltIn => {
                    let attached = network.attach_built_in(&pod).map(Begun::Attached);
                    drop(turn);
                    attached
                }
                Choice::Plugins(list) => Ok(Begun::ForPlugins(list, turn)),
                Choice::Broken { path, reason } => {
                    Err(NetworkError::InvalidConfig { path, reason })
                }
            }
        })
        .await
    }

    fn attach_built_in(&self, pod: &PodNetwork) -> Result<Attachment, NetworkError> {
        let BuiltIn { addresses, bridge, .. } = &*self.built_in();
        let address = addresses.take(&pod.id)?;
        let lease = bridge.lease(pod, address).inspect_err(|_| addresses.give_back(address))?;
        let promise = bridge.promise(pod, &lease);
        let done = self
            .records
            .put(&pod.id, &Record::built_in(lease.clone(), promise.result.clone()))
            .and_then(|()| bridge.connect(pod, &lease));
        if let Err(error) = done {
            if let Err(remaining) = bridge.withdraw(&pod.id).and_then(|()| {
                self.records.remove(&pod.id)?;
                addresses.give_back(address);
                Ok(())
            }) {
                warn!(id = pod.id, error = %remaining, "attachment record stays");
            }
            return Err(error);
        }
        Ok(promise)
    }

    /// Gives back what a pod has of the built-in network beyond its links: ports, then the record, then the address.
    fn give_back(&self, id: &str, address: Ipv4Addr) -> Result<(), NetworkError> {
        let BuiltIn { addresses, bridge, .. } = &*self.built_in();
        bridge.withdraw(id)?;
        self.records.remove(id)?;
        addresses.give_back(address);
        Ok(())
    }

    async fn attach_with_plugins(
        self: &Arc<Self>,
        pod: &Arc<PodNetwork>,
        list: &Arc<Conflist>,
    ) -> Result<Attachment, NetworkError> {
        let mut record = Record::plugins(list, pod);
        self.write(&pod.id, record.clone()).await?;
        let added = match self.chain(list).add(pod, &pod.netns).await {
            Ok(result) => {
                record.result = Some(result.clone());
                self.accept(pod, list, result, record).await
            }
            Err(error) => Err(error),
        };
        if added.is_err() {
            // The namespace is still there, and plugins clean up better with it.
            match self.chain(list).del(pod, Some(&pod.netns), None).await {
                Ok(()) => self.forget(&pod.id).await?,
                Err(error) => warn!(id = pod.id, %error, "a failed attach could not be undone"),
            }
        }
        added
    }

    async fn accept(
        self: &Arc<Self>,
        pod: &PodNetwork,
        list: &Conflist,
        result: serde_json::Value,
        record: Record,
    ) -> Result<Attachment, NetworkError> {
        let attachment = Attachment::from_result(result).map_err(|fault| NetworkError::Plugin {
            network: list.name.clone(),
            plugin: list.plugins.last().map_or(String::new(), |plugin| plugin.kind.clone()),
            command: "ADD",
            message: fault.to_owned(),
        })?;
        self.write(&pod.id, record).await?;
        Ok(attachment)
    }

    async fn detach_in_turn(
        self: &Arc<Self>,
        id: &str,
        netns: Option<&Path>,
    ) -> Result<(), NetworkError> {
        if !self.records.contains(id) {
            return Ok(());
        }
        // Of the built-in network, a pod has its address and ports; the rest goes with the namespace.
        if let Some(lease) = self.records.lease(id) {
            let (network, id) = (Arc::clone(self), id.to_owned());
            let forget = move || network.give_back(&id, lease.address);
            return blocking(self.config.timeout, "forget attachment of pod", forget).await;
        }
        let (network, owned) = (Arc::clone(self), id.to_owned());
        let read = move || Ok(network.records.read(&owned));
        let record = blocking(self.config.timeout, "read attachment of pod", read).await?;
        if let Some(Record { used: Used::Plugins { conflist, pod }, result, .. }) = record {
            let list = Conflist::from_value(&conflist).map_err(|reason| {
                NetworkError::InvalidConfig { path: self.config.state_dir.clone(), reason }
            })?;
            let netns =
                Some(netns.unwrap_or(&pod.netns)).filter(|path| sys::netns::is_pinned(path));
            self.chain(&list).del(&pod, netns, result.as_ref()).await?;
        }
        self.forget(id).await
    }

    fn chain<'a>(&'a self, list: &'a Conflist) -> Chain<'a> {
        Chain { list, bin_dirs: &self.config.bin_dirs, limit: self.config.timeout }
    }

    async fn write(self: &Arc<Self>, id: &str, record: Record) -> Result<(), NetworkError> {
        let (network, id) = (Arc::clone(self), id.to_owned());
        let write = move || network.records.put(&id, &record);
        blocking(self.config.timeout, "record attachment of pod", write).await
    }

    async fn forget(self: &Arc<Self>, id: &str) -> Result<(), NetworkError> {
        let (network, id) = (Arc::clone(self), id.to_owned());
        let forget = move || network.records.remove(&id);
        blocking(self.config.timeout, "forget attachment of pod", forget).await
    }
}

/// Waits for a task that goes on without us; a panic in it is ours.
async fn to_end<T>(task: JoinHandle<Result<T, NetworkError>>) -> Result<T, NetworkError> {
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(stopping()),
        },
    }
}

/// Runs what blocks where it may, and waits for it no longer than `limit`.
async fn blocking<T: Send + 'static>(
    limit: Duration,
    operation: &'static str,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let late = |_| NetworkError::Deadline { operation, object: "in the kernel".to_owned(), limit };
    let task: JoinHandle<_> = tokio::task::spawn_blocking(work);
    timeout(limit, to_end(task)).await.map_err(late)?
}

fn stopping() -> NetworkError {
    NetworkError::Kernel {
        operation: "run",
        object: "a network operation".to_owned(),
        source: std::io::Error::other("the daemon is stopping"),
    }
}

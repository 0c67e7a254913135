//! RuntimeClass handlers: who makes a pod's containers, and with which defaults.
//!
//! A sandbox keeps its handler's name, nothing else: a handler that was taken out of the configuration makes no new
//! containers, and what it has made before is listed, stopped and removed by the containers' own shims, who know by
//! whom they were made.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use shim::ForeignRuntime;

use crate::error::Error;
use crate::features::Features;

/// The name of the built-in runtime, which is always there.
pub const BUILT_IN: &str = "wherry";

/// One handler.
#[derive(Debug, Default)]
pub struct Handler {
    /// Who makes the containers; none is the runtime in Wherry's own shim.
    pub runtime: Option<ForeignRuntime>,
    /// What its containers are given that do not say.
    pub defaults: Defaults,
    /// Whether it knows mounts that are read-only with all below them.
    probed: OnceLock<bool>,
}

/// What the containers of a handler are given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// A privileged container gets no devices but those that it names.
    pub privileged_without_host_devices: bool,
    /// Containers may write below their own cgroup.
    pub cgroup_writable: bool,
    /// Which of a pod's annotations its containers' specifications have: names, or beginnings of names with a `*`.
    pub pod_annotations: Vec<String>,
    /// The same of a container's own annotations.
    pub container_annotations: Vec<String>,
}

impl Handler {
    /// A handler of the configuration.
    #[must_use]
    pub fn new(runtime: Option<ForeignRuntime>, defaults: Defaults) -> Self {
        Self { runtime, defaults, probed: OnceLock::new() }
    }

    /// What makes its containers, as containerd's users name it: a shim's type, or a program's path.
    #[must_use]
    pub fn kind(&self) -> String {
        match &self.runtime {
            None => "io.containerd.wherry.v2".to_owned(),
            Some(ForeignRuntime::Command { path, .. }) => path.display().to_string(),
            Some(ForeignRuntime::Shim { runtime, .. }) => runtime.clone(),
        }
    }

    /// What it can do, as far as is known by now, where the kernel can do this.
    #[must_use]
    pub fn features(&self, kernel: Features) -> Features {
        if self.runtime.is_none() {
            return kernel;
        }
        let known = self.probed.get().copied();
        let recursive_read_only = known.unwrap_or(false) && kernel.recursive_read_only;
        // Roots and volumes would have to be mapped by whoever mounts them, and that is not Wherry.
        Features { recursive_read_only, user_namespaces: false }
    }

    async fn probe(&self) {
        let Some(runtime) = &self.runtime else { return };
        let _first = self.probed.set(runtime.mount_options().await.iter().any(|one| one == "rro"));
    }
}

impl Defaults {
    /// The annotations of a pod and of one of its containers that may be passed on; the container's have the last word.
    #[must_use]
    pub fn passed_on(
        &self,
        pod: &BTreeMap<String, String>,
        container: &BTreeMap<String, String>,
    ) -> HashMap<String, String> {
        let pick = |from: &BTreeMap<String, String>, allowed: &[String]| -> Vec<_> {
            let named = |name: &str| allowed.iter().any(|pattern| matches(pattern, name));
            from.iter()
                .filter(|(name, _)| named(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        };
        let pod = pick(pod, &self.pod_annotations);
        pod.into_iter().chain(pick(container, &self.container_annotations)).collect()
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

/// All handlers of a node.
#[derive(Debug)]
pub struct Handlers {
    default: String,
    by_name: BTreeMap<String, Arc<Handler>>,
}

impl Default for Handlers {
    fn default() -> Self {
        Self::new(BUILT_IN.to_owned(), BTreeMap::new())
    }
}

impl Handlers {
    /// The configured handlers beside the built-in one; `default` is meant by pods that name none.
    #[must_use]
    pub fn new(default: String, configured: BTreeMap<String, Handler>) -> Self {
        let mut by_name: BTreeMap<_, _> =
            configured.into_iter().map(|(name, handler)| (name, Arc::new(handler))).collect();
        let _configured = by_name.entry(BUILT_IN.to_owned()).or_default();
        Self { default, by_name }
    }

    /// The handler of a sandbox, by the name that its pod was run with.
    ///
    /// # Errors
    /// `Invalid`: there is none of this name; `operation` is what it was looked for.
    pub fn find(&self, name: &str, operation: &str) -> Result<&Arc<Handler>, Error> {
        let meant = if name.is_empty() { &self.default } else { name };
        self.by_name.get(meant).ok_or_else(|| Error::Invalid {
            operation: operation.to_owned(),
            reason: format!("no runtime handler {meant:?} is configured"),
        })
    }

    /// Which handler is meant by pods that name none.
    #[must_use]
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// What makes the containers of a handler; of one that is gone, its name.
    #[must_use]
    pub fn kind(&self, name: &str) -> String {
        self.find(name, "").map_or_else(|_| name.to_owned(), |handler| handler.kind())
    }

    /// Every name with what it means, the empty one first.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Arc<Handler>)> {
        let named = self.by_name.iter().map(|(name, handler)| (name.as_str(), handler));
        self.by_name.get(&self.default).map(|handler| ("", handler)).into_iter().chain(named)
    }

    /// Asks the runtimes what they can do. It takes some processes, so nobody waits for it.
    pub async fn probe(&self) {
        for handler in self.by_name.values() {
            handler.probe().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_built_in_handler_is_always_there_and_an_unknown_one_is_refused_by_name() {
        let handlers = Handlers::default();
        for name in ["", BUILT_IN] {
            assert!(handlers.find(name, "run pod").unwrap().runtime.is_none(), "{name:?}");
        }
        let refused = handlers.find("gvisor", "run pod a/b").unwrap_err();
        assert_eq!(refused.to_string(), "run pod a/b: no runtime handler \"gvisor\" is configured");
        let names: Vec<_> = handlers.all().map(|(name, _)| name).collect();
        assert_eq!(names, ["", BUILT_IN]);
    }

    #[test]
    fn the_empty_name_means_the_default_handler() {
        let defaults = Defaults { cgroup_writable: true, ..Defaults::default() };
        let configured = BTreeMap::from([("other".to_owned(), Handler::new(None, defaults))]);
        let handlers = Handlers::new("other".to_owned(), configured);
        assert!(handlers.find("", "x").unwrap().defaults.cgroup_writable);
        assert!(!handlers.find(BUILT_IN, "x").unwrap().defaults.cgroup_writable);
    }

    #[test]
    fn only_annotations_on_the_list_are_passed_on() {
        let defaults = Defaults {
            pod_annotations: vec!["io.kata/*".to_owned(), "one".to_owned()],
            container_annotations: vec!["one".to_owned()],
            ..Defaults::default()
        };
        let pod = texts(&[("io.kata/cpus", "2"), ("one", "pod"), ("two", "x"), ("io.kat", "x")]);
        let passed = defaults.passed_on(&pod, &texts(&[("one", "container"), ("io.kata/x", "y")]));
        let sorted: BTreeMap<_, _> = passed.into_iter().collect();
        assert_eq!(sorted, texts(&[("io.kata/cpus", "2"), ("one", "container")]));
    }
}

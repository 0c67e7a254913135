//! The end-to-end harness: real binaries, real registries, real namespaces, driven as a kubelet would.
//!
//! ```text
//!  suites/*.rs     what is promised, one subject per file, test names are sentences
//!  bin/demo        one pod from pull to removal, for `hack/run --demo`
//!  bin/*bench, lists  what things cost, mostly beside containerd
//!  bin/critest     the conformance suite of CRI runtimes, for `hack/critest`
//!      │
//!  runner          which tests run, what counts as passed, skipped, failed; leftovers after each
//!  world           what a test may ask for: a node, registries, crictl
//!  node            one daemon (Wherry or containerd) on folders of its own; start, kill, restart
//!  cri, spec       the kubelet's calls and the configurations it sends
//!  image, registry images made here, and the registries that serve them (well and badly)
//!  isolate         namespaces of our own around all of it
//!  stream          a client of the streaming server that can misbehave
//!  machine         what not every machine has, and hack/guest does: cgroup v2, systemd, AppArmor
//! ```
//!
//! Nothing a test makes can outlive it: the whole run happens in PID, mount, network, IPC and UTS namespaces of its own
//! (see [`isolate`]), on one folder. Within the run, [`leftovers`] looks after every test for what should be gone.
//!
//! The suites run on containerd too (`E2E_RUNTIME=containerd`): a test that the reference fails is a wrong test.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "the whole package is tests: a panic is how they fail")]

pub mod authority;
pub mod bench;
pub mod cgroups;
pub mod cri;
pub mod crictl;
pub mod critest;
pub mod image;
pub mod isolate;
pub mod kubelet;
pub mod leftovers;
pub mod machine;
pub mod node;
pub mod proc;
pub mod registry;
pub mod runner;
pub mod runtime;
pub mod spec;
pub mod stats;
pub mod stream;
pub mod tools;
pub mod world;

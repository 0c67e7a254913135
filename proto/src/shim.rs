//! The messages of a shim's socket: ttrpc's frames, containerd's Task service, and Wherry's own extras.

/// Mounts, and the envelopes of events (`containerd.types`).
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod types {
    include!(concat!(env!("OUT_DIR"), "/containerd.types.rs"));
}

/// States of tasks and processes (`containerd.v1.types`).
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod v1 {
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod types {
        include!(concat!(env!("OUT_DIR"), "/containerd.v1.types.rs"));
    }
}

/// containerd's Task service (`containerd.task.v2`).
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod task {
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v2 {
        include!(concat!(env!("OUT_DIR"), "/containerd.task.v2.rs"));
    }
}

/// The frames' content (`ttrpc`).
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod ttrpc {
    include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
}

/// What CRI needs beyond the Task service (`wherry.shim.v1`).
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod container {
    include!(concat!(env!("OUT_DIR"), "/wherry.shim.v1.rs"));
}

/// What the kernel counts for a container, for those who speak containerd's API (`io.containerd.cgroups`).
#[allow(missing_docs, deprecated, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod cgroups {
    #[allow(missing_docs, deprecated, clippy::all, clippy::pedantic)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/io.containerd.cgroups.v1.rs"));
    }
    #[allow(missing_docs, deprecated, clippy::all, clippy::pedantic)]
    pub mod v2 {
        include!(concat!(env!("OUT_DIR"), "/io.containerd.cgroups.v2.rs"));
    }
}

/// What containerd is configured with for a shim (`containerd.runc.v1`).
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod runc {
    include!(concat!(env!("OUT_DIR"), "/containerd.runc.v1.rs"));
}

/// How a shim is started (`containerd.runtime.bootstrap.v1`).
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod bootstrap {
    include!(concat!(env!("OUT_DIR"), "/containerd.runtime.bootstrap.v1.rs"));
}

/// What happens to tasks (`containerd.events`).
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod events {
    include!(concat!(env!("OUT_DIR"), "/containerd.events.rs"));
}

/// Where events are sent to (`containerd.services.events.ttrpc.v1`).
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]
pub mod services {
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod events {
        #[allow(missing_docs, clippy::all, clippy::pedantic)]
        pub mod ttrpc {
            #[allow(missing_docs, clippy::all, clippy::pedantic)]
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/containerd.services.events.ttrpc.v1.rs"));
            }
        }
    }
}

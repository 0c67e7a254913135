//! What the kernel counts for a container, in the words of those who ask the shim.

mod events;
mod metrics;

pub use events::to_events;
pub use metrics::to_metrics;

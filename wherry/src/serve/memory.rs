//! The memory of a burst is given back soon after it.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// How often. The kubelet's lists come every second and need the same pages again; those of a pull, a scrape or many
/// streams are not needed for long.
const EVERY: Duration = Duration::from_secs(30);

/// Gives free memory back for as long as the daemon runs.
pub(super) async fn give_back() {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = tokio::task::spawn_blocking(sys::memory::give_back).await {
            tracing::debug!(%error, "give memory back");
        }
    }
}

//! The daemon's own log, on the standard error.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{Format, Log, log_filter};

/// Begins to log.
///
/// # Errors
/// The level does not parse.
pub fn begin(log: &Log) -> Result<(), String> {
    let filter = log_filter(&log.level)?;
    let layer = fmt::layer().with_writer(stderr);
    let registry = tracing_subscriber::registry();
    match log.format {
        Format::Plain => {
            registry.with(layer.with_ansi(stderr().is_terminal()).with_filter(filter)).init()
        }
        Format::Json => registry.with(layer.json().flatten_event(true).with_filter(filter)).init(),
    }
    Ok(())
}

//! The daemon's own log, on the standard error.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{Format, Log};

/// Parses a level such as `info` or `info,image=debug`.
///
/// # Errors
/// Says what does not parse.
pub fn filter(level: &str) -> Result<Targets, String> {
    // A word alone would be taken for the name of a part of the program.
    let words = level.split(',').filter(|part| !part.contains('='));
    for word in words {
        if word.parse::<tracing::level_filters::LevelFilter>().is_err() {
            return Err(format!("{word:?} is not error, warn, info, debug or trace"));
        }
    }
    level.parse().map_err(|error: tracing_subscriber::filter::ParseError| error.to_string())
}

/// Begins to log.
///
/// # Errors
/// The level does not parse.
pub fn begin(log: &Log) -> Result<(), String> {
    let filter = filter(&log.level)?;
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

//! Wherry, the daemon: reads its configuration, wires the parts together, and serves CRI on a unix socket.
#![forbid(unsafe_code)]

mod cli;
mod config;
mod log;
mod scope;
mod serve;

use std::path::Path;
use std::process::ExitCode;

use cli::{Command, Overrides};
use config::Config;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wherry: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, String> {
    match cli::parse(std::env::args_os().skip(1))
        .map_err(|error| format!("{error}; see wherry --help"))?
    {
        Command::Help => print!("{}", cli::HELP),
        Command::Version => println!("wherry {}", env!("CARGO_PKG_VERSION")),
        Command::ConfigDefault => print!("{}", config::DEFAULT),
        Command::ConfigCheck(path) => return check(&path),
        Command::ConfigShow(overrides) => print!("{}", configure(&overrides)?.to_toml()),
        Command::Scope(verb, unit) => scope::run(verb, &unit)?,
        Command::Serve(overrides) => {
            let config = configure(&overrides)?;
            log::begin(&config.log)?;
            serve::serve(&config).map_err(|error| serve::sentence(&error))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The file's settings with the command line's over them.
fn configure(overrides: &Overrides) -> Result<Config, String> {
    let read = match &overrides.config {
        Some(path) => Config::read(path),
        None => Config::read_default(),
    };
    let (mut config, warnings) = read.map_err(|error| serve::sentence(&error))?;
    for warning in warnings {
        eprintln!("wherry: configuration, {warning}");
    }
    let settings = [
        (&mut config.root, &overrides.root),
        (&mut config.state, &overrides.state),
        (&mut config.address, &overrides.address),
    ];
    for (setting, wanted) in settings {
        if let Some(path) = wanted {
            // The daemon's children have working directories of their own.
            *setting = std::path::absolute(path)
                .map_err(|error| format!("find {}: {error}", path.display()))?;
        }
    }
    Ok(config)
}

fn check(path: &Path) -> Result<ExitCode, String> {
    let (_, warnings) = Config::read(path).map_err(|error| serve::sentence(&error))?;
    for warning in &warnings {
        println!("{}, {warning}", path.display());
    }
    println!("{}: usable, {} warnings", path.display(), warnings.len());
    Ok(ExitCode::SUCCESS)
}

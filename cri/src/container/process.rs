//! What a command becomes that is executed in a container: the container's own process with other arguments.

use std::path::Path;

use oci_spec::runtime::Process;
use serde::Deserialize;
use shim::SPEC_FILE;

use super::Container;
use crate::error::Error;
use crate::record;
use crate::runtime::Runtime;

/// What a terminal is if nobody says otherwise.
const TERM: &str = "TERM=xterm";

/// The container's own process with other arguments: same user, rights, environment and working directory.
///
/// # Errors
/// `Refused` when the container's spec is gone or has no process.
pub async fn process(
    runtime: &Runtime,
    container: &Container,
    args: Vec<String>,
    terminal: bool,
) -> Result<Process, Error> {
    let of_container = container.process.get_or_try_init(|| read(runtime, container)).await?;
    let operation = || format!("read the process of {}", container.name());
    let parsed = serde_json::from_slice(of_container);
    let mut process: Process =
        parsed.map_err(|source| Error::Io { operation: operation(), source: source.into() })?;
    process.set_args(Some(args)).set_terminal(Some(terminal));
    if terminal {
        add_term(&mut process);
    }
    Ok(process)
}

/// Of a spec what is needed here: the rest is much more, and is passed over.
#[derive(Deserialize)]
struct OnlyProcess {
    process: Option<Process>,
}

/// Reads the process from the container's spec. It is kept from the first exec on, without what is of no use then.
async fn read(runtime: &Runtime, container: &Container) -> Result<Box<[u8]>, Error> {
    let operation = format!("read the spec of {}", container.name());
    let path = runtime.bundle_dir(container.id()).join(SPEC_FILE);
    let user = container.record.user.clone();
    let refused =
        Error::Refused { operation: operation.clone(), reason: "it has no process".into() };
    record::blocking(&operation.clone(), move || {
        let spec: Option<OnlyProcess> = record::read(Path::new(&path))?;
        let mut process = spec.and_then(|spec| spec.process).ok_or(refused)?;
        process.set_args(None);
        process.user_mut().set_uid(user.uid).set_gid(user.gid);
        process.user_mut().set_additional_gids(Some(user.groups));
        let bytes = serde_json::to_vec(&process)
            .map_err(|source| Error::Io { operation, source: source.into() })?;
        Ok(bytes.into_boxed_slice())
    })
    .await
}

fn add_term(process: &mut Process) {
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push(TERM.to_owned());
    }
    process.set_env(Some(env));
}

//! `wherry scope`: systemd's part in a container's cgroup, for the runtime, which does not speak D-Bus.
//!
//! ```text
//! runtime                                    wherry scope start UNIT
//!   │ executes it, a line of JSON ────────────►│ StartTransientUnit with itself as the first process, JobRemoved
//!   │◄──────────────────────────── "started\n" │ stays, so that the scope is not empty
//!   │ makes the container's process in there   │
//!   │ a byte, or the end of file ─────────────►│ ends
//! ```
//!
//! `wherry scope set UNIT` gives a unit other properties, `wherry scope stop UNIT` ends it. Errors are one sentence on
//! standard error and the exit code 1.

use std::io::{Read, Write, stdin, stdout};
use std::time::Duration;

use serde_json::Value as Json;
use zbus::{Connection, Proxy};
use zbus::{OwnedObjectPath, Variant};

/// How long systemd may take for a job.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the runtime says at most.
const LINE_BYTES: u64 = 1 << 20;

/// What is to be done with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Starts a scope with this process in it.
    Start,
    /// Changes properties.
    Set,
    /// Stops it and forgets its failure.
    Stop,
}

/// Does it.
///
/// # Errors
/// One sentence.
pub fn run(verb: Verb, unit: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("start: {error}"))?;
    let work = async {
        let manager = manager().await.map_err(sentence("reach systemd", unit))?;
        match verb {
            Verb::Start => start(&manager, unit, &read_properties()?).await,
            Verb::Set => set(&manager, unit, &read_properties()?).await,
            Verb::Stop => stop(&manager, unit).await,
        }
    };
    runtime.block_on(async {
        let late = |_| format!("scope {unit}: systemd does not answer in time");
        tokio::time::timeout(PATIENCE, work).await.map_err(late)?
    })?;
    if verb == Verb::Start {
        let told = stdout().write_all(b"started\n").and_then(|()| stdout().flush());
        told.map_err(|error| format!("answer: {error}"))?;
        // Whatever comes, or nothing more: the scope has its container now, or it will not get one.
        let _read = stdin().read(&mut [0]);
    }
    Ok(())
}

/// systemd, over the system bus.
async fn manager() -> zbus::Result<Proxy<'static>> {
    let connection = Connection::system().await?;
    Proxy::new(
        &connection,
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    )
    .await
}

async fn start(manager: &Proxy<'_>, unit: &str, properties: &[Property]) -> Result<(), String> {
    use futures_util::StreamExt;
    let fail = sentence("start scope", unit);
    let mut own = values(properties)?;
    own.push(("PIDs", Variant::from(vec![std::process::id()])));
    let mut removed = manager.receive_signal("JobRemoved").await.map_err(&fail)?;
    let _subscribed: () = manager.call("Subscribe", &()).await.map_err(&fail)?;
    let auxiliary: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
    let job: OwnedObjectPath = manager
        .call("StartTransientUnit", &(unit, "replace", own, auxiliary))
        .await
        .map_err(&fail)?;
    while let Some(signal) = removed.next().await {
        let body = signal.body();
        let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
            body.deserialize().map_err(&fail)?;
        if path == job {
            return match result.as_str() {
                "done" => Ok(()),
                result => Err(format!("start scope {unit}: systemd says {result:?}")),
            };
        }
    }
    Err(format!("start scope {unit}: systemd has gone away"))
}

async fn set(manager: &Proxy<'_>, unit: &str, properties: &[Property]) -> Result<(), String> {
    // Until the next boot: the unit does not live longer.
    let request = (unit, true, values(properties)?);
    manager.call("SetUnitProperties", &request).await.map_err(sentence("change scope", unit))
}

async fn stop(manager: &Proxy<'_>, unit: &str) -> Result<(), String> {
    let stopped: zbus::Result<OwnedObjectPath> = manager.call("StopUnit", &(unit, "replace")).await;
    // Only a unit that has failed is still there.
    let _forgotten: zbus::Result<()> = manager.call("ResetFailedUnit", &(unit,)).await;
    match stopped {
        Err(zbus::Error::MethodError(name, ..))
            if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit" =>
        {
            Ok(())
        }
        other => other.map(drop).map_err(sentence("stop scope", unit)),
    }
}

/// A property's name and value.
type Property = (String, Json);

/// A line of pairs: `[["Slice", "system.slice"], ["CPUWeight", 100], …]`.
fn read_properties() -> Result<Vec<Property>, String> {
    let mut line = Vec::new();
    let mut byte = [0];
    let mut input = stdin().lock().take(LINE_BYTES);
    // Byte by byte: what comes after the line is for later.
    while input.read(&mut byte).map_err(|error| format!("read properties: {error}"))? == 1
        && byte != *b"\n"
    {
        line.push(byte[0]);
    }
    serde_json::from_slice(&line).map_err(|error| format!("read properties: {error}"))
}

/// D-Bus has more types than JSON; of those that systemd wants of a scope, the value's form tells which one it is.
fn values(properties: &[Property]) -> Result<Vec<(&str, Variant<'_>)>, String> {
    let all = properties.iter().map(|(name, json)| {
        let value = match json {
            Json::String(text) => Some(Variant::from(text.as_str())),
            Json::Bool(flag) => Some(Variant::from(*flag)),
            Json::Number(number) => number.as_u64().map(Variant::from),
            Json::Array(items) => array(items),
            _ => None,
        };
        value.map(|value| (name.as_str(), value)).ok_or_else(|| format!("property {name}: {json}"))
    });
    all.collect()
}

/// Numbers are bytes (a mask of CPUs), pairs of texts are device rules.
fn array(items: &[Json]) -> Option<Variant<'static>> {
    let bytes: Option<Vec<u8>> =
        items.iter().map(|item| u8::try_from(item.as_u64()?).ok()).collect();
    if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
        return Some(Variant::from(bytes));
    }
    let pair = |item: &Json| match item.as_array()?.as_slice() {
        [Json::String(one), Json::String(two)] => Some((one.clone(), two.clone())),
        _ => None,
    };
    items.iter().map(pair).collect::<Option<Vec<_>>>().map(Variant::from)
}

fn sentence<E: std::fmt::Display>(operation: &str, unit: &str) -> impl Fn(E) -> String {
    move |error| format!("{operation} {unit}: {error}")
}

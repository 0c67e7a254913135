//! A container's cgroup as a scope of systemd.
//!
//! systemd makes the folder and then leaves it alone (`Delegate`); the limits are written as everywhere, and it is told
//! of those that it knows, because it writes them again when it is reloaded. D-Bus is spoken by another program, the
//! daemon's own binary as `wherry scope`, which is the scope's first process until the container's is.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::slice::ScopeName;
use crate::{Failure, FailureKind};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::device::Rule;
use super::hierarchy::Version;
use super::setting::Setting;

/// The program that speaks D-Bus, and where it is looked for: beside this one, in the search path, and here.
const PROGRAM: &str = "wherry";
const USUAL: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/sbin"];
/// Names the program in the environment, for a runtime that is not executed by its path.
const VARIABLE: &str = "WHERRY_SCOPE";

/// A started scope; without it the scope has only the container's processes in it.
#[derive(Debug)]
pub struct Scope {
    unit: String,
    holder: Option<Child>,
}

impl Scope {
    /// Starts a scope with these properties and returns when its folder is there.
    ///
    /// # Errors
    /// `Unsupported` when systemd does not run here or the program is not found; `InvalidArgument` when systemd refuses.
    pub fn start(name: &ScopeName, mut properties: Vec<(&str, Value)>) -> Result<Self, Failure> {
        let description = format!("container {}", name.unit.trim_end_matches(".scope"));
        properties.extend([
            ("Slice", json!(name.slice)),
            ("Description", json!(description)),
            ("Delegate", json!(true)),
            ("DefaultDependencies", json!(false)),
            // Nobody asks how it ended; its shim knows.
            ("CollectMode", json!("inactive-or-failed")),
        ]);
        for accounting in ["CPU", "Memory", "IO", "Tasks"] {
            let property: &'static str = match accounting {
                "CPU" => "CPUAccounting",
                "Memory" => "MemoryAccounting",
                "IO" => "IOAccounting",
                _ => "TasksAccounting",
            };
            properties.push((property, json!(true)));
        }
        let mut holder = execute("start", &name.unit)?;
        say(&mut holder, &properties);
        let mut line = String::new();
        if let Some(output) = holder.stdout.take() {
            drop(BufReader::new(output).read_line(&mut line));
        }
        if line == "started\n" {
            return Ok(Self { unit: name.unit.clone(), holder: Some(holder) });
        }
        Err(refusal("start", &name.unit, holder))
    }

    /// Lets the scope have the container's processes only.
    pub fn release(&mut self) {
        let Some(mut holder) = self.holder.take() else { return };
        // The container's process may still have its end of the pipe: so a byte, not the end.
        if let Some(input) = &mut holder.stdin {
            drop(input.write_all(b"\n"));
        }
        drop(holder.wait());
    }

    /// Ends the scope.
    pub fn remove(mut self) {
        self.release();
        stop(&self.unit);
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.release();
    }
}

/// Tells systemd other values.
///
/// # Errors
/// As [`Scope::start`].
pub fn set(unit: &str, properties: &[(&str, Value)]) -> Result<(), Failure> {
    if properties.is_empty() {
        return Ok(());
    }
    let mut child = execute("set", unit)?;
    say(&mut child, properties);
    drop(child.stdin.take());
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(refusal("set", unit, child)),
    }
}

/// Ends a scope; one that is gone already is no error.
pub fn stop(unit: &str) {
    let stopped = execute("stop", unit).map(|mut child| {
        drop(child.stdin.take());
        child.wait()
    });
    if let Err(failure) = stopped {
        super::super::warn(format_args!("{failure}"));
    }
}

/// Whether systemd runs this host (sd_booted(3)).
pub fn is_there() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn say(child: &mut Child, properties: &[(&str, Value)]) {
    if let (Some(input), Ok(mut line)) = (&mut child.stdin, serde_json::to_vec(properties)) {
        line.push(b'\n');
        // Who does not read it says why.
        drop(input.write_all(&line));
    }
}

fn refusal(verb: &'static str, unit: &str, mut child: Child) -> Failure {
    let mut text = String::new();
    if let Some(error) = child.stderr.take() {
        drop(error.take(4096).read_to_string(&mut text));
    }
    drop(child.kill());
    drop(child.wait());
    let cause = text.trim().trim_start_matches("wherry: ").to_owned();
    let cause =
        if cause.is_empty() { "the program ended without a word".to_owned() } else { cause };
    Failure::new(FailureKind::InvalidArgument, verb, format!("scope {unit}"), cause)
}

fn execute(verb: &'static str, unit: &str) -> Result<Child, Failure> {
    let unsupported = |cause: &'static str| {
        Failure::new(FailureKind::Unsupported, verb, format!("scope {unit}"), cause)
    };
    if !is_there() {
        return Err(unsupported("systemd does not run this host"));
    }
    let program = program().ok_or_else(|| unsupported("the program wherry is not found"))?;
    let mut command = Command::new(&program);
    command.args(["scope", verb, unit]).env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|e| Failure::os("execute", program.display().to_string(), e))
}

fn program() -> Option<PathBuf> {
    let named = env::var_os(VARIABLE).map(PathBuf::from);
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|folder| folder.join(PROGRAM));
    let search = env::var_os("PATH").unwrap_or_default();
    let search: Vec<PathBuf> = env::split_paths(&search).map(|dir| dir.join(PROGRAM)).collect();
    let usual = USUAL.map(|dir| Path::new(dir).join(PROGRAM));
    let all = named.into_iter().chain(beside).chain(search).chain(usual);
    all.into_iter().find(|path| path.is_absolute() && path.is_file())
}

/// What systemd has to know of the limits, of which it writes those it knows again when it is reloaded.
pub fn properties(
    settings: &[Setting],
    rules: Option<&[Rule]>,
    version: Version,
) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    for setting in settings {
        let Some((file, value)) = setting.choices.last() else { continue };
        let number = || match value.as_str() {
            "max" | "-1" => json!(u64::MAX),
            text => text.parse::<u64>().map_or(Value::Null, Value::from),
        };
        let property = match file.as_str() {
            "cpu.weight" => ("CPUWeight", number()),
            "cpu.shares" => ("CPUShares", number()),
            "cpu.idle" if value == "1" => ("CPUWeight", json!(0)),
            "cpuset.cpus" => ("AllowedCPUs", mask(value)),
            "cpuset.mems" => ("AllowedMemoryNodes", mask(value)),
            "memory.max" => ("MemoryMax", number()),
            "memory.limit_in_bytes" => ("MemoryLimit", number()),
            "memory.low" => ("MemoryLow", number()),
            "memory.high" => ("MemoryHigh", number()),
            "memory.min" => ("MemoryMin", number()),
            "memory.swap.max" => ("MemorySwapMax", number()),
            "pids.max" => ("TasksMax", number()),
            "io.weight" if !value.contains(':') => ("IOWeight", number()),
            "blkio.weight" => ("BlockIOWeight", number()),
            _ => continue,
        };
        // CPU sets are properties of the unified hierarchy only.
        let unknown = version == Version::V1 && file.starts_with("cpuset");
        if !property.1.is_null() && !unknown {
            all.push(property);
        }
    }
    // A filter of systemd's own would have to agree with ours; version 1 has one file for both.
    if let Some(rules) = rules.filter(|_| version == Version::V1) {
        all.extend(super::device::properties(rules));
    }
    all
}

/// The bandwidth as systemd says it: microseconds per second, rounded up to what it keeps, and the period.
pub fn bandwidth(resources: &LinuxResources) -> Vec<(&'static str, Value)> {
    let Some(cpu) = resources.cpu() else { return Vec::new() };
    let period = cpu.period().filter(|period| *period != 0);
    let mut all = Vec::new();
    match cpu.quota().filter(|quota| *quota != 0) {
        Some(quota) if quota > 0 => {
            let per_second = u128::from(quota.unsigned_abs()) * 1_000_000
                / u128::from(period.unwrap_or(100_000));
            let rounded = per_second.div_ceil(10_000) * 10_000;
            all.push(("CPUQuotaPerSecUSec", json!(u64::try_from(rounded).unwrap_or(u64::MAX))));
        }
        Some(_) => all.push(("CPUQuotaPerSecUSec", json!(u64::MAX))),
        None => {}
    }
    all.extend(period.map(|period| ("CPUQuotaPeriodUSec", json!(period))));
    all
}

/// A list as "0-2,5" as a mask, lowest byte first; nothing for what is no list.
fn mask(list: &str) -> Value {
    let mut bytes: Vec<u8> = Vec::new();
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            return Value::Null;
        };
        for number in first..=last {
            let at = usize::from(number / 8);
            bytes.resize(bytes.len().max(at + 1), 0);
            bytes[at] |= 1 << (number % 8);
        }
    }
    json!(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_is_a_mask() {
        assert_eq!(mask("0-2,5"), json!([0b10_0111]));
        assert_eq!(mask("8"), json!([0, 1]));
        assert_eq!(mask("a"), Value::Null);
    }

    #[test]
    fn a_quota_is_said_per_second() {
        let resources = |json: &str| serde_json::from_str(json).unwrap();
        let half = resources(r#"{"cpu": {"quota": 50000, "period": 100000}}"#);
        let expected =
            [("CPUQuotaPerSecUSec", json!(500_000)), ("CPUQuotaPeriodUSec", json!(100_000))];
        assert_eq!(bandwidth(&half), expected);
        let none = resources(r#"{"cpu": {"quota": -1}}"#);
        assert_eq!(bandwidth(&none), [("CPUQuotaPerSecUSec", json!(u64::MAX))]);
    }
}

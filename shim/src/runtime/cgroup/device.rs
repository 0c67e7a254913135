//! The devices that a container may use: nothing but what is allowed.
//!
//! Version 1 has files for it. On a unified hierarchy it is an eBPF program ([`program`]) on the container's cgroup,
//! which stays there as long as the cgroup; what is below it cannot allow what it denies.

mod program;

use std::ffi::CStr;
use std::fmt;
use std::fs::{self, File};
use std::path::Path;

use crate::{Failure, FailureKind};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::io::Errno;
use serde_json::{Value, json};
use sys::bpf;

use super::write_file;

/// How our programs are known among those of others (systemd's, for one).
const PROGRAM: &CStr = c"wherry_devices";

/// What may be done with a device (`BPF_DEVCG_ACC_*`).
const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ANY: u8 = MAKE | READ | WRITE;

/// One rule. The last one that speaks of a device and of what is to be done with it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    allow: bool,
    devices: Devices,
    access: u8,
}

/// Which devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Devices {
    /// All, and whatever is to be done with them.
    All,
    /// Of a kind, and with these numbers; none is any.
    Of(Kind, Option<u32>, Option<u32>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    Character,
}

/// What every container may do: make any node (which is of no use without a rule), use the default devices and its
/// own terminals.
const ALWAYS: [Rule; 11] = [
    allow(Kind::Character, None, None, MAKE),
    allow(Kind::Block, None, None, MAKE),
    allow(Kind::Character, Some(1), Some(3), ANY),
    allow(Kind::Character, Some(1), Some(5), ANY),
    allow(Kind::Character, Some(1), Some(7), ANY),
    allow(Kind::Character, Some(1), Some(8), ANY),
    allow(Kind::Character, Some(1), Some(9), ANY),
    allow(Kind::Character, Some(5), Some(0), ANY),
    allow(Kind::Character, Some(5), Some(1), ANY),
    allow(Kind::Character, Some(5), Some(2), ANY),
    allow(Kind::Character, Some(136), None, ANY),
];

const fn allow(kind: Kind, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
    Rule { allow: true, devices: Devices::Of(kind, major, minor), access }
}

/// All rules of a container, in their order: those of its spec, and what every container may do.
///
/// # Errors
/// `InvalidArgument` naming the rule that is none.
pub fn rules(spec: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, Failure> {
    let own = spec.iter().map(Rule::new).collect::<Result<Vec<_>, _>>()?;
    // What was said of the devices before a rule for all of them does not count any more.
    let last = own.iter().rposition(|rule| rule.devices == Devices::All);
    let mut rules = own[last.unwrap_or(0)..].to_vec();
    if !allows_everything(&rules) {
        rules.extend(ALWAYS);
    }
    Ok(rules)
}

/// Whether there is nothing to deny.
pub fn allows_everything(rules: &[Rule]) -> bool {
    rules.first().is_some_and(|rule| rule.devices == Devices::All && rule.allow)
        && rules.iter().all(|rule| rule.allow)
}

/// Version 1: denies everything and then writes the rules in their order.
///
/// # Errors
/// `InvalidArgument` naming the rule that the kernel does not take, or would take and not keep.
pub fn write(rules: &[Rule], path: &Path) -> Result<(), Failure> {
    if let Some(hole) = hole(rules) {
        let cause = "version 1 cannot deny a part of what is allowed as a whole";
        let kind = FailureKind::InvalidArgument;
        return Err(Failure::new(kind, "set device rule", hole.to_string(), cause));
    }
    put(path, false, &"a")?;
    rules.iter().try_for_each(|rule| put(path, rule.allow, rule))
}

/// Version 1, while the container runs: takes away what is no longer allowed and gives what is new, so that nothing
/// that stays allowed is denied in between.
///
/// # Errors
/// As [`write`]; what was changed by then stays so.
pub fn rewrite(rules: &[Rule], path: &Path) -> Result<(), Failure> {
    let list = path.join("devices.list");
    let list = fs::read_to_string(&list)
        .map_err(|e| Failure::os("read", list.display().to_string(), e))?;
    let simple = rules.iter().all(|rule| rule.allow || rule.devices == Devices::All);
    let everything = list.lines().any(|line| line.starts_with('a'));
    if everything || !simple || allows_everything(rules) {
        return write(rules, path);
    }
    let wanted: Vec<String> = rules.iter().filter(|rule| rule.allow).map(Rule::to_string).collect();
    wanted.iter().try_for_each(|rule| put(path, true, rule))?;
    let surplus = list.lines().filter(|line| !wanted.iter().any(|rule| rule == line));
    surplus.into_iter().try_for_each(|rule| put(path, false, &rule))?;
    // A rule that is taken away takes what it shares with another: that is given again.
    wanted.iter().try_for_each(|rule| put(path, true, rule))
}

/// A rule that denies what an earlier, wider or narrower one allowed: version 1 only takes back what was given alike.
fn hole(rules: &[Rule]) -> Option<&Rule> {
    let open = rules.first().is_some_and(|rule| rule.devices == Devices::All && rule.allow);
    let taken_back = |(at, rule): &(usize, &Rule)| {
        let earlier = rules[..*at].iter().filter(|earlier| earlier.allow);
        let crosses = |earlier: &Rule| earlier.devices.overlap(rule.devices);
        !rule.allow && earlier.clone().any(|e| e.devices != rule.devices && crosses(e))
    };
    rules.iter().enumerate().find(taken_back).map(|(_, rule)| rule).filter(|_| !open)
}

impl Devices {
    fn overlap(self, other: Self) -> bool {
        let (Self::Of(kind, major, minor), Self::Of(its, majors, minors)) = (self, other) else {
            return true;
        };
        let meet =
            |one: Option<u32>, two: Option<u32>| one.is_none() || two.is_none() || one == two;
        kind == its && meet(major, majors) && meet(minor, minors)
    }
}

fn put(path: &Path, allow: bool, rule: &impl fmt::Display) -> Result<(), Failure> {
    let rule = rule.to_string();
    let file = path.join(if allow { "devices.allow" } else { "devices.deny" });
    write_file(&file, &rule).map_err(|error| {
        Failure::os_kind(FailureKind::InvalidArgument, "set device rule", rule, error)
    })
}

/// As systemd's properties, which know only what is allowed.
pub fn properties(rules: &[Rule]) -> [(&'static str, Value); 2] {
    let policy = if allows_everything(rules) { "auto" } else { "strict" };
    let allowed = rules.iter().filter(|rule| rule.allow).filter_map(|rule| {
        let Devices::Of(kind, major, minor) = rule.devices else { return None };
        let kind = if kind == Kind::Block { "block" } else { "char" };
        let name = match (major, minor) {
            (None, _) => format!("{kind}-*"),
            (Some(major), None) => format!("{kind}-{major}"),
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
        };
        let text = rule.to_string();
        Some(json!([name, text.rsplit(' ').next()]))
    });
    [("DevicePolicy", json!(policy)), ("DeviceAllow", allowed.collect())]
}

/// Version 2: attaches the rules to a folder as a program, in the place of the one that [`attach`] attached before.
///
/// # Errors
/// `Unsupported` when this process may not load such programs or the kernel has none.
pub fn attach(rules: &[Rule], path: &Path) -> Result<(), Failure> {
    let name = || path.display().to_string();
    let folder = File::open(path).map_err(|e| Failure::os("open cgroup", name(), e))?;
    let fail = |error: std::io::Error| {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        let kind = match errno {
            Some(Errno::PERM | Errno::NOSYS | Errno::INVAL) => FailureKind::Unsupported,
            _ => FailureKind::Internal,
        };
        Failure::os_kind(kind, "filter devices of cgroup", name(), error)
    };
    let old = bpf::attached_device_programs(&folder, PROGRAM).map_err(fail)?;
    if allows_everything(rules) {
        return old
            .iter()
            .try_for_each(|old| bpf::detach_device_program(&folder, old).map_err(fail));
    }
    let new = bpf::load_device_program(PROGRAM, &program::compile(rules)).map_err(fail)?;
    bpf::attach_device_program(&folder, &new, old.first()).map_err(fail)
}

impl Rule {
    fn new(spec: &LinuxDeviceCgroup) -> Result<Self, Failure> {
        let invalid = |cause: &'static str| {
            let kind = FailureKind::InvalidArgument;
            Failure::new(kind, "read device rule", spec.to_string(), cause)
        };
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => {
                u32::try_from(number).map(Some).map_err(|_| invalid("no such device number"))
            }
        };
        let words = spec.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
        let mut access = 0;
        for letter in words.chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MAKE,
                _ => return Err(invalid("access is made of r, w and m")),
            };
        }
        let kind = match spec.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => {
                return Ok(Self { allow: spec.allow(), devices: Devices::All, access: ANY });
            }
            LinuxDeviceType::B => Kind::Block,
            LinuxDeviceType::C | LinuxDeviceType::U => Kind::Character,
            LinuxDeviceType::P => return Err(invalid("a FIFO is no device")),
        };
        let devices = Devices::Of(kind, number(spec.major())?, number(spec.minor())?);
        Ok(Self { allow: spec.allow(), devices, access })
    }
}

/// As version 1 wants it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Devices::Of(kind, major, minor) = self.devices else { return f.write_str("a") };
        let number = |f: &mut fmt::Formatter<'_>, number: Option<u32>| match number {
            Some(number) => write!(f, "{number}"),
            None => f.write_str("*"),
        };
        f.write_str(if kind == Kind::Block { "b " } else { "c " })?;
        number(f, major)?;
        f.write_str(":")?;
        number(f, minor)?;
        f.write_str(" ")?;
        let letters = [(READ, "r"), (WRITE, "w"), (MAKE, "m")];
        letters
            .iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .try_for_each(|(_, l)| f.write_str(l))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> Result<Rule, Failure> {
        Rule::new(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_rule_is_written_in_the_kernels_words() {
        let text = |json: &str| rule(json).unwrap().to_string();
        assert_eq!(text(r#"{"allow": false, "access": "rwm"}"#), "a");
        let tty = r#"{"allow": true, "type": "c", "major": 136, "access": "wr"}"#;
        assert_eq!(text(tty), "c 136:* rw");
        let disk = r#"{"allow": true, "type": "b", "major": 8, "minor": 0}"#;
        assert_eq!(text(disk), "b 8:0 rwm");
        let any = r#"{"allow": true, "type": "b", "major": -1, "minor": -1}"#;
        assert_eq!(text(any), "b *:* rwm");
    }

    #[test]
    fn a_hole_in_what_is_allowed_is_seen() {
        let all = |json: &str| rules(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
        let wide = r#"{"allow": true, "type": "c", "major": 10}"#;
        let narrow = r#"{"allow": false, "type": "c", "major": 10, "minor": 200}"#;
        let same = r#"{"allow": false, "type": "c", "major": 10, "access": "w"}"#;
        let open = r#"{"allow": true, "type": "a"}"#;
        assert!(hole(&all(&format!("[{wide}, {narrow}]"))).is_some());
        assert!(hole(&all(&format!("[{narrow}, {wide}]"))).is_none());
        assert!(hole(&all(&format!("[{wide}, {same}]"))).is_none());
        assert!(hole(&all(&format!("[{open}, {narrow}]"))).is_none());
    }

    #[test]
    fn what_is_no_rule_is_refused_and_never_means_all_devices() {
        for json in [
            r#"{"allow": true, "type": "p"}"#,
            r#"{"allow": true, "type": "c", "major": -2}"#,
            r#"{"allow": true, "type": "c", "major": 4294967296}"#,
            r#"{"allow": true, "type": "c", "access": "rx"}"#,
        ] {
            assert_eq!(rule(json).unwrap_err().kind, FailureKind::InvalidArgument, "{json}");
        }
    }

    #[test]
    fn the_default_devices_are_added_unless_everything_is_allowed() {
        let all = |json: &str| rules(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
        let deny = r#"{"allow": false, "access": "rwm"}"#;
        assert_eq!(all(&format!("[{deny}]")).len(), 1 + ALWAYS.len());
        assert_eq!(all("[]").len(), ALWAYS.len());
        let open = all(&format!(r#"[{deny}, {{"allow": true, "type": "a", "access": "rwm"}}]"#));
        assert!(open.len() == 1 && allows_everything(&open));
        assert!(!allows_everything(&all("[]")));
    }
}

//! The devices that a container may use, version 1: nothing but what is allowed.

use std::path::Path;

use crate::{Failure, FailureKind};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::write_file;

/// What every container may do: make any node (which is of no use without a rule), use the default devices and its
/// own terminals.
const ALWAYS: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Writes the rules in their order, after denying everything.
///
/// # Errors
/// `InvalidArgument` naming the rule.
pub fn write(rules: &[LinuxDeviceCgroup], path: &Path) -> Result<(), Failure> {
    let put = |allow: bool, rule: &str| {
        let file = path.join(if allow { "devices.allow" } else { "devices.deny" });
        write_file(&file, rule).map_err(|error| {
            Failure::os_kind(FailureKind::InvalidArgument, "set device rule", rule, error)
        })
    };
    put(false, "a")?;
    // Once everything is allowed, a further rule would make the kernel's list anything but.
    let mut everything = false;
    for rule in rules {
        let text = text(rule);
        everything = if text == "a" { rule.allow() } else { everything && rule.allow() };
        if text != "a" && everything {
            continue;
        }
        put(rule.allow(), &text)?;
    }
    if everything {
        return Ok(());
    }
    ALWAYS.iter().try_for_each(|rule| put(true, rule))
}

fn text(rule: &LinuxDeviceCgroup) -> String {
    let number = |number: Option<i64>| match number {
        Some(number) if number >= 0 => number.to_string(),
        _ => "*".to_owned(),
    };
    let access = rule.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::B => 'b',
        LinuxDeviceType::C | LinuxDeviceType::U => 'c',
        LinuxDeviceType::P | LinuxDeviceType::A => return "a".to_owned(),
    };
    format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_written_in_the_kernels_words() {
        let rule = |json: &str| text(&serde_json::from_str(json).unwrap());
        assert_eq!(rule(r#"{"allow": false, "access": "rwm"}"#), "a");
        let tty = r#"{"allow": true, "type": "c", "major": 136, "access": "rw"}"#;
        assert_eq!(rule(tty), "c 136:* rw");
        let disk = r#"{"allow": true, "type": "b", "major": 8, "minor": 0}"#;
        assert_eq!(rule(disk), "b 8:0 rwm");
    }
}

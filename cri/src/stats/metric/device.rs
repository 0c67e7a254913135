//! What block devices are called.

use std::collections::HashMap;
use std::fs;
use std::sync::{Mutex, PoisonError};

/// More are not remembered: devices come and go.
const MOST: usize = 256;

static NAMES: Mutex<Option<HashMap<(u64, u64), String>>> = Mutex::new(None);

/// The path of a device (`/dev/sda`), or its numbers where it has none. Blocks the first time.
pub fn name(major: u64, minor: u64) -> String {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    if let Some(name) = names.get(&(major, minor)) {
        return name.clone();
    }
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"));
    let found = text.ok().and_then(|text| device_name(&text).map(|name| format!("/dev/{name}")));
    let name = found.unwrap_or_else(|| format!("{major}:{minor}"));
    if names.len() >= MOST {
        names.clear();
    }
    names.insert((major, minor), name.clone());
    name
}

/// `DEVNAME=sda` in the device's uevent file.
fn device_name(uevent: &str) -> Option<&str> {
    uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_called_as_its_node_or_by_its_numbers() {
        assert_eq!(device_name("MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk\n"), Some("sda"));
        assert_eq!(name(4095, 77), "4095:77");
    }
}

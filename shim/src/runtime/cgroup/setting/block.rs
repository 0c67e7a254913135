//! Block devices: weights and throttles.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::super::hierarchy::Version;
use super::{Table, Undo};

/// Version 1 calls the controller `blkio`, version 2 `io`. Where the BFQ scheduler is compiled in, it has the weights.
pub fn add(block: &LinuxBlockIo, table: &mut Table) {
    let controller = table.pick(["blkio", "io"]);
    let pair = |file: &str, value: String| (file.to_owned(), value);
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        let files = [["blkio.bfq.weight", "blkio.weight"], ["io.bfq.weight", "io.weight"]];
        add_weight(table, controller, files, "", weight);
    }
    if let Some(weight) = block.leaf_weight().filter(|weight| *weight != 0)
        && table.version == Version::V1
    {
        table.add(controller, ["blkio.leaf_weight", ""], weight.to_string());
    }
    for device in block.weight_device().iter().flatten() {
        let key = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let files = [
                ["blkio.bfq.weight_device", "blkio.weight_device"],
                ["io.bfq.weight", "io.weight"],
            ];
            add_weight(table, controller, files, &key, weight);
        }
        if let Some(weight) = device.leaf_weight().filter(|weight| *weight != 0)
            && table.version == Version::V1
        {
            let choices = vec![pair("blkio.leaf_weight_device", format!("{key} {weight}"))];
            let setting = table.add_first(controller, [choices, Vec::new()]);
            setting.undo = Undo::Line { absent: format!("{key} 0"), key };
        }
    }
    let throttles = [
        (block.throttle_read_bps_device(), "read_bps", "rbps"),
        (block.throttle_write_bps_device(), "write_bps", "wbps"),
        (block.throttle_read_iops_device(), "read_iops", "riops"),
        (block.throttle_write_iops_device(), "write_iops", "wiops"),
    ];
    for (devices, one, two) in throttles {
        for device in devices.iter().flatten() {
            add_throttle(table, controller, [one, two], device);
        }
    }
}

fn add_weight(
    table: &mut Table,
    controller: &'static str,
    files: [[&str; 2]; 2],
    key: &str,
    weight: u16,
) {
    let [[bfq, plain], [bfq2, plain2]] = files;
    let value = |weight: u64| format!("{key} {weight}").trim_start().to_owned();
    let own = |file: &str| (file.to_owned(), value(weight.into()));
    let converted = (plain2.to_owned(), value(convert(weight)));
    let setting =
        table.add_first(controller, [vec![own(bfq), own(plain)], vec![own(bfq2), converted]]);
    // A file of version 2 has the default and the devices in lines of their own.
    setting.undo = match (key, setting.controller) {
        ("", "io") => Undo::Field("default"),
        ("", _) => Undo::Whole,
        (key, "io") => Undo::Line { key: key.to_owned(), absent: format!("{key} default") },
        (key, _) => Undo::Line { key: key.to_owned(), absent: format!("{key} 0") },
    };
}

fn add_throttle(
    table: &mut Table,
    controller: &'static str,
    [one, two]: [&str; 2],
    device: &LinuxThrottleDevice,
) {
    let key = format!("{}:{}", device.major(), device.minor());
    // Zero takes the limit away, which version 2 says in a word.
    let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
    let file = format!("blkio.throttle.{one}_device");
    let choices = [
        vec![(file, format!("{key} {}", device.rate()))],
        vec![("io.max".to_owned(), format!("{key} {two}={rate}"))],
    ];
    let absent = table.pick([format!("{key} 0"), unlimited(&key)]);
    table.add_first(controller, choices).undo = Undo::Line { key, absent };
}

/// What `io.max` of version 2 has for a device without limits.
pub fn unlimited(key: &str) -> String {
    format!("{key} rbps=max wbps=max riops=max wiops=max")
}

/// Weights of version 1 and of BFQ (10 to 1000, usually 500) on the scale of version 2 (1 to 10000).
pub fn convert(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

//! `events`: what a container uses, now and then or once, and that the kernel has killed for want of memory.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::oci::args::{Flag, Order, Parsed, switch, value};
use crate::oci::record::{Record, Status};
use crate::oci::{Context, Verb};
use crate::runtime::cgroup::stats::to_events;
use crate::{Failure, FailureKind};

const FLAGS: &[Flag] = &[value(&["interval"]), switch(&["stats"])];

/// Between two sets of figures, when nothing else is asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks whether the container has ended or the kernel has killed.
const LOOK: Duration = Duration::from_millis(250);

pub const VERB: Verb = Verb {
    name: "events",
    usage: "[--stats] [--interval 5s] <container-id>",
    flags: FLAGS,
    order: Order::Any,
    failed: 1,
    run,
};

fn run(context: &Context, args: &Parsed) -> Result<u8, Failure> {
    let interval = args.text("interval")?.map_or(Ok(INTERVAL), duration)?;
    let folder = context.folder(args)?;
    let (record, status) = folder.known()?;
    status.require(&[Status::Created, Status::Running, Status::Paused], "watch", &record)?;
    let Some(init) = &record.init else { return Ok(0) };
    if args.has("stats") {
        println!("{}", stats(&record));
        return Ok(0);
    }
    let mut watch = init.watch();
    let mut kills = watch.oom_kills();
    let mut next = Instant::now() + interval;
    while init.lives() {
        let now = watch.oom_kills();
        if now > kills {
            println!("{}", json!({"type": "oom", "id": record.id}));
            kills = now;
        }
        if Instant::now() >= next {
            println!("{}", stats(&record));
            next += interval;
        }
        sleep(LOOK.min(next.saturating_duration_since(Instant::now())));
    }
    Ok(0)
}

fn stats(record: &Record) -> Value {
    let data = record.init.as_ref().map(|init| to_events(&init.watch().stats()));
    json!({"type": "stats", "id": record.id, "data": data})
}

/// A time as Go writes it: `1h2m3.5s`, `300ms`.
fn duration(text: &str) -> Result<Duration, Failure> {
    let refuse = || {
        let object = format!("--interval {text}");
        Failure::new(FailureKind::InvalidArgument, "read", object, "not a time above zero")
    };
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let number: f64 = rest[..end].parse().map_err(|_| refuse())?;
        let unit = &rest[end..];
        let unit = &unit[..unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len())];
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(refuse()),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| refuse())?;
        rest = &rest[end + unit.len()..];
    }
    if total.is_zero() { Err(refuse()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        assert_eq!(duration("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(duration("1m1.5s").unwrap(), Duration::from_millis(61_500));
        assert_eq!(duration("300ms").unwrap(), Duration::from_millis(300));
        for text in ["", "5", "s", "-1s", "0s", "1x", "1s2"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}

//! What the interfaces of network namespaces have counted.

use std::fs;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use super::{is_namespace, on_own_thread};

/// The counters of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What has come in.
    pub received: Traffic,
    /// What has gone out.
    pub sent: Traffic,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets that were thrown away.
    pub dropped: u64,
}

/// Reads the counters in each of these pinned network namespaces, loopback left out; `None` for what is no namespace.
///
/// One thread of its own goes through all of them. Nothing is kept open: a descriptor of `net/dev`, or a socket, would
/// keep the namespace alive, with the links in it, when its pod is gone.
#[must_use]
pub fn interfaces(namespaces: &[impl AsRef<Path> + Sync]) -> Vec<Option<Vec<Interface>>> {
    if namespaces.is_empty() {
        return Vec::new();
    }
    let visit = || namespaces.iter().map(|path| inside(path.as_ref())).collect();
    on_own_thread("count", visit).unwrap_or_else(|_| namespaces.iter().map(|_| None).collect())
}

fn inside(path: &Path) -> Option<Vec<Interface>> {
    let file = fs::File::open(path).ok()?.into();
    if !is_namespace(&file) {
        return None;
    }
    setns(&file, CloneFlags::CLONE_NEWNET).ok()?;
    parse(&fs::read_to_string("/proc/thread-self/net/dev").ok()?).into()
}

/// `/proc/<pid>/net/dev` (proc_pid_net(5)): two lines of headings, then a line for each interface.
fn parse(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, numbers) = line.rsplit_once(':')?;
        let name = name.trim();
        let mut numbers = numbers.split_whitespace().map(|word| word.parse().unwrap_or(0));
        let mut traffic = |others: usize| {
            let mut next = || numbers.next();
            let (bytes, packets) = (next()?, next()?);
            let (errors, dropped) = (next()?, next()?);
            for _ in 0..others {
                next()?;
            }
            Some(Traffic { bytes, packets, errors, dropped })
        };
        // Received: fifo, frame, compressed, multicast follow.
        let (received, sent) = (traffic(4)?, traffic(0)?);
        (name != "lo").then(|| Interface { name: name.to_owned(), received, sent })
    };
    text.lines().filter_map(interface).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_their_columns_and_loopback_is_left_out() {
        let text = "Inter-|   Receive                                                |  Transmit\n\
             \x20face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
             \x20   lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n\
             \x20 eth0:     866      11    2    3    0     0          0         5      770      10    1    4    0     0       0          0\n\
             eth0.5:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        let (received, sent) = (found[0].received, found[0].sent);
        assert_eq!(found[0].name, "eth0");
        assert_eq!(received, Traffic { bytes: 866, packets: 11, errors: 2, dropped: 3 });
        assert_eq!(sent, Traffic { bytes: 770, packets: 10, errors: 1, dropped: 4 });
        assert_eq!((found[1].name.as_str(), found[1].sent.dropped), ("eth0.5", 12));
    }

    #[test]
    fn what_is_no_namespace_counts_nothing() {
        assert_eq!(interfaces(&["/proc/self/status", "/nowhere"]), [None, None]);
    }
}

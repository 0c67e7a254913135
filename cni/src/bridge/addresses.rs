//! Which pod has which address of the built-in network.
//!
//! A lease is part of the pod's record, so that there is nothing here to contradict it: what is in use is read
//! from the records at start. Only where the search went on last is kept in a file of its own,
//! `addresses/<subnet>`, so that a restart does not hand out again what was given back a moment ago. If that file
//! is lost or wrong, nothing else is.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tracing::warn;

use crate::config::Subnet;
use crate::error::NetworkError;
use crate::record::make_private_folder;

/// The longest IPv4 address as text, and a newline: every write of the file covers the one before.
const LINE: usize = 16;

/// The addresses of one subnet.
#[derive(Debug)]
pub(crate) struct Addresses {
    subnet: Subnet,
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    taken: BTreeSet<Ipv4Addr>,
    last: Ipv4Addr,
}

impl Addresses {
    /// Opens the range, with the addresses that records say are in use.
    pub(crate) fn open(
        state_dir: &Path,
        subnet: Subnet,
        taken: Vec<Ipv4Addr>,
    ) -> Result<Self, NetworkError> {
        let folder = state_dir.join("addresses");
        make_private_folder(&folder)?;
        let path = folder.join(subnet.to_string().replace('/', "_"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let last = text.trim().parse().ok().filter(|address| subnet.offers(*address));
        let last = last.unwrap_or(subnet.last());
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(NetworkError::state("open", &path))?;
        let taken = taken.into_iter().filter(|address| subnet.offers(*address)).collect();
        Ok(Self { subnet, file, state: Mutex::new(State { taken, last }) })
    }

    /// Takes the next free address after the one given out last, around the range.
    ///
    /// Going around gives an address the longest rest that the range allows before somebody else has it: its last
    /// owner's namespace may live a little longer than its lease.
    pub(crate) fn take(&self, id: &str) -> Result<Ipv4Addr, NetworkError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let address = self.next_free(&state).ok_or_else(|| NetworkError::AddressesExhausted {
            subnet: self.subnet.to_string(),
            id: id.to_owned(),
        })?;
        state.taken.insert(address);
        state.last = address;
        let line = format!("{address:<width$}\n", width = LINE - 1);
        if let Err(error) = self.file.write_all_at(line.as_bytes(), 0) {
            warn!(%error, "the address given out last is not remembered");
        }
        Ok(address)
    }

    /// Gives an address back; idempotent.
    pub(crate) fn give_back(&self, address: Ipv4Addr) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&address);
    }

    fn next_free(&self, state: &State) -> Option<Ipv4Addr> {
        let (first, last) = (self.subnet.first(), self.subnet.last());
        let after = Ipv4Addr::from_bits(state.last.to_bits().saturating_add(1));
        free_in(&state.taken, after, last).or_else(|| free_in(&state.taken, first, state.last))
    }
}

/// Returns the first address of a range that is not taken, in as many steps as there are taken ones in front.
fn free_in(taken: &BTreeSet<Ipv4Addr>, first: Ipv4Addr, last: Ipv4Addr) -> Option<Ipv4Addr> {
    if first > last {
        return None;
    }
    let mut candidate = first;
    for address in taken.range(first..=last) {
        if *address != candidate {
            break;
        }
        candidate = Ipv4Addr::from_bits(candidate.to_bits().saturating_add(1));
    }
    (candidate <= last).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("cni-addresses-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    #[test]
    fn addresses_go_around_the_range_and_a_returned_one_rests() {
        let dir = scratch("around");
        let range = Addresses::open(&dir, "10.0.0.0/29".parse().unwrap(), vec![]).unwrap();
        assert_eq!(range.take("a").unwrap(), ip(2));
        assert_eq!(range.take("b").unwrap(), ip(3));
        range.give_back(ip(2));
        range.give_back(ip(2));
        assert_eq!(range.take("c").unwrap(), ip(4));
        assert_eq!(range.take("d").unwrap(), ip(5));
        assert_eq!(range.take("e").unwrap(), ip(6));
        assert_eq!(range.take("f").unwrap(), ip(2));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn an_exhausted_range_says_so_and_recovers() {
        let dir = scratch("exhausted");
        let range = Addresses::open(&dir, "10.0.0.0/30".parse().unwrap(), vec![]).unwrap();
        range.take("a").unwrap();
        let error = range.take("b").unwrap_err();
        assert_eq!(error.to_string(), "no address is left in 10.0.0.0/30 for pod b");
        range.give_back(ip(2));
        assert_eq!(range.take("b").unwrap(), ip(2));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_reopened_range_keeps_leases_and_goes_on_where_it_was() {
        let dir = scratch("reopen");
        let subnet = "10.0.0.0/29".parse().unwrap();
        let range = Addresses::open(&dir, subnet, vec![]).unwrap();
        range.take("a").unwrap();
        range.take("b").unwrap();
        drop(range);
        let range = Addresses::open(&dir, subnet, vec![ip(4), Ipv4Addr::new(10, 9, 9, 9)]).unwrap();
        assert_eq!(range.take("c").unwrap(), ip(5));
        fs::write(dir.join("addresses/10.0.0.0_29"), "garbage").unwrap();
        let range = Addresses::open(&dir, subnet, vec![ip(2)]).unwrap();
        assert_eq!(range.take("d").unwrap(), ip(3));
        fs::remove_dir_all(&dir).unwrap();
    }
}

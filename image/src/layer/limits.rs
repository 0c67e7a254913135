//! What a layer may cost, whatever its archive declares.

use std::os::fd::BorrowedFd;

use rustix::fs::{StatVfs, fstatvfs};
use rustix::io::Errno;

use super::LayerError;

/// Entries of one layer; each is an inode on the disk.
const MAX_ENTRIES: u64 = 4_000_000;
/// Bytes of names that one layer may make us remember until its end.
const MAX_REMEMBERED: usize = 24 << 20;
/// Up to here any compression ratio is fine.
const FREE_OUTPUT: u64 = 1 << 30;
/// Beyond it, the ratio of a bomb. DEFLATE's own maximum is 1032:1.
const MAX_RATIO: u64 = 1000;
/// The disk is looked at whenever this much was written.
const CHECK_EVERY: u64 = 64 << 20;
/// Of the disk, a tenth or this much stays free, whichever is less.
const RESERVE: u64 = 1 << 30;

/// Refuses output out of proportion to the input.
pub(super) fn check_ratio(input: u64, output: u64) -> Result<(), LayerError> {
    if output <= FREE_OUTPUT || output / MAX_RATIO <= input {
        return Ok(());
    }
    Err(LayerError::malformed(format!("its {input} bytes unpack to more than {output}")))
}

/// The running account of one layer.
#[derive(Debug, Default)]
pub(super) struct Budget {
    entries: u64,
    remembered: usize,
    written: u64,
    unchecked: u64,
}

impl Budget {
    pub(super) fn entry(&mut self) -> Result<(), LayerError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(LayerError::malformed(format!("it has more than {MAX_ENTRIES} entries")));
        }
        Ok(())
    }

    /// Whether `bytes` more may be kept in memory until the end.
    pub(super) fn remember(&mut self, bytes: usize) -> bool {
        self.remembered = self.remembered.saturating_add(bytes);
        self.remembered <= MAX_REMEMBERED
    }

    /// Counts written bytes, and ends before the disk is full.
    pub(super) fn write(&mut self, bytes: u64, disk: BorrowedFd<'_>) -> Result<(), Errno> {
        self.written += bytes;
        self.unchecked += bytes;
        if self.unchecked < CHECK_EVERY {
            return Ok(());
        }
        self.unchecked = 0;
        if has_room(&fstatvfs(disk)?) { Ok(()) } else { Err(Errno::NOSPC) }
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }
}

fn has_room(disk: &StatVfs) -> bool {
    let block = disk.f_frsize.max(1);
    let reserve = (disk.f_blocks.saturating_mul(block) / 10).min(RESERVE);
    disk.f_bavail.saturating_mul(block) >= reserve
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_told_from_a_well_compressed_layer() {
        assert!(check_ratio(1 << 20, 1 << 30).is_ok());
        assert!(check_ratio(2 << 20, (1 << 30) + 1).is_ok());
        assert!(check_ratio(1 << 20, 2 << 30).is_err());
    }

    #[test]
    fn memory_for_names_ends() {
        let mut budget = Budget::default();
        assert!(budget.remember(MAX_REMEMBERED));
        assert!(!budget.remember(1));
        assert!(!Budget::default().remember(usize::MAX));
    }
}

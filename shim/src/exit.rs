//! The record of a container's life that its shim leaves in the bundle.
//!
//! One small file of two slots, preallocated when the bundle is made, so that an exit can be written when the disk
//! is full. Each slot is written once, with one `pwrite`, and carries a checksum: a reader sees a slot whole
//! or not at all.
//!
//! ```text
//! offset 0   started: magic u64, pid u32, zero u32, start time u64, nanoseconds u64, checksum u64
//! offset 64  exit:    magic u64, code u32, oom u32, seconds i64, nanoseconds u64, checksum u64
//! ```

use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use std::fs::File;

const SLOT: usize = 40;
const EXIT_AT: u64 = 64;
/// The record's whole size, written as zeros when the bundle is made.
pub(crate) const RECORD_BYTES: usize = 128;

const STARTED_MAGIC: u64 = u64::from_be_bytes(*b"wherrySt");
const EXIT_MAGIC: u64 = u64::from_be_bytes(*b"wherryEx");

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255; 128 + n for signal n.
    pub code: i32,
    /// When the shim reaped it.
    pub at: SystemTime,
    /// The kernel killed a process of the container because its memory limit was reached.
    pub oom_killed: bool,
}

/// Which process the container is: a pid alone may be another process's by tomorrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The process id, as the host sees it.
    pub pid: u32,
    /// Clock ticks since boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

/// The open record of one bundle.
#[derive(Debug)]
pub struct Record {
    file: File,
}

impl Record {
    pub(crate) fn new(file: File) -> Self {
        Self { file }
    }

    /// Tells which process the container is; written before the start is answered.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn write_started(&self, started: Started) -> io::Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let slot = encode([STARTED_MAGIC, u64::from(started.pid) << 32, started.start_time, now]);
        self.file.write_all_at(&slot, 0)
    }

    /// Tells how it ended; written before anybody who waits is answered.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn write_exit(&self, exit: Exit) -> io::Result<()> {
        let since = exit.at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let code = u64::from(exit.code.unsigned_abs()) << 32 | u64::from(exit.oom_killed);
        let slot = encode([EXIT_MAGIC, code, since.as_secs(), u64::from(since.subsec_nanos())]);
        self.file.write_all_at(&slot, EXIT_AT)
    }

    /// Which process it is, once it was started.
    pub fn started(&self) -> Option<Started> {
        let [pid, start_time, _] = self.slot(0, STARTED_MAGIC)?;
        Some(Started { pid: u32::try_from(pid >> 32).ok()?, start_time })
    }

    /// When it was started, by the wall clock.
    pub fn started_at(&self) -> Option<SystemTime> {
        let [_, _, nanoseconds] = self.slot(0, STARTED_MAGIC)?;
        UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds))
    }

    /// How it ended, once it did.
    pub fn exit(&self) -> Option<Exit> {
        let [code, seconds, nanoseconds] = self.slot(EXIT_AT, EXIT_MAGIC)?;
        let since = Duration::new(seconds, u32::try_from(nanoseconds).ok()?);
        Some(Exit {
            code: i32::try_from(code >> 32).ok()?,
            at: UNIX_EPOCH.checked_add(since)?,
            oom_killed: code & 1 == 1,
        })
    }

    fn slot(&self, at: u64, magic: u64) -> Option<[u64; 3]> {
        let mut slot = [0; SLOT];
        self.file.read_exact_at(&mut slot, at).ok()?;
        let word = |n: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&slot[n * 8..n * 8 + 8]);
            u64::from_be_bytes(word)
        };
        let whole = word(0) == magic && word(4) == checksum(&slot[..SLOT - 8]);
        whole.then(|| [word(1), word(2), word(3)])
    }
}

fn encode(words: [u64; 4]) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    for (bytes, word) in slot.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    let sum = checksum(&slot[..SLOT - 8]);
    slot[SLOT - 8..].copy_from_slice(&sum.to_be_bytes());
    slot
}

/// FNV-1a: against torn and foreign bytes, not against an adversary.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let fd = rustix::fs::memfd_create("record", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.write_all_at(&[0; RECORD_BYTES], 0).unwrap();
        Record::new(file)
    }

    #[test]
    fn what_was_written_is_read_back() {
        let record = record();
        assert_eq!((record.started(), record.exit()), (None, None));
        let started = Started { pid: 4_194_304, start_time: 123_456_789 };
        let exit =
            Exit { code: 137, at: UNIX_EPOCH + Duration::new(1_700_000_000, 5), oom_killed: true };
        record.write_started(started).unwrap();
        record.write_exit(exit).unwrap();
        assert_eq!((record.started(), record.exit()), (Some(started), Some(exit)));
    }

    #[test]
    fn a_slot_with_any_bit_turned_is_no_record() {
        let record = record();
        let exit = Exit { code: 3, at: UNIX_EPOCH, oom_killed: false };
        record.write_exit(exit).unwrap();
        for at in 0..SLOT {
            let mut byte = [0];
            record.file.read_exact_at(&mut byte, EXIT_AT + at as u64).unwrap();
            record.file.write_all_at(&[byte[0] ^ 4], EXIT_AT + at as u64).unwrap();
            assert_eq!(record.exit(), None, "byte {at}");
            record.file.write_all_at(&byte, EXIT_AT + at as u64).unwrap();
        }
        assert_eq!(record.exit(), Some(exit));
    }
}

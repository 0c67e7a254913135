//! A container's filter in its bundle, where its execs find it.
//!
//! ```text
//! "WSF1" │ flags u32 │ instructions u32 │ 8 bytes each │ the listener as JSON, or nothing
//! ```
//!
//! Numbers are the machine's own: the file is void after a reboot.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sys::seccomp::{Instruction, MAX_INSTRUCTIONS};

use super::notify::Listener;
use crate::{Failure, FailureKind};

/// The file's name in a bundle.
pub const FILE: &str = "seccomp.bpf";
const MAGIC: [u8; 4] = *b"WSF1";
const HEADER: usize = 12;
const INSTRUCTION: usize = 8;
/// Larger than any that is written here.
const MAX_BYTES: u64 = 1 << 20;

/// What a filter is made of.
pub type Parts = (Vec<Instruction>, u32, Option<Listener>);

/// Writes it into a folder.
pub fn write(
    folder: &Path,
    program: &[Instruction],
    flags: u32,
    listener: Option<&Listener>,
) -> Result<(), Failure> {
    let fail = |error: std::io::Error| Failure::os("write", FILE, error);
    let length = u32::try_from(program.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + program.len() * INSTRUCTION);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&length.to_ne_bytes());
    for one in program {
        bytes.extend_from_slice(&one.code.to_ne_bytes());
        bytes.extend_from_slice(&[one.jump_true, one.jump_false]);
        bytes.extend_from_slice(&one.operand.to_ne_bytes());
    }
    if let Some(listener) = listener {
        serde_json::to_writer(&mut bytes, listener).map_err(|error| fail(error.into()))?;
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(folder.join(FILE));
    file.and_then(|mut file| file.write_all(&bytes)).map_err(fail)
}

/// Reads it from this process's folder; `None` when there is none.
pub fn read() -> Result<Option<Parts>, Failure> {
    let fail = |error: std::io::Error| Failure::os("read", FILE, error);
    let file = match OpenOptions::new().read(true).open(FILE) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(fail)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(fail)?;
    let damaged = || Failure::new(FailureKind::Internal, "read", FILE, "it is damaged");
    parse(&bytes).map(Some).ok_or_else(damaged)
}

fn parse(bytes: &[u8]) -> Option<Parts> {
    let number = |at: usize| {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(four))
    };
    if bytes.get(..4)? != MAGIC {
        return None;
    }
    let flags = number(4)?;
    let length = usize::try_from(number(8)?).ok().filter(|length| *length <= MAX_INSTRUCTIONS)?;
    let end = HEADER + length * INSTRUCTION;
    let program = bytes.get(HEADER..end)?.chunks_exact(INSTRUCTION).map(|one| Instruction {
        code: u16::from_ne_bytes([one[0], one[1]]),
        jump_true: one[2],
        jump_false: one[3],
        operand: u32::from_ne_bytes([one[4], one[5], one[6], one[7]]),
    });
    let listener = match bytes.get(end..)? {
        [] => None,
        json => Some(serde_json::from_slice(json).ok()?),
    };
    Some((program.collect(), flags, listener))
}

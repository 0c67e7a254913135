//! Sparse files: which parts of a file an entry's body holds.

use std::io::Read;

use super::LayerError;
use super::pax::decimal;

/// Parts of one file; GNU tar's own archives of huge files stay far below.
const MAX_PARTS: usize = 65_536;
const BLOCK: usize = 512;

/// Where the body's bytes belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sparse {
    /// Offset and length, ascending.
    pub(super) parts: Vec<(u64, u64)>,
    /// The file's length with its holes.
    pub(super) real_size: u64,
}

impl Sparse {
    /// Checks a map against the body that is left for its parts.
    pub(super) fn new(numbers: &[u64], real_size: u64, body: u64) -> Result<Self, LayerError> {
        let wrong = || LayerError::malformed("a malformed map of a sparse file");
        if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MAX_PARTS {
            return Err(wrong());
        }
        let mut parts = Vec::with_capacity(numbers.len() / 2);
        let (mut end, mut total) = (0_u64, 0_u64);
        for pair in numbers.chunks_exact(2) {
            let (offset, length) = (pair[0], pair[1]);
            if offset < end {
                return Err(wrong());
            }
            end = offset.checked_add(length).ok_or_else(wrong)?;
            total = total.checked_add(length).ok_or_else(wrong)?;
            parts.push((offset, length));
        }
        if end > real_size || total > body || i64::try_from(real_size).is_err() {
            return Err(wrong());
        }
        Ok(Self { parts, real_size })
    }
}

/// Reads a version 1.0 map off the head of a body: decimal lines, padded to a block. Returns its length, too.
pub(super) fn read_map(body: &mut impl Read, size: u64) -> Result<(Vec<u64>, u64), LayerError> {
    let wrong = || LayerError::malformed("a malformed map at the head of a sparse file");
    let mut lines = Lines { body, block: [0; BLOCK], at: BLOCK, taken: 0, size };
    let parts = usize::try_from(lines.number().ok_or_else(wrong)?).map_err(|_| wrong())?;
    if parts > MAX_PARTS {
        return Err(wrong());
    }
    let mut numbers = Vec::with_capacity(2 * parts);
    for _ in 0..2 * parts {
        numbers.push(lines.number().ok_or_else(wrong)?);
    }
    Ok((numbers, lines.taken))
}

struct Lines<'a, R> {
    body: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
    taken: u64,
    size: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Option<u64> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                self.taken += BLOCK as u64;
                if self.taken > self.size {
                    return None;
                }
                self.body.read_exact(&mut self.block).ok()?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits),
                byte if digits.len() < 20 => digits.push(byte),
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_ascend_and_fit() {
        assert_eq!(Sparse::new(&[0, 10, 100, 5], 200, 15).unwrap().parts, [(0, 10), (100, 5)]);
        for (numbers, real, body) in [
            (&[5_u64, 10, 0, 1][..], 200, 11),
            (&[0, 10, 100], 200, 10),
            (&[0, 300], 200, 300),
            (&[0, 20], 200, 10),
            (&[u64::MAX, 2], u64::MAX, 2),
        ] {
            assert!(Sparse::new(numbers, real, body).is_err(), "{numbers:?}");
        }
    }

    #[test]
    fn a_map_in_the_body_is_read_to_its_block() {
        let mut body = b"2\n0\n3\n1000\n4\n".to_vec();
        body.resize(512 + 7, 0);
        let (numbers, taken) = read_map(&mut &body[..], body.len() as u64).unwrap();
        assert_eq!((numbers, taken), (vec![0, 3, 1000, 4], 512));
        assert!(read_map(&mut &b"99999999999999\n"[..], 15).is_err());
    }
}

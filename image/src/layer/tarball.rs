//! A strict tar reader: ustar, PAX and GNU headers, nothing allocated from a size that was not checked.
//!
//! Formats: POSIX.1-2024 (pax, "ustar Interchange Format"), and the GNU tar manual ("Basic Tar Format").

use std::io::Read;

use super::LayerError;
use super::decompress::Plain;
use super::pax::Pax;
use super::sparse::{self, Sparse};

const BLOCK: usize = 512;
/// A PAX header holds at most the attributes of one file and a few names.
const MAX_PAX: u64 = (1 << 20) + (64 << 10);
const MAX_LONG_NAME: u64 = 64 << 10;
/// Headers in front of one entry: a global and a local PAX header, two long names, and some slack.
const MAX_HEADERS: usize = 16;

/// One thing in the archive.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    /// Permission, setuid, setgid and sticky bits only.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

/// What it is, with what belongs to that.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File { sparse: Option<Sparse> },
    Directory,
    Symlink { target: Vec<u8> },
    HardLink { target: Vec<u8> },
    Device { block: bool, major: u64, minor: u64 },
    Fifo,
}

/// An archive being read.
#[derive(Debug)]
pub(super) struct Archive {
    input: Plain,
    /// Body bytes of the current entry that were not read.
    left: u64,
    padding: u64,
    globals: Pax,
}

/// What the headers in front of an entry add to it.
#[derive(Debug)]
struct Extras {
    pax: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Archive {
    pub(super) fn new(input: Plain) -> Self {
        Self { input, left: 0, padding: 0, globals: Pax::default() }
    }

    /// Reads on until the next entry; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut extras = Extras { pax: self.globals.clone(), long_name: None, long_link: None };
        for _ in 0..MAX_HEADERS {
            self.leave_entry()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.left = header.number(124..136)?;
            match header.kind() {
                b'x' => {
                    let body = self.small_body(MAX_PAX)?;
                    extras.pax.read(&body)?;
                }
                b'g' => {
                    let body = self.small_body(MAX_PAX)?;
                    self.globals.read(&body)?;
                    extras.pax.read(&body)?;
                }
                b'L' => extras.long_name = Some(self.long_name()?),
                b'K' => extras.long_link = Some(self.long_name()?),
                _ => return self.entry(&header, extras).map(Some),
            }
        }
        Err(LayerError::malformed("an entry with too many headers"))
    }

    /// Reads on until the archive's last byte, whatever follows its end mark.
    pub(super) fn drain(mut self) {
        self.input.drain();
    }

    fn leave_entry(&mut self) -> Result<(), LayerError> {
        let wanted = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        if self.input.skip(wanted) == wanted { Ok(()) } else { Err(cut()) }
    }

    /// The next header; `None` at the end mark or the end of the input.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]).map_err(|_| cut())? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(cut()),
                length => filled += length,
            }
        }
        // One block of zeros ends an archive; writers make two, readers accept one.
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Header { block };
        header.check()?;
        self.padding = 0;
        Ok(Some(header))
    }

    fn small_body(&mut self, cap: u64) -> Result<Vec<u8>, LayerError> {
        if self.left > cap {
            return Err(LayerError::malformed(format!(
                "an extended header of {} bytes",
                self.left
            )));
        }
        let mut body = vec![0; usize::try_from(self.left).unwrap_or(0)];
        self.padding = padding(self.left);
        self.read_exact(&mut body).map_err(|_| cut())?;
        Ok(body)
    }

    fn long_name(&mut self) -> Result<Vec<u8>, LayerError> {
        let mut name = self.small_body(MAX_LONG_NAME)?;
        name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
        Ok(name)
    }

    fn entry(&mut self, header: &Header, extras: Extras) -> Result<Entry, LayerError> {
        let Extras { pax, long_name, long_link } = extras;
        let stored = pax.size.unwrap_or(self.left);
        // Links, directories and nodes have no body, whatever their size says (POSIX: "size" is 0 or unspecified).
        let has_body = matches!(header.kind(), 0 | b'0' | b'7' | b'S');
        (self.left, self.padding) = if has_body { (stored, padding(stored)) } else { (0, 0) };
        let name = pax.path.clone().or(long_name).unwrap_or_else(|| header.name());
        let target = || pax.link.clone().or(long_link).unwrap_or_else(|| header.text(157..257));
        let kind = match header.kind() {
            // Before POSIX, a directory was a file whose name ends in a slash.
            0 | b'0' if name.ends_with(b"/") && self.left == 0 => Kind::Directory,
            0 | b'0' | b'7' => Kind::File { sparse: self.pax_sparse(&pax)? },
            b'S' => Kind::File { sparse: Some(self.gnu_sparse(header)?) },
            b'1' => Kind::HardLink { target: target() },
            b'2' => Kind::Symlink { target: target() },
            kind @ (b'3' | b'4') => {
                let (major, minor) = (header.number(329..337)?, header.number(337..345)?);
                Kind::Device { block: kind == b'4', major, minor }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(LayerError::Unsupported { why: "it has an entry of an unknown type" }),
        };
        Ok(Entry {
            name: pax.sparse.name.unwrap_or(name),
            kind,
            mode: u32::try_from(header.number(100..108)? & 0o7777).unwrap_or(0),
            uid: id(pax.uid.map_or_else(|| header.number(108..116), Ok)?)?,
            gid: id(pax.gid.map_or_else(|| header.number(116..124), Ok)?)?,
            mtime: pax.mtime.map_or_else(|| header.mtime(), Ok)?,
            xattrs: pax.xattrs,
        })
    }

    fn pax_sparse(&mut self, pax: &Pax) -> Result<Option<Sparse>, LayerError> {
        let records = &pax.sparse;
        let Some(real_size) = records.real_size else { return Ok(None) };
        if (records.major, records.minor) == (Some(1), Some(0)) {
            let size = self.left;
            let (numbers, _) = sparse::read_map(self, size)?;
            return Sparse::new(&numbers, real_size, self.left).map(Some);
        }
        Sparse::new(&records.map, real_size, self.left).map(Some)
    }

    /// GNU's old format: four parts in the header, 21 in each block that follows it.
    fn gnu_sparse(&mut self, header: &Header) -> Result<Sparse, LayerError> {
        let real_size = header.number(483..495)?;
        let mut numbers = Vec::new();
        let mut block = Header { block: header.block };
        let (mut start, mut parts, mut flag) = (386, 4, 482);
        loop {
            for part in 0..parts {
                let at = start + 24 * part;
                if block.block[at] == 0 {
                    break;
                }
                numbers.extend([block.number(at..at + 12)?, block.number(at + 12..at + 24)?]);
            }
            if block.block[flag] == 0 {
                return Sparse::new(&numbers, real_size, self.left);
            }
            if numbers.len() > 131_072 {
                return Err(LayerError::malformed("a sparse file in too many parts"));
            }
            self.input.read_exact(&mut block.block).map_err(|_| cut())?;
            (start, parts, flag) = (0, 21, 504);
        }
    }
}

/// The current entry's body.
impl Read for Archive {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let length = self.input.read(&mut out[..length])?;
        self.left -= length as u64;
        Ok(length)
    }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64).saturating_sub(size)
}

fn cut() -> LayerError {
    LayerError::malformed("its archive ends in the middle of an entry")
}

/// uid_t and gid_t, without the value that means "leave it" (chown(2)).
fn id(number: u64) -> Result<u32, LayerError> {
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| LayerError::malformed(format!("an owner with the impossible id {number}")))
}

#[derive(Debug)]
struct Header {
    block: [u8; BLOCK],
}

impl Header {
    /// The sum of all bytes, with the sum's own field as spaces; old writers summed signed bytes.
    fn check(&self) -> Result<(), LayerError> {
        let field = 148..156;
        let with = |value: fn(u8) -> i64| {
            let bytes = self.block.iter().enumerate();
            bytes.map(|(at, b)| if field.contains(&at) { 32 } else { value(*b) }).sum::<i64>()
        };
        let stored = i64::try_from(self.number(148..156)?).unwrap_or(-1);
        if stored == with(i64::from) || stored == with(|b| i64::from(b.cast_signed())) {
            return Ok(());
        }
        Err(LayerError::malformed("its archive has a header with a wrong checksum"))
    }

    fn kind(&self) -> u8 {
        self.block[156]
    }

    fn text(&self, field: std::ops::Range<usize>) -> Vec<u8> {
        let bytes = &self.block[field];
        bytes[..bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())].to_vec()
    }

    fn name(&self) -> Vec<u8> {
        let name = self.text(0..100);
        // Only POSIX headers have the prefix; GNU's have other things in its place.
        let prefix =
            if &self.block[257..263] == b"ustar\0" { self.text(345..500) } else { Vec::new() };
        if prefix.is_empty() { name } else { [prefix, name].join(&b'/') }
    }

    /// A non-negative number, octal or, with the top bit set, binary.
    fn number(&self, field: std::ops::Range<usize>) -> Result<u64, LayerError> {
        let signed = self.signed(field)?;
        u64::try_from(signed)
            .map_err(|_| LayerError::malformed("its archive has a header with a negative number"))
    }

    fn signed(&self, field: std::ops::Range<usize>) -> Result<i64, LayerError> {
        let wrong = || LayerError::malformed("its archive has a header with a malformed number");
        let bytes = &self.block[field];
        if bytes[0] & 0x80 != 0 {
            // GNU: base 256, two's complement, the first bit is only a mark; 0x80 starts a positive number.
            let negative = bytes[0] == 0xff;
            let mut value: i128 = if negative { -1 } else { i128::from(bytes[0] & 0x7f) };
            for byte in &bytes[1..] {
                value = (value << 8) | i128::from(*byte);
            }
            return i64::try_from(value).map_err(|_| wrong());
        }
        let end = bytes.iter().rposition(|b| *b != 0 && *b != b' ').map_or(0, |at| at + 1);
        let digits = bytes[..end].trim_ascii_start();
        if digits.is_empty() {
            return Ok(0);
        }
        let text = std::str::from_utf8(digits).map_err(|_| wrong())?;
        if !text.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
            return Err(wrong());
        }
        i64::from_str_radix(text, 8).map_err(|_| wrong())
    }

    fn mtime(&self) -> Result<(i64, u32), LayerError> {
        Ok((self.signed(136..148)?, 0))
    }
}

//! Header blocks: names and values, compressed with one zlib stream per direction of a session and a dictionary that
//! both sides know (SPDY Protocol, draft 3.1, section 2.6.10).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::frame::Malformed;

/// The dictionary, as the protocol gives it.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// Longest block after decompression.
const MAX_BLOCK: usize = 64 << 10;
/// Headers in one block.
const MAX_HEADERS: u32 = 64;
const STEP: usize = 4 << 10;

/// A stream's headers, in their order.
pub type Headers = Vec<(String, String)>;

/// The reading direction of a session.
#[derive(Debug)]
pub struct Reader {
    inflate: Decompress,
}

/// The writing direction of a session.
#[derive(Debug)]
pub struct Writer {
    deflate: Compress,
}

impl Default for Reader {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

impl Reader {
    /// Reads a block.
    ///
    /// # Errors
    /// It is not compressed as it should be, or it breaks a limit. The session cannot go on: the next block depends
    /// on this one.
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, Malformed> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Malformed> {
        const BROKEN: Malformed =
            Malformed("has headers that are not compressed as they should be");
        let mut plain = Vec::with_capacity(STEP);
        loop {
            if plain.len() == plain.capacity() {
                plain.reserve(STEP);
            }
            let (took, gave) = (self.inflate.total_in(), self.inflate.total_out());
            let done = self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let took = usize::try_from(self.inflate.total_in() - took).unwrap_or(usize::MAX);
            block = block.get(took..).ok_or(BROKEN)?;
            match done {
                Err(error) if error.needs_dictionary().is_some() => {
                    let _adler = self.inflate.set_dictionary(DICTIONARY).map_err(|_| BROKEN)?;
                    continue;
                }
                other => other.map_err(|_| BROKEN)?,
            };
            if plain.len() > MAX_BLOCK {
                return Err(Malformed("has headers longer than 64 KiB"));
            }
            let moved = took > 0 || self.inflate.total_out() > gave;
            if block.is_empty() && plain.len() < plain.capacity() {
                return Ok(plain);
            }
            if !moved && plain.len() < plain.capacity() {
                return Err(BROKEN);
            }
        }
    }
}

impl Default for Writer {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        // Only refused once data has been compressed.
        drop(deflate.set_dictionary(DICTIONARY));
        Self { deflate }
    }
}

impl Writer {
    /// Writes a block.
    pub fn write(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = length(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&length(text.len()));
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + STEP);
        let mut rest = plain.as_slice();
        loop {
            let before = self.deflate.total_in();
            // Memory is all that this can fail for, and there is room.
            drop(self.deflate.compress_vec(rest, &mut block, FlushCompress::Sync));
            let took = usize::try_from(self.deflate.total_in() - before).unwrap_or(usize::MAX);
            rest = rest.get(took..).unwrap_or_default();
            if rest.is_empty() && block.len() < block.capacity() {
                return block;
            }
            block.reserve(STEP);
        }
    }
}

fn length(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes()
}

fn parse(plain: &[u8]) -> Result<Headers, Malformed> {
    let (count, mut rest) = number(plain)?;
    if count > MAX_HEADERS {
        return Err(Malformed("has more than 64 headers"));
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let (name, after) = text(rest)?;
        let (value, after) = text(after)?;
        // Names are lower case on the wire; who sends others means the same.
        headers.push((name.to_ascii_lowercase(), value));
        rest = after;
    }
    Ok(headers)
}

fn text(bytes: &[u8]) -> Result<(String, &[u8]), Malformed> {
    let (length, rest) = number(bytes)?;
    let short = Malformed("has a header longer than itself");
    let length = usize::try_from(length).map_err(|_| short)?;
    let (text, rest) = rest.split_at_checked(length).ok_or(short)?;
    let text = std::str::from_utf8(text).map_err(|_| Malformed("has a header that is no text"))?;
    Ok((text.to_owned(), rest))
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (number, rest) =
        bytes.split_first_chunk::<4>().ok_or(Malformed("has headers that are cut"))?;
    Ok((u32::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(headers: &[(&str, &str)]) -> Headers {
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn blocks_of_one_session_are_read_as_they_were_written() {
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        let long = "x".repeat(20_000);
        let blocks: [&[(&str, &str)]; 4] =
            [&[("streamtype", "error")], &[], &[("port", "80"), ("long", &long)], &[("a", "")]];
        for headers in blocks {
            let block = writer.write(headers);
            assert_eq!(reader.read(&block).unwrap(), owned(headers));
        }
    }

    #[test]
    fn a_block_that_another_implementation_compressed_is_read() {
        // Python: zlib.compressobj(zdict=…), the pairs ("streamtype", "stdin"), flushed with Z_SYNC_FLUSH.
        let block = include_bytes!("python.bin");
        let headers = Reader::default().read(block).unwrap();
        assert_eq!(headers, owned(&[("streamtype", "stdin")]));
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_large() {
        let mut writer = Writer::default();
        let huge = "x".repeat(32 << 20);
        let block = writer.write(&[("a", &huge)]);
        assert!(block.len() < 1 << 20, "{}", block.len());
        let refused = Reader::default().read(&block).unwrap_err();
        assert_eq!(refused, Malformed("has headers longer than 64 KiB"));
    }

    #[test]
    fn a_block_that_promises_more_than_it_has_is_refused() {
        for plain in [&[0xff; 4][..], &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], &[0, 0, 0, 1], &[]] {
            assert!(parse(plain).is_err(), "{plain:?}");
        }
    }

    #[test]
    fn what_is_not_compressed_is_refused() {
        assert!(Reader::default().read(b"streamtype: stdin").is_err());
    }
}

//! Bytes into lines, as containerd's CRI log has them: a line longer than [`MAX_LINE`] is split into partial ones, a
//! full one ends it; what is left without a newline at the end is partial.

/// Longest piece of one line.
pub const MAX_LINE: usize = 16 << 10;

/// Above this, a buffer that has become empty is given back, unless it will be needed again at once.
const KEEP: usize = 1 << 10;

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// With a newline.
    Full,
    /// With more to come.
    Partial,
}

/// The line that one stream has begun.
#[derive(Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
    /// Somebody says much at the moment.
    busy: bool,
}

impl Lines {
    /// Takes the next bytes and hands out every line that is complete, in two parts that belong together.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(Tag, &[u8], &[u8])) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let rest = self.split(&bytes[..end], &mut emit);
            emit(Tag::Full, &self.begun, rest);
            self.clear();
            bytes = &bytes[end + 1..];
        }
        let rest = self.split(bytes, &mut emit);
        self.begun.extend_from_slice(rest);
    }

    /// Hands out what was begun and not ended.
    pub fn finish(&mut self, mut emit: impl FnMut(Tag, &[u8], &[u8])) {
        if !self.begun.is_empty() {
            emit(Tag::Partial, &self.begun, &[]);
            self.clear();
        }
    }

    /// Hands out pieces until what was begun and what is left of `line` fit into one.
    fn split<'a>(
        &mut self,
        mut line: &'a [u8],
        emit: &mut impl FnMut(Tag, &[u8], &[u8]),
    ) -> &'a [u8] {
        while self.begun.len() + line.len() > MAX_LINE {
            let (now, later) = line.split_at(MAX_LINE - self.begun.len());
            emit(Tag::Partial, &self.begun, now);
            self.clear();
            line = later;
        }
        line
    }

    /// Somebody says much from now on, or no longer: musl's allocator keeps what comes and goes often.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
        if self.begun.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.begun.clear();
        if self.begun.capacity() > KEEP && !self.busy {
            self.begun = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<(Tag, Vec<u8>)> {
        let mut all = Vec::new();
        let mut lines = Lines::default();
        let mut emit = |tag, start: &[u8], end: &[u8]| all.push((tag, [start, end].concat()));
        for chunk in chunks {
            lines.push(chunk, &mut emit);
        }
        lines.finish(&mut emit);
        all
    }

    fn full(text: &[u8]) -> (Tag, Vec<u8>) {
        (Tag::Full, text.to_vec())
    }

    #[test]
    fn lines_are_put_together_from_pieces_and_empty_ones_are_kept() {
        assert_eq!(lines(&[b"a\n\nb", b"c\n"]), [full(b"a"), full(b""), full(b"bc")]);
    }

    #[test]
    fn what_has_no_newline_at_the_end_is_partial() {
        assert_eq!(lines(&[b"a\nb"]), [full(b"a"), (Tag::Partial, b"b".to_vec())]);
        assert_eq!(lines(&[b""]), []);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_full_line() {
        let mut line = vec![b'x'; MAX_LINE];
        line.push(b'\n');
        assert_eq!(lines(&[&line]), [full(&line[..MAX_LINE])]);
        assert_eq!(lines(&[&line[..100], &line[100..]]), [full(&line[..MAX_LINE])]);
    }

    #[test]
    fn a_longer_line_is_split_at_the_limit_wherever_it_was_cut() {
        let mut line = vec![b'x'; 2 * MAX_LINE + 1];
        line.push(b'\n');
        let expected = [
            (Tag::Partial, vec![b'x'; MAX_LINE]),
            (Tag::Partial, vec![b'x'; MAX_LINE]),
            full(b"x"),
        ];
        for cut in [1, 5, MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 2 * MAX_LINE, 2 * MAX_LINE + 1] {
            assert_eq!(lines(&[&line[..cut], &line[cut..]]), expected, "{cut}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_pass_unchanged() {
        assert_eq!(lines(&[b"\0\xff\r\n"]), [full(b"\0\xff\r")]);
    }
}

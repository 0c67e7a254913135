//! A buffer with room in front of what is read into it, where a frame's head goes: one write sends both.

/// Room for the longest head: WebSocket's ten bytes and a channel's one.
const GAP: usize = 16;

/// A buffer for one reader.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// A buffer that takes as many bytes.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self { bytes: vec![0; GAP + room] }
    }

    /// Where to read to.
    pub fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(GAP..).unwrap_or_default()
    }

    /// The first `length` bytes.
    #[must_use]
    pub fn filled(&self, length: usize) -> &[u8] {
        self.bytes.get(GAP..GAP + length).unwrap_or_default()
    }

    /// The bytes `from` to `to` with `head`, of at most 16 bytes, before them; it overwrites what is there.
    pub fn framed(&mut self, head: &[u8], from: usize, to: usize) -> &[u8] {
        let start = (GAP + from).saturating_sub(head.len());
        if let Some(place) = self.bytes.get_mut(start..GAP + from) {
            place.copy_from_slice(&head[head.len() - place.len()..]);
        }
        self.bytes.get(start..GAP + to).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_stands_right_before_what_was_read() {
        let mut buffer = Buffer::new(8);
        assert_eq!(buffer.room().len(), 8);
        buffer.room()[..3].copy_from_slice(b"abc");
        assert_eq!(buffer.framed(b"12345678", 0, 3), b"12345678abc");
        assert_eq!(buffer.filled(3), b"abc");
        assert_eq!(buffer.framed(b"12345678", 2, 3), b"12345678c");
        assert_eq!(buffer.framed(b"", 0, 8).len(), 8);
    }
}

//! What has arrived on a connection and is not taken yet.

use std::future::Future;

use super::super::wire::ReadEnd;
use super::frame::{HEAD, MAX_CONTROL};
use tokio::io::AsyncReadExt;

/// The longest control frame fits, and the reads are large.
const ROOM: usize = HEAD + MAX_CONTROL as usize + (64 << 10);

/// A reading end with a buffer.
pub struct Input {
    end: ReadEnd,
    bytes: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Input {
    /// Reads from `end`, after `early` which somebody else has read already.
    pub fn new(end: ReadEnd, early: &[u8]) -> Self {
        let mut bytes = vec![0; ROOM.max(early.len())];
        bytes[..early.len()].copy_from_slice(early);
        Self { end, bytes, start: 0, filled: early.len() }
    }

    /// What is there.
    pub fn ready(&self) -> &[u8] {
        self.bytes.get(self.start..self.filled).unwrap_or_default()
    }

    /// Takes the first `count` bytes away.
    pub fn consume(&mut self, count: usize) {
        self.start = self.filled.min(self.start + count);
        if self.start == self.filled {
            (self.start, self.filled) = (0, 0);
        }
    }

    /// Reads more; `false` at the end. Nothing is lost if it is given up.
    pub fn fill(&mut self) -> impl Future<Output = std::io::Result<bool>> + Send {
        if self.filled == self.bytes.len() {
            self.bytes.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
        }
        async {
            let room = self.bytes.get_mut(self.filled..).unwrap_or_default();
            let count = self.end.read(room).await?;
            self.filled += count;
            Ok(count > 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_early_comes_first_and_the_buffer_is_used_again() {
        let long: Vec<u8> = (0..=250).cycle().take(3 * ROOM).collect();
        let mut input =
            Input::new(Box::new(std::io::Cursor::new(long[10..].to_vec())), &long[..10]);
        let mut all = Vec::new();
        loop {
            let take = input.ready().len().min(100_000);
            all.extend_from_slice(&input.ready()[..take]);
            input.consume(take);
            if input.ready().len() < 50_000 && !input.fill().await.unwrap() {
                break;
            }
        }
        all.extend_from_slice(input.ready());
        assert_eq!(all, long);
        assert_eq!(input.bytes.len(), ROOM);
    }
}

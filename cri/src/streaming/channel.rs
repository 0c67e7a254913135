//! The channels of a command: which stream is which, and what a terminal's size looks like on the wire.

use serde::Deserialize;

/// What one of a command's streams carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// From the client to the command.
    Stdin,
    /// From the command.
    Stdout,
    /// From the command.
    Stderr,
    /// How it went, at the end.
    Error,
    /// The sizes of the client's terminal.
    Resize,
}

impl Channel {
    /// Reads the header `streamType`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "stdin" => Some(Self::Stdin),
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            "error" => Some(Self::Error),
            "resize" => Some(Self::Resize),
            _ => None,
        }
    }
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// Longest text of one size.
const MAX_TEXT: usize = 256;

/// Reads sizes: JSON objects one after another, cut anywhere.
#[derive(Debug, Default)]
pub struct Sizes {
    text: Vec<u8>,
}

impl Sizes {
    /// Takes what has come; the last size that is complete by now.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<Size> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Wire {
            width: u16,
            height: u16,
        }
        let mut last = None;
        for byte in bytes {
            // An object of a size has no other object in it.
            if *byte == b'{' || self.text.len() >= MAX_TEXT {
                self.text.clear();
            }
            self.text.push(*byte);
            if *byte == b'}' {
                if let Ok(Wire { width, height }) = serde_json::from_slice(&self.text) {
                    last = Some(Size { width, height });
                }
                self.text.clear();
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size { width: 80, height: 24 };

    #[test]
    fn the_last_of_many_sizes_counts() {
        let mut sizes = Sizes::default();
        let text = b"{\"Width\":10,\"Height\":5}\n{\"Width\":80,\"Height\":24}\n";
        assert_eq!(sizes.feed(text), Some(SMALL));
    }

    #[test]
    fn a_size_cut_anywhere_is_read() {
        let text = b"{\"Width\":80,\"Height\":24}\n";
        for cut in 1..text.len() - 2 {
            let mut sizes = Sizes::default();
            assert_eq!(sizes.feed(&text[..cut]), None, "{cut}");
            assert_eq!(sizes.feed(&text[cut..]), Some(SMALL), "{cut}");
        }
    }

    #[test]
    fn what_is_no_size_is_passed_over_and_not_kept() {
        let mut sizes = Sizes::default();
        for text in ["{\"Width\":-1,\"Height\":5}", "{\"Width\":70000,\"Height\":5}", "}}{{]", "x"]
        {
            assert_eq!(sizes.feed(text.as_bytes()), None, "{text}");
        }
        assert_eq!(sizes.feed(&vec![b' '; 1 << 20]), None);
        assert!(sizes.text.capacity() <= 2 * MAX_TEXT);
        assert_eq!(sizes.feed(b"{\"Width\":80,\"Height\":24}"), Some(SMALL));
    }
}

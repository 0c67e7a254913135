//! Files of names and numbers: memory.stat, cpu.stat, memory.events.

use std::ops::Range;

/// The lines of such a file, in its order. A line that is no name and number is passed over.
///
/// Some files have seventy lines of which a reader wants five: the text is kept as it came, and nothing is copied.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    text: String,
    rows: Vec<(Range<usize>, u64)>,
}

impl Fields {
    /// Parses "name 1", a line for each field.
    #[must_use]
    pub fn parse(text: String) -> Self {
        let mut rows = Vec::with_capacity(text.len() / 20);
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if let Some((name, value)) = line.split_once(' ')
                && let Ok(value) = value.trim_ascii().parse()
            {
                rows.push((at..at + name.len(), value));
            }
            at += line.len();
        }
        Self { text, rows }
    }

    /// The number of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// The number of a field, or zero.
    #[must_use]
    pub fn or_zero(&self, name: &str) -> u64 {
        self.get(name).unwrap_or(0)
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.rows.iter().map(|(name, value)| (&self.text[name.clone()], *value))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name_and_bad_lines_are_passed_over() {
        let fields = Fields::parse("anon 1\nanon_thp 22\nfile\nshmem x\ninactive_file 3".into());
        assert_eq!(fields.get("anon"), Some(1));
        assert_eq!(fields.get("anon_thp"), Some(22));
        assert_eq!(fields.get("inactive_file"), Some(3));
        assert_eq!((fields.get("file"), fields.or_zero("shmem")), (None, 0));
        assert_eq!(fields.iter().count(), 3);
        assert!(Fields::parse(String::new()).is_empty());
    }
}

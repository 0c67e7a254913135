//! From numbers to what becomes of them: a balanced search tree over ranges of numbers.

use super::bpf::{Assembler, Condition, Label};

/// A range of numbers that reaches up to the next one's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Its first number.
    pub first: u32,
    /// What becomes of its numbers.
    pub target: Label,
}

/// Joins neighbours that lead to the same.
pub fn merge(ranges: &mut Vec<Range>) {
    ranges.dedup_by_key(|range| range.target);
}

/// Writes the search for the number that is loaded. The ranges are sorted; the first one takes whatever is below it.
pub fn emit(to: &mut Assembler, ranges: &[Range]) -> Label {
    match ranges {
        [] => Label::Return(0),
        [only] => only.target,
        // One number that is different from those around it.
        [left, one, right]
            if left.target == right.target && one.first.checked_add(1) == Some(right.first) =>
        {
            to.branch(Condition::Equal, one.first, one.target, left.target)
        }
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let first = right[0].first;
            let right = emit(to, right);
            let left = emit(to, left);
            to.branch(Condition::GreaterOrEqual, first, right, left)
        }
    }
}

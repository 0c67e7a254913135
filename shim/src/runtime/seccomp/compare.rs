//! Comparisons of an argument, 64 bits wide, by a machine that has 32.

use oci_spec::runtime::LinuxSeccompOperator as Operator;

use super::bpf::{Assembler, Condition, Label};

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// How it is compared.
    pub operator: Operator,
    /// What of it is compared: all, but with `MASKED_EQ`.
    pub mask: u64,
    /// With what.
    pub value: u64,
}

/// Arguments that a system call has.
pub const ARGUMENTS: u8 = 6;

impl Comparison {
    /// The condition as an architecture sees it whose arguments have 32 bits.
    #[must_use]
    pub fn narrow(self) -> Self {
        let low = u64::from(u32::MAX);
        Self { mask: self.mask & low, value: self.value & low, ..self }
    }

    /// Whether every value meets it.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.operator == Operator::ScmpCmpMaskedEq && self.mask == 0
    }

    /// Writes it: on with `yes` when it is met.
    pub fn emit(&self, to: &mut Assembler, narrow: bool, yes: Label, no: Label) -> Label {
        let (test, yes, no) = match self.operator {
            Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq => (Condition::Equal, yes, no),
            Operator::ScmpCmpNe => (Condition::Equal, no, yes),
            Operator::ScmpCmpGt => (Condition::Greater, yes, no),
            Operator::ScmpCmpLe => (Condition::Greater, no, yes),
            Operator::ScmpCmpGe => (Condition::GreaterOrEqual, yes, no),
            Operator::ScmpCmpLt => (Condition::GreaterOrEqual, no, yes),
        };
        let [low, high] = self.words();
        let mut entry = yes;
        if low.mask != 0 || narrow {
            let branch = to.branch(test, low.value, yes, no);
            entry = to.load_masked(low.offset, low.mask, branch);
        }
        if narrow || high.mask == 0 {
            return entry;
        }
        // The lower half decides only where the upper ones are equal.
        let mut branch = to.branch(Condition::Equal, high.value, entry, no);
        if test != Condition::Equal {
            branch = to.branch(Condition::Greater, high.value, yes, branch);
        }
        to.load_masked(high.offset, high.mask, branch)
    }

    /// Its two halves, the lower one first.
    pub(super) fn words(&self) -> [Word; 2] {
        let half = |shift: u32| {
            let [mask, value] = [self.mask, self.mask & self.value].map(|number| {
                u32::try_from((number >> shift) & u64::from(u32::MAX)).unwrap_or_default()
            });
            let offset = 16 + 8 * u32::from(self.argument) + shift / 8;
            Word { offset, mask, value }
        };
        [half(0), half(32)]
    }
}

/// Half of an argument. The lower one comes first in memory on every architecture here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Where it is in what the filter is asked about.
    pub offset: u32,
    /// What of it is compared.
    pub mask: u32,
    /// With what.
    pub value: u32,
}

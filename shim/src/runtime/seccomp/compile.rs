//! From a profile to a program.
//!
//! ```text
//! load arch ── native? ──► load number ──► search tree ──► return, or a call's rules ──► return
//!           └─ another? ─► load number ──► search tree ──► …
//!           └─ none: kill
//! ```

use oci_spec::runtime::LinuxSeccompOperator;
use sys::seccomp::Instruction;

use super::action::{ERRNO, KILL_THREAD};
use super::arch::{Arch, X32_BIT};
use super::bpf::{ARCH, Assembler, Condition, Label, NUMBER};
use super::compare::Comparison;
use super::invalid;
use super::profile::Profile;
use super::rule::{Decision, Rule};
use super::tree::{self, Range};
use crate::Failure;

/// What a call that does not exist returns.
const NOT_THERE: u32 = ERRNO | 38;

/// Tracers set this number to skip a call; the kernel asks the filter once more then (seccomp(2)).
const SKIPPED: u32 = u32::MAX;

/// Numbers that no rule is for, from one to another, and what becomes of them.
struct Gap {
    first: u32,
    last: u32,
    action: u32,
}

impl Profile<'_> {
    /// Compiles it.
    ///
    /// # Errors
    /// `InvalidArgument`: rules contradict each other, or there are too many.
    pub fn compile(&self) -> Result<Vec<Instruction>, Failure> {
        let mut to = Assembler::default();
        let mut entries = Vec::new();
        for arch in self.archs.iter().rev() {
            let audit = arch.audit();
            if entries.iter().all(|(known, _)| *known != audit) {
                entries.push((audit, self.emit_number(&mut to, audit)?));
            }
        }
        // The native architecture is asked for first, so it is written last.
        let native = self.native.audit();
        entries.sort_by_key(|(audit, _)| *audit == native);
        let start = entries.iter().fold(Label::Return(KILL_THREAD), |next, (audit, entry)| {
            to.branch(Condition::Equal, *audit, *entry, next)
        });
        let start = to.load(ARCH, start);
        to.finish(start)
    }

    /// Writes the search for a number of one of the kernel's architectures.
    fn emit_number(&self, to: &mut Assembler, audit: u32) -> Result<Label, Failure> {
        let mut ranges = Vec::new();
        for arch in Arch::ALL.into_iter().filter(|arch| arch.audit() == audit) {
            self.append_ranges(to, arch, &mut ranges)?;
        }
        tree::merge(&mut ranges);
        let search = tree::emit(to, &ranges);
        Ok(to.load(NUMBER, search))
    }

    /// Appends what becomes of the numbers that are one architecture's, and writes the rules that decide it.
    fn append_ranges(
        &self,
        to: &mut Assembler,
        arch: Arch,
        ranges: &mut Vec<Range>,
    ) -> Result<(), Failure> {
        let mut emitted: Vec<(Decision, Label)> = Vec::new();
        let mut calls = self.calls_of(arch)?.into_iter().peekable();
        for gap in self.gaps(arch) {
            let target = Label::Return(gap.action);
            let mut free = Some(gap.first);
            while let Some((number, decision)) = calls.next_if(|(number, _)| *number <= gap.last) {
                if let Some(first) = free.filter(|first| *first < number) {
                    ranges.push(Range { first, target });
                }
                let known = emitted.iter().find(|(known, _)| *known == decision);
                let own = known.map(|(_, label)| *label).unwrap_or_else(|| {
                    decision.emit(to, arch.is_narrow(), Label::Return(self.default))
                });
                ranges.push(Range { first: number, target: own });
                if known.is_none() && matches!(own, Label::At(_)) {
                    emitted.push((decision, own));
                }
                free = number.checked_add(1);
            }
            if let Some(first) = free.filter(|first| *first <= gap.last) {
                ranges.push(Range { first, target });
            }
        }
        Ok(())
    }

    /// The calls of an architecture and what becomes of them, by number.
    fn calls_of(&self, arch: Arch) -> Result<Vec<(u32, Decision)>, Failure> {
        if !self.archs.contains(&arch) {
            return Ok(Vec::new());
        }
        let mut rules: Vec<(u32, &str, Rule)> = Vec::with_capacity(self.calls.len());
        for call in &self.calls {
            let block = &self.blocks[call.block];
            let Some(action) = block.action else { continue };
            for when in &block.when {
                if let Some((number, meant)) = call.syscall.multiplexed(arch) {
                    rules.push((number, call.name, Rule { when: behind(when, meant), action }));
                }
                if let Some(number) = call.syscall.number(arch) {
                    rules.push((number, call.name, Rule { when: when.clone(), action }));
                }
            }
        }
        rules.sort_by_key(|(number, ..)| *number);
        let mut decisions = Vec::with_capacity(rules.len());
        let mut rules = rules.into_iter().peekable();
        while let Some((number, name, first)) = rules.next() {
            let mut own = vec![first];
            while let Some((.., rule)) = rules.next_if(|(next, ..)| *next == number) {
                own.push(rule);
            }
            let decision = Decision::new(own, arch.is_narrow())
                .map_err(|_| invalid(format!("rules for {name}"), "they contradict each other"))?;
            decisions.push((number, decision));
        }
        Ok(decisions)
    }

    /// What becomes of an architecture's numbers that no rule is for, without a hole.
    fn gaps(&self, arch: Arch) -> Vec<Gap> {
        let (first, last) = match arch {
            Arch::X86_64 => (0, X32_BIT - 1),
            Arch::X32 => (X32_BIT, u32::MAX),
            _ => (0, u32::MAX),
        };
        if !self.archs.contains(&arch) {
            let action = KILL_THREAD;
            if last != SKIPPED {
                return vec![Gap { first, last, action }];
            }
            let skipped = Gap { first: last, last, action: self.default };
            return vec![Gap { first, last: last - 1, action }, skipped];
        }
        match self.first_newer(arch) {
            Some(newer) => vec![
                Gap { first, last: newer - 1, action: self.default },
                Gap { first: newer, last, action: NOT_THERE },
            ],
            None => vec![Gap { first, last, action: self.default }],
        }
    }

    /// The first number that is larger than any that the profile names: a call that came after it was written. Who
    /// uses it shall fall back to an older one, and does so when it is not there, but not when it is forbidden.
    fn first_newer(&self, arch: Arch) -> Option<u32> {
        let own = self.calls.iter().filter(|call| call.syscall.multiplexed(arch).is_none());
        let largest = own.filter_map(|call| call.syscall.number(arch)).max();
        largest.filter(|largest| self.hides_newer && *largest != 0).map(|largest| largest + 1)
    }
}

/// The conditions of a call that is behind another one, which takes its first argument's place.
fn behind(when: &[Comparison], meant: u32) -> Vec<Comparison> {
    let operator = LinuxSeccompOperator::ScmpCmpEq;
    let meant = Comparison { argument: 0, operator, mask: u64::MAX, value: meant.into() };
    let others = when.iter().filter(|one| one.argument != 0);
    std::iter::once(&meant).chain(others).copied().collect()
}

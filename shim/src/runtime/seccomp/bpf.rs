//! Classic BPF, written from its end to its beginning.
//!
//! Jumps lead forward only and their targets are relative, so whoever writes the last instruction first knows every
//! target when he needs it. A conditional jump reaches 255 instructions; what is farther away gets a long jump, or a
//! copy of the return that it leads to, right behind it.

use sys::seccomp::{Instruction, MAX_INSTRUCTIONS};

use crate::{Failure, FailureKind};

/// Loads a word of what the filter is asked about (`struct seccomp_data`).
pub const LOAD: u16 = 0x20;
/// Masks what is loaded.
pub const AND: u16 = 0x54;
/// Jumps always.
pub const JUMP: u16 = 0x05;
/// Returns.
pub const RETURN: u16 = 0x06;

/// Where the system call's number is in what the filter is asked about.
pub const NUMBER: u32 = 0;
/// Where its architecture is.
pub const ARCH: u32 = 4;

/// The farthest that a conditional jump leads, less the one instruction that may come between.
const REACH: usize = 254;

/// When a conditional jump is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// What is loaded is the operand.
    Equal = 0x15,
    /// It is greater.
    Greater = 0x25,
    /// It is the operand or greater.
    GreaterOrEqual = 0x35,
}

/// Where a jump leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Returns this.
    Return(u32),
    /// An instruction, counted from the end.
    At(usize),
}

/// A program in the making.
#[derive(Debug, Default)]
pub struct Assembler {
    reversed: Vec<Instruction>,
    /// Returns that are there, with where they were written last.
    returns: Vec<(u32, usize)>,
}

impl Assembler {
    /// Writes a load before what is there.
    pub fn load(&mut self, offset: u32, next: Label) -> Label {
        self.follow(next);
        self.push(LOAD, offset)
    }

    /// Writes a load with a mask before what is there.
    pub fn load_masked(&mut self, offset: u32, mask: u32, next: Label) -> Label {
        if mask == u32::MAX {
            return self.load(offset, next);
        }
        self.follow(next);
        self.push(AND, mask);
        self.push(LOAD, offset)
    }

    /// Writes a conditional jump before what is there.
    pub fn branch(&mut self, on: Condition, operand: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        // The one that is made near last is so in any case, the other one has one instruction more between.
        let no = self.near(no);
        let yes = self.near(yes);
        let distance = |to: usize| u8::try_from(self.reversed.len() - 1 - to).unwrap_or(u8::MAX);
        let (jump_true, jump_false) = (distance(yes), distance(no));
        self.reversed.push(Instruction { code: on as u16, jump_true, jump_false, operand });
        Label::At(self.reversed.len() - 1)
    }

    /// The program, whose first instruction is the last that was written.
    ///
    /// # Errors
    /// It is longer than the kernel takes.
    pub fn finish(mut self, first: Label) -> Result<Vec<Instruction>, Failure> {
        self.follow(first);
        if self.reversed.len() > MAX_INSTRUCTIONS {
            let length = self.reversed.len();
            let cause = format!("takes {length} instructions of {MAX_INSTRUCTIONS}");
            let kind = FailureKind::InvalidArgument;
            return Err(Failure::new(kind, "compile", "seccomp profile", cause));
        }
        self.reversed.reverse();
        Ok(self.reversed)
    }

    /// Sees to it that the program goes on with `next` after the instruction that is written now.
    fn follow(&mut self, next: Label) {
        match next {
            Label::Return(value) => {
                self.push_return(value);
            }
            Label::At(at) if at + 1 == self.reversed.len() => {}
            Label::At(at) => {
                self.push_jump(at);
            }
        }
    }

    /// An instruction that a conditional jump can reach, with one more between, and that does the same.
    fn near(&mut self, label: Label) -> usize {
        let length = self.reversed.len();
        match label {
            Label::At(at) if length - at <= REACH => at,
            Label::At(at) => self.push_jump(at),
            Label::Return(value) => {
                let known = self.returns.iter().find(|(known, _)| *known == value);
                match known {
                    Some((_, at)) if length - at <= REACH => *at,
                    _ => self.push_return(value),
                }
            }
        }
    }

    fn push_jump(&mut self, to: usize) -> usize {
        // A program that is that long is refused at its end.
        let distance = u32::try_from(self.reversed.len() - 1 - to).unwrap_or(u32::MAX);
        self.push(JUMP, distance);
        self.reversed.len() - 1
    }

    fn push_return(&mut self, value: u32) -> usize {
        self.push(RETURN, value);
        let at = self.reversed.len() - 1;
        match self.returns.iter_mut().find(|(known, _)| *known == value) {
            Some(known) => known.1 = at,
            None => self.returns.push((value, at)),
        }
        at
    }

    fn push(&mut self, code: u16, operand: u32) -> Label {
        self.reversed.push(Instruction { code, jump_true: 0, jump_false: 0, operand });
        Label::At(self.reversed.len() - 1)
    }
}

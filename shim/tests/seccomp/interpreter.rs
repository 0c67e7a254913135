//! The kernel's classic BPF, as far as seccomp has it.

use sys::seccomp::{Instruction, MAX_INSTRUCTIONS};

/// What a filter is asked about (`struct seccomp_data`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    pub number: u32,
    pub arch: u32,
    pub args: [u64; 6],
}

impl Question {
    fn word(&self, offset: u32) -> u32 {
        let half =
            |value: u64| if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 };
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            _ => half(self.args[usize::try_from((offset - 16) / 8).unwrap()]),
        }
    }
}

/// What the program answers.
pub fn run(program: &[Instruction], question: &Question) -> u32 {
    let (mut at, mut loaded) = (0, 0);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program[at];
        let branch = |holds: bool| usize::from(if holds { jump_true } else { jump_false });
        at += 1;
        match code {
            0x20 => loaded = question.word(operand),
            0x54 => loaded &= operand,
            0x05 => at += operand as usize,
            0x15 => at += branch(loaded == operand),
            0x25 => at += branch(loaded > operand),
            0x35 => at += branch(loaded >= operand),
            0x45 => at += branch(loaded & operand != 0),
            0x06 => return operand,
            _ => panic!("instruction {code:#x} at {at}"),
        }
    }
}

/// Whether the kernel would take the program: known instructions, jumps that stay inside, a return at every end.
pub fn check(program: &[Instruction]) -> Result<(), String> {
    if program.is_empty() || program.len() > MAX_INSTRUCTIONS {
        return Err(format!("{} instructions", program.len()));
    }
    for (at, one) in program.iter().enumerate() {
        let fail = |why: &str| Err(format!("{why} at {at} of {}: {one:?}", program.len()));
        let left = program.len() - at - 1;
        match one.code {
            0x20 if one.operand.is_multiple_of(4) && one.operand < 64 => {}
            0x54 | 0x06 => {}
            0x05 if (one.operand as usize) < left => {}
            0x15 | 0x25 | 0x35 | 0x45 if usize::from(one.jump_true.max(one.jump_false)) < left => {}
            _ => return fail("invalid"),
        }
        if left == 0 && one.code != 0x06 {
            return fail("no return");
        }
    }
    Ok(())
}

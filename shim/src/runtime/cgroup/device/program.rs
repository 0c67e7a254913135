//! Device rules as a program for the kernel.
//!
//! The program goes through the rules from the last to the first and keeps in a register what of the access is not
//! decided yet. A rule that denies something of it ends the matter; one that allows takes its share away, and when
//! nothing is left the access is granted. What no rule speaks of is denied.

use sys::bpf::Instruction;

use super::{ANY, Devices, Kind, Rule};

// Registers: the result; the context that the program is called with; what it reads of it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Codes (linux/bpf_common.h, linux/bpf.h): class, operation, and where the operand is.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP: u8 = 0x05;
const JUMP_UNLESS_EQUAL: u8 = 0x56;
const JUMP_IF_ANY_BIT: u8 = 0x46;
const EXIT: u8 = 0x95;

/// `BPF_DEVCG_DEV_*`.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// Compiles rules, first to last as in a spec.
pub fn compile(rules: &[Rule]) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx: kind in the low and access in the high half of the first word, major, minor.
    let mut program = vec![
        load(KIND, 0),
        load(ACCESS, 0),
        load(MAJOR, 4),
        load(MINOR, 8),
        plain(AND, KIND, 0xffff),
        plain(SHIFT_RIGHT, ACCESS, 16),
    ];
    for rule in rules.iter().rev() {
        let body = body(rule);
        let conditions = conditions(rule);
        let count = conditions.len();
        for (at, (register, value)) in conditions.into_iter().enumerate() {
            let past = count - at - 1 + body.len();
            program.push(jump(JUMP_UNLESS_EQUAL, register, value, past));
        }
        program.extend(body);
        if rule.devices == Devices::All {
            // Nobody comes here, and the kernel does not take what cannot be reached.
            return program;
        }
    }
    program.extend(answer(false));
    program
}

fn conditions(rule: &Rule) -> Vec<(u8, u32)> {
    let Devices::Of(kind, major, minor) = rule.devices else { return Vec::new() };
    let kind = if kind == Kind::Block { BLOCK } else { CHARACTER };
    let numbers = [(MAJOR, major), (MINOR, minor)];
    let numbers = numbers.into_iter().filter_map(|(register, value)| Some((register, value?)));
    std::iter::once((KIND, kind)).chain(numbers).collect()
}

fn body(rule: &Rule) -> Vec<Instruction> {
    let access = u32::from(rule.access);
    let end = answer(rule.allow);
    if rule.devices == Devices::All {
        return end.to_vec();
    }
    let mut body = Vec::new();
    if rule.allow {
        body.push(plain(AND, ACCESS, u32::from(ANY) & !access));
        body.push(jump(JUMP_UNLESS_EQUAL, ACCESS, 0, end.len()));
    } else {
        body.push(jump(JUMP_IF_ANY_BIT, ACCESS, access, 1));
        body.push(jump(JUMP, 0, 0, end.len()));
    }
    body.extend(end);
    body
}

fn answer(allow: bool) -> [Instruction; 2] {
    [plain(MOVE, RESULT, allow.into()), plain(EXIT, 0, 0)]
}

fn plain(code: u8, register: u8, value: u32) -> Instruction {
    Instruction { code, registers: register, offset: 0, immediate: value.cast_signed() }
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction { code: LOAD_WORD, registers: register | CONTEXT << 4, offset, immediate: 0 }
}

/// Jumps over the next `past` instructions: a handful, the rest of one rule.
fn jump(code: u8, register: u8, value: u32, past: usize) -> Instruction {
    let offset = i16::try_from(past).unwrap_or(i16::MAX);
    Instruction { offset, ..plain(code, register, value) }
}

#[cfg(test)]
mod tests {
    use super::super::{MAKE, READ, WRITE};
    use super::*;

    /// One attempt to use a device.
    #[derive(Debug, Clone, Copy)]
    struct Attempt {
        kind: Kind,
        major: u32,
        minor: u32,
        access: u8,
    }

    /// What the kernel does with a program.
    fn run(program: &[Instruction], attempt: Attempt) -> bool {
        let kind = if attempt.kind == Kind::Block { BLOCK } else { CHARACTER };
        let context = [kind | u32::from(attempt.access) << 16, attempt.major, attempt.minor];
        let mut registers = [0_u32; 11];
        let mut at = 0;
        for _ in 0..100_000 {
            let Instruction { code, registers: names, offset, immediate } = program[at];
            let (own, other) = (usize::from(names & 15), usize::from(names >> 4));
            let value = immediate.cast_unsigned();
            at += 1;
            let jumps = match code {
                LOAD_WORD => {
                    assert_eq!(other, usize::from(CONTEXT));
                    registers[own] = context[usize::try_from(offset).unwrap() / 4];
                    false
                }
                MOVE => {
                    registers[own] = value;
                    false
                }
                AND => {
                    registers[own] &= value;
                    false
                }
                SHIFT_RIGHT => {
                    registers[own] >>= value;
                    false
                }
                JUMP => true,
                JUMP_UNLESS_EQUAL => registers[own] != value,
                JUMP_IF_ANY_BIT => registers[own] & value != 0,
                EXIT => return registers[0] == 1,
                code => panic!("no such instruction: {code:#x}"),
            };
            if jumps {
                at += usize::try_from(offset).unwrap();
            }
        }
        panic!("the program does not end");
    }

    /// What the rules say, bit by bit.
    fn decide(rules: &[Rule], attempt: Attempt) -> bool {
        let bits = [READ, WRITE, MAKE].into_iter().filter(|bit| attempt.access & bit != 0);
        bits.into_iter().all(|bit| {
            let speaks = |rule: &&Rule| match rule.devices {
                Devices::All => true,
                Devices::Of(kind, major, minor) => {
                    kind == attempt.kind
                        && major.is_none_or(|major| major == attempt.major)
                        && minor.is_none_or(|minor| minor == attempt.minor)
                        && rule.access & bit != 0
                }
            };
            rules.iter().rfind(speaks).is_some_and(|rule| rule.allow)
        })
    }

    /// Numbers that are the same in every run (xorshift).
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % end
        }

        fn number(&mut self) -> u32 {
            [0, 1, 3, 136, u32::MAX][usize::try_from(self.below(5)).unwrap()]
        }

        fn access(&mut self) -> u8 {
            u8::try_from(1 + self.below(7)).unwrap()
        }

        fn kind(&mut self) -> Kind {
            if self.below(2) == 0 { Kind::Block } else { Kind::Character }
        }

        fn rule(&mut self) -> Rule {
            let allow = self.below(2) == 0;
            if self.below(8) == 0 {
                return Rule { allow, devices: Devices::All, access: ANY };
            }
            let major = (self.below(3) > 0).then(|| self.number());
            let minor = (self.below(3) > 0).then(|| self.number());
            Rule { allow, devices: Devices::Of(self.kind(), major, minor), access: self.access() }
        }
    }

    #[test]
    fn a_program_decides_as_its_rules_do() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut allowed = 0;
        for _ in 0..3000 {
            let rules: Vec<Rule> = (0..random.below(12)).map(|_| random.rule()).collect();
            let program = compile(&rules);
            for _ in 0..40 {
                let attempt = Attempt {
                    kind: random.kind(),
                    major: random.number(),
                    minor: random.number(),
                    access: random.access(),
                };
                let expected = decide(&rules, attempt);
                assert_eq!(run(&program, attempt), expected, "{rules:?} {attempt:?}");
                allowed += u32::from(expected);
            }
        }
        assert!((10_000..110_000).contains(&allowed), "{allowed}");
    }

    #[test]
    fn without_rules_everything_is_denied() {
        let attempt = Attempt { kind: Kind::Character, major: 1, minor: 3, access: READ };
        assert!(!run(&compile(&[]), attempt));
    }

    #[test]
    fn the_kernels_verifier_takes_the_programs_where_they_can_be_loaded() {
        let mut random = Random(7);
        for _ in 0..200 {
            let rules: Vec<Rule> = (0..random.below(20)).map(|_| random.rule()).collect();
            match sys::bpf::load_device_program(c"test", &compile(&rules)) {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    println!("SKIPPED: takes the right to load programs");
                    return;
                }
                loaded => drop(loaded.unwrap()),
            }
        }
    }
}

//! Random profiles and random questions, drawn to the edges.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator,
};
use shim::runtime::seccomp::{Arch, Syscall, X32_BIT};

use super::interpreter::Question;

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A number that somebody might have got wrong.
    pub fn value(&mut self) -> u64 {
        const EDGES: [u64; 12] = [
            0,
            1,
            5,
            0xff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0000,
            0x1_0000_0005,
            0xffff_ffff_0000_0000,
            0xffff_ffff_0000_0005,
            u64::MAX,
        ];
        match self.below(10) {
            0 => self.next(),
            1 => self.next() >> 32,
            2 => self.next() & 0xf_0000_000f,
            _ => self.pick(&EDGES),
        }
    }
}

/// What a rule returns, and its name in a spec.
pub const ACTIONS: [(&str, Option<u32>, u32); 8] = [
    ("SCMP_ACT_ALLOW", None, 0x7fff_0000),
    ("SCMP_ACT_ERRNO", None, 0x0005_0001),
    ("SCMP_ACT_ERRNO", Some(38), 0x0005_0026),
    ("SCMP_ACT_KILL_PROCESS", None, 0x8000_0000),
    ("SCMP_ACT_KILL", None, 0),
    ("SCMP_ACT_TRAP", None, 0x0003_0000),
    ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
    ("SCMP_ACT_LOG", None, 0x7ffc_0000),
];

/// One rule for one call.
#[derive(Debug, Clone)]
pub struct Rule {
    pub name: &'static str,
    pub action: (&'static str, Option<u32>, u32),
    pub args: Vec<LinuxSeccompArg>,
}

/// A profile before it is a spec.
#[derive(Debug, Clone)]
pub struct Profile {
    pub native: Arch,
    pub archs: Vec<Arch>,
    pub default: (&'static str, Option<u32>, u32),
    pub rules: Vec<Rule>,
}

/// Which profiles are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All rules of a call have one action.
    OneAction,
    /// As `OneAction`, and without what libseccomp gets wrong.
    OneActionTamed,
    /// Rules of a call have different actions; without what libseccomp gets wrong.
    MixedTamed,
}

/// What the rules of one call are like.
struct Shape {
    name: &'static str,
    kind: Kind,
    action: (&'static str, Option<u32>, u32),
    count: usize,
    /// Arguments of a rule.
    plenty: usize,
    /// Above the inequalities' lower halves.
    upper: u64,
}

impl Shape {
    fn random(random: &mut Random, name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            action: random.pick(&ACTIONS),
            count: if random.one_in(2) { 1 } else { 2 + random.below(5) },
            plenty: if random.one_in(3) { 3 } else { 1 },
            upper: random.value() & 0xffff_ffff_0000_0000,
        }
    }

    fn append(&self, random: &mut Random, rules: &mut Vec<Rule>) {
        let behind = Syscall::find(self.name).unwrap().multiplexed(Arch::X86).is_some();
        for at in 0..self.count {
            let mixed = self.kind == Kind::MixedTamed;
            let action = if mixed { random.pick(&ACTIONS) } else { self.action };
            let mut args = Vec::new();
            for index in 0..6 {
                if args.len() < self.plenty && random.one_in(3) {
                    args.push(arg(random, index));
                }
            }
            if self.count > 1 && self.kind != Kind::OneAction {
                if behind {
                    args.retain(|one: &LinuxSeccompArg| one.index() != 0);
                }
                if args.is_empty() {
                    let index = 1 + random.below(5);
                    args.push(arg(random, index));
                }
                args.iter_mut().for_each(|one| self.tame(one, at));
            }
            rules.push(Rule { name: self.name, action, args });
        }
    }

    /// Leaves out what libseccomp gets wrong in calls with several rules:
    ///
    /// - It shares the rest of a rule between the two ways through an inequality of 64 bits, and then adds to both what
    ///   belongs to one: a0 > 5 with a1 = 1, and a0 > 6 with a1 = 2, let a0 = 6 with a1 = 2 through. So rules with
    ///   several conditions have no inequalities.
    /// - After the lower half of a "less than" it goes on to the next comparison of the same argument's upper half
    ///   without loading that. So the upper halves of inequalities are the same.
    /// - Of two "less than" with different actions it takes the wrong one (2.5.4), and of two "not equal" one for some
    ///   values and the other for others; of three "greater than" not the largest. So with different actions there are none,
    ///   or two.
    /// - Of rules one of which is the beginning of another, and that are behind another call, it prunes what is needed.
    ///   So such calls have no condition on their first argument, and no call has a rule without conditions.
    fn tame(&self, one: &mut LinuxSeccompArg, at: usize) {
        let (index, op, value) = (one.index(), one.op(), one.value());
        if matches!(op, Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq) {
            return;
        }
        let greater = matches!(op, Operator::ScmpCmpGt | Operator::ScmpCmpGe);
        let equal = self.plenty > 1 || (self.kind == Kind::MixedTamed && (!greater || at > 1));
        let op = if equal { Operator::ScmpCmpEq } else { op };
        let inequality = !matches!(op, Operator::ScmpCmpEq | Operator::ScmpCmpNe);
        let value = if inequality { self.upper | (value & 0xffff_ffff) } else { value };
        let tamed = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
        *one = tamed.build().unwrap();
    }
}

impl Profile {
    pub fn random(random: &mut Random, names: &[&'static str], kind: Kind, native: Arch) -> Self {
        let archs: &[&[Arch]] = match native {
            Arch::Aarch64 => &[&[Arch::Aarch64], &[Arch::Aarch64, Arch::Arm]],
            Arch::Arm => &[&[Arch::Arm]],
            _ => &[
                &[Arch::X86_64],
                &[Arch::X86_64, Arch::X86],
                &[Arch::X86_64, Arch::X32],
                &[Arch::X86_64, Arch::X86, Arch::X32],
            ],
        };
        let archs = random.pick(archs).to_vec();
        let default = random.pick(&ACTIONS);
        let mut rules = Vec::new();
        let calls = if random.one_in(4) { 60 } else { 6 };
        for _ in 0..=random.below(calls) {
            let name = random.pick(names);
            if kind == Kind::OneAction || rules.iter().all(|rule: &Rule| rule.name != name) {
                let shape = Shape::random(random, name, kind);
                shape.append(random, &mut rules);
            }
        }
        Self { native, archs, default, rules }
    }

    /// A profile that has no number but where an action takes one.
    pub fn of_spec(spec: &LinuxSeccomp, native: Arch) -> Self {
        let action = |action: LinuxSeccompAction, errno: Option<u32>| {
            let name: &'static str = action.to_string().leak();
            (name, errno, action.as_u32(errno))
        };
        let archs = spec.architectures().iter().flatten();
        let mut rules = Vec::new();
        for rule in spec.syscalls().iter().flatten() {
            for name in rule.names() {
                let args = rule.args().clone().unwrap_or_default();
                let action = action(rule.action(), rule.errno_ret());
                rules.push(Rule { name: name.clone().leak(), action, args });
            }
        }
        Self {
            native,
            archs: archs.filter_map(|arch| Arch::from_spec(*arch, native)).collect(),
            default: action(spec.default_action(), spec.default_errno_ret()),
            rules,
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        let arch_name = |arch: &Arch| match arch {
            Arch::X86_64 => "SCMP_ARCH_X86_64",
            Arch::X32 => "SCMP_ARCH_X32",
            Arch::X86 => "SCMP_ARCH_X86",
            Arch::Aarch64 => "SCMP_ARCH_AARCH64",
            Arch::Arm => "SCMP_ARCH_ARM",
        };
        let rules: Vec<_> = self
            .rules
            .iter()
            .map(|rule| {
                let mut json = serde_json::json!({
                    "names": [rule.name], "action": rule.action.0, "args": rule.args,
                });
                if let Some(errno) = rule.action.1 {
                    json["errnoRet"] = errno.into();
                }
                json
            })
            .collect();
        let mut json = serde_json::json!({
            "defaultAction": self.default.0,
            "architectures": self.archs.iter().map(arch_name).collect::<Vec<_>>(),
            "syscalls": rules,
        });
        if let Some(errno) = self.default.1 {
            json["defaultErrnoRet"] = errno.into();
        }
        json
    }

    /// The rules that concern a number, a line each.
    pub fn about(&self, arch: Arch, number: u32) -> String {
        use std::fmt::Write;
        let mut text = format!("{:?}, else {:x}\n", self.archs, self.default.2);
        for rule in &self.rules {
            let call = Syscall::find(rule.name).unwrap();
            let behind = call.multiplexed(arch).is_some_and(|(other, _)| other == number);
            let known = [arch, Arch::X32].map(|arch| call.number(arch) == Some(number));
            if behind || known.contains(&true) {
                write!(text, "{} {:x} if", rule.name, rule.action.2).unwrap();
                for one in &rule.args {
                    let (index, op, two) = (one.index(), one.op(), one.value_two());
                    write!(text, " a{index} {op} {:x} {two:x?},", one.value()).unwrap();
                }
                text.push('\n');
            }
        }
        text
    }

    /// A question near something that the profile says.
    pub fn question(&self, random: &mut Random, arch: Arch) -> Question {
        let rule = &self.rules[random.below(self.rules.len())];
        let call = Syscall::find(rule.name).unwrap();
        let mut args = [0; 6].map(|_: u64| random.value());
        for one in rule.args.iter().chain(&self.rules[random.below(self.rules.len())].args) {
            let value = one.value_two().unwrap_or(one.value());
            args[one.index()] = match random.below(8) {
                0 => random.value(),
                1 => value.wrapping_add(1),
                2 => value.wrapping_sub(1),
                3 => value ^ (1 << 32),
                4 => value & 0xffff_ffff,
                _ => value,
            };
        }
        let behind = call.multiplexed(arch).filter(|_| random.one_in(2));
        let mut number = call.number(arch).unwrap_or_default();
        if let Some((other, meant)) = behind {
            number = other;
            if !random.one_in(4) {
                args[0] = meant.into();
            }
        }
        number = match random.below(16) {
            0 => number.wrapping_add(1),
            1 => number.wrapping_sub(1),
            2 => number ^ X32_BIT,
            3 => random.pick(&[0, X32_BIT - 1, X32_BIT, X32_BIT + 512, u32::MAX, 1 << 31]),
            4 => u32::try_from(random.below(600)).unwrap(),
            _ => number,
        };
        Question { number, arch: arch.audit(), args }
    }
}

fn arg(random: &mut Random, index: usize) -> LinuxSeccompArg {
    const OPERATORS: [Operator; 7] = [
        Operator::ScmpCmpNe,
        Operator::ScmpCmpLt,
        Operator::ScmpCmpLe,
        Operator::ScmpCmpEq,
        Operator::ScmpCmpGe,
        Operator::ScmpCmpGt,
        Operator::ScmpCmpMaskedEq,
    ];
    let op = random.pick(&OPERATORS);
    let builder = LinuxSeccompArgBuilder::default().index(index).op(op).value(random.value());
    let built = match op {
        Operator::ScmpCmpMaskedEq => builder.value_two(random.value()).build(),
        _ => builder.build(),
    };
    built.unwrap()
}

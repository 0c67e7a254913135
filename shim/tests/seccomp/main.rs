//! Our filters against libseccomp's: random profiles, and random questions to what both make of them.
//!
//! libseccomp is asked by a program of a few lines of C, compiled here (packages gcc, libseccomp-dev); without them it
//! says SKIPPED. `SECCOMP_SEED` repeats a run, `SECCOMP_PROFILES` makes it longer.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod interpreter;
mod random;
mod reference;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator as Operator};
use shim::runtime::seccomp::{Arch, Profile as Compiled, Syscall, X32_BIT};
use sys::seccomp::Instruction;

use self::interpreter::{Question, check, run};
use self::random::{Kind, Profile, Random};
use self::reference::Reference;

const QUESTIONS: usize = 150;

fn seed() -> u64 {
    let given = std::env::var("SECCOMP_SEED").ok().map(|text| text.parse().unwrap());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = given.unwrap_or(clock.as_nanos() as u64);
    println!("SECCOMP_SEED={seed}");
    seed
}

fn profiles() -> usize {
    std::env::var("SECCOMP_PROFILES").map_or(600, |text| text.parse().unwrap())
}

fn ours(profile: &Profile, stub: bool) -> Result<Vec<Instruction>, shim::Failure> {
    let spec: LinuxSeccomp = serde_json::from_value(profile.to_json()).unwrap();
    let compiled = Compiled::new(&spec, profile.native).unwrap();
    let compiled = if stub { compiled } else { compiled.without_newer() };
    let program = compiled.compile()?;
    check(&program).unwrap();
    Ok(program)
}

/// What a profile says, without any cleverness: where all rules of a call have one action.
fn meaning(profile: &Profile, arch: Arch, question: &Question) -> u32 {
    let number = question.number;
    let x86 = matches!(arch, Arch::X86_64 | Arch::X32);
    let skipped = x86 && number == u32::MAX && !profile.archs.contains(&Arch::X32);
    let of_x32 = x86 && number >= X32_BIT && !skipped;
    let arch = if of_x32 { Arch::X32 } else { arch };
    let arch = if arch == Arch::X32 && number < X32_BIT { Arch::X86_64 } else { arch };
    if !profile.archs.contains(&arch) {
        return if skipped { profile.default.2 } else { 0 };
    }
    for rule in &profile.rules {
        let call = Syscall::find(rule.name).unwrap();
        let met = |skip_first: bool| {
            let mut args = rule.args.iter().filter(|one| !(skip_first && one.index() == 0));
            args.all(|one| holds(one, question.args[one.index()], arch.is_narrow()))
        };
        let behind = call.multiplexed(arch).is_some_and(|(other, meant)| {
            other == number && question.args[0] as u32 == meant && met(true)
        });
        let own = call.number(arch) == Some(number) && met(false);
        if (own || behind) && rule.action.2 != profile.default.2 {
            return rule.action.2;
        }
    }
    profile.default.2
}

fn holds(one: &LinuxSeccompArg, argument: u64, narrow: bool) -> bool {
    let cut = |number: u64| if narrow { number & 0xffff_ffff } else { number };
    let (argument, value) = (cut(argument), cut(one.value()));
    match one.op() {
        Operator::ScmpCmpNe => argument != value,
        Operator::ScmpCmpLt => argument < value,
        Operator::ScmpCmpLe => argument <= value,
        Operator::ScmpCmpEq => argument == value,
        Operator::ScmpCmpGe => argument >= value,
        Operator::ScmpCmpGt => argument > value,
        Operator::ScmpCmpMaskedEq => {
            argument & value == cut(one.value_two().unwrap_or_default()) & value
        }
    }
}

#[test]
fn filters_do_what_profiles_say() {
    let mut random = Random(seed());
    let names: Vec<&str> = Syscall::names().collect();
    let mut asked = [0; Arch::ALL.len()];
    for _ in 0..profiles() {
        let native = random.pick(&[Arch::X86_64, Arch::X86_64, Arch::Aarch64]);
        let mut profile = Profile::random(&mut random, &names, Kind::OneAction, native);
        // One action for all: a call may be drawn twice.
        let action = profile.rules[0].action;
        profile.rules.iter_mut().for_each(|rule| rule.action = action);
        let program = ours(&profile, false).unwrap();
        for arch in Arch::ALL.into_iter().filter(|arch| native.runs(*arch)) {
            for _ in 0..QUESTIONS {
                let question = profile.question(&mut random, arch);
                let (answer, meant) =
                    (run(&program, &question), meaning(&profile, arch, &question));
                let about = || profile.about(arch, question.number);
                assert_eq!(answer, meant, "{arch:?} {question:x?}\n{}", about());
                asked[arch as usize] += 1;
            }
        }
    }
    println!("questions for {:?}: {asked:?}", Arch::ALL);
    assert!(asked.into_iter().all(|count| count >= 20_000), "{asked:?}");
}

/// Holds one kind of profiles against libseccomp, and counts the questions for each architecture.
fn differ(kind: Kind) {
    let Some(mut reference) = Reference::start() else { return };
    let mut random = Random(seed());
    let names = reference.known_names();
    let mut asked = [0; Arch::ALL.len()];
    let mut refused = 0;
    for _ in 0..profiles() {
        let native = random.pick(&[Arch::X86_64, Arch::X86_64, Arch::Aarch64]);
        let profile = Profile::random(&mut random, &names, kind, native);
        let Ok(theirs) = reference.compile(&profile) else {
            refused += 1;
            continue;
        };
        let Ok(program) = ours(&profile, false) else {
            panic!("libseccomp takes what we do not:\n{:#}", profile.to_json());
        };
        for arch in Arch::ALL.into_iter().filter(|arch| native.runs(*arch)) {
            for _ in 0..QUESTIONS {
                let question = profile.question(&mut random, arch);
                let (answer, expected) = (run(&program, &question), run(&theirs, &question));
                let about = || profile.about(arch, question.number);
                assert_eq!(answer, expected, "{arch:?} {question:x?}\n{}", about());
                asked[arch as usize] += 1;
            }
        }
    }
    println!("{kind:?}: questions for {:?}: {asked:?}; {refused} profiles refused", Arch::ALL);
    assert!(asked.into_iter().all(|count| count >= 20_000), "{asked:?}");
}

#[test]
fn filters_answer_as_libseccomps_where_a_call_has_one_action() {
    differ(Kind::OneActionTamed);
}

#[test]
fn filters_answer_as_libseccomps_where_actions_compete() {
    differ(Kind::MixedTamed);
}

#[test]
fn the_numbers_are_libseccomps() {
    let Some(mut reference) = Reference::start() else { return };
    let mut compared = 0;
    for name in Syscall::names() {
        let call = Syscall::find(name).unwrap();
        let theirs = reference.numbers(name);
        for arch in Arch::ALL {
            // What is behind another call has a number of libseccomp's own there, and what it does not know has none.
            let Ok(their) = u32::try_from(theirs[arch as usize]) else { continue };
            assert_eq!(call.number(arch), Some(their), "{name} of {arch:?}");
            compared += 1;
        }
    }
    assert!(compared > 1500, "{compared}");
}

#[test]
fn calls_newer_than_the_profile_are_not_there() {
    let profile = |default| Profile {
        native: Arch::X86_64,
        archs: vec![Arch::X86_64, Arch::X86],
        default,
        rules: ["read", "statx", "socket"]
            .map(|name| random::Rule { name, action: random::ACTIONS[0], args: Vec::new() })
            .to_vec(),
    };
    let ask = |program: &[Instruction], arch: Arch, number| {
        run(program, &Question { number, arch: arch.audit(), args: [0; 6] })
    };
    let errno = ours(&profile(random::ACTIONS[1]), true).unwrap();
    let (allow, forbidden, missing) = (0x7fff_0000, 0x0005_0001, 0x0005_0026);
    assert_eq!(ask(&errno, Arch::X86_64, 332), allow);
    assert_eq!(ask(&errno, Arch::X86_64, 331), forbidden);
    assert_eq!(ask(&errno, Arch::X86_64, 333), missing);
    assert_eq!(ask(&errno, Arch::X86_64, X32_BIT - 1), missing);
    // Another architecture has another last number, and one that is not in the profile is killed as before.
    assert_eq!(ask(&errno, Arch::X86, 383), allow);
    assert_eq!(ask(&errno, Arch::X86, 384), missing);
    assert_eq!(ask(&errno, Arch::X86_64, X32_BIT + 500), 0);
    assert_eq!(ask(&errno, Arch::X86_64, u32::MAX), forbidden);
    // So it is for whoever would be killed, but not where what is not named is let through.
    assert_eq!(ask(&ours(&profile(random::ACTIONS[4]), true).unwrap(), Arch::X86, 384), missing);
    for default in [0, 6, 7].map(|at| random::ACTIONS[at]) {
        let program = ours(&profile(default), true).unwrap();
        assert_eq!(ask(&program, Arch::X86_64, 333), default.2);
    }
}

/// The named difference: what libseccomp's shared subtrees let through, ours does not.
#[test]
fn conditions_of_one_rule_do_not_leak_into_another() {
    let arg = |index: usize, op: &str, value: u64| {
        serde_json::from_value::<LinuxSeccompArg>(
            serde_json::json!({"index": index, "op": op, "value": value}),
        )
        .unwrap()
    };
    let rule = |first, second| random::Rule {
        name: "ioctl",
        action: random::ACTIONS[0],
        args: vec![arg(0, "SCMP_CMP_GT", first), arg(1, "SCMP_CMP_EQ", second)],
    };
    let profile = Profile {
        native: Arch::X86_64,
        archs: vec![Arch::X86_64],
        default: random::ACTIONS[1],
        rules: vec![rule(5, 1), rule(6, 2)],
    };
    let question = Question { number: 16, arch: Arch::X86_64.audit(), args: [6, 2, 0, 0, 0, 0] };
    assert_eq!(run(&ours(&profile, false).unwrap(), &question), 0x0005_0001);
    if let Some(theirs) = Reference::start().map(|mut it| it.compile(&profile).unwrap()) {
        println!("libseccomp answers {:#x}", run(&theirs, &question));
    }
}

/// The daemon's default profile, from the golden file of a container that has it.
fn runtime_default() -> LinuxSeccomp {
    let path = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
        .join("../cri/src/spec/golden/volumes.json");
    let spec: oci_spec::runtime::Spec =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    spec.linux().as_ref().unwrap().seccomp().clone().unwrap()
}

#[test]
fn the_default_profile_is_short_and_answers_as_libseccomps() {
    let spec = runtime_default();
    let text = serde_json::to_vec(&spec).unwrap();
    let started = std::time::Instant::now();
    let rounds = 200;
    for _ in 0..rounds {
        let _spec: LinuxSeccomp = serde_json::from_slice(&text).unwrap();
    }
    let parsed = started.elapsed() / rounds;
    let started = std::time::Instant::now();
    for _ in 0..rounds {
        let _program = Compiled::new(&spec, Arch::X86_64).unwrap().compile().unwrap();
    }
    let compiled = started.elapsed() / rounds;
    let program = Compiled::new(&spec, Arch::X86_64).unwrap().compile().unwrap();
    println!(
        "{} bytes of JSON parsed in {parsed:?}, compiled in {compiled:?} to {} instructions",
        text.len(),
        program.len()
    );
    assert!(program.len() < 500, "{}", program.len());
    let Some(mut reference) = Reference::start() else { return };
    let mut profile = Profile::of_spec(&spec, Arch::X86_64);
    let known = reference.known_names();
    profile.rules.retain(|rule| known.contains(&rule.name));
    let theirs = reference.compile(&profile).unwrap();
    println!("libseccomp's has {}", theirs.len());
    let program = ours(&profile, false).unwrap();
    let firsts = [0, 1, 8, 37, 38, 39, 40, 41, 0x2_0000, 0x2_0008, 0xffff_ffff, 1 << 32, 1 << 28];
    for arch in [Arch::X86_64, Arch::X32, Arch::X86, Arch::Arm] {
        let base = if arch == Arch::X32 { X32_BIT } else { 0 };
        for (number, first) in (0..600).flat_map(|n| firsts.map(|first| (n + base, first))) {
            let question = Question { number, arch: arch.audit(), args: [first, 0, 0, 0, 0, 0] };
            assert_eq!(run(&program, &question), run(&theirs, &question), "{question:x?}");
        }
    }
}

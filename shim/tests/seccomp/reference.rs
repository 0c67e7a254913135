//! libseccomp, asked through a pipe.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use shim::runtime::seccomp::{Arch, Syscall};
use sys::seccomp::Instruction;

use super::random::Profile;

/// The program that asks, running.
pub struct Reference {
    process: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Reference {
    /// Compiles and starts it; `None` where that cannot be.
    pub fn start() -> Option<Self> {
        static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let binary = match BINARY.get_or_init(build) {
            Ok(binary) => binary,
            Err(reason) => {
                println!("SKIPPED: {reason}");
                return None;
            }
        };
        let mut process =
            Command::new(binary).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (process.stdin.take(), process.stdout.take().unwrap());
        Some(Self { process, input, output })
    }

    fn say(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    fn hear<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.output.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The numbers for each of [`Arch::ALL`]; negative ones are none.
    pub fn numbers(&mut self, name: &str) -> [i32; 5] {
        self.say(&format!("n {name}\n"));
        [(); 5].map(|()| i32::from_ne_bytes(self.hear()))
    }

    /// The names that this libseccomp knows on all architectures on which we do.
    pub fn known_names(&mut self) -> Vec<&'static str> {
        let known = |name: &&str| {
            let call = Syscall::find(name).unwrap();
            let theirs = self.numbers(name);
            Arch::ALL.into_iter().all(|arch| {
                let behind = call.multiplexed(arch).is_some();
                behind || call.number(arch) == u32::try_from(theirs[arch as usize]).ok()
            })
        };
        Syscall::names().filter(known).collect()
    }

    /// The program that libseccomp makes, or its error.
    pub fn compile(&mut self, profile: &Profile) -> Result<Vec<Instruction>, i32> {
        let mut text = format!("p {} 2\n", profile.default.2);
        for arch in &profile.archs {
            let token = match arch {
                Arch::X32 => 0x4000_003e,
                other => other.audit(),
            };
            text.push_str(&format!("a {token}\n"));
        }
        if !profile.archs.contains(&Arch::native()) {
            text.push_str("x\n");
        }
        for rule in profile.rules.iter().filter(|rule| rule.action.2 != profile.default.2) {
            text.push_str(&format!("r {} {} {}", rule.name, rule.action.2, rule.args.len()));
            for one in &rule.args {
                let two = one.value_two().unwrap_or_default();
                let number = one.op() as u32;
                text.push_str(&format!(" {} {number} {} {two}", one.index(), one.value()));
            }
            text.push('\n');
        }
        text.push_str("e\n");
        if let Some(dump) = std::env::var_os("SECCOMP_DUMP") {
            std::fs::write(dump, &text).unwrap();
        }
        self.say(&text);
        let error = i32::from_ne_bytes(self.hear());
        let count = u32::from_ne_bytes(self.hear());
        let program = (0..count)
            .map(|_| {
                let bytes: [u8; 8] = self.hear();
                Instruction {
                    code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                    jump_true: bytes[2],
                    jump_false: bytes[3],
                    operand: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
                }
            })
            .collect();
        if error == 0 { Ok(program) } else { Err(error) }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        self.input = None;
        drop(self.process.wait());
    }
}

fn build() -> Result<PathBuf, String> {
    let source = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
        .join("tests/seccomp/reference.c");
    let binary = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("seccomp-reference");
    let mut cc = Command::new("cc");
    cc.arg("-O1").arg("-o").arg(&binary).arg(source).arg("-lseccomp");
    match cc.stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(binary),
        Ok(_) => Err("no seccomp.h to compile with (package libseccomp-dev)".to_owned()),
        Err(error) => Err(format!("cc: {error} (package gcc)")),
    }
}

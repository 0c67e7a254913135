//! A profile from anywhere: refused with a word on it, or a program that the kernel takes and that always ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::LinuxSeccomp;
use shim::runtime::seccomp::{Arch, Profile};

#[path = "../../tests/seccomp/interpreter.rs"]
mod interpreter;

use interpreter::{Question, check, run};

fuzz_target!(|data: &[u8]| {
    let Ok(spec) = serde_json::from_slice::<LinuxSeccomp>(data) else { return };
    for native in [Arch::X86_64, Arch::Aarch64] {
        let Ok(profile) = Profile::new(&spec, native) else { continue };
        let Ok(program) = profile.compile() else { continue };
        check(&program).unwrap();
        for arch in Arch::ALL {
            for number in [0, 1, 59, 435, 0x4000_0000, u32::MAX] {
                let args = [u64::from(number), 0, u64::MAX, 1 << 32, 5, 0];
                let _answer = run(&program, &Question { number, arch: arch.audit(), args });
            }
        }
    }
});

//! An OCI spec, up to everything that can be known without the kernel.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shim::runtime::fuzz::spec(bytes));

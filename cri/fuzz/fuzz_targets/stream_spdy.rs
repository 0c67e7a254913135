//! What a client sends: frames of SPDY.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cri::streaming::fuzz::spdy(bytes));

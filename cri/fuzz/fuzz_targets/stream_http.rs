//! What a client sends: a request, and whatever follows it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cri::streaming::fuzz::http(bytes));

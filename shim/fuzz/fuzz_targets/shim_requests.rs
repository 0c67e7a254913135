//! What a caller sends over the shim's socket, in pieces of any size.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shim::server::fuzz::requests(bytes));

//! A user, and an image's passwd and group files, apart by bytes that are no text.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shim::runtime::fuzz::users(bytes));

//! What a client sends: frames of WebSocket, and what is in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cri::streaming::fuzz::websocket(bytes));

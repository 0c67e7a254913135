//! The streaming server's wire formats: bytes of a hostile peer in, frames out, pure.

pub mod spdy;

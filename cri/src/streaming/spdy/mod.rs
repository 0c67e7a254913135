//! SPDY/3.1, as far as Kubernetes speaks it: streams with headers over one upgraded connection.
//!
//! [`session`] reads, [`writer`] writes, and they share which streams there are. Nothing is kept between the two ends
//! of a stream: a client's bytes go to where they belong before the next ones are read. So TCP's own window pushes
//! back. The protocol's windows are granted as large as they can be, and held for a peer that counts; none of
//! Kubernetes' clients does (github.com/moby/spdystream passes WINDOW_UPDATE over).

pub mod frame;
pub mod header;
pub(super) mod input;
pub(super) mod session;
pub(super) mod writer;

//! SPDY/3.1, as far as Kubernetes speaks it: streams with headers over one upgraded connection.

pub mod frame;
pub mod header;

//! The ImageService's verbs: CRI's words for what the image store does.

pub mod fs_info;
pub mod list;
pub mod pull;
pub mod remove;
pub mod status;

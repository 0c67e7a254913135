//! This program as something that nobody can write to, before a copy of it is in a container.
//!
//! The process that becomes a container's, or an exec's, is for a moment this program among strangers: they could make
//! it execute itself (`#!/proc/self/exe` in the image), open it through `/proc/PID/exe` and write to it when it has ended
//! (CVE-2019-5736). So it is executed anew from a read-only mount of its own file that no namespace has.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::fcntl::AtFlags;
use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::Failure;

const OWN: &str = "/proc/self/exe";

/// Returns when this program runs from a read-only mount; otherwise it is executed anew from one.
///
/// # Errors
/// The kernel refuses such a mount: it takes `CAP_SYS_ADMIN`.
pub fn seal() -> Result<(), Failure> {
    let fail = |error: std::io::Error| Failure::os("protect", "this program's file", error);
    let found = statvfs(OWN).map_err(|e| fail(e.into()))?;
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        // The name that it got from its file's number.
        let _cosmetic = rustix::thread::set_name(c"wherry-oci");
        return Ok(());
    }
    let copy = sys::mount::read_only_copy(Path::new(OWN)).map_err(fail)?;
    let text = |text: std::ffi::OsString| CString::new(text.into_vec()).map_err(|e| fail(e.into()));
    let args = std::env::args_os().map(text).collect::<Result<Vec<_>, _>>()?;
    let env = std::env::vars_os().map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        text(variable)
    });
    let env = env.collect::<Result<Vec<_>, _>>()?;
    match nix::unistd::execveat(copy.as_fd(), c"", &args, &env, AtFlags::AT_EMPTY_PATH) {
        Err(error) => Err(Failure::os("execute", format!("{OWN} ({})", copy.as_raw_fd()), error)),
        Ok(never) => match never {},
    }
}

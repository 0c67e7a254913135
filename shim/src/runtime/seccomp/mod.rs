//! seccomp: which system calls a process may make, from the spec's profile to a filter in the kernel.
//!
//! ```text
//! spec ── profile ──► rules of each call, by number ──► search tree of BPF ── saved in the bundle
//!   (builder)          (rule, table, arch)   (compile, tree, compare, bpf)      │
//!                                                        init, execs ◄──────────┘  loaded right before execve
//! ```
//!
//! What a profile means is what runc and libseccomp make of it; where they do what nobody can have meant, it is said
//! where it is done otherwise.

mod action;
mod arch;
mod bpf;
mod compare;
mod compile;
mod notify;
mod profile;
mod rule;
mod stored;
mod table;
mod tree;

use std::fmt::Display;
use std::os::fd::BorrowedFd;

use oci_spec::runtime::LinuxSeccomp;
use sys::seccomp::{Instruction, knows_flags};

use crate::{Failure, FailureKind};

pub use self::arch::{Arch, X32_BIT};
pub use self::notify::{Container, Listener};
pub use self::profile::Profile;
pub use self::stored::FILE as STORED_FILE;
pub use self::table::Syscall;

/// A filter that is ready to be loaded.
#[derive(Debug)]
pub struct Filter {
    program: Vec<Instruction>,
    flags: u32,
    listener: Option<Listener>,
}

impl Filter {
    /// Compiles the container's profile, connects to the listener that it names, and keeps the result for execs.
    ///
    /// # Errors
    /// `InvalidArgument`: the profile means nothing, or nobody listens.
    pub fn create(spec: &LinuxSeccomp, container: &Container<'_>) -> Result<Self, Failure> {
        let profile = Profile::new(spec, Arch::native())?;
        let flags = profile.flags;
        if !knows_flags(flags) {
            return Err(invalid(format!("flags {flags:#x}"), "the kernel does not know them"));
        }
        let program = profile.compile()?;
        let listener = profile.listener.map(|(path, words)| Listener::new(path, words, container));
        stored::write(container.folder, &program, flags, listener.as_ref())?;
        let mut filter = Self { program, flags, listener };
        filter.connect()?;
        Ok(filter)
    }

    /// What [`Filter::create`] has kept, for a further process of the container: in the folder that it was told, which is
    /// this process's own by now. `None` if there is no profile. `init` is a handle of the container's first process.
    ///
    /// # Errors
    /// The file is damaged, or nobody listens any longer.
    pub fn open(init: BorrowedFd<'_>) -> Result<Option<Self>, Failure> {
        let Some((program, flags, listener)) = stored::read()? else { return Ok(None) };
        let mut filter = Self { program, flags, listener };
        if let Some(listener) = &mut filter.listener {
            listener.of_exec(init);
        }
        filter.connect()?;
        Ok(Some(filter))
    }

    /// Loads it. From here on every call of this process is judged.
    ///
    /// # Errors
    /// The kernel refuses, or the listener does not take the file.
    pub fn load(&self) -> Result<(), Failure> {
        let fail = |error| Failure::os("load", "seccomp filter", error);
        let file = sys::seccomp::install(&self.program, self.flags).map_err(fail)?;
        match (file, &self.listener) {
            (Some(file), Some(listener)) => listener.send(&file),
            _ => Ok(()),
        }
    }

    fn connect(&mut self) -> Result<(), Failure> {
        self.listener.as_mut().map_or(Ok(()), Listener::connect)
    }
}

fn invalid(object: impl Display, cause: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    let kind = FailureKind::InvalidArgument;
    Failure::new(kind, "use seccomp profile:", object.to_string(), cause)
}

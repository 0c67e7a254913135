//! Sysctls of a pod: which namespace each belongs to, and that none reaches beyond it.
//!
//! The keys come from pod specifications. What is not known to belong to a namespace being made is refused, so
//! that nothing here can change the host (CVE-2022-0532, and CVE-2022-0811 for why the grammar is narrow).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::Uid;

use super::{Kind, NamespaceError, PinRequest, step};

/// A write longer than a page is not one value any more (`proc_sys_call_handler`).
const VALUE_MAX: usize = 4096;

/// A sysctl that belongs to one of the namespaces being made.
#[derive(Debug)]
pub(super) struct Sysctl {
    key: String,
    file: PathBuf,
    value: String,
    owner: Kind,
}

impl Sysctl {
    pub(super) fn parse(
        key: &str,
        value: &str,
        request: &PinRequest<'_>,
    ) -> Result<Self, NamespaceError> {
        let invalid =
            |reason| NamespaceError::InvalidSysctl { key: key.chars().take(128).collect(), reason };
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_./-".contains(c);
        if key.len() > 255 || !key.chars().all(allowed) {
            return Err(invalid("has characters that no sysctl of a namespace has"));
        }
        let path = slash_form(key);
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid("has an empty part or one that leads elsewhere"));
        }
        let owner = owner(&path).ok_or_else(|| invalid("does not belong to a pod's namespaces"))?;
        if !owner.wanted(request) {
            return Err(invalid("belongs to a namespace that is the host's for this pod"));
        }
        if value.len() > VALUE_MAX || value.bytes().any(|b| matches!(b, 0 | b'\n' | b'\r')) {
            return Err(invalid("has a value that is not one line"));
        }
        let file = Path::new("/proc/sys").join(path);
        Ok(Self { key: key.to_owned(), file, value: value.to_owned(), owner })
    }

    /// Writes the value. procfs resolves these files by the namespaces of the thread that opens them, so the
    /// host's mount of it serves (`net_ctl_root`, `set_is_seen` of the ipc and mqueue roots, `proc_do_uts_string`).
    ///
    /// Those of an IPC namespace belong to the `root` of its user namespace and to nobody above it (`ipc_permissions`):
    /// the thread, which is to end afterwards, writes them as that user.
    pub(super) fn apply(&self, root: Option<u32>) -> Result<(), NamespaceError> {
        let become_user = |uid| rustix::thread::set_thread_res_uid(Uid::ROOT, uid, Uid::ROOT);
        let owner = root.filter(|_| self.owner == Kind::Ipc).map(Uid::from_raw);
        let changed = owner.map_or(Ok(()), become_user).map_err(std::io::Error::from);
        let written = changed.and_then(|()| {
            let mut file: File = OpenOptions::new().write(true).open(&self.file)?;
            file.write_all(self.value.as_bytes())
        });
        owner
            .map_or(Ok(()), |_| become_user(Uid::ROOT))
            .map_err(|errno| step("set sysctl", &self.key)(errno.into()))?;
        written.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => self.invalid("is not known to this kernel"),
            Some(Errno::INVAL | Errno::RANGE) => {
                self.invalid("has a value that the kernel does not take")
            }
            _ => step("set sysctl", &self.key)(error),
        })
    }

    fn invalid(&self, reason: &'static str) -> NamespaceError {
        NamespaceError::InvalidSysctl { key: self.key.clone(), reason }
    }
}

/// Turns `net.ipv4.conf.eth0/1.x` into `net/ipv4/conf/eth0.1/x`: the first separator of a key says which of the two
/// notations it is in (sysctl.d(5)).
pub(super) fn slash_form(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key[at..].starts_with('.') => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

/// The namespace that a sysctl belongs to; `None` if it is the whole machine's.
fn owner(path: &str) -> Option<Kind> {
    if path.starts_with("net/") {
        return Some(Kind::Net);
    }
    if path.starts_with("fs/mqueue/") {
        return Some(Kind::Ipc);
    }
    let name = path.strip_prefix("kernel/").filter(|name| !name.contains('/'))?;
    match name {
        "hostname" | "domainname" => Some(Kind::Uts),
        "sem" => Some(Kind::Ipc),
        _ if name.starts_with("msg") || name.starts_with("shm") => Some(Kind::Ipc),
        _ => None,
    }
}

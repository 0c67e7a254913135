//! The files and mounts that a pod's containers share: host name, hosts, resolver, /dev/shm.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::config::{Dns, PodScope, SandboxConfig};
use super::paths::PodPaths;
use crate::error::Error;
use crate::ids::IdMaps;

/// The size Docker gave /dev/shm, which programs have come to expect.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// Makes the folder with what does not depend on the pod's addresses.
///
/// Blocks on the (volatile) file system. What a killed daemon leaves of it, [`remove`] takes away.
///
/// # Errors
/// The file system or the kernel refuses.
pub fn make(paths: &PodPaths, config: &SandboxConfig) -> Result<(), Error> {
    let error = |source| Error::Io {
        operation: format!(
            "prepare the files of pod {} in {}",
            config.pod(),
            paths.dir().display()
        ),
        source,
    };
    // Containers get at these files by bind mounts only: the folder itself is nobody else's business.
    let mut folder = fs::DirBuilder::new();
    folder.mode(0o700).recursive(true);
    folder.create(paths.namespaces()).map_err(error)?;
    let hostname = match config.network {
        PodScope::Node => fs::read_to_string("/proc/sys/kernel/hostname").map_err(error)?,
        PodScope::Pod => format!("{}\n", config.hostname),
    };
    write(&paths.hostname(), &hostname, config).map_err(error)?;
    let resolver = match &config.dns {
        Some(dns) => resolv_conf(dns),
        None => read_or_empty(Path::new("/etc/resolv.conf")).map_err(error)?,
    };
    write(&paths.resolv_conf(), &resolver, config).map_err(error)?;
    if config.ipc == PodScope::Pod {
        fs::create_dir_all(paths.shm()).map_err(error)?;
        mount_shm(&paths.shm(), config).map_err(error)?;
    }
    Ok(())
}

/// Writes /etc/hosts, which names the pod's own addresses.
///
/// # Errors
/// The file system refuses.
pub fn make_hosts(paths: &PodPaths, config: &SandboxConfig, ips: &[IpAddr]) -> Result<(), Error> {
    let text = match config.network {
        PodScope::Node => read_or_empty(Path::new("/etc/hosts")),
        PodScope::Pod => Ok(hosts(&config.hostname, ips)),
    };
    text.and_then(|text| write(&paths.hosts(), &text, config)).map_err(|source| Error::Io {
        operation: format!("write the hosts file of pod {}", config.pod()),
        source,
    })
}

/// Takes everything away; what is gone already is fine.
///
/// # Errors
/// The kernel refuses.
pub fn remove(paths: &PodPaths) -> Result<(), Error> {
    let error =
        |source| Error::Io { operation: format!("remove {}", paths.dir().display()), source };
    shim::release_pids(paths.dir()).map_err(|source| Error::Shim {
        operation: format!("remove {}", paths.dir().display()),
        source,
    })?;
    detach(&paths.pid()).map_err(error)?;
    sys::netns::unpin(&paths.namespaces()).map_err(|source| Error::Namespace {
        operation: format!("unpin the namespaces in {}", paths.dir().display()),
        source,
    })?;
    detach(&paths.shm()).map_err(error)?;
    crate::runtime::remove_folder(paths.dir())
}

/// Marks the pod as complete, with its addresses: the commit of RunPodSandbox.
///
/// # Errors
/// The file system refuses.
pub fn mark_ready(paths: &PodPaths, ips: &[IpAddr]) -> Result<(), Error> {
    let text = serde_json::to_vec(ips).map_err(io::Error::from);
    text.and_then(|text| sys::durable::write_volatile(&paths.ready(), &text)).map_err(|source| {
        Error::Io { operation: format!("write the mark {}", paths.ready().display()), source }
    })
}

/// The addresses of a pod that is complete.
///
/// # Errors
/// The mark is there and cannot be read.
pub fn read_ready(paths: &PodPaths) -> Result<Option<Vec<IpAddr>>, Error> {
    crate::record::read(&paths.ready())
}

fn mount_shm(target: &Path, config: &SandboxConfig) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let owner = owner(config).map(|(uid, gid)| format!(",uid={uid},gid={gid}"));
    let options = format!("{SHM_OPTIONS}{}", owner.unwrap_or_default());
    let options = std::ffi::CString::new(options)?;
    Ok(rustix::mount::mount("shm", target, "tmpfs", flags, options.as_c_str())?)
}

/// Takes a mount of ours away by its name, which nobody else can have changed: the folder is root's alone.
fn detach(target: &Path) -> io::Result<()> {
    match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not mounted, or not even there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whom the files are given to. They are few and the pod's alone, and not every kernel can map ids of a tmpfs.
fn owner(config: &SandboxConfig) -> Option<(u32, u32)> {
    config.users.as_ref().and_then(IdMaps::root)
}

fn write(path: &Path, text: &str, config: &SandboxConfig) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    if let Some((uid, gid)) = owner(config) {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

fn read_or_empty(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// resolv.conf(5), in the order that the kubelet's users know.
fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        writeln!(text, "nameserver {server}").expect("a String takes any text");
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

fn hosts(hostname: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    if !hostname.is_empty() {
        for ip in ips {
            writeln!(text, "{ip}\t{hostname}").expect("a String takes any text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_search_servers_and_options() {
        let dns = Dns {
            servers: vec!["10.96.0.10".into(), "1.1.1.1".into()],
            searches: vec!["svc.cluster.local".into(), "cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search svc.cluster.local cluster.local\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&Dns::default()), "");
    }

    #[test]
    fn the_hosts_file_names_the_pod() {
        let text = hosts("web-0", &["10.88.0.2".parse().unwrap()]);
        assert!(text.ends_with("10.88.0.2\tweb-0\n"), "{text}");
    }
}

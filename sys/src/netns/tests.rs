//! The grammar, and (as root) namespaces pinned below a private mount namespace of a thread.

use std::fs::File;

use super::sysctl::slash_form;
use super::*;

fn request<'a>(dir: &'a Path, sysctls: &'a [(String, String)]) -> PinRequest<'a> {
    PinRequest {
        dir,
        users: None,
        net: true,
        ipc: true,
        uts: true,
        hostname: Some("pod-1"),
        sysctls,
    }
}

fn refusal(key: &str, value: &str) -> Option<&'static str> {
    match Sysctl::parse(key, value, &request(Path::new("/"), &[])) {
        Ok(_) => None,
        Err(NamespaceError::InvalidSysctl { reason, .. }) => Some(reason),
        Err(other) => panic!("unexpected {other}"),
    }
}

/// Runs the closure as root on a thread with a mount namespace of its own and a folder to work in.
fn isolated(name: &str, f: impl FnOnce(&Path) + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED {name}: needs root");
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .unwrap();
            let dir = std::env::temp_dir().join(format!("netns-{name}-{}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            f(&dir);
            unpin(&dir).unwrap();
            fs::remove_dir(&dir).unwrap();
        });
    });
}

#[test]
fn sysctls_of_the_machine_and_malformed_ones_are_refused() {
    for key in [
        "kernel.core_pattern",
        "kernel.pid_max",
        "vm.swappiness",
        "fs.file-max",
        "kernel.shm/../core_pattern",
        "net.ipv4..ip_forward",
        "net.//.kernel.core_pattern",
        "net/../kernel/core_pattern",
        "/net/ipv4/ip_forward",
        "kernel/shm/../core_pattern",
        "net.ipv4.ip forward",
        "net.ipv4.IP",
        "net",
        "",
    ] {
        assert!(refusal(key, "1").is_some(), "{key}");
    }
    assert!(refusal("net.ipv4.ip_forward", "1\n2").is_some());
    assert!(refusal("net.ipv4.ip_forward", &"1".repeat(5000)).is_some());
}

#[test]
fn sysctls_of_a_pods_namespaces_are_taken_in_both_notations() {
    for key in [
        "net.ipv4.ip_unprivileged_port_start",
        "net/ipv4/ping_group_range",
        "kernel.shm_rmid_forced",
        "kernel.msgmax",
        "kernel.sem",
        "fs.mqueue.msg_max",
        "kernel.domainname",
    ] {
        assert_eq!(refusal(key, "1"), None, "{key}");
    }
    assert_eq!(slash_form("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
}

#[test]
fn a_sysctl_of_a_namespace_that_is_the_hosts_is_refused() {
    let mut host_network = request(Path::new("/"), &[]);
    host_network.net = false;
    assert!(Sysctl::parse("net.ipv4.ip_forward", "1", &host_network).is_err());
    assert!(Sysctl::parse("kernel.sem", "1 2 3 4", &host_network).is_ok());
}

#[test]
fn hostnames_are_checked() {
    assert!(check_hostname(&"a".repeat(64)).is_ok());
    for bad in ["", "a b", "a\nb", &"a".repeat(65)] {
        assert!(check_hostname(bad).is_err(), "{bad}");
    }
}

#[test]
fn pinned_namespaces_have_their_hostname_sysctls_and_loopback() {
    isolated("facts", |dir| {
        let host = nix::unistd::gethostname().unwrap();
        let sysctls = [
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned()),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
            ("fs.mqueue.msg_max".to_owned(), "11".to_owned()),
            ("kernel.domainname".to_owned(), "pods.example".to_owned()),
        ];
        let pinned = pin(&request(dir, &sysctls)).unwrap();
        let net = pinned.net.unwrap();
        assert!(is_pinned(&net) && is_pinned(&dir.join("ipc")) && is_pinned(&dir.join("uts")));
        inside(&net, || {
            let port = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
            assert_eq!(port.trim(), "7");
            // Binding and reaching 127.0.0.1 needs a loopback that is up.
            let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
        })
        .unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for (file, flag) in
                    [("uts", CloneFlags::CLONE_NEWUTS), ("ipc", CloneFlags::CLONE_NEWIPC)]
                {
                    setns(File::open(dir.join(file)).unwrap(), flag).unwrap();
                }
                assert_eq!(nix::unistd::gethostname().unwrap(), "pod-1");
                let read = |path: &str| fs::read_to_string(path).unwrap().trim().to_owned();
                assert_eq!(read("/proc/sys/kernel/shm_rmid_forced"), "1");
                assert_eq!(read("/proc/sys/fs/mqueue/msg_max"), "11");
                assert_eq!(read("/proc/sys/kernel/domainname"), "pods.example");
            });
        });
        assert_eq!(nix::unistd::gethostname().unwrap(), host);
    });
}

#[test]
fn unpin_is_idempotent_and_clears_every_half_made_state() {
    isolated("halves", |dir| {
        unpin(dir).unwrap();
        pin(&request(dir, &[])).unwrap();
        // What a kill leaves: a file without a mount, a mount missing, a mount made twice.
        umount2(&dir.join("ipc"), MntFlags::MNT_DETACH).unwrap();
        remove_pin(&dir.join("uts")).unwrap();
        let net = dir.join("net");
        mount(Some("/proc/thread-self/ns/net"), &net, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap();
        unpin(dir).unwrap();
        unpin(dir).unwrap();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
        assert!(!is_pinned(&net));
    });
}

#[test]
fn a_failing_pin_leaves_nothing_and_a_second_pin_leaves_the_first_alone() {
    isolated("failure", |dir| {
        let missing = [("net.ipv4.no_such_thing".to_owned(), "1".to_owned())];
        assert!(matches!(pin(&request(dir, &missing)), Err(NamespaceError::InvalidSysctl { .. })));
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
        pin(&request(dir, &[])).unwrap();
        assert!(pin(&request(dir, &[])).is_err());
        assert!(is_pinned(&dir.join("net")) && is_pinned(&dir.join("uts")));
    });
}

#[test]
fn inside_refuses_files_that_are_not_network_namespaces() {
    isolated("refuse", |dir| {
        let plain = dir.join("plain");
        fs::write(&plain, b"").unwrap();
        assert!(matches!(inside(&plain, || ()), Err(NamespaceError::NotANamespace { .. })));
        fs::remove_file(&plain).unwrap();
        pin(&request(dir, &[])).unwrap();
        assert!(inside(&dir.join("uts"), || ()).is_err());
        assert!(inside(&dir.join("gone"), || ()).is_err());
        assert!(!is_pinned(&dir.join("gone")) && !is_pinned(dir));
    });
}

#[test]
fn namespaces_of_a_user_namespace_belong_to_it_and_are_furnished() {
    use crate::users::IdRange;
    let range = [IdRange { inside: 0, outside: 100_000, size: 65_536 }];
    isolated("users", |dir| {
        let sysctls = [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("kernel.shm_rmid_forced", "1"),
            ("fs.mqueue.msg_max", "20"),
            ("kernel.domainname", "example"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let users = Some(IdMaps { users: &range, groups: &range });
        let made = pin(&PinRequest { users, ..request(dir, &sysctls) }).unwrap();
        let files = [&made.net, &made.ipc, &made.uts]
            .map(|path| File::open(path.as_ref().unwrap()).unwrap());
        let read = |name: &'static str| {
            let files = &files;
            on_own_thread("look", move || {
                for file in files {
                    setns(file, CloneFlags::empty()).unwrap();
                }
                fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap().trim().to_owned()
            })
            .unwrap()
        };
        assert_eq!(read("net/ipv4/ip_unprivileged_port_start"), "0");
        assert_eq!(read("kernel/shm_rmid_forced"), "1");
        assert_eq!(read("fs/mqueue/msg_max"), "20");
        assert_eq!(read("kernel/hostname"), "pod-1");
        assert_eq!(read("kernel/domainname"), "example");
        // NS_GET_USERNS: the network namespace's owner is the pinned user namespace.
        let owner = crate::attribute::owning_users(&files[0]).unwrap();
        let inode = |file: &File| std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
        let pinned = File::open(made.user.as_ref().unwrap()).unwrap();
        assert_eq!(inode(&File::from(owner)), inode(&pinned));
        let again = pin(&PinRequest { users, ..request(dir, &[]) });
        assert!(matches!(again, Err(NamespaceError::Step { .. })));
        unpin(dir).unwrap();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    });
}

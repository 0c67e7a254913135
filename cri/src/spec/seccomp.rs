//! The system calls that a container may make: `RuntimeDefault` as Kubernetes' users know it.
//!
//! Everything is forbidden but what is listed here. What a capability is for is allowed to who may have that capability
//! in its bounding set; there are no calls that only one of Kubernetes' runtimes allows. What is not listed on purpose:
//! io_uring (too often the way out), the kernel's keys, userfaultfd, swap, kexec, modules, clocks.

use std::collections::HashSet;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use crate::container::security::SeccompProfile;

/// Allowed to everybody, whatever the arguments.
const ALLOWED: &str = "
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset
    chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range
    connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
    epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve
    execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
    fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64
    fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64
    futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu
    getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
    getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
    getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname
    getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch
    inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
    io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc
    kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr
    lseek lsetxattr lsm_get_self_attr lsm_list_modules lsm_set_self_attr lstat lstat64
    madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat
    mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap
    mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at
    nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
    pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2
    prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64
    ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom
    recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename
    renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
    semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list
    set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid
    setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd
    signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
    uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid
    write writev
";

/// Allowed on one architecture alone.
#[cfg(target_arch = "x86_64")]
const OF_ARCHITECTURE: &str = "arch_prctl modify_ldt";
/// Allowed on one architecture alone.
#[cfg(target_arch = "aarch64")]
const OF_ARCHITECTURE: &str =
    "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

/// The kernel's architecture and those whose programs it runs.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [Arch; 3] = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
/// The kernel's architecture and those whose programs it runs.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [Arch; 2] = [Arch::ScmpArchAarch64, Arch::ScmpArchArm];

/// Allowed to who may have the capability.
const OF_CAPABILITY: [(Capability, &str); 14] = [
    (Capability::Bpf, "bpf"),
    (Capability::DacReadSearch, "open_by_handle_at"),
    (Capability::Perfmon, "perf_event_open"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
         sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::Syslog, "syslog"),
];

/// What personality(2) may be asked for: Linux, with short inodes, without randomness, or what there is.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `AF_ALG`: the kernel's cryptography, by which more than one way has led out.
const AF_ALG: u64 = 38;
/// `AF_VSOCK`: to the machine's host, past all network policies.
const AF_VSOCK: u64 = 40;

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// `ENOSYS`.
const NOT_THERE: u32 = 38;

/// The filter for a container; `None` where it has none. `file` is what a `Localhost` profile's file says.
///
/// # Errors
/// Not with these rules.
pub fn build(
    profile: &SeccompProfile,
    file: Option<&LinuxSeccomp>,
    bounding: &HashSet<Capability>,
) -> Result<Option<LinuxSeccomp>, OciSpecError> {
    match profile {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::RuntimeDefault => runtime_default(bounding).map(Some),
        SeccompProfile::Localhost(_) => Ok(file.cloned()),
    }
}

fn runtime_default(bounding: &HashSet<Capability>) -> Result<LinuxSeccomp, OciSpecError> {
    let granted = OF_CAPABILITY.iter().filter(|(capability, _)| bounding.contains(capability));
    let always = [ALLOWED, OF_ARCHITECTURE].into_iter().chain(granted.map(|(_, names)| *names));
    let names: Vec<String> =
        always.flat_map(str::split_ascii_whitespace).map(str::to_owned).collect();
    let mut syscalls = vec![allow(names, Vec::new())?];
    // AF_ALG and AF_VSOCK are between three conditions, of which one must be met: two conditions on one argument in one
    // rule would be ORed, too.
    let families = [
        (LinuxSeccompOperator::ScmpCmpLt, AF_ALG),
        (LinuxSeccompOperator::ScmpCmpEq, AF_ALG + 1),
        (LinuxSeccompOperator::ScmpCmpGt, AF_VSOCK),
    ];
    for (operator, family) in families {
        syscalls.push(allow_if("socket", argument(operator, family)?)?);
    }
    for personality in PERSONALITIES {
        let same = argument(LinuxSeccompOperator::ScmpCmpEq, personality)?;
        syscalls.push(allow_if("personality", same)?);
    }
    if !bounding.contains(&Capability::SysAdmin) {
        let none = argument(LinuxSeccompOperator::ScmpCmpMaskedEq, NEW_NAMESPACES)?;
        syscalls.push(allow_if("clone", none)?);
        // Its flags are in memory, where a filter cannot look. Who is told that it is not there uses clone.
        let clone3 = LinuxSyscallBuilder::default().names(["clone3".to_owned()]);
        syscalls
            .push(clone3.action(LinuxSeccompAction::ScmpActErrno).errno_ret(NOT_THERE).build()?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .architectures(ARCHITECTURES)
        .syscalls(syscalls)
        .build()
}

fn allow(names: Vec<String>, args: Vec<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    let rule = LinuxSyscallBuilder::default().names(names);
    let rule = rule.action(LinuxSeccompAction::ScmpActAllow);
    if args.is_empty() { rule.build() } else { rule.args(args).build() }
}

fn allow_if(name: &str, argument: LinuxSeccompArg) -> Result<LinuxSyscall, OciSpecError> {
    allow(vec![name.to_owned()], vec![argument])
}

/// A condition on the first argument; with a mask, that nothing of it is set.
fn argument(operator: LinuxSeccompOperator, value: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    let argument = LinuxSeccompArgBuilder::default().index(0_usize).op(operator).value(value);
    match operator {
        LinuxSeccompOperator::ScmpCmpMaskedEq => argument.value_two(0_u64).build(),
        _ => argument.build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(bounding: &[Capability]) -> Vec<String> {
        let bounding = bounding.iter().copied().collect();
        let profile = runtime_default(&bounding).unwrap();
        profile.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn capabilities_bring_the_calls_that_they_are_for() {
        let has = |bounding: &[Capability], name: &str| {
            names_of(bounding).iter().any(|known| known == name)
        };
        for (capability, names) in OF_CAPABILITY {
            for name in names.split_ascii_whitespace() {
                assert!(has(&[capability], name), "{name}");
                assert!(!has(&[], name) || name == "clone" || name == "clone3", "{name}");
            }
        }
        for never in ["io_uring_setup", "kexec_load", "add_key", "keyctl", "userfaultfd", "swapon"]
        {
            assert!(!has(&[Capability::SysAdmin, Capability::SysModule], never), "{never}");
        }
    }

    #[test]
    fn new_namespaces_take_the_capability_for_them() {
        let profile =
            |bounding: &[Capability]| runtime_default(&bounding.iter().copied().collect()).unwrap();
        let of = |profile: &LinuxSeccomp, name: &str| -> Vec<LinuxSyscall> {
            let rules = profile.syscalls().iter().flatten();
            rules.filter(|rule| rule.names().iter().any(|own| own == name)).cloned().collect()
        };
        let plain = profile(&[]);
        let clone = of(&plain, "clone");
        let [condition] = clone[0].args().as_deref().unwrap() else { panic!("{clone:?}") };
        assert_eq!((condition.value(), condition.value_two()), (0x7e02_0000, Some(0)));
        let clone3 = of(&plain, "clone3");
        assert_eq!((clone3.len(), clone3[0].errno_ret()), (1, Some(38)));
        let admin = profile(&[Capability::SysAdmin]);
        assert!(of(&admin, "clone").iter().all(|rule| rule.args().is_none()));
        assert!(of(&admin, "clone3").iter().all(|rule| rule.errno_ret().is_none()));
    }

    #[test]
    fn sockets_of_two_families_are_between_the_rules() {
        let profile = runtime_default(&HashSet::new()).unwrap();
        let allowed = |family: u64| {
            let rules = profile.syscalls().iter().flatten();
            let sockets = rules.filter(|rule| rule.names() == &["socket"]);
            sockets.flat_map(|rule| rule.args().iter().flatten()).any(|one| match one.op() {
                LinuxSeccompOperator::ScmpCmpLt => family < one.value(),
                LinuxSeccompOperator::ScmpCmpGt => family > one.value(),
                _ => family == one.value(),
            })
        };
        let refused: Vec<u64> = (0..50).filter(|family| !allowed(*family)).collect();
        assert_eq!(refused, [AF_ALG, AF_VSOCK]);
    }
}

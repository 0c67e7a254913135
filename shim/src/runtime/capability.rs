//! The five capability sets of a process (capabilities(7)).

use crate::Failure;
use oci_spec::runtime::{Capability, LinuxCapabilities};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// What a process may do beyond its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl Capabilities {
    /// Reads the spec's sets. What this process does not have itself cannot be given and is left out, so that "all"
    /// means all there is.
    ///
    /// # Errors
    /// The kernel does not tell what this process has.
    pub fn new(spec: Option<&LinuxCapabilities>) -> Result<Self, Failure> {
        let own = rustix::thread::capabilities(None)
            .map_err(|e| Failure::os("read capabilities", "", e))?
            .permitted;
        let set = |pick: fn(&LinuxCapabilities) -> Option<Vec<Capability>>| {
            let names = spec.and_then(pick).unwrap_or_default();
            names.into_iter().fold(CapabilitySet::empty(), |set, name| set | bit(name)) & own
        };
        let permitted = set(|spec| list(spec.permitted().as_ref()));
        let inheritable = set(|spec| list(spec.inheritable().as_ref())) & permitted;
        Ok(Self {
            bounding: set(|spec| list(spec.bounding().as_ref())),
            effective: set(|spec| list(spec.effective().as_ref())) & permitted,
            permitted,
            inheritable,
            ambient: set(|spec| list(spec.ambient().as_ref())) & inheritable,
        })
    }

    /// Gives up what is in no bounding set: while this process may still do so.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn bound(&self) -> Result<(), Failure> {
        let fail = |error: Errno| Failure::os("drop capabilities", "of the bounding set", error);
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(one) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                // The kernel's last capability was the one before.
                Err(Errno::INVAL) => break,
                other => other.map_err(fail)?,
            }
        }
        Ok(())
    }

    /// Sets the other four, after the ids.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn apply(&self) -> Result<(), Failure> {
        let fail = |error: Errno| Failure::os("set capabilities", "", error);
        let sets = CapabilitySets {
            effective: self.effective,
            permitted: self.permitted,
            inheritable: self.inheritable,
        };
        rustix::thread::set_capabilities(None, sets).map_err(fail)?;
        rustix::thread::clear_ambient_capability_set().map_err(fail)?;
        for one in self.ambient.iter() {
            rustix::thread::configure_capability_in_ambient_set(one, true).map_err(fail)?;
        }
        Ok(())
    }
}

fn list<'a>(names: Option<impl IntoIterator<Item = &'a Capability>>) -> Option<Vec<Capability>> {
    names.map(|names| names.into_iter().copied().collect())
}

/// Leaves what this process does not have itself out of a spec's sets, for a runtime that would refuse it.
///
/// # Errors
/// The kernel does not tell what this process has.
pub fn limit_to_own(sets: &mut LinuxCapabilities) -> Result<(), Failure> {
    let own = rustix::thread::capabilities(None)
        .map_err(|e| Failure::os("read capabilities", "", e))?
        .permitted;
    let cut = |set: Option<std::collections::HashSet<Capability>>| {
        set.map(|set| set.into_iter().filter(|name| own.contains(bit(*name))).collect())
    };
    let (bounding, effective) = (cut(sets.bounding().clone()), cut(sets.effective().clone()));
    let (inheritable, ambient) = (cut(sets.inheritable().clone()), cut(sets.ambient().clone()));
    let permitted = cut(sets.permitted().clone());
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    sets.set_inheritable(inheritable).set_ambient(ambient);
    Ok(())
}

/// The kernel's number of a capability (include/uapi/linux/capability.h).
fn bit(name: Capability) -> CapabilitySet {
    match name {
        Capability::Chown => CapabilitySet::CHOWN,
        Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
        Capability::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
        Capability::Fowner => CapabilitySet::FOWNER,
        Capability::Fsetid => CapabilitySet::FSETID,
        Capability::Kill => CapabilitySet::KILL,
        Capability::Setgid => CapabilitySet::SETGID,
        Capability::Setuid => CapabilitySet::SETUID,
        Capability::Setpcap => CapabilitySet::SETPCAP,
        Capability::LinuxImmutable => CapabilitySet::LINUX_IMMUTABLE,
        Capability::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        Capability::NetBroadcast => CapabilitySet::NET_BROADCAST,
        Capability::NetAdmin => CapabilitySet::NET_ADMIN,
        Capability::NetRaw => CapabilitySet::NET_RAW,
        Capability::IpcLock => CapabilitySet::IPC_LOCK,
        Capability::IpcOwner => CapabilitySet::IPC_OWNER,
        Capability::SysModule => CapabilitySet::SYS_MODULE,
        Capability::SysRawio => CapabilitySet::SYS_RAWIO,
        Capability::SysChroot => CapabilitySet::SYS_CHROOT,
        Capability::SysPtrace => CapabilitySet::SYS_PTRACE,
        Capability::SysPacct => CapabilitySet::SYS_PACCT,
        Capability::SysAdmin => CapabilitySet::SYS_ADMIN,
        Capability::SysBoot => CapabilitySet::SYS_BOOT,
        Capability::SysNice => CapabilitySet::SYS_NICE,
        Capability::SysResource => CapabilitySet::SYS_RESOURCE,
        Capability::SysTime => CapabilitySet::SYS_TIME,
        Capability::SysTtyConfig => CapabilitySet::SYS_TTY_CONFIG,
        Capability::Mknod => CapabilitySet::MKNOD,
        Capability::Lease => CapabilitySet::LEASE,
        Capability::AuditWrite => CapabilitySet::AUDIT_WRITE,
        Capability::AuditControl => CapabilitySet::AUDIT_CONTROL,
        Capability::Setfcap => CapabilitySet::SETFCAP,
        Capability::MacOverride => CapabilitySet::MAC_OVERRIDE,
        Capability::MacAdmin => CapabilitySet::MAC_ADMIN,
        Capability::Syslog => CapabilitySet::SYSLOG,
        Capability::WakeAlarm => CapabilitySet::WAKE_ALARM,
        Capability::BlockSuspend => CapabilitySet::BLOCK_SUSPEND,
        Capability::AuditRead => CapabilitySet::AUDIT_READ,
        Capability::Perfmon => CapabilitySet::PERFMON,
        Capability::Bpf => CapabilitySet::BPF,
        Capability::CheckpointRestore => CapabilitySet::CHECKPOINT_RESTORE,
    }
}

//! What the fuzzers call: a tenant's bytes, up to the point where the kernel comes in. A broken promise is a panic.

use std::path::Path;

use oci_spec::runtime::{Process as SpecProcess, Spec};

use super::mount_option::Options;
use super::process::Plan;
use super::sysctl::Sysctl;
use super::user::{Named, Passwd};
use super::{cgroup, device};

/// Reads a spec, or else the process of an exec.
pub fn spec(bytes: &[u8]) {
    if let Ok(process) = serde_json::from_slice::<SpecProcess>(bytes) {
        drop(Plan::new(&process, None));
    }
    let Ok(spec) = serde_json::from_slice::<Spec>(bytes) else { return };
    for mount in spec.mounts().iter().flatten() {
        let target = mount.destination().display().to_string();
        if let Ok(options) = Options::parse(mount.options().iter().flatten(), &target) {
            assert!(options.data.iter().all(|(key, _)| !key.contains('\0')));
        }
    }
    if let Some(process) = spec.process() {
        drop(Plan::new(process, None));
    }
    drop(device::nodes(&spec));
    cgroup::fuzz(&spec);
    let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    for (key, value) in sysctls.into_iter().flatten() {
        let Ok(sysctl) = Sysctl::parse(key, value, |_| true) else { continue };
        let (path, value) = sysctl.parts();
        let plain =
            Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        let own =
            ["sys/net/", "sys/kernel/", "sys/fs/mqueue/"].iter().any(|own| path.starts_with(own));
        assert!(plain && own && !value.contains('\n'), "{key} is {path}");
    }
}

/// Looks a user up.
pub fn users(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == 0xff).map(String::from_utf8_lossy);
    let mut part = || parts.next().unwrap_or_default().into_owned();
    let (user, passwd, group) = (part(), part(), part());
    let strict = part().len() % 2 == 1;
    let named = Named { user: user.clone(), strict, ..Named::default() };
    let Ok(identity) = named.resolve(&Passwd::new(&passwd), &group) else { return };
    let highest = identity.groups.iter().chain([&identity.uid, &identity.gid]).max();
    assert!(highest.is_none_or(|id| i32::try_from(*id).is_ok()), "{user:?} is {identity:?}");
    assert_eq!(identity.groups.first(), Some(&identity.gid), "{user:?}");
    let uid = user.split(':').next().unwrap_or_default();
    if !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_digit()) {
        assert_eq!(uid.parse(), Ok(identity.uid), "a number is never a name");
    }
    assert!(!strict || identity.groups.len() == 1, "{identity:?}");
}

//! What the machine has that not every machine has, for tests that need it.

use std::path::Path;
use std::sync::LazyLock;

/// Whether this is the throw-away machine of `hack/guest`, which has everything that is asked about here.
pub fn is_guest() -> bool {
    // The variable alone would have tests clean up a machine that is not thrown away.
    static IS_UML: LazyLock<bool> = LazyLock::new(|| {
        let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        processors.contains("User Mode Linux")
    });
    std::env::var_os("WHERRY_GUEST").is_some() && *IS_UML
}

/// Why the tests of cgroup v2 cannot run here.
pub fn lacks_cgroup_v2() -> Option<String> {
    lacks("/sys/fs/cgroup/cgroup.controllers", "cgroup v2 is not what is mounted")
}

/// Why the tests of systemd's scopes cannot run here.
pub fn lacks_systemd() -> Option<String> {
    lacks("/run/systemd/system", "systemd does not run this machine").or_else(lacks_cgroup_v2)
}

/// Why the tests of AppArmor profiles cannot run here.
pub fn lacks_apparmor() -> Option<String> {
    lacks("/sys/kernel/security/apparmor/profiles", "the kernel has no AppArmor")
}

/// In the guest nothing is lacking: the test runs, and fails if it is.
fn lacks(path: &str, reason: &str) -> Option<String> {
    let there = is_guest() || Path::new(path).exists();
    (!there).then(|| format!("{reason}; hack/guest has it"))
}

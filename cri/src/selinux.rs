//! SELinux labels, for nodes whose kernel has it: what a request names, completed by what containers usually are.
//!
//! As with containerd by default, a container that asks for no label gets none, and where the kernel has no SELinux
//! labels are ignored; a level that is none is refused everywhere.

use proto::cri;
use serde::{Deserialize, Serialize};

/// The magic number of selinuxfs (statfs(2)).
const SELINUX_MAGIC: i64 = 0xf97c_ff8c;

/// A label's parts; an empty one is the usual one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Selinux {
    user: String,
    role: String,
    kind: String,
    level: String,
}

impl Selinux {
    /// Reads the wire's form; none when nothing is said.
    ///
    /// # Errors
    /// Says which part cannot be one.
    pub fn parse(wire: Option<&cri::SeLinuxOption>) -> Result<Option<Self>, String> {
        let Some(wire) = wire else { return Ok(None) };
        let parts = [("user", &wire.user), ("role", &wire.role), ("type", &wire.r#type)];
        let plain = |part: &str| {
            part.len() <= 255
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        if let Some((what, part)) = parts.iter().find(|(_, part)| !plain(part)) {
            return Err(format!("SELinux {what} {part:?} is none"));
        }
        if !wire.level.is_empty() && !is_level(&wire.level) {
            return Err(format!("SELinux level {:?} is none", wire.level));
        }
        let said = !wire.level.is_empty() || parts.iter().any(|(_, part)| !part.is_empty());
        Ok(said.then(|| Self {
            user: wire.user.clone(),
            role: wire.role.clone(),
            kind: wire.r#type.clone(),
            level: wire.level.clone(),
        }))
    }

    /// The label of processes.
    #[must_use]
    pub fn process_label(&self) -> String {
        self.label("system_r", &self.role, &or(&self.kind, "container_t"))
    }

    /// The label of the file systems that are the container's own.
    #[must_use]
    pub fn mount_label(&self) -> String {
        self.label("object_r", "", "container_file_t")
    }

    fn label(&self, usual_role: &str, role: &str, kind: &str) -> String {
        let (user, role) = (or(&self.user, "system_u"), or(role, usual_role));
        format!("{user}:{role}:{kind}:{}", or(&self.level, "s0"))
    }
}

fn or(part: &str, usual: &str) -> String {
    if part.is_empty() { usual.to_owned() } else { part.to_owned() }
}

/// Whether the kernel has SELinux.
#[must_use]
pub fn is_enabled() -> bool {
    // The width of f_type differs between architectures.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
    rustix::fs::statfs("/sys/fs/selinux").is_ok_and(|found| found.f_type as i64 == SELINUX_MAGIC)
}

/// `s0`, `s0-s3`, `s0:c1,c2`, `s0:c1.c5`, `s0-s1:c0.c1023`: sensitivities and, after a colon, categories.
fn is_level(level: &str) -> bool {
    let (levels, categories) = match level.split_once(':') {
        Some((levels, categories)) => (levels, Some(categories)),
        None => (level, None),
    };
    let number = |text: &str, letter: char| {
        text.strip_prefix(letter).is_some_and(|digits| {
            (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let category =
        |text: &str| text.split('.').count() <= 2 && text.split('.').all(|one| number(one, 'c'));
    level.len() <= 255
        && levels.split('-').count() <= 2
        && levels.split('-').all(|one| number(one, 's'))
        && categories.is_none_or(|categories| categories.split(',').all(category))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(user: &str, role: &str, kind: &str, level: &str) -> Result<Option<Selinux>, String> {
        Selinux::parse(Some(&cri::SeLinuxOption {
            user: user.into(),
            role: role.into(),
            r#type: kind.into(),
            level: level.into(),
        }))
    }

    #[test]
    fn what_a_request_leaves_out_is_what_containers_usually_are() {
        let label = parse("", "", "", "s0:c4,c5").unwrap().unwrap();
        assert_eq!(label.process_label(), "system_u:system_r:container_t:s0:c4,c5");
        assert_eq!(label.mount_label(), "system_u:object_r:container_file_t:s0:c4,c5");
        let label = parse("user_u", "user_r", "svirt_lxc_net_t", "").unwrap().unwrap();
        assert_eq!(label.process_label(), "user_u:user_r:svirt_lxc_net_t:s0");
        assert_eq!((parse("", "", "", ""), Selinux::parse(None)), (Ok(None), Ok(None)));
    }

    #[test]
    fn a_label_that_is_none_is_refused_on_every_node() {
        for level in ["s0", "s0-s15", "s0:c1", "s0:c1,c2", "s0:c0.c1023", "s0-s1:c0.c3,c7"] {
            assert!(parse("", "", "", level).is_ok(), "{level}");
        }
        for level in ["s0,c4,c5", "c1", "s", "s0:", "s0:c1:c2", "s0:c1.c2.c3", "s0-s1-s2", "s0\n"] {
            assert!(parse("", "", "", level).is_err(), "{level}");
        }
        assert!(parse("a:b", "", "", "").is_err() && parse("", "", "a b", "").is_err());
    }
}

//! What a container may do: its security context, parsed.

use std::path::PathBuf;

use proto::cri;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::grammar;
use crate::id::ContainerId;
use crate::ids::IdMaps;
use crate::selinux::Selinux;

/// Whose processes a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PidView {
    /// All of the pod's.
    Pod,
    /// Its own.
    Container,
    /// All of the node's.
    Node,
    /// Those of another container of the pod.
    Target(ContainerId),
}

/// Capabilities to add to and drop from the default set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CapabilityChange {
    /// Names with or without `CAP_`, or `ALL`.
    pub add: Vec<String>,
    /// Names with or without `CAP_`, or `ALL`; applied after `add`.
    pub drop: Vec<String>,
    /// Names for the ambient set.
    pub ambient: Vec<String>,
}

/// Whom the process runs as; what is absent is the image's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunAs {
    /// A name or a number; wins over the image's user.
    pub user: Option<String>,
    /// Wins over the group that the user leads to.
    pub group: Option<u32>,
    /// More groups.
    pub supplemental: Vec<u32>,
    /// Whether the image's own memberships count for nothing.
    pub strict: bool,
}

/// Which system calls a container may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// All.
    #[default]
    Unconfined,
    /// What is good for nearly everybody.
    RuntimeDefault,
    /// What a file on the node says: the spec's profile as JSON.
    Localhost(PathBuf),
}

/// What AppArmor keeps a container from, on a node that has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AppArmorProfile {
    /// Nothing.
    #[default]
    Unconfined,
    /// What the runtime's own profile says.
    RuntimeDefault,
    /// What the node's profile of this name says.
    Localhost(String),
}

/// A container's security context.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Security {
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// Changes to the default capabilities.
    pub capabilities: CapabilityChange,
    /// The process namespace.
    pub pid: PidView,
    /// The mappings of the user namespace: those of the pod.
    #[serde(default)]
    pub users: Option<IdMaps>,
    /// The user.
    pub run_as: RunAs,
    /// Whether the root file system is read-only.
    pub readonly_rootfs: bool,
    /// Whether execve(2) can give new rights.
    pub no_new_privs: bool,
    /// The system calls that it may make.
    #[serde(default)]
    pub seccomp: SeccompProfile,
    /// Its AppArmor profile.
    #[serde(default)]
    pub apparmor: AppArmorProfile,
    /// Its SELinux label, where the node has these.
    #[serde(default)]
    pub selinux: Option<Selinux>,
    /// Hidden paths: the whole list, an empty one hides nothing.
    pub masked_paths: Vec<PathBuf>,
    /// Read-only paths: the whole list.
    pub readonly_paths: Vec<PathBuf>,
}

impl Security {
    /// Parses the wire's form.
    ///
    /// # Errors
    /// `Invalid` names the field; `Unsupported` what would be a hole if it were ignored.
    pub fn parse(wire: cri::LinuxContainerSecurityContext, about: &str) -> Result<Self, Error> {
        let invalid = |reason: String| Error::Invalid { operation: about.to_owned(), reason };
        let paths = |paths: &[String]| {
            paths
                .iter()
                .map(|path| grammar::absolute(path))
                .collect::<Result<_, _>>()
                .map_err(invalid)
        };
        let capabilities = wire.capabilities.clone().unwrap_or_default();
        let users = parse_users(wire.namespace_options.as_ref()).map_err(invalid)?;
        let run_as = parse_user(&wire).map_err(invalid)?;
        if let Some(maps) = &users {
            check_mapped(maps, &run_as).map_err(invalid)?;
        }
        Ok(Self {
            privileged: wire.privileged,
            pid: parse_pid(wire.namespace_options.as_ref()).map_err(invalid)?,
            users,
            run_as,
            readonly_rootfs: wire.readonly_rootfs,
            no_new_privs: wire.no_new_privs,
            seccomp: parse_seccomp(&wire).map_err(invalid)?,
            apparmor: parse_apparmor(&wire).map_err(invalid)?,
            selinux: Selinux::parse(wire.selinux_options.as_ref()).map_err(invalid)?,
            masked_paths: paths(&wire.masked_paths)?,
            readonly_paths: paths(&wire.readonly_paths)?,
            capabilities: CapabilityChange {
                add: capabilities.add_capabilities,
                drop: capabilities.drop_capabilities,
                ambient: capabilities.add_ambient_capabilities,
            },
        })
    }
}

/// Reads the field or, of an old kubelet, the deprecated one. Who says nothing gets the runtime's own profile, as since
/// Kubernetes has had the field; privileged containers get one only by its name.
fn parse_apparmor(wire: &cri::LinuxContainerSecurityContext) -> Result<AppArmorProfile, String> {
    use cri::security_profile::ProfileType;
    let default =
        if wire.privileged { AppArmorProfile::Unconfined } else { AppArmorProfile::RuntimeDefault };
    let localhost = |name: &str| {
        let name = name.strip_prefix("localhost/").unwrap_or(name);
        let plain = grammar::is_plain(name, 255) && !name.contains(' ');
        if name.is_empty() || !plain {
            return Err(format!("AppArmor profile {name:?} is not a name"));
        }
        Ok(AppArmorProfile::Localhost(name.to_owned()))
    };
    let Some(profile) = &wire.apparmor else {
        #[allow(deprecated)]
        return match wire.apparmor_profile.as_str() {
            "" | "runtime/default" => Ok(default),
            "unconfined" => Ok(AppArmorProfile::Unconfined),
            name if name.starts_with("localhost/") => localhost(name),
            other => Err(format!("AppArmor profile {other:?} is none")),
        };
    };
    let kind = ProfileType::try_from(profile.profile_type)
        .map_err(|_| format!("AppArmor profile type {} is none", profile.profile_type))?;
    match kind {
        ProfileType::Localhost => localhost(&profile.localhost_ref),
        _ if !profile.localhost_ref.is_empty() => {
            Err("an AppArmor profile that is none of the node's names one".into())
        }
        ProfileType::Unconfined => Ok(AppArmorProfile::Unconfined),
        ProfileType::RuntimeDefault => Ok(default),
    }
}

/// Reads the field or, of an old kubelet, the deprecated one. Privileged containers have no filter.
fn parse_seccomp(wire: &cri::LinuxContainerSecurityContext) -> Result<SeccompProfile, String> {
    use cri::security_profile::ProfileType;
    if wire.privileged {
        return Ok(SeccompProfile::Unconfined);
    }
    let localhost = |path: &str| {
        let path = path.strip_prefix("localhost/").unwrap_or(path);
        let path = grammar::absolute(path).map_err(|reason| format!("seccomp profile: {reason}"));
        path.map(SeccompProfile::Localhost)
    };
    let Some(profile) = &wire.seccomp else {
        #[allow(deprecated)]
        return match wire.seccomp_profile_path.as_str() {
            "" | "unconfined" => Ok(SeccompProfile::Unconfined),
            "runtime/default" | "docker/default" => Ok(SeccompProfile::RuntimeDefault),
            path if path.starts_with("localhost/") => localhost(path),
            other => Err(format!("seccomp profile {other:?} is none")),
        };
    };
    let kind = ProfileType::try_from(profile.profile_type)
        .map_err(|_| format!("seccomp profile type {} is none", profile.profile_type))?;
    if kind != ProfileType::Localhost && !profile.localhost_ref.is_empty() {
        return Err("a seccomp profile that is no file names one".into());
    }
    match kind {
        ProfileType::Unconfined => Ok(SeccompProfile::Unconfined),
        ProfileType::RuntimeDefault => Ok(SeccompProfile::RuntimeDefault),
        ProfileType::Localhost => localhost(&profile.localhost_ref),
    }
}

fn parse_pid(options: Option<&cri::NamespaceOption>) -> Result<PidView, String> {
    let Some(options) = options else { return Ok(PidView::Pod) };
    match options.pid() {
        cri::NamespaceMode::Pod => Ok(PidView::Pod),
        cri::NamespaceMode::Container => Ok(PidView::Container),
        cri::NamespaceMode::Node => Ok(PidView::Node),
        cri::NamespaceMode::Target => options
            .target_id
            .parse()
            .map(PidView::Target)
            .map_err(|error| format!("target container of the pid namespace: {error}")),
    }
}

fn parse_users(options: Option<&cri::NamespaceOption>) -> Result<Option<IdMaps>, String> {
    IdMaps::parse_pod(options.and_then(|options| options.userns_options.as_ref()))
}

/// Numbers that mean nobody in the pod's user namespace. What only the image says is found out by the start.
fn check_mapped(maps: &IdMaps, run_as: &RunAs) -> Result<(), String> {
    let user = run_as.user.as_ref().and_then(|user| user.parse().ok());
    if let Some(user) = user.filter(|user| !maps.has_user(*user)) {
        return Err(format!("user {user} is not one of the pod's user namespace"));
    }
    match run_as.group.iter().chain(&run_as.supplemental).find(|group| !maps.has_group(**group)) {
        Some(group) => Err(format!("group {group} is not one of the pod's user namespace")),
        None => Ok(()),
    }
}

fn parse_user(wire: &cri::LinuxContainerSecurityContext) -> Result<RunAs, String> {
    let number = |what: &str, value: i64| {
        u32::try_from(value)
            .ok()
            .filter(|value| i32::try_from(*value).is_ok())
            .ok_or_else(|| format!("{what} {value} is not between 0 and {}", i32::MAX))
    };
    let uid =
        wire.run_as_user.as_ref().map(|user| number("run_as_user", user.value)).transpose()?;
    let group =
        wire.run_as_group.as_ref().map(|group| number("run_as_group", group.value)).transpose()?;
    let name = &wire.run_as_username;
    if !name.is_empty() && (!grammar::is_plain(name, 256) || name.contains(':')) {
        return Err(format!("run_as_username {name:?} is not a user name"));
    }
    if group.is_some() && uid.is_none() && name.is_empty() {
        return Err("run_as_group is given without a user".into());
    }
    let supplemental =
        wire.supplemental_groups.iter().map(|group| number("supplemental group", *group));
    Ok(RunAs {
        user: if name.is_empty() { uid.map(|uid| uid.to_string()) } else { Some(name.clone()) },
        group,
        supplemental: supplemental.collect::<Result<_, _>>()?,
        strict: wire.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Strict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(wire: cri::LinuxContainerSecurityContext) -> Result<Security, Error> {
        Security::parse(wire, "create container web")
    }

    #[test]
    fn a_group_without_a_user_and_numbers_that_wrap_are_refused() {
        let group = Some(cri::Int64Value { value: 1000 });
        assert!(
            parse(cri::LinuxContainerSecurityContext { run_as_group: group, ..Default::default() })
                .is_err()
        );
        for value in [-1, 1 << 31, 1 << 32] {
            let user = Some(cri::Int64Value { value });
            let wire =
                cri::LinuxContainerSecurityContext { run_as_user: user, ..Default::default() };
            assert!(parse(wire).is_err(), "{value}");
        }
    }

    #[test]
    fn a_name_wins_over_a_number() {
        let wire = cri::LinuxContainerSecurityContext {
            run_as_user: Some(cri::Int64Value { value: 5 }),
            run_as_username: "www-data".into(),
            ..Default::default()
        };
        assert_eq!(parse(wire).unwrap().run_as.user.as_deref(), Some("www-data"));
    }

    #[test]
    fn apparmor_profiles_are_read_from_both_fields_and_the_new_one_wins() {
        use cri::security_profile::ProfileType;
        let with = |kind: Option<ProfileType>, name: &str, old: &str, privileged: bool| {
            #[allow(deprecated)]
            let wire = cri::LinuxContainerSecurityContext {
                apparmor: kind.map(|kind| cri::SecurityProfile {
                    profile_type: kind.into(),
                    localhost_ref: name.into(),
                }),
                apparmor_profile: old.into(),
                privileged,
                ..Default::default()
            };
            parse(wire).map(|security| security.apparmor)
        };
        let named = AppArmorProfile::Localhost("mine".into());
        let (default, free) = (AppArmorProfile::RuntimeDefault, AppArmorProfile::Unconfined);
        let local = Some(ProfileType::Localhost);
        assert_eq!(with(local, "localhost/mine", "localhost/other", false).unwrap(), named);
        assert_eq!(with(local, "mine", "", true).unwrap(), named);
        assert_eq!(with(Some(ProfileType::Unconfined), "", "localhost/a", false).unwrap(), free);
        assert_eq!(with(Some(ProfileType::RuntimeDefault), "", "", false).unwrap(), default);
        assert_eq!(with(Some(ProfileType::RuntimeDefault), "", "", true).unwrap(), free);
        for (old, meant) in [
            ("", default.clone()),
            ("runtime/default", default),
            ("unconfined", free.clone()),
            ("localhost/mine", named),
        ] {
            assert_eq!(with(None, "", old, false).unwrap(), meant, "{old}");
        }
        assert_eq!(with(None, "", "", true).unwrap(), free);
        for name in ["", "localhost/", "a b", "a\nb"] {
            assert!(with(local, name, "", false).is_err(), "{name:?}");
        }
        assert!(with(None, "", "something", false).is_err());
        assert!(with(Some(ProfileType::Unconfined), "mine", "", false).is_err());
    }

    #[test]
    fn seccomp_profiles_are_read_from_both_fields_and_never_guessed() {
        use cri::security_profile::ProfileType;
        let new = |kind: ProfileType, path: &str| {
            let profile =
                cri::SecurityProfile { profile_type: kind.into(), localhost_ref: path.into() };
            let seccomp = Some(profile);
            let wire = cri::LinuxContainerSecurityContext { seccomp, ..Default::default() };
            parse(wire).map(|security| security.seccomp)
        };
        let old = |path: &str| {
            #[allow(deprecated)]
            let wire = cri::LinuxContainerSecurityContext {
                seccomp_profile_path: path.into(),
                ..Default::default()
            };
            parse(wire).map(|security| security.seccomp)
        };
        let file = SeccompProfile::Localhost("/etc/profile.json".into());
        assert_eq!(new(ProfileType::RuntimeDefault, "").unwrap(), SeccompProfile::RuntimeDefault);
        assert_eq!(new(ProfileType::Unconfined, "").unwrap(), SeccompProfile::Unconfined);
        assert_eq!(new(ProfileType::Localhost, "/etc/profile.json").unwrap(), file);
        assert_eq!(new(ProfileType::Localhost, "localhost//etc/profile.json").unwrap(), file);
        for (text, meant) in [
            ("", SeccompProfile::Unconfined),
            ("unconfined", SeccompProfile::Unconfined),
            ("runtime/default", SeccompProfile::RuntimeDefault),
            ("docker/default", SeccompProfile::RuntimeDefault),
            ("localhost//etc/profile.json", file),
        ] {
            assert_eq!(old(text).unwrap(), meant, "{text}");
        }
        for path in ["", "profile.json", "/etc/../profile.json", "/etc/pro\nfile.json"] {
            assert!(new(ProfileType::Localhost, path).is_err(), "{path}");
            assert!(old(&format!("localhost/{path}")).is_err(), "{path}");
        }
        assert!(new(ProfileType::RuntimeDefault, "/etc/profile.json").is_err());
        assert!(old("something").is_err());
        let seccomp = Some(cri::SecurityProfile::default());
        let wire =
            cri::LinuxContainerSecurityContext { privileged: true, seccomp, ..Default::default() };
        assert_eq!(parse(wire).unwrap().seccomp, SeccompProfile::Unconfined);
    }
}

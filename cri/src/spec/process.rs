//! The process: arguments, environment, working directory, capabilities.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, Process, ProcessBuilder,
    UserBuilder,
};

use super::Inputs;
use crate::container::security::{CapabilityChange, Security};
use crate::error::Error;
use crate::selinux::Selinux;

/// What a container has in PATH whose image says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What containers have been given since Docker's first days.
const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// All that the kernel knows (capabilities(7)); what the daemon itself lacks is left out by the shim.
const ALL_CAPABILITIES: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setgid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// Builds the process of a container.
///
/// # Errors
/// `Invalid` when there is no command, the working directory is relative, or a capability is unknown.
pub fn build(inputs: &Inputs<'_>) -> Result<Process, Error> {
    let invalid = |reason: String| Error::Invalid {
        operation: format!("create container {}", inputs.config.metadata.name),
        reason,
    };
    let args = args(inputs);
    if args.first().is_none_or(String::is_empty) {
        return Err(invalid("neither the request nor the image names a command".into()));
    }
    let cwd = [&inputs.config.working_dir, &inputs.image.working_dir]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .map_or("/", String::as_str);
    if !Path::new(cwd).is_absolute() {
        return Err(invalid(format!("working directory {cwd:?} is not absolute")));
    }
    let granted = capabilities(&inputs.config.security, inputs.devices_fenced).map_err(invalid)?;
    assemble(inputs, args, cwd, granted).map_err(|source| invalid(source.to_string()))
}

fn assemble(
    inputs: &Inputs<'_>,
    args: Vec<String>,
    cwd: &str,
    capabilities: LinuxCapabilities,
) -> Result<Process, OciSpecError> {
    let mut process = ProcessBuilder::default()
        .terminal(inputs.config.tty)
        // The shim resolves the user inside the root file system; this is where it starts from.
        .user(UserBuilder::default().uid(0_u32).gid(0_u32).build()?)
        .args(args)
        .env(environment(inputs))
        .cwd(cwd)
        .capabilities(capabilities)
        .no_new_privileges(inputs.config.security.no_new_privs)
        .oom_score_adj(inputs.config.resources.oom_score_adj)
        .build()?;
    process.set_rlimits(None).set_apparmor_profile(inputs.apparmor.map(str::to_owned));
    process.set_selinux_label(super::label(inputs, Selinux::process_label));
    Ok(process)
}

/// Kubernetes' rule: a command replaces entry point and arguments of the image, arguments replace arguments.
fn args(inputs: &Inputs<'_>) -> Vec<String> {
    let (config, image) = (inputs.config, inputs.image);
    let command = if config.command.is_empty() { &image.entrypoint } else { &config.command };
    let args =
        if config.command.is_empty() && config.args.is_empty() { &image.cmd } else { &config.args };
    command.iter().chain(args).cloned().collect()
}

/// The image's variables, then the runtime's, then the request's; the last word on a name wins.
fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut set =
        |name: &str, value: &str| match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => variables.push((name.to_owned(), value.to_owned())),
        };
    set("PATH", DEFAULT_PATH);
    if inputs.config.tty {
        set("TERM", "xterm");
    }
    if !inputs.sandbox.hostname.is_empty() {
        set("HOSTNAME", &inputs.sandbox.hostname);
    }
    for variable in &inputs.image.env {
        if let Some((name, value)) = variable.split_once('=')
            && !variable.contains('\0')
        {
            set(name, value);
        }
    }
    for (name, value) in &inputs.config.envs {
        set(name, value);
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn capabilities(security: &Security, devices_fenced: bool) -> Result<LinuxCapabilities, String> {
    let set = if security.privileged {
        ALL_CAPABILITIES.into_iter().collect()
    } else {
        let mut set = changed(&security.capabilities)?;
        if !devices_fenced {
            // A node that a container makes for itself would be the host's disk.
            set.remove(&Capability::Mknod);
        }
        set
    };
    let ambient: Capabilities =
        security.capabilities.ambient.iter().map(|name| parse(name)).collect::<Result<_, _>>()?;
    if let Some(missing) = ambient.difference(&set).next() {
        return Err(format!("ambient capability {missing} is not among the container's own"));
    }
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        // The kernel wants ambient capabilities inheritable too; nothing else is (CVE-2022-24769).
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .map_err(|error| error.to_string())
}

fn changed(change: &CapabilityChange) -> Result<Capabilities, String> {
    let is_all = |name: &&String| name.eq_ignore_ascii_case("ALL");
    let mut set: Capabilities = if change.add.iter().any(|name| is_all(&name)) {
        ALL_CAPABILITIES.into_iter().collect()
    } else if change.drop.iter().any(|name| is_all(&name)) {
        HashSet::new()
    } else {
        DEFAULT_CAPABILITIES.into_iter().collect()
    };
    for name in change.add.iter().filter(|name| !is_all(name)) {
        set.insert(parse(name)?);
    }
    for name in change.drop.iter().filter(|name| !is_all(name)) {
        set.remove(&parse(name)?);
    }
    Ok(set)
}

fn parse(name: &str) -> Result<Capability, String> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    short.parse().map_err(|_| format!("{name:?} is not a capability"))
}

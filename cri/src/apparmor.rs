//! AppArmor: whether the node has it, and the profile of containers that ask for no other.
//!
//! A profile is loaded by the host's own `apparmor_parser`, which knows what the kernel's AppArmor can mediate. Where
//! there is no parser, containers that ask for the runtime's profile run without, as on a node without AppArmor.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::Error;
use crate::record;

/// The name of the runtime's own profile.
pub const DEFAULT_PROFILE: &str = "wherry-default";

/// What it says.
const DEFAULT_TEXT: &str = include_str!("apparmor/wherry-default");

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// The parser compiles a profile within a second, even on a small board.
const DEADLINE: Duration = Duration::from_secs(20);

/// Whether the kernel enforces profiles (apparmor(7)).
#[must_use]
pub fn is_enabled() -> bool {
    std::fs::read(ENABLED).is_ok_and(|text| text.first() == Some(&b'Y'))
}

/// Whether a profile of this name is loaded. Lines are `NAME (MODE)`.
///
/// # Errors
/// The kernel's list cannot be read.
pub async fn is_loaded(name: &str) -> Result<bool, Error> {
    let operation = "read the list of AppArmor profiles";
    let read = || {
        std::fs::read_to_string(LOADED)
            .map_err(|source| Error::Io { operation: operation.into(), source })
    };
    let loaded = record::blocking(operation, read).await?;
    Ok(lists(&loaded, name))
}

fn lists(loaded: &str, name: &str) -> bool {
    loaded.lines().any(|line| line.rsplit_once(" (").is_some_and(|(loaded, _)| loaded == name))
}

/// Loads the runtime's own profile unless it is loaded. Whether it is now: without a parser it is not, and one that
/// somebody loaded under its name counts.
///
/// # Errors
/// The parser is there and fails.
pub async fn ensure_default() -> Result<bool, Error> {
    if is_loaded(DEFAULT_PROFILE).await? {
        return Ok(true);
    }
    let failed = |source| Error::Io {
        operation: format!("load AppArmor profile {DEFAULT_PROFILE}"),
        source,
    };
    // Replaces one that is being loaded at the same moment, and neither reads nor writes a cache.
    let child = Command::new("apparmor_parser")
        .args(["-K", "-r"])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            static TOLD: AtomicBool = AtomicBool::new(false);
            if !TOLD.swap(true, Ordering::Relaxed) {
                tracing::warn!("there is no apparmor_parser: containers have no AppArmor profile");
            }
            return Ok(false);
        }
        other => other.map_err(failed)?,
    };
    let fed = async {
        if let Some(mut input) = child.stdin.take() {
            input.write_all(DEFAULT_TEXT.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let ended = tokio::time::timeout(DEADLINE, fed).await;
    let output =
        ended.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(failed)?;
    if output.status.success() {
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(std::io::Error::other(said.chars().take(500).collect::<String>().trim().to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_listed_by_its_whole_name() {
        let loaded = "wherry-default (enforce)\n/usr/bin/man (enforce)\nlxc (a) b (complain)\n";
        assert!(lists(loaded, "wherry-default") && lists(loaded, "lxc (a) b"));
        for name in ["wherry", "wherry-default (enforce)", "", "man"] {
            assert!(!lists(loaded, name), "{name}");
        }
    }

    #[test]
    fn the_profiles_text_names_it() {
        assert!(DEFAULT_TEXT.contains(&format!("profile {DEFAULT_PROFILE} ")));
    }
}

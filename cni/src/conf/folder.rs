//! The folder with the node's configurations: which of them is the network, looked up anew for every pod.
//!
//! The folder is compared by the stamps of its files, so that an unchanged one costs a handful of stat(2) and
//! nothing is watched, polled or missed.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

use super::Conflist;

/// The largest configuration that is read.
const MAX_FILE: u64 = 1 << 20;
/// The most entries of the folder that are looked at.
const MAX_ENTRIES: usize = 1024;

/// The network that pods get.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// There is no configuration.
    BuiltIn,
    /// The first valid configuration, in the order of file names.
    Plugins(Arc<Conflist>),
    /// There are configurations, and none of them can be used.
    Broken {
        /// The first of them.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A configuration folder, with what was made of it when it last changed.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    seen: Mutex<Option<(Vec<Stamp>, Choice)>>,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::new(None) }
    }

    /// Returns the network that a pod would get now.
    pub(crate) fn choice(&self) -> Choice {
        let stamps = match self.stamps() {
            Ok(stamps) => stamps,
            Err(error) => {
                return Choice::Broken { path: self.path.clone(), reason: error.to_string() };
            }
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, choice)) = &*seen
            && *known == stamps
        {
            return choice.clone();
        }
        let choice = choose(&stamps);
        match &choice {
            Choice::BuiltIn => {
                info!(folder = %self.path.display(), "no network configuration: built-in bridge")
            }
            Choice::Plugins(list) => {
                info!(network = %list.name, version = %list.version, "network configuration read")
            }
            Choice::Broken { path, reason } => {
                warn!(path = %path.display(), reason, "no usable network configuration")
            }
        }
        *seen = Some((stamps, choice.clone()));
        choice
    }

    fn stamps(&self) -> io::Result<Vec<Stamp>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut stamps = Vec::new();
        for entry in entries.take(MAX_ENTRIES) {
            let path = entry?.path();
            let configuration = path.extension().is_some_and(|extension| {
                ["conflist", "conf", "json"].iter().any(|e| extension == *e)
            });
            let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            if !configuration || hidden {
                continue;
            }
            // A file that goes away meanwhile is one that is not there; a dangling link is a file that is broken.
            let (inode, size, changed) = fs::metadata(&path)
                .map_or((0, 0, (0, 0)), |m| (m.ino(), m.size(), (m.ctime(), m.ctime_nsec())));
            stamps.push(Stamp { path, inode, size, changed });
        }
        stamps.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(stamps)
    }
}

fn choose(stamps: &[Stamp]) -> Choice {
    let mut broken = None;
    for stamp in stamps {
        match load(&stamp.path) {
            Ok(list) => return Choice::Plugins(Arc::new(list)),
            Err(reason) => {
                warn!(path = %stamp.path.display(), reason, "network configuration left out");
                broken.get_or_insert(Choice::Broken { path: stamp.path.clone(), reason });
            }
        }
    }
    broken.unwrap_or(Choice::BuiltIn)
}

fn load(path: &Path) -> Result<Conflist, String> {
    let facts = fs::metadata(path).map_err(|error| error.to_string())?;
    if !facts.is_file() {
        return Err("is not a file".to_owned());
    }
    if facts.mode() & 0o002 != 0 {
        return Err("is writable by everybody".to_owned());
    }
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text))
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("is larger than {MAX_FILE} bytes"));
    }
    Conflist::parse(path, &text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const GOOD: &str = r#"{"cniVersion":"1.0.0","name":"NAME","plugins":[{"type":"bridge"}]}"#;
    const EVIL: &str =
        r#"{"cniVersion":"1.0.0","name":"evil","plugins":[{"type":"../../sbin/reboot"}]}"#;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("cni-conf-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn chosen(folder: &Folder) -> String {
        match folder.choice() {
            Choice::BuiltIn => "built in".to_owned(),
            Choice::Plugins(list) => list.name.clone(),
            Choice::Broken { reason, .. } => format!("broken: {reason}"),
        }
    }

    #[test]
    fn the_first_valid_file_is_the_network_and_changes_are_seen() {
        let dir = scratch("order");
        let folder = Folder::new(dir.clone());
        assert_eq!(chosen(&folder), "built in");
        fs::write(dir.join("README.md"), "not a configuration").unwrap();
        fs::write(dir.join(".10-draft.conflist"), "{").unwrap();
        assert_eq!(chosen(&folder), "built in");
        fs::write(dir.join("20-b.conflist"), GOOD.replace("NAME", "b")).unwrap();
        assert_eq!(chosen(&folder), "b");
        fs::write(dir.join("10-a.conflist"), EVIL).unwrap();
        assert_eq!(chosen(&folder), "b");
        fs::write(dir.join("10-a.conflist"), GOOD.replace("NAME", "a")).unwrap();
        assert_eq!(chosen(&folder), "a");
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(chosen(&folder), "built in");
    }

    #[test]
    fn a_folder_with_only_broken_files_is_broken_and_not_built_in() {
        let dir = scratch("broken");
        let folder = Folder::new(dir.clone());
        fs::write(dir.join("10-evil.conflist"), EVIL).unwrap();
        assert!(chosen(&folder).contains("../../sbin/reboot"), "{}", chosen(&folder));
        fs::write(dir.join("10-evil.conflist"), GOOD).unwrap();
        fs::set_permissions(dir.join("10-evil.conflist"), fs::Permissions::from_mode(0o666))
            .unwrap();
        assert!(chosen(&folder).contains("writable"));
        let large = format!("{}{}", " ".repeat(1 << 20), GOOD);
        fs::remove_file(dir.join("10-evil.conflist")).unwrap();
        fs::write(dir.join("10-large.conflist"), large).unwrap();
        assert!(chosen(&folder).contains("larger"));
        fs::remove_dir_all(&dir).unwrap();
    }
}

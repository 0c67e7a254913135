//! What can be in a path's place instead of what belongs there.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};

use super::outside::Outside;

/// What is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A link with the host's absolute path.
    Absolute(Target),
    /// A link that climbs out of the root.
    Climbing(Target),
    /// A link to nothing, inside.
    Dangling,
    /// A link to itself.
    Loop,
    /// A link to one of procfs's jumping ones.
    Magic(&'static str),
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
    File,
    Folder,
    /// What belongs there, exchanged all the time with a link that climbs out.
    Raced(Target),
}

/// What of the host's tree a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    File,
    Folder,
    /// Nothing yet: following it would make it.
    New,
}

/// What belongs in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Natural {
    Folder,
    File,
    Device(u32, u32),
    Link(&'static str),
}

/// Everything but the races.
pub const KINDS: [Kind; 19] = [
    Kind::Absolute(Target::File),
    Kind::Absolute(Target::Folder),
    Kind::Absolute(Target::New),
    Kind::Climbing(Target::File),
    Kind::Climbing(Target::Folder),
    Kind::Climbing(Target::New),
    Kind::Dangling,
    Kind::Loop,
    Kind::Magic("/proc/self/fd/0"),
    Kind::Magic("/proc/self/fd/3"),
    Kind::Magic("/proc/self/exe"),
    Kind::Magic("/proc/1/root"),
    Kind::Magic("/proc/self/cwd"),
    Kind::Fifo,
    Kind::Socket,
    Kind::CharDevice,
    Kind::BlockDevice,
    Kind::File,
    Kind::Folder,
];

/// The races.
pub const RACES: [Kind; 3] =
    [Kind::Raced(Target::File), Kind::Raced(Target::Folder), Kind::Raced(Target::New)];

impl Kind {
    /// Puts it at `at`, in place of whatever is there.
    pub fn plant(self, at: &Path, natural: Natural, outside: &Outside) {
        let host = |target: Target| {
            outside.dir.join(match target {
                Target::File => "file",
                Target::Folder => "folder",
                Target::New => "new",
            })
        };
        let climb =
            |target| PathBuf::from("../".repeat(40)).join(host(target).strip_prefix("/").unwrap());
        let link = |to: &Path| {
            clear(at);
            symlink(to, at).unwrap();
        };
        match self {
            Self::Absolute(target) => link(&host(target)),
            Self::Climbing(target) => link(&climb(target)),
            Self::Dangling => link(Path::new("/nowhere/at/all")),
            Self::Loop => link(Path::new(at.file_name().unwrap())),
            Self::Magic(path) => link(Path::new(path)),
            Self::Fifo => node(at, FileType::Fifo, (0, 0)),
            Self::Socket => {
                // The way to it may be too long for an address.
                clear(at);
                let short = outside.dir.with_file_name("socket");
                drop(UnixListener::bind(&short).unwrap());
                fs::rename(&short, at).unwrap();
            }
            Self::CharDevice => node(at, FileType::CharacterDevice, (1, 7)),
            // No driver has this number (Documentation/admin-guide/devices.txt: local use).
            Self::BlockDevice => node(at, FileType::BlockDevice, (120, 0)),
            Self::File => {
                clear(at);
                fs::write(at, "not what belongs here\n").unwrap();
            }
            Self::Folder => {
                clear(at);
                fs::create_dir(at).unwrap();
            }
            Self::Raced(target) => {
                natural.plant(at);
                let evil = twin(at);
                clear(&evil);
                symlink(climb(target), &evil).unwrap();
            }
        }
    }

    /// Runs `attempt`, during which a race goes on at `at` if this is one.
    pub fn during<T>(self, at: &Path, attempt: impl FnOnce() -> T) -> T {
        if !matches!(self, Self::Raced(_)) {
            return attempt();
        }
        let over = AtomicBool::new(false);
        let evil = twin(at);
        std::thread::scope(|scope| {
            let _swapper = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // Somebody inside may have taken one of them away.
                    let _done = renameat_with(CWD, at, CWD, &evil, RenameFlags::EXCHANGE);
                }
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt));
            over.store(true, Ordering::Relaxed);
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Natural {
    /// Puts it at `at`, unless it is there.
    pub fn plant(self, at: &Path) {
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match (self, fs::symlink_metadata(at).map(|found| found.file_type())) {
            (Self::Folder, Ok(found)) if found.is_dir() => {}
            (Self::File, Ok(found)) if found.is_file() => {}
            (Self::Folder, _) => {
                clear(at);
                fs::create_dir(at).unwrap();
            }
            (Self::File, _) => {
                clear(at);
                fs::write(at, "").unwrap();
            }
            (Self::Device(major, minor), _) => {
                node(at, FileType::CharacterDevice, (major, minor));
            }
            (Self::Link(target), _) => {
                clear(at);
                symlink(target, at).unwrap();
            }
        }
    }
}

/// The name that takes turns with `at`.
fn twin(at: &Path) -> PathBuf {
    let mut name = at.file_name().unwrap().to_owned();
    name.push(".evil");
    at.with_file_name(name)
}

fn node(at: &Path, kind: FileType, (major, minor): (u32, u32)) {
    clear(at);
    mknodat(CWD, at, kind, Mode::from_raw_mode(0o666), makedev(major, minor)).unwrap();
}

/// Makes the way to `at`, and nothing at it.
fn clear(at: &Path) {
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    match fs::symlink_metadata(at) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(at).unwrap(),
        Ok(_) => fs::remove_file(at).unwrap(),
        Err(_) => {}
    }
}

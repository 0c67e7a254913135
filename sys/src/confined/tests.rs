//! Behaviour on hostile trees, each in a temporary folder of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Yard {
    dir: PathBuf,
}

impl Yard {
    fn new(name: &str) -> Self {
        Self::below(&std::env::temp_dir(), name)
    }
    fn below(folder: &Path, name: &str) -> Self {
        let dir = folder.join(format!("confined-{}-{name}", std::process::id()));
        fs::create_dir_all(dir.join("root")).unwrap();
        fs::create_dir_all(dir.join("outside")).unwrap();
        Self { dir }
    }
    fn root(&self) -> Root {
        Root::open(&self.dir.join("root")).unwrap()
    }
    fn inside(&self, name: &str) -> PathBuf {
        self.dir.join("root").join(name)
    }
    fn outside_is_untouched(&self) {
        assert_eq!(fs::read_dir(self.dir.join("outside")).unwrap().count(), 0);
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        let parent = File::open(self.dir.parent().unwrap()).unwrap();
        remove_tree(parent.as_fd(), self.dir.file_name().unwrap()).unwrap();
    }
}

#[test]
fn directories_are_made_inside_although_links_point_outside() {
    let yard = Yard::new("mkdir");
    symlink(yard.dir.join("outside"), yard.inside("abs")).unwrap();
    symlink("../outside", yard.inside("up")).unwrap();
    let made = yard.root().make_dirs(Path::new("abs/x/y"), 0o700).unwrap().made;
    assert_eq!(made.last().unwrap().file_name().unwrap(), "y");
    yard.root().make_dirs(Path::new("/../../up/z"), 0o755).unwrap();
    assert!(yard.inside("outside/z").is_dir());
    yard.outside_is_untouched();
}

#[test]
fn made_directories_have_the_mode_that_was_asked_for() {
    let yard = Yard::new("mode");
    let made = yard.root().make_dirs(Path::new("a/b"), 0o777).unwrap();
    assert_eq!(made.made, [PathBuf::from("a"), PathBuf::from("a/b")]);
    assert_eq!(fs::metadata(yard.inside("a/b")).unwrap().permissions().mode() & 0o7777, 0o777);
}

#[test]
fn a_loop_of_dangling_links_ends_with_an_error() {
    let yard = Yard::new("loop");
    symlink("b/c", yard.inside("a")).unwrap();
    symlink("a/c", yard.inside("b")).unwrap();
    assert_eq!(yard.root().make_dirs(Path::new("a/x"), 0o755).unwrap_err().errno(), Some(40));
}

#[test]
fn a_file_is_made_at_the_end_of_a_dangling_link_inside_the_root() {
    let yard = Yard::new("file");
    symlink("/outside/target", yard.inside("link")).unwrap();
    drop(yard.root().make_file(Path::new("link"), 0o600).unwrap());
    assert!(yard.inside("outside/target").is_file());
    yard.outside_is_untouched();
}

#[test]
fn a_fifo_is_not_read_and_a_long_file_is_refused() {
    let yard = Yard::new("read");
    rfs::mknodat(yard.root().fd(), "fifo", FileType::Fifo, Mode::RUSR, 0).unwrap();
    fs::write(yard.inside("long"), [7; 11]).unwrap();
    let kind = |p: &str, cap| yard.root().read_file(Path::new(p), cap).unwrap_err().source.kind();
    assert_eq!(kind("fifo", 10), io::ErrorKind::InvalidInput);
    assert_eq!(kind("long", 10), io::ErrorKind::FileTooLarge);
    assert_eq!(yard.root().read_file(Path::new("/../long"), 11).unwrap(), [7; 11]);
}

#[test]
fn removing_a_tree_does_not_follow_its_links() {
    let yard = Yard::new("links");
    fs::write(yard.dir.join("kept"), "kept").unwrap();
    fs::create_dir_all(yard.inside("tree/sub")).unwrap();
    symlink("../../..", yard.inside("tree/sub/up")).unwrap();
    symlink(yard.dir.join("kept"), yard.inside("tree/kept")).unwrap();
    remove_tree(yard.root().fd(), OsStr::new("tree")).unwrap();
    remove_tree(yard.root().fd(), OsStr::new("tree")).unwrap();
    assert!(!yard.inside("tree").exists());
    assert_eq!(fs::read(yard.dir.join("kept")).unwrap(), b"kept");
}

#[test]
fn a_tree_of_twenty_thousand_levels_is_removed() {
    let yard = Yard::new("deep");
    let mut dir = yard.root().make_dirs(Path::new("tree"), 0o755).unwrap().fd;
    for _ in 0..20_000 {
        rfs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
        drop(rfs::openat(&dir, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
        dir = rfs::openat(&dir, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    remove_tree(yard.root().fd(), OsStr::new("tree")).unwrap();
    assert!(!yard.inside("tree").exists());
}

#[test]
fn a_directory_of_many_files_is_removed() {
    let yard = Yard::new("wide");
    fs::create_dir(yard.inside("tree")).unwrap();
    for n in 0..5000 {
        fs::write(yard.inside("tree").join(format!("{n}")), "").unwrap();
    }
    remove_tree(yard.root().fd(), OsStr::new("tree")).unwrap();
    assert!(!yard.inside("tree").exists());
}

#[test]
fn removing_a_tree_stops_at_a_mount_and_leaves_the_mounted_tree() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root to mount");
        return;
    }
    let yard = Yard::new("mount");
    fs::create_dir_all(yard.inside("tree/at")).unwrap();
    fs::write(yard.dir.join("outside/kept"), "kept").unwrap();
    let (from, to) = (yard.dir.join("outside"), yard.inside("tree/at"));
    let root = yard.inside("");
    // On a thread of its own, in a mount namespace of its own: it ends with the thread.
    let removed = std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some(&from), &to, none, MsFlags::MS_BIND, none).unwrap();
        remove_tree(Root::open(&root).unwrap().fd(), OsStr::new("tree"))
    })
    .join()
    .unwrap();
    assert_eq!(removed.unwrap_err().errno(), Some(libc::EXDEV));
    assert_eq!(fs::read(yard.dir.join("outside/kept")).unwrap(), b"kept");
}

fn measure(yard: &Yard) -> Measure {
    measure_tree(File::open(&yard.dir).unwrap().as_fd(), OsStr::new("root"), u64::MAX).unwrap()
}

#[test]
fn a_tree_is_measured_without_what_links_point_to() {
    let yard = Yard::new("measure");
    let empty = measure(&yard);
    assert_eq!(empty.inodes, 1);
    fs::write(yard.dir.join("outside/large"), vec![1; 1 << 20]).unwrap();
    symlink(yard.dir.join("outside"), yard.inside("link")).unwrap();
    fs::create_dir(yard.inside("dir")).unwrap();
    fs::write(yard.inside("dir/file"), vec![1; 64 << 10]).unwrap();
    fs::hard_link(yard.inside("dir/file"), yard.inside("second-name")).unwrap();
    File::create(yard.inside("sparse")).unwrap().set_len(1 << 30).unwrap();
    let full = measure(&yard);
    assert_eq!(full.inodes, 5, "the directory, the link, the file once, the hole");
    let grown = full.bytes - empty.bytes;
    assert!((64 << 10..256 << 10).contains(&grown), "{grown}");
    assert!(!full.partial);
    fs::remove_file(yard.dir.join("outside/large")).unwrap();
    let dir = File::open(&yard.dir).unwrap();
    let nothing = measure_tree(dir.as_fd(), OsStr::new("no"), u64::MAX).unwrap();
    assert_eq!(nothing, Measure::default());
    let part = measure_tree(dir.as_fd(), OsStr::new("root"), 3).unwrap();
    assert_eq!((part.inodes, part.partial), (3, true));
}

/// Makes a chain of directories as deep as asked, with others beside it in the upper part.
fn comb(yard: &Yard, depth: usize) {
    let mut dir: OwnedFd = File::open(yard.inside("")).unwrap().into();
    for level in 0..depth {
        rfs::mkdirat(&dir, "d", Mode::from_raw_mode(0o755)).unwrap();
        if level < 300 {
            rfs::mkdirat(&dir, "e", Mode::from_raw_mode(0o755)).unwrap();
        }
        dir = rfs::openat(&dir, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
}

#[test]
fn a_tree_of_any_depth_is_measured_with_few_files_open_and_a_bottomless_one_is_said_to_be() {
    // In memory: thousands of directories on a disk take seconds.
    let memory = Path::new("/dev/shm");
    let yard = Yard::below(memory, "deep");
    comb(&yard, 300);
    let found = measure(&yard);
    assert_eq!((found.inodes, found.partial), (601, false));
    let yard = Yard::below(memory, "bottomless");
    comb(&yard, 4200);
    let found = measure(&yard);
    assert!(found.partial && found.inodes > 4300, "{found:?}");
}

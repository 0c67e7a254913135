//! The suite on a real directory, and what only the overlay snapshotter does: records, repair, a mount that works.

use std::path::PathBuf;

use super::*;
use crate::fake::Fake;
use crate::{Lower, suite};

struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let name: String = name.chars().map(|c| if c == ' ' { '-' } else { c }).collect();
        let dir = std::env::temp_dir().join(format!("overlay-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        delete_tree(&self.0).unwrap();
    }
}

fn chain(n: u8) -> ChainId {
    ChainId::parse(&format!("sha256:{}", format!("{n:02x}").repeat(32))).unwrap()
}

fn commit(s: &Overlay, n: u8, parent: Option<u8>, fill: impl Fn(&Path)) {
    let draft = s.draft(&chain(n), parent.map(chain).as_ref()).unwrap();
    fill(&draft.fs());
    s.commit(vec![(draft, Usage { bytes: 10, inodes: 1 })]).unwrap();
}

fn whiteout(dir: &Path, name: &str) {
    let dir = File::open(dir).unwrap();
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(&dir, name, kind, rustix::fs::Mode::empty(), 0).unwrap();
}

fn make_opaque(dir: &Path) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(dir, "trusted.overlay.opaque", b"y", flags).unwrap();
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root for mknod, trusted xattrs and mounts");
    }
    root
}

#[test]
fn overlay_keeps_the_contract() {
    let temp = TempDir::new("suite");
    suite::run(|name| Box::new(Overlay::open(&temp.0.join(name)).unwrap()));
}

#[test]
fn the_fake_keeps_the_contract() {
    let temp = TempDir::new("fake");
    suite::run(|name| {
        let dir = temp.0.join(name);
        fs::create_dir_all(&dir).unwrap();
        Box::new(Fake::new(&dir))
    });
}

#[test]
fn layers_and_rootfs_are_found_again_after_a_restart() {
    let temp = TempDir::new("restart");
    let key = RootfsKey::parse("c1").unwrap();
    let (dirs, rootfs) = {
        let s = Overlay::open(&temp.0).unwrap();
        commit(&s, 1, None, |_| {});
        commit(&s, 2, Some(1), |_| {});
        let rootfs = s.prepare(&key, Some(&chain(2))).unwrap();
        (s.layer_dirs(&chain(2)).unwrap(), rootfs)
    };
    let s = Overlay::open(&temp.0).unwrap();
    assert_eq!(s.layer_dirs(&chain(2)).unwrap(), dirs);
    assert_eq!(s.rootfs(&key).unwrap(), rootfs);
    assert_eq!(s.usage(), Usage { bytes: 20, inodes: 2 });
    assert!(s.remove_layer(&chain(2)).is_err());
}

#[test]
fn a_draft_that_a_crash_left_is_swept_and_its_number_not_reused() {
    let temp = TempDir::new("crash");
    let s = Overlay::open(&temp.0).unwrap();
    let draft = s.draft(&chain(1), None).unwrap();
    fs::write(draft.fs().join("half"), "written").unwrap();
    let left = draft.dir().to_owned();
    draft.keep();
    let s = Overlay::open(&temp.0).unwrap();
    assert!(!left.exists());
    assert_ne!(s.draft(&chain(1), None).unwrap().dir(), left);
}

#[test]
fn damaged_layers_are_set_aside_with_all_that_stands_on_them() {
    let temp = TempDir::new("damage");
    let s = Overlay::open(&temp.0).unwrap();
    commit(&s, 1, None, |_| {});
    commit(&s, 2, Some(1), |_| {});
    commit(&s, 3, Some(2), |_| {});
    commit(&s, 4, None, |_| {});
    let damaged = s.layer_dirs(&chain(1)).unwrap()[0].parent().unwrap().to_owned();
    fs::write(damaged.join("layer.json"), "{").unwrap();
    let s = Overlay::open(&temp.0).unwrap();
    let left: Vec<ChainId> = s.layers().into_iter().map(|l| l.chain).collect();
    assert_eq!(left, [chain(4)]);
    assert!(damaged.with_extension("bad").is_dir());
    assert!(Overlay::open(&temp.0).is_ok());
}

#[test]
fn a_record_cut_at_any_length_never_keeps_the_rest_from_opening() {
    let temp = TempDir::new("cut");
    let s = Overlay::open(&temp.0).unwrap();
    commit(&s, 4, None, |_| {});
    commit(&s, 1, None, |_| {});
    let path = s.layer_dirs(&chain(1)).unwrap()[0].parent().unwrap().join("layer.json");
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        let dir = path.parent().unwrap();
        fs::create_dir_all(dir.join("fs")).unwrap();
        fs::write(&path, &whole[..length]).unwrap();
        let s = Overlay::open(&temp.0).unwrap();
        assert!(s.has(&chain(4)) && !s.has(&chain(1)), "{length}");
        delete_tree(&dir.with_extension("bad")).unwrap();
    }
}

#[test]
fn a_rootfs_without_a_readable_record_can_only_be_released() {
    let temp = TempDir::new("norecord");
    let key = RootfsKey::parse("c1").unwrap();
    fs::create_dir_all(temp.0.join("rootfs/c1/upper")).unwrap();
    let s = Overlay::open(&temp.0).unwrap();
    assert_eq!((s.rootfs(&key), s.rootfs_keys()), (None, vec![key.clone()]));
    assert!(s.prepare(&key, None).is_err());
    s.release(&key).unwrap();
    s.prepare(&key, None).unwrap();
}

#[test]
fn the_merged_view_obeys_whiteouts_and_opaque_directories() {
    if !is_root() {
        return;
    }
    let temp = TempDir::new("lower");
    let s = Overlay::open(&temp.0).unwrap();
    commit(&s, 1, None, |fs_dir| {
        for dir in ["hidden", "opaque", "merged"] {
            fs::create_dir(fs_dir.join(dir)).unwrap();
            fs::write(fs_dir.join(dir).join("low"), "").unwrap();
        }
        fs::write(fs_dir.join("gone"), "").unwrap();
        std::os::unix::fs::symlink("merged", fs_dir.join("link")).unwrap();
    });
    commit(&s, 2, Some(1), |fs_dir| {
        whiteout(fs_dir, "hidden");
        whiteout(fs_dir, "gone");
        fs::create_dir(fs_dir.join("opaque")).unwrap();
        make_opaque(&fs_dir.join("opaque"));
        fs::create_dir(fs_dir.join("merged")).unwrap();
    });
    let lower = Lower::open(&s.layer_dirs(&chain(2)).unwrap()).unwrap();
    let there = |path: &str| lower.find(Path::new(path)).unwrap().is_some();
    assert!(there("merged/low") && there("opaque") && there("link") && there("/merged"));
    for path in ["hidden", "hidden/low", "gone", "opaque/low", "link/low", "merged/low/x", "", ".."]
    {
        assert!(!there(path), "{path}");
    }
}

#[test]
fn the_kernel_mounts_what_prepare_gives() {
    if !is_root() {
        return;
    }
    let temp = TempDir::new("mount");
    let s = Overlay::open(&temp.0).unwrap();
    commit(&s, 1, None, |d| fs::write(d.join("low"), "low").unwrap());
    commit(&s, 2, Some(1), |d| fs::write(d.join("high"), "high").unwrap());
    let rootfs = s.prepare(&RootfsKey::parse("c1").unwrap(), Some(&chain(2))).unwrap();
    let target = temp.0.join("target");
    fs::create_dir(&target).unwrap();
    let mount = rootfs.mount();
    // On a thread of its own, in a mount namespace of its own: it ends with the thread.
    std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount as nix_mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        nix_mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let options = mount.options.join(",");
        let (source, kind) = (mount.source.as_str(), mount.kind.as_str());
        nix_mount(Some(source), &target, Some(kind), MsFlags::empty(), Some(options.as_str()))
            .unwrap();
        assert_eq!(fs::read(target.join("low")).unwrap(), b"low");
        assert_eq!(fs::read(target.join("high")).unwrap(), b"high");
        fs::write(target.join("low"), "mine").unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(fs::read(rootfs.upper.join("low")).unwrap(), b"mine");
    assert_eq!(fs::read(rootfs.lower[1].join("low")).unwrap(), b"low");
}

//! Archives, honest and hostile, unpacked below a temporary root with a witness beside it.

mod archive;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use archive::{Tar, pax};
use bytes::Bytes;
use snapshotter::Lower;

use super::*;
use crate::layer::feed;

/// A root to unpack into, and a directory outside that must never change.
struct Yard {
    dir: PathBuf,
    before: BTreeMap<PathBuf, (u32, u64, i64, Vec<u8>)>,
}

impl Yard {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("unpack-{}-{name}", std::process::id()));
        fs::create_dir_all(dir.join("root")).unwrap();
        fs::create_dir_all(dir.join("outside/dir")).unwrap();
        fs::write(dir.join("outside/file"), "witness").unwrap();
        let mut yard = Self { dir, before: BTreeMap::new() };
        yard.before = yard.outside();
        yard
    }

    fn outside(&self) -> BTreeMap<PathBuf, (u32, u64, i64, Vec<u8>)> {
        let mut seen = BTreeMap::new();
        let mut todo = vec![self.dir.join("outside")];
        while let Some(path) = todo.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            }
            let content = fs::read(&path).unwrap_or_default();
            seen.insert(path, (meta.mode(), meta.nlink(), meta.mtime(), content));
        }
        seen
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    fn unpack(&self, archive: &[u8]) -> Result<Unpacked, LayerError> {
        self.unpack_as(archive, &Digest::of(archive))
    }

    fn unpack_as(&self, blob: &[u8], diff_id: &Digest) -> Result<Unpacked, LayerError> {
        let outcome = unpack_blob(blob, true, &self.root(), diff_id);
        assert_eq!(self.outside(), self.before, "something outside the root changed");
        outcome
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let meta = fs::symlink_metadata(self.at(path)).unwrap();
        meta.file_type().is_char_device() && meta.rdev() == 0
    }

    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = [0_u8; 256];
        let length = rustix::fs::lgetxattr(self.at(path), name, &mut value[..]).ok()?;
        Some(value[..length].to_vec())
    }

    fn is_opaque(&self, path: &str) -> bool {
        self.xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        let parent = fs::File::open(self.dir.parent().unwrap()).unwrap();
        sys::confined::remove_tree(parent.as_fd(), self.dir.file_name().unwrap()).unwrap();
    }
}

fn unpack_blob(
    blob: &[u8],
    whole: bool,
    root: &Path,
    diff_id: &Digest,
) -> Result<Unpacked, LayerError> {
    let (feed, intake) = feed();
    let blob = Bytes::copy_from_slice(blob);
    let sender = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for start in (0..blob.len()).step_by(60_000) {
                if !feed.data(blob.slice(start..blob.len().min(start + 60_000))).await {
                    return;
                }
            }
            if whole {
                feed.end().await;
            }
        });
    });
    let outcome = unpack(intake, root, diff_id);
    sender.join().unwrap();
    outcome
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root for chown, mknod and trusted xattrs");
    }
    root
}

#[test]
fn an_entry_keeps_its_mode_owner_time_and_attributes() {
    if !is_root() {
        return;
    }
    let yard = Yard::new("attributes");
    let attributes = pax(&[
        ("SCHILY.xattr.user.mine", b"x"),
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.whiteout", b"y"),
        ("SCHILY.xattr.security.selinux", b"label"),
        ("mtime", b"1234567890.5"),
    ]);
    let mut tar = Tar::default();
    tar.dir("d/").mode(0o2755).owner(7, 8).time(1000);
    tar.file("d/su", b"#!").mode(0o4711).owner(5, 6).time(77);
    tar.raw('x', "", &attributes);
    tar.file("d/attrs", b"");
    tar.symlink("d/link", "/nowhere").owner(9, 10).time(88);
    yard.unpack(&tar.done()).unwrap();
    let meta = |p: &str| fs::symlink_metadata(yard.at(p)).unwrap();
    assert_eq!(
        (meta("d").mode() & 0o7777, meta("d").uid(), meta("d").gid(), meta("d").mtime()),
        (0o2755, 7, 8, 1000)
    );
    assert_eq!(
        (meta("d/su").mode() & 0o7777, meta("d/su").uid(), meta("d/su").mtime()),
        (0o4711, 5, 77)
    );
    assert_eq!((meta("d/link").uid(), meta("d/link").mtime()), (9, 88));
    assert_eq!(
        (meta("d/attrs").mtime(), meta("d/attrs").mtime_nsec()),
        (1_234_567_890, 500_000_000)
    );
    assert_eq!(yard.xattr("d/attrs", "user.mine").as_deref(), Some(&b"x"[..]));
    assert!(yard.xattr("d/attrs", "security.capability").is_some());
    for stripped in ["trusted.overlay.opaque", "user.overlay.whiteout", "security.selinux"] {
        assert_eq!(yard.xattr("d/attrs", stripped), None, "{stripped}");
    }
}

#[test]
fn every_compression_unpacks_to_the_same() {
    let mut tar = Tar::default();
    tar.file("a", &b"content ".repeat(100_000));
    let plain = tar.done();
    let middle = plain.len() / 2;
    let forms = [
        plain.clone(),
        gzip(&plain),
        [gzip(&plain[..middle]), gzip(&plain[middle..])].concat(),
        zstd::encode_all(&plain[..], 1).unwrap(),
    ];
    for (number, form) in forms.iter().enumerate() {
        let yard = Yard::new(&format!("compression-{number}"));
        let unpacked = yard.unpack_as(form, &Digest::of(&plain)).unwrap();
        assert_eq!(fs::metadata(yard.at("a")).unwrap().len(), 800_000);
        assert_eq!(unpacked.usage, Usage { bytes: 800_000, inodes: 1 });
    }
}

#[test]
fn content_that_is_not_what_the_configuration_says_is_refused() {
    let yard = Yard::new("wrong");
    let plain = Tar::default().done();
    let refused = yard.unpack_as(&gzip(&plain), &Digest::of(b"other")).unwrap_err();
    assert!(matches!(refused, LayerError::WrongContent { .. }), "{refused}");
    let trailing = [gzip(&plain), b"garbage".to_vec()].concat();
    assert!(matches!(
        yard.unpack_as(&trailing, &Digest::of(&plain)),
        Err(LayerError::Malformed { .. })
    ));
    // What follows the end mark is part of the layer.
    let padded = [plain.clone(), vec![0; 10_240], b"padding".to_vec()].concat();
    yard.unpack(&padded).unwrap();
}

#[test]
fn archives_cut_anywhere_are_refused() {
    let mut tar = Tar::default();
    tar.file("a", &[7; 3000]).raw('L', "", b"long\0");
    tar.file("x", &[8; 10]);
    let plain = tar.done();
    let zipped = gzip(&plain);
    let yard = Yard::new("cut");
    for length in (1..zipped.len()).step_by(7) {
        let refused = yard.unpack_as(&zipped[..length], &Digest::of(&plain)).unwrap_err();
        assert!(!matches!(refused, LayerError::Disk { .. }), "{length}: {refused}");
    }
    for length in (1..plain.len() - 1024).step_by(97) {
        assert!(yard.unpack_as(&plain[..length], &Digest::of(&plain)).is_err(), "{length}");
    }
    let cut = unpack_blob(&zipped, false, &yard.root(), &Digest::of(&plain)).unwrap_err();
    assert!(matches!(cut, LayerError::Cut), "{cut}");
}

#[test]
fn no_archive_changes_anything_outside() {
    if !is_root() {
        return;
    }
    let outside = |tail: &str| format!("{}/outside{tail}", std::env::temp_dir().display());
    for (name, fine, build) in archive::hostile() {
        let yard = Yard::new(&name.replace(' ', "-"));
        let mut tar = Tar::default();
        // The corpus writes `@` for the yard's own directory.
        tar.home = yard.dir.display().to_string();
        build(&mut tar);
        let outcome = yard.unpack(&tar.done());
        assert_eq!(outcome.is_ok(), fine, "{name}: {:?}", outcome.err());
        assert!(!fs::exists(outside("")).unwrap());
    }
}

#[test]
fn names_that_lead_out_end_inside() {
    let yard = Yard::new("inside");
    let mut tar = Tar::default();
    tar.file("../../up", b"1")
        .file("/abs", b"2")
        .symlink("link", "/target")
        .file("link/through", b"3");
    tar.file("deep/../../side", b"4").hard_link("hard", "/abs");
    yard.unpack(&tar.done()).unwrap();
    let read = ["up", "abs", "target/through", "side", "hard"].map(|p| yard.read(p));
    assert_eq!(read, ["1", "2", "3", "4", "2"]);
}

#[test]
fn whiteouts_become_overlays_own() {
    if !is_root() {
        return;
    }
    let yard = Yard::new("whiteouts");
    let mut tar = Tar::default();
    tar.file("a/.wh.gone", b"")
        .file(".wh.top", b"")
        .file("b/.wh..wh..opq", b"")
        .file("b/kept", b"1");
    tar.file(".wh.again", b"").dir("again/").file("again/new", b"2");
    tar.dir("before/").file(".wh.before", b"").file("both", b"3").file(".wh.both", b"");
    yard.unpack(&tar.done()).unwrap();
    assert!(yard.is_whiteout("a/gone") && yard.is_whiteout("top"));
    assert!(
        yard.is_opaque("b")
            && yard.is_opaque("again")
            && yard.is_opaque("before")
            && !yard.is_opaque("a")
    );
    assert_eq!(
        (yard.read("b/kept"), yard.read("again/new"), yard.read("both")),
        ("1".into(), "2".into(), "3".into())
    );
    assert_eq!(fs::read_dir(yard.root()).unwrap().count(), 6);
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let yard = Yard::new("last");
    let mut tar = Tar::default();
    tar.file("a", b"1").dir("a/").file("a/x", b"2");
    tar.dir("b/").file("b/y", b"3").file("b", b"4");
    tar.dir("real/").symlink("c", "real").dir("c/").file("c/z", b"5");
    tar.file("d", b"6").file("d", b"7").symlink("d2", "d").file("d2", b"8");
    tar.file("e", b"9")
        .hard_link("f", "e")
        .hard_link("f", "e")
        .hard_link("e", "f")
        .symlink("e", "f");
    tar.dir("g/sub/").file("g/sub/1", b"").symlink("g", "real").file("g/2", b"10");
    yard.unpack(&tar.done()).unwrap();
    let read = ["a/x", "b", "c/z", "d", "d2", "e", "f", "real/2"].map(|p| yard.read(p));
    assert_eq!(read, ["2", "4", "5", "7", "8", "9", "9", "10"]);
    assert!(fs::symlink_metadata(yard.at("c")).unwrap().is_dir());
    assert_eq!(fs::read_dir(yard.at("real")).unwrap().count(), 1);
}

#[test]
fn links_nodes_and_pipes_are_made() {
    if !is_root() {
        return;
    }
    let yard = Yard::new("nodes");
    let mut tar = Tar::default();
    tar.device("null", '3', 1, 3).mode(0o666).device("disk", '4', 8, 1).raw('6', "pipe", b"");
    tar.symlink("loop", "loop").hard_link("loop2", "loop");
    yard.unpack(&tar.done()).unwrap();
    let kind = |p: &str| fs::symlink_metadata(yard.at(p)).unwrap();
    assert_eq!(
        (kind("null").rdev(), kind("null").mode() & 0o7777),
        (rustix::fs::makedev(1, 3), 0o666)
    );
    assert!(kind("disk").file_type().is_block_device() && kind("pipe").file_type().is_fifo());
    assert!(kind("loop2").is_symlink());
}

#[test]
fn a_hundred_to_one_is_fine_and_a_bomb_is_not() {
    let yard = Yard::new("bomb");
    // The body of a whiteout is skipped: the bomb costs no disk here.
    let mut tar = Tar::default();
    tar.header('0', ".wh.x", 3 << 30);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&tar.open()).unwrap();
    for _ in 0..1200 {
        encoder.write_all(&[0; 1 << 20]).unwrap();
    }
    let refused = yard.unpack_as(&encoder.finish().unwrap(), &Digest::of(b"")).unwrap_err();
    assert!(refused.to_string().contains("unpack to more than"), "{refused}");
}

#[test]
fn opaque_marks_by_the_thousand_cost_no_more_than_other_entries() {
    if !is_root() {
        return;
    }
    let yard = Yard::new("flood");
    let mut tar = Tar::default();
    for n in 0..5000 {
        tar.file(&format!("d/{n}"), b"").file("d/.wh..wh..opq", b"");
    }
    let started = std::time::Instant::now();
    yard.unpack(&tar.done()).unwrap();
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[test]
fn what_gnu_tar_writes_is_what_we_read() {
    if !is_root() || Command::new("tar").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no tar");
        return;
    }
    let source = Yard::new("gnu-source");
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    fs::create_dir_all(source.at(&"d".repeat(120))).unwrap();
    fs::write(source.at(&long), "long").unwrap();
    let mut holes = fs::File::create(source.at("holes")).unwrap();
    for n in 0..40_u64 {
        std::io::Seek::seek(&mut holes, std::io::SeekFrom::Start(n << 20)).unwrap();
        holes.write_all(b"island").unwrap();
    }
    holes.set_len(100 << 20).unwrap();
    fs::set_permissions(source.at("holes"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("x".repeat(150), source.at("link")).unwrap();
    for format in ["gnu", "posix", "ustar", "oldgnu", "v7"] {
        let with_long = !matches!(format, "ustar" | "v7");
        let names: &[&str] = if with_long { &["."] } else { &["./holes"] };
        let sparse: &[&str] = if with_long { &["-S"] } else { &[] };
        let output = Command::new("tar")
            .args(["-C", source.root().to_str().unwrap(), "--format", format, "-cf", "-"])
            .args(sparse)
            .args(names)
            .output()
            .unwrap();
        assert!(output.status.success());
        let yard = Yard::new(&format!("gnu-{format}"));
        yard.unpack(&output.stdout).unwrap();
        assert_eq!(
            fs::read(yard.at("holes")).unwrap(),
            fs::read(source.at("holes")).unwrap(),
            "{format}"
        );
        assert_eq!(fs::metadata(yard.at("holes")).unwrap().mode() & 0o777, 0o640);
        if with_long {
            assert_eq!(yard.read(&long), "long");
            assert_eq!(fs::read_link(yard.at("link")).unwrap().as_os_str().len(), 150);
            assert!(
                fs::metadata(yard.at("holes")).unwrap().blocks() < 2000,
                "{format} lost the holes"
            );
        }
    }
}

#[test]
fn implied_directories_and_hard_links_are_completed_from_below() {
    if !is_root() {
        return;
    }
    let (low, high) = (Yard::new("low"), Yard::new("high"));
    let mut tar = Tar::default();
    tar.dir("usr/").mode(0o700).owner(3, 4).time(5).dir("usr/bin/").mode(0o711);
    tar.file("usr/bin/tool", b"tool").mode(0o4755).owner(1, 2).symlink("alias", "usr/bin/tool");
    low.unpack(&tar.done()).unwrap();
    let mut tar = Tar::default();
    tar.file("usr/bin/new", b"").file("usr/own/f", b"").hard_link("usr/bin/twin", "usr/bin/tool");
    tar.hard_link("other", "/usr/bin/tool")
        .hard_link("alias2", "alias")
        .dir("usr/own/")
        .mode(0o750);
    let unpacked = high.unpack(&tar.done()).unwrap();
    let below = Lower::open(&[low.root()]).unwrap();
    let added = unpacked.fixups.apply(&high.root(), &below).unwrap();
    assert_eq!(added, Usage { bytes: 4, inodes: 2 });
    let meta = |p: &str| fs::symlink_metadata(high.at(p)).unwrap();
    assert_eq!(
        (meta("usr").mode() & 0o7777, meta("usr").uid(), meta("usr").mtime()),
        (0o700, 3, 5)
    );
    assert_eq!(meta("usr/bin").mode() & 0o7777, 0o711);
    assert_eq!(meta("usr/own").mode() & 0o7777, 0o750);
    assert_eq!(
        (meta("other").mode() & 0o7777, meta("other").uid(), meta("other").nlink()),
        (0o4755, 1, 3)
    );
    assert_eq!(meta("other").ino(), meta("usr/bin/twin").ino());
    assert!(meta("alias2").is_symlink());
}

#[test]
fn a_hard_link_to_nothing_is_refused_once_all_layers_are_known() {
    let (low, high) = (Yard::new("nolow"), Yard::new("nohigh"));
    let mut tar = Tar::default();
    tar.hard_link("a", "nowhere/b");
    let unpacked = high.unpack(&tar.done()).unwrap();
    let refused = unpacked.fixups.apply(&high.root(), &Lower::open(&[low.root()]).unwrap());
    assert!(matches!(refused, Err(LayerError::Malformed { .. })), "{refused:?}");
}

#[test]
fn a_full_disk_is_told_from_a_bad_archive() {
    if !is_root() {
        return;
    }
    let yard = Yard::new("full");
    let root = yard.root();
    let mut tar = Tar::default();
    tar.file("big", &[7; 3 << 20]);
    let archive = tar.done();
    // On a thread of its own, in a mount namespace of its own: it ends with the thread.
    let refused = thread::spawn(move || {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        unpack_blob(&archive, true, &root, &Digest::of(&archive)).unwrap_err()
    })
    .join()
    .unwrap();
    let LayerError::Disk { source, .. } = refused else { panic!("{refused}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
}

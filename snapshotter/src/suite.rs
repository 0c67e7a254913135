//! What every snapshotter must do, as a function that every implementor's tests call.
//!
//! Each behaviour gets a fresh snapshotter and panics with what it missed.

use std::fs;
use std::path::Path;

use crate::{ChainId, Draft, RootfsKey, SnapshotError, Snapshotter, Usage};

type Behaviour = fn(&dyn Snapshotter);

/// The behaviours, by name.
pub const BEHAVIOURS: &[(&str, Behaviour)] = &[
    ("a draft is nothing until it is committed", a_draft_is_nothing_until_it_is_committed),
    ("a dropped draft leaves no directory", a_dropped_draft_leaves_no_directory),
    ("a layer needs its parent", a_layer_needs_its_parent),
    ("a run commits bottom first", a_run_commits_bottom_first),
    ("a run that fails keeps what came before", a_run_that_fails_keeps_what_came_before),
    ("the first commit of a chain stays", the_first_commit_of_a_chain_stays),
    ("a layer below another one is not removed", a_layer_below_another_one_is_not_removed),
    ("a layer below a rootfs is not removed", a_layer_below_a_rootfs_is_not_removed),
    ("removing a layer twice is no error", removing_a_layer_twice_is_no_error),
    ("directories are listed top first", directories_are_listed_top_first),
    ("preparing twice gives the same rootfs", preparing_twice_gives_the_same_rootfs),
    ("a key keeps its chain", a_key_keeps_its_chain),
    (
        "a rootfs without layers has a lower directory",
        a_rootfs_without_layers_has_a_lower_directory,
    ),
    ("an unknown layer cannot be prepared", an_unknown_layer_cannot_be_prepared),
    (
        "a release deletes only what the container wrote",
        a_release_deletes_only_what_the_container_wrote,
    ),
    ("a layer below a view is not removed", a_layer_below_a_view_is_not_removed),
    ("a view can be mounted whatever its layers", a_view_can_be_mounted_whatever_its_layers),
    ("usage follows the layers", usage_follows_the_layers),
    (
        "what is written is measured and what is below is not",
        what_is_written_is_measured_and_what_is_below_is_not,
    ),
];

/// Runs every behaviour on a snapshotter of its own.
pub fn run(make: impl Fn(&str) -> Box<dyn Snapshotter>) {
    for (name, behaviour) in BEHAVIOURS {
        eprintln!("behaviour: {name}");
        behaviour(make(name).as_ref());
    }
}

fn chain(n: u8) -> ChainId {
    ChainId::parse(&format!("sha256:{}", format!("{n:02x}").repeat(32))).expect("well-formed")
}

fn key(text: &str) -> RootfsKey {
    RootfsKey::parse(text).expect("well-formed")
}

fn filled(s: &dyn Snapshotter, n: u8, parent: Option<u8>) -> (Draft, Usage) {
    let draft = s.draft(&chain(n), parent.map(chain).as_ref()).expect("draft");
    fs::write(draft.fs().join(format!("from-{n}")), [n]).expect("fill");
    (draft, Usage { bytes: 1, inodes: 1 })
}

fn commit(s: &dyn Snapshotter, n: u8, parent: Option<u8>) {
    s.commit(vec![filled(s, n, parent)]).expect("commit");
}

fn a_draft_is_nothing_until_it_is_committed(s: &dyn Snapshotter) {
    let (draft, usage) = filled(s, 1, None);
    assert!(!s.has(&chain(1)) && s.layers().is_empty() && s.usage() == Usage::default());
    s.commit(vec![(draft, usage)]).expect("commit");
    assert!(s.has(&chain(1)));
    let dir = s.layer_dirs(&chain(1)).expect("directories").remove(0);
    assert_eq!(fs::read(dir.join("from-1")).expect("content"), [1]);
}

fn a_dropped_draft_leaves_no_directory(s: &dyn Snapshotter) {
    let (draft, _) = filled(s, 1, None);
    let dir = draft.dir().to_owned();
    drop(draft);
    assert!(!dir.exists());
    let (draft, _) = filled(s, 1, None);
    let dir = draft.dir().to_owned();
    s.discard(draft);
    assert!(!dir.exists() && !s.has(&chain(1)));
}

fn a_layer_needs_its_parent(s: &dyn Snapshotter) {
    let orphan = filled(s, 2, Some(1));
    let refused = s.commit(vec![orphan]);
    assert!(matches!(refused, Err(SnapshotError::ParentMissing { .. })), "{refused:?}");
    assert!(!s.has(&chain(2)));
}

fn a_run_commits_bottom_first(s: &dyn Snapshotter) {
    let top = filled(s, 2, Some(1));
    let bottom = filled(s, 1, None);
    s.commit(vec![bottom, top]).expect("commit");
    assert!(s.has(&chain(1)) && s.has(&chain(2)));
}

fn a_run_that_fails_keeps_what_came_before(s: &dyn Snapshotter) {
    let run = vec![filled(s, 1, None), filled(s, 9, Some(8))];
    let gone = run[1].0.dir().to_owned();
    assert!(s.commit(run).is_err());
    assert!(s.has(&chain(1)) && !s.has(&chain(9)) && !gone.exists());
}

fn the_first_commit_of_a_chain_stays(s: &dyn Snapshotter) {
    let (first, usage) = filled(s, 1, None);
    let (second, other) = filled(s, 1, None);
    fs::write(second.fs().join("second"), "").expect("fill");
    s.commit(vec![(first, usage)]).expect("commit");
    s.commit(vec![(second, other)]).expect("a second commit is no error");
    let dirs = s.layer_dirs(&chain(1)).expect("directories");
    assert!(!dirs[0].join("second").exists());
    assert_eq!(s.layers().len(), 1);
}

fn a_layer_below_another_one_is_not_removed(s: &dyn Snapshotter) {
    commit(s, 1, None);
    commit(s, 2, Some(1));
    assert!(matches!(s.remove_layer(&chain(1)), Err(SnapshotError::InUse { .. })));
    s.remove_layer(&chain(2)).expect("remove the upper").delete().expect("delete");
    s.remove_layer(&chain(1)).expect("remove the lower").delete().expect("delete");
    assert!(s.layers().is_empty());
}

fn a_layer_below_a_rootfs_is_not_removed(s: &dyn Snapshotter) {
    commit(s, 1, None);
    s.prepare(&key("c1"), Some(&chain(1))).expect("prepare");
    assert!(matches!(s.remove_layer(&chain(1)), Err(SnapshotError::InUse { .. })));
    s.release(&key("c1")).expect("release");
    let dir = s.layer_dirs(&chain(1)).expect("directories").remove(0);
    s.remove_layer(&chain(1)).expect("remove").delete().expect("delete");
    assert!(!dir.exists());
}

fn removing_a_layer_twice_is_no_error(s: &dyn Snapshotter) {
    commit(s, 1, None);
    drop(s.remove_layer(&chain(1)).expect("first"));
    drop(s.remove_layer(&chain(1)).expect("second"));
    assert!(!s.has(&chain(1)));
}

fn directories_are_listed_top_first(s: &dyn Snapshotter) {
    commit(s, 1, None);
    commit(s, 2, Some(1));
    let dirs = s.layer_dirs(&chain(2)).expect("directories");
    assert!(dirs[0].join("from-2").exists() && dirs[1].join("from-1").exists());
    assert_eq!(s.prepare(&key("c1"), Some(&chain(2))).expect("prepare").lower, dirs);
    assert!(matches!(s.layer_dirs(&chain(3)), Err(SnapshotError::NotFound { .. })));
}

fn preparing_twice_gives_the_same_rootfs(s: &dyn Snapshotter) {
    commit(s, 1, None);
    let first = s.prepare(&key("c1"), Some(&chain(1))).expect("first");
    fs::write(first.upper.join("kept"), "").expect("write");
    let second = s.prepare(&key("c1"), Some(&chain(1))).expect("second");
    assert_eq!(first, second);
    assert_eq!(s.rootfs(&key("c1")), Some(second));
    assert!(first.upper.join("kept").exists() && first.work.is_dir());
    assert_eq!(s.rootfs_keys(), [key("c1")]);
}

fn a_key_keeps_its_chain(s: &dyn Snapshotter) {
    commit(s, 1, None);
    commit(s, 2, None);
    s.prepare(&key("c1"), Some(&chain(1))).expect("prepare");
    let refused = s.prepare(&key("c1"), Some(&chain(2)));
    assert!(matches!(refused, Err(SnapshotError::InUse { .. })), "{refused:?}");
}

fn a_rootfs_without_layers_has_a_lower_directory(s: &dyn Snapshotter) {
    let rootfs = s.prepare(&key("c1"), None).expect("prepare");
    assert!(rootfs.lower.len() == 1 && rootfs.lower[0].is_dir());
    assert!(rootfs.mount().options[0].starts_with("lowerdir=/"));
}

fn an_unknown_layer_cannot_be_prepared(s: &dyn Snapshotter) {
    let refused = s.prepare(&key("c1"), Some(&chain(1)));
    assert!(matches!(refused, Err(SnapshotError::NotFound { .. })), "{refused:?}");
    assert!(s.rootfs(&key("c1")).is_none() && s.rootfs_keys().is_empty());
}

fn a_release_deletes_only_what_the_container_wrote(s: &dyn Snapshotter) {
    commit(s, 1, None);
    let rootfs = s.prepare(&key("c1"), Some(&chain(1))).expect("prepare");
    fs::create_dir_all(rootfs.upper.join("a/b")).expect("write");
    std::os::unix::fs::symlink(&rootfs.lower[0], rootfs.upper.join("a/lower")).expect("link");
    s.release(&key("c1")).expect("release");
    s.release(&key("c1")).expect("release again");
    assert!(!rootfs.upper.exists() && Path::new(&rootfs.lower[0]).join("from-1").exists());
    assert!(s.rootfs(&key("c1")).is_none());
}

fn a_layer_below_a_view_is_not_removed(s: &dyn Snapshotter) {
    commit(s, 1, None);
    let key = key("a").view(3);
    let first = s.view(&key, Some(&chain(1))).expect("view");
    assert_eq!(s.view(&key, Some(&chain(1))).expect("again"), first);
    assert!(matches!(s.view(&key, None), Err(SnapshotError::InUse { .. })));
    assert!(matches!(s.remove_layer(&chain(1)), Err(SnapshotError::InUse { .. })));
    assert_eq!(s.rootfs_keys(), std::slice::from_ref(&key));
    s.release(&key).expect("release");
    s.release(&key).expect("release again");
    assert!(first.lower[0].join("from-1").exists(), "a release leaves the layer alone");
    s.remove_layer(&chain(1)).expect("remove").delete().expect("delete");
}

fn a_view_can_be_mounted_whatever_its_layers(s: &dyn Snapshotter) {
    let nothing = s.view(&key("a").view(0), None).expect("view of nothing");
    assert_eq!((nothing.lower.len(), nothing.mount().kind.as_str()), (1, "bind"));
    assert_eq!(fs::read_dir(&nothing.lower[0]).expect("a directory").count(), 0);
    commit(s, 1, None);
    commit(s, 2, Some(1));
    for (number, layers) in [(1, 2), (2, 2)] {
        let view =
            s.view(&key("b").view(number), Some(&chain(u8::try_from(number).expect("small"))));
        let view = view.expect("view");
        assert_eq!((view.lower.len(), view.mount().kind.as_str()), (layers, "overlay"));
        assert!(view.mount().options.iter().all(|option| !option.starts_with("upperdir")));
    }
    let missing = s.view(&key("c").view(0), Some(&chain(9)));
    assert!(matches!(missing, Err(SnapshotError::NotFound { .. })));
}

fn usage_follows_the_layers(s: &dyn Snapshotter) {
    commit(s, 1, None);
    commit(s, 2, Some(1));
    assert_eq!(s.usage(), Usage { bytes: 2, inodes: 2 });
    drop(s.remove_layer(&chain(2)).expect("remove"));
    assert_eq!(s.usage(), Usage { bytes: 1, inodes: 1 });
    assert_eq!(s.layers()[0].usage, s.usage());
}

fn what_is_written_is_measured_and_what_is_below_is_not(s: &dyn Snapshotter) {
    commit(s, 1, None);
    let written = |most| s.written(&key("c1"), most).expect("measure");
    assert_eq!(written(u64::MAX), Some(Usage::default()));
    let rootfs = s.prepare(&key("c1"), Some(&chain(1))).expect("prepare");
    let before = written(u64::MAX).expect("nothing is too much");
    assert_eq!(before.inodes, 1);
    fs::write(rootfs.upper.join("file"), vec![1; 100_000]).expect("write");
    let after = written(u64::MAX).expect("nothing is too much");
    assert_eq!(after.inodes, 2);
    assert!((100_000..200_000).contains(&(after.bytes - before.bytes)), "{after:?}");
    assert_eq!(written(2), None);
}

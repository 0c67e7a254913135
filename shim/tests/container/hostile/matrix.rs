//! Every path of a root file system that means something to a runtime × everything that can be in its place, through
//! create, start, exec, terminals, volumes and the files of the host.
//!
//! Whatever happens, nothing of the host may change; and what cannot be done is an error of its own kind that names
//! the path, with nothing left behind. The root is a folder of the host's as it is (so that a race in it is one), or an
//! overlay.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use shim::{ErrorKind, ShimError, UserRequest};

use super::kind::{KINDS, Kind, Natural, RACES};
use super::outside::Outside;
use crate::harness::{Case, Test};

pub const TESTS: &[Test] = &[
    ("what_belongs_in_a_special_paths_place_is_taken", control),
    ("what_is_in_a_special_paths_place_cannot_lead_a_create_out", at_create),
    ("what_comes_into_a_special_paths_place_cannot_lead_an_exec_out", at_exec),
    ("what_takes_turns_in_a_special_paths_place_cannot_lead_out", in_a_race),
    ("a_root_that_is_no_folder_itself_is_refused", root_itself),
];

/// A path that means something.
struct Special {
    path: &'static str,
    /// What belongs there.
    natural: Natural,
    /// Makes a container for which the path matters.
    arrange: fn(&mut Case),
    /// What an error may name instead of the path.
    otherwise: &'static str,
    /// An exec looks there, too.
    exec: bool,
}

/// A row of the table below.
const fn special(path: &'static str, natural: Natural, arrange: fn(&mut Case)) -> Special {
    Special { path, natural, arrange, otherwise: path, exec: false }
}

/// A row for a path at which an exec looks, too.
const fn of_execs(path: &'static str, natural: Natural, arrange: fn(&mut Case)) -> Special {
    Special { exec: true, ..special(path, natural, arrange) }
}

const LINK: Natural = Natural::Link("/proc/self/fd/1");

static SPECIALS: [Special; 40] = [
    special("/proc", Natural::Folder, |_| {}),
    special("/sys", Natural::Folder, |_| {}),
    special("/dev", Natural::Folder, |_| {}),
    special("/dev", Natural::Folder, images_dev),
    of_execs("/dev/null", Natural::Device(1, 3), images_dev),
    special("/dev/zero", Natural::Device(1, 5), images_dev),
    special("/dev/full", Natural::Device(1, 7), images_dev),
    special("/dev/random", Natural::Device(1, 8), images_dev),
    special("/dev/urandom", Natural::Device(1, 9), images_dev),
    special("/dev/tty", Natural::Device(5, 0), images_dev),
    special("/dev/fd", Natural::Link("/proc/self/fd"), images_dev),
    special("/dev/stdin", LINK, images_dev),
    special("/dev/stdout", LINK, images_dev),
    special("/dev/stderr", LINK, images_dev),
    special("/dev/ptmx", Natural::Link("pts/ptmx"), images_dev),
    special("/dev/console", Natural::File, images_dev),
    special("/dev/pts", Natural::Folder, images_dev),
    special("/dev/pts/ptmx", Natural::File, no_devpts),
    special("/dev/shm", Natural::Folder, images_dev),
    special("/dev/mqueue", Natural::Folder, images_dev),
    special("/opt/device", Natural::Device(1, 3), |case| {
        let own = json!({"path": "/opt/device", "type": "c", "major": 1, "minor": 3, "uid": 5});
        case.spec["linux"]["devices"] = json!([own]);
    }),
    special("/opt", Natural::Folder, |case| {
        let own = json!({"path": "/opt/device", "type": "c", "major": 1, "minor": 3, "uid": 5});
        case.spec["linux"]["devices"] = json!([own]);
    }),
    special("/sys/fs/cgroup", Natural::Folder, images_sys),
    special("/sys/fs", Natural::Folder, images_sys),
    Special { otherwise: "app", ..of_execs("/etc", Natural::Folder, named_user) },
    Special { otherwise: "app", ..of_execs("/etc/passwd", Natural::File, named_user) },
    Special { otherwise: "audio", ..special("/etc/group", Natural::File, named_user) },
    special("/etc/hosts", Natural::File, |case| volume(case, "/etc/hosts", "file")),
    special("/etc/hostname", Natural::File, |case| volume(case, "/etc/hostname", "file")),
    special("/etc/resolv.conf", Natural::File, |case| volume(case, "/etc/resolv.conf", "file")),
    special("/run/secrets", Natural::Folder, |case| volume(case, "/run/secrets", "folder")),
    special("/run", Natural::Folder, |case| volume(case, "/run/secrets/token", "file")),
    special("/data/scratch", Natural::Folder, |case| {
        let mount = json!({"destination": "/data/scratch", "type": "tmpfs", "source": "tmpfs"});
        mounts(case).push(mount);
    }),
    // Folders that other containers have, too (CVE-2021-30465, CVE-2024-45310).
    special("/shared/nested", Natural::Folder, |case| {
        share(case);
        let mount =
            json!({"destination": "/shared/nested/here", "type": "tmpfs", "source": "tmpfs"});
        mounts(case).push(mount);
    }),
    special("/shared/node", Natural::Folder, |case| {
        share(case);
        let own =
            json!({"path": "/shared/node/null", "type": "c", "major": 1, "minor": 3, "gid": 5});
        case.spec["linux"]["devices"] = json!([own]);
    }),
    // A /dev that is such a folder: nothing is made in it, and its null device is what masks are made of.
    of_execs("/dev/null", Natural::Device(1, 3), |case| {
        without_mount(case, &["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"]);
        let source = case.dir.join("shared-dev");
        fs::create_dir_all(source.join("pts")).unwrap();
        mounts(case).push(
            json!({"destination": "/dev", "type": "bind", "source": source, "options": ["rbind"]}),
        );
        let options = ["newinstance", "ptmxmode=0666"];
        mounts(case).push(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options}));
    }),
    of_execs("/shared/work", Natural::Folder, |case| {
        share(case);
        case.spec["process"]["cwd"] = json!("/shared/work/here");
    }),
    of_execs("/work/here", Natural::Folder, |case| {
        case.spec["process"]["cwd"] = json!("/work/here");
    }),
    special("/hidden", Natural::File, |case| {
        case.spec["linux"]["maskedPaths"] = json!(["/hidden", "/hidden/below", "/proc/keys"]);
    }),
    special("/frozen", Natural::Folder, |case| {
        case.spec["linux"]["readonlyPaths"] = json!(["/frozen", "/frozen/below", "/proc/sys"]);
    }),
];

/// How a container is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Terminal,
    Overlay,
}

/// All rows, or with `WHERRY_ROWS` those whose path is in it, for somebody who looks into one.
fn chosen() -> impl Iterator<Item = &'static Special> {
    let only = std::env::var("WHERRY_ROWS").ok();
    let is_chosen =
        move |path| only.as_ref().is_none_or(|all| all.split(',').any(|one| one == path));
    SPECIALS.iter().filter(move |special| is_chosen(special.path))
}

impl Way {
    const ALL: [Self; 3] = [Self::Plain, Self::Terminal, Self::Overlay];
    /// What happens in the host's folder is seen at once inside.
    const LIVE: [Self; 2] = [Self::Plain, Self::Terminal];
}

fn mounts(case: &mut Case) -> &mut Vec<Value> {
    case.spec["mounts"].as_array_mut().unwrap()
}

fn without_mount(case: &mut Case, destinations: &[&str]) {
    mounts(case).retain(|mount| !destinations.contains(&mount["destination"].as_str().unwrap()));
}

/// The image's own /dev instead of a fresh one, with the usual mounts in it.
fn images_dev(case: &mut Case) {
    without_mount(case, &["/dev"]);
}

fn no_devpts(case: &mut Case) {
    without_mount(case, &["/dev", "/dev/pts"]);
}

/// The image's own /sys, with the cgroups in it.
fn images_sys(case: &mut Case) {
    without_mount(case, &["/sys"]);
}

fn named_user(case: &mut Case) {
    let user = "app:audio".to_owned();
    case.options.user = UserRequest { user, ..UserRequest::default() };
}

fn volume(case: &mut Case, destination: &str, name: &str) {
    let source = case.dir.join("volumes").join(name);
    match name {
        "folder" => fs::create_dir_all(&source).unwrap(),
        _ => {
            fs::create_dir_all(source.parent().unwrap()).unwrap();
            fs::write(&source, "a volume").unwrap();
        }
    }
    let options = ["rbind", "rprivate"];
    mounts(case).push(
        json!({"destination": destination, "type": "bind", "source": source, "options": options}),
    );
}

/// A folder of the host's that the container has, as others do.
fn share(case: &mut Case) {
    let source = case.dir.join("shared");
    fs::create_dir_all(&source).unwrap();
    mounts(case).push(
        json!({"destination": "/shared", "type": "bind", "source": source, "options": ["rbind"]}),
    );
}

impl Special {
    fn case(&self, way: Way) -> Case {
        let mut case = Case::new("");
        case.spec["process"]["args"] = json!(["/bin/busybox", "sleep", "60"]);
        // The kernel takes its time over network namespaces, and no row is about them.
        let namespaces = case.spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
        if way != Way::Overlay {
            case.options.rootfs = Vec::new();
            case.spec["root"]["path"] = json!(case.image);
        }
        if way == Way::Terminal {
            case.options.terminal = true;
            case.spec["process"]["terminal"] = json!(true);
        }
        (self.arrange)(&mut case);
        case
    }

    fn place(&self, case: &Case) -> PathBuf {
        let dev = case.dir.join("shared-dev");
        if dev.exists() {
            return dev.join("null");
        }
        if self.path.starts_with("/shared/") {
            return case.dir.join(&self.path[1..]);
        }
        case.image.join(&self.path[1..])
    }

    /// Whether only the real thing will do: a device that another one stands for, or a link that moves what everything
    /// below depends on.
    fn wants_another(&self, kind: Kind) -> bool {
        let is_itself = match self.natural {
            Natural::Device(major, minor) => kind == Kind::CharDevice && (major, minor) == (1, 7),
            _ => kind == Kind::Folder,
        };
        let decides = ["/proc", "/sys", "/dev"].contains(&self.path);
        !is_itself && (decides || matches!(self.natural, Natural::Device(..)))
    }

    /// What somebody inside does who believes the path to be the host's.
    fn abuse(&self, case: &Case, name: &str) -> Result<(), ShimError> {
        let p = self.path;
        let script = format!(
            "[ -p {p} ] || echo pwned > {p}; echo pwned > {p}/pwned; busybox mkdir {p}/made; \
             busybox chmod 777 {p}; busybox chown 77:77 {p}; busybox rm -rf {p}/pwned {p}/made {p}/file {p}/x"
        );
        case.exec_args(name, json!(["/bin/sh", "-c", script])).map(|_| ())
    }
}

/// What is tried row by row, and what is wrong with it.
struct Rows {
    outside: Outside,
    done: u32,
    refused: u32,
    wrong: Vec<String>,
}

impl Rows {
    fn new() -> Self {
        Self { outside: Outside::new("outside"), done: 0, refused: 0, wrong: Vec::new() }
    }

    /// Whether an error is what it has to be. During a race the kernel may say anything.
    fn refused(&mut self, special: &Special, kind: Kind, error: &ShimError) {
        self.refused += 1;
        let said = error.to_string();
        let names = [special.path, special.otherwise, "/dev/pts"];
        let names = names.iter().any(|name| said.contains(name));
        // The folder that the user's files were in a moment ago: no error of a path, but of what is not found there.
        let names = names || (matches!(kind, Kind::Raced(_)) && said.contains("in the image"));
        let known = matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::StartFailed);
        if !(names && (known || matches!(kind, Kind::Raced(_)))) {
            let what = format!("{} as {kind:?}", special.path);
            self.wrong.push(format!("{what} is refused as {:?}: {said}", error.kind()));
        }
    }

    /// The end of a row.
    fn end(&mut self, case: Case, what: &str) {
        drop(case);
        self.done += 1;
        let changes = self.outside.changes();
        self.wrong.extend(changes.iter().map(|change| format!("{what}: {change}")));
    }

    #[track_caller]
    fn judge(self, least: u32) {
        println!("{} rows, {} refused", self.done, self.refused);
        assert!(self.wrong.is_empty(), "{} wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
        let all = std::env::var_os("WHERRY_ROWS").is_none();
        assert!(self.done >= least || !all, "only {} rows", self.done);
    }
}

/// Without it every row could be refused for a reason of another kind.
fn control() {
    let mut rows = Rows::new();
    for special in chosen() {
        for way in Way::ALL {
            let mut case = special.case(way);
            special.natural.plant(&special.place(&case));
            let what = format!("{} as it should be, {way:?}", special.path);
            // The one whose point is that there is no terminal to be had.
            if special.path == "/dev/pts/ptmx" && way == Way::Terminal {
                continue;
            }
            case.start();
            special.abuse(&case, "abuse").unwrap_or_else(|error| panic!("{what}: {error}"));
            rows.end(case, &what);
        }
    }
    rows.judge(110);
}

fn at_create() {
    let mut rows = Rows::new();
    for special in chosen() {
        for (kind, way) in KINDS.iter().flat_map(|kind| Way::ALL.map(|way| (*kind, way))) {
            let what = format!("{} as {kind:?}, {way:?}", special.path);
            let mut case = special.case(way);
            kind.plant(&special.place(&case), special.natural, &rows.outside);
            match case.create() {
                Err(error) => {
                    rows.refused(special, kind, &error);
                    assert_eq!(case.cgroups(), Vec::<PathBuf>::new(), "{what}");
                }
                Ok(_) => {
                    if special.wants_another(kind) {
                        rows.wrong.push(format!("{what}: was taken for what it is not"));
                    }
                    case.block(case.shim().start()).unwrap();
                    if let Err(error) = special.abuse(&case, "abuse") {
                        rows.refused(special, kind, &error);
                    }
                }
            }
            rows.end(case, &what);
        }
    }
    rows.judge(2000);
}

fn at_exec() {
    let mut rows = Rows::new();
    for special in chosen().filter(|special| special.exec) {
        for kind in KINDS {
            let mut case = special.case(Way::Plain);
            let place = special.place(&case);
            special.natural.plant(&place);
            case.start();
            kind.plant(&place, special.natural, &rows.outside);
            if let Err(error) = special.abuse(&case, "abuse") {
                rows.refused(special, kind, &error);
            }
            rows.end(case, &format!("{} as {kind:?} before an exec", special.path));
        }
    }
    rows.judge(70);
}

fn in_a_race() {
    let mut rows = Rows::new();
    for special in chosen() {
        for (kind, way) in RACES.iter().flat_map(|kind| Way::LIVE.map(|way| (*kind, way))) {
            let mut case = special.case(way);
            let place = special.place(&case);
            kind.plant(&place, special.natural, &rows.outside);
            let case = kind.during(&place, || {
                match case.create() {
                    Err(error) => rows.refused(special, kind, &error),
                    Ok(_) => {
                        case.block(case.shim().start()).unwrap();
                        for exec in ["one", "two"] {
                            if let Err(error) = special.abuse(&case, exec) {
                                rows.refused(special, kind, &error);
                            }
                        }
                    }
                }
                case
            });
            rows.end(case, &format!("{} as {kind:?}, {way:?}", special.path));
        }
    }
    rows.judge(200);
}

fn root_itself() {
    let mut rows = Rows::new();
    for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Folder) {
        let mut case = Case::new("true");
        let root = case.dir.join("root-of-it");
        kind.plant(&root, Natural::Folder, &rows.outside);
        case.options.rootfs = Vec::new();
        case.spec["root"]["path"] = json!(root);
        let refused = case.create().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{kind:?}: {refused}");
        assert!(refused.to_string().contains("root-of-it"), "{kind:?}: {refused}");
        assert_eq!(case.cgroups(), Vec::<PathBuf>::new());
        rows.end(case, &format!("the root as {kind:?}"));
    }
    rows.judge(18);
}

//! The images of the suites. Their programs are Debian's static busybox, so that no compiler is needed.

use std::process::Command;

use serde_json::json;

use super::{Compression, Format, Image, Layer, Store};
use crate::registry::fault;
use crate::tools;

/// The shell and its usual programs; user `worker` (1000, also in group 50000), group `extra`.
pub const BUSYBOX: &str = "plain.test/busybox:1";
/// Docker's formats; upper layers remove a file and hide a folder of the lowest.
pub const LAYERS: &str = "plain.test/layers:1";
/// Layers compressed with Zstandard, and not at all.
pub const MIXED: &str = "plain.test/mixed:1";
/// One image with the tags 1 and 2.
pub const TAGGED: [&str; 2] = ["plain.test/tagged:1", "plain.test/tagged:2"];
/// Its process runs as `worker` by name.
pub const USER_NAMED: &str = "plain.test/user-named:1";
/// Its process runs as 1002:1003.
pub const USER_NUMBERED: &str = "plain.test/user-numbered:1";
/// Has an entrypoint, arguments, a working folder, variables and a stop signal (SIGUSR1) of its own.
pub const SET_UP: &str = "plain.test/set-up:1";
/// Wants the folders `/home/worker`, in which it has a file of `worker`'s, and `/new` as volumes.
pub const VOLUMES: &str = "plain.test/volumes:1";
/// For another architecture only.
pub const FOREIGN: &str = "plain.test/foreign:1";
/// What a runtime that needs one uses to hold a pod's namespaces.
pub const PAUSE: &str = "plain.test/pause:1";
/// A repository that only the registry with TLS and tokens has; `secret` is for one user alone.
pub const SECURE: &str = "secure.test/open/busybox:1";
/// Needs a login.
pub const SECRET: &str = "secure.test/secret/busybox:1";

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
www-data:x:33:33:www-data:/var/www:/bin/false\n\
worker:x:1000:1000:worker:/home/worker:/bin/sh\n\
nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &[u8] = b"root:x:0:\nwww-data:x:33:\nworker:x:1000:\nextra:x:50000:worker\n\
nogroup:x:65534:\n";

/// The layer of the busybox image.
pub fn busybox_layer() -> Layer {
    let program = tools::busybox().expect("busybox-static is installed by hack/setup");
    let list = Command::new(&program).arg("--list").output().unwrap().stdout;
    let list = String::from_utf8(list).unwrap();
    let mut layer = Layer::default().folder("tmp", 0o1777);
    for folder in ["dev", "etc", "home/worker", "proc", "root", "run", "sys", "usr/bin", "var"] {
        layer = layer.folder(folder, 0o755);
    }
    layer = layer.file("bin/busybox", 0o755, &std::fs::read(program).unwrap());
    // Hard links: a mount over /bin/ls must not cover the other programs.
    for applet in list.lines().filter(|applet| *applet != "busybox") {
        layer = layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    layer.file("etc/passwd", 0o644, PASSWD).file("etc/group", 0o644, GROUP)
}

/// All images that the plain registry serves.
pub fn plain() -> Store {
    let mut store = Store::default();
    let base = busybox_layer().pack(Compression::Gzip);
    let shell = |format| Image::new(format).layer(base.clone()).set("Cmd", json!(["sh"]));
    shell(Format::Oci).put(&mut store, "busybox", &["1"]);
    shell(Format::Oci).set("Labels", json!({"is": "tagged"})).put(
        &mut store,
        "tagged",
        &["1", "2"],
    );
    shell(Format::Oci).set("User", json!("worker")).put(&mut store, "user-named", &["1"]);
    shell(Format::Docker).set("User", json!("1002:1003")).put(&mut store, "user-numbered", &["1"]);
    shell(Format::Oci).architecture("s390x").put(&mut store, "foreign", &["1"]);
    shell(Format::Oci).set("Cmd", json!(["sleep", "999999999"])).put(&mut store, "pause", &["1"]);
    shell(Format::Docker)
        .layer(lower().pack(Compression::Gzip))
        .layer(upper().pack(Compression::Gzip))
        .put(&mut store, "layers", &["1"]);
    shell(Format::Oci)
        .layer(Layer::default().file("zstd", 0o644, b"zstd\n").pack(Compression::Zstd))
        .layer(Layer::default().file("plain", 0o644, b"plain\n").pack(Compression::Plain))
        .put(&mut store, "mixed", &["1"]);
    set_up(shell(Format::Oci)).put(&mut store, "set-up", &["1"]);
    let home = Layer::default().owned_folder("home/worker", 0o750, (1000, 1000)).owned(
        "home/worker/.profile",
        0o600,
        (1000, 1000),
        b"profile\n",
    );
    shell(Format::Oci)
        .layer(home.pack(Compression::Gzip))
        .set("Volumes", json!({"/home/worker": {}, "/new": {}}))
        .put(&mut store, "volumes", &["1"]);
    super::hostile::put(&mut store, &base);
    store
}

/// What the registry with TLS and tokens serves.
pub fn secure() -> Store {
    let mut store = Store::default();
    let base = busybox_layer().pack(Compression::Gzip);
    for (repository, label) in [("open/busybox", "open"), ("secret/busybox", "secret")] {
        Image::new(Format::Oci).layer(base.clone()).set("Labels", json!({ "is": label })).put(
            &mut store,
            repository,
            &["1"],
        );
    }
    store
}

/// What the registry that misbehaves would serve: layers that no other image has, or they would be there already.
pub fn evil() -> Store {
    let mut store = Store::default();
    for repository in fault::REPOSITORIES {
        // Noise, which does not compress away (xorshift64, seeded by the name).
        let seed = repository
            .bytes()
            .fold(88_172_645_463_325_252_u64, |sum, byte| sum.rotate_left(8) ^ u64::from(byte));
        let next = |state: &u64| {
            let state = state ^ (state << 13);
            let state = state ^ (state >> 7);
            Some(state ^ (state << 17))
        };
        let noise = std::iter::successors(Some(seed), next).take(25_000);
        let noise: Vec<u8> = noise.flat_map(u64::to_le_bytes).collect();
        Image::new(Format::Oci)
            .layer(Layer::default().file("noise", 0o644, &noise).pack(Compression::Gzip))
            .put(&mut store, repository, &["1"]);
    }
    store
}

fn set_up(image: Image) -> Image {
    let script = "trap 'echo got USR1; exit 7' USR1; echo $0 $*; pwd; echo $COLOUR; \
        while :; do sleep 3600 & wait; done";
    image
        .set("Entrypoint", json!(["sh", "-c", script, "entrypoint"]))
        .set("Cmd", json!(["default", "arguments"]))
        .set("WorkingDir", json!("/var"))
        .set("StopSignal", json!("SIGUSR1"))
        .set("Env", json!(["PATH=/bin", "COLOUR=from the image"]))
}

fn lower() -> Layer {
    let long = format!("long/{}/{}", "f".repeat(120), "n".repeat(180));
    Layer::default()
        .file("data/kept", 0o644, b"kept\n")
        .file("data/removed", 0o644, b"removed\n")
        .file("hidden/below", 0o644, b"below\n")
        .owned("data/owned", 0o640, (1000, 50000), b"owned\n")
        .file("data/setuid", 0o4755, b"")
        .file(&long, 0o644, b"long\n")
        .link("data/absolute", "/data/kept")
}

fn upper() -> Layer {
    Layer::default()
        .whiteout("data/removed")
        .opaque("hidden")
        .file("hidden/above", 0o644, b"above\n")
        .file("data/kept", 0o644, b"changed\n")
}

//! Images that want more than they may have.

use serde_json::{Value, json};

use super::{Blob, Compression, Format, Image, Layer, Store};

/// Users that are no number in range, and no name either, whatever the image's passwd says.
pub const USERS: [&str; 10] = [
    "2147483648",
    "4294967295",
    "4294967296",
    "4294967296:0",
    "0:4294967296",
    "9999999999999",
    "-1",
    "+1",
    " 1",
    "a\nb",
];

/// What a link must not lead to: a name that is not there on the host, and a folder that is.
pub const NOWHERE: &str = "/wherry-was-here";
/// See [`NOWHERE`].
pub const SOMEWHERE: &str = "/var/tmp";

/// Where the links are: what a runtime mounts on, or makes.
pub const LINKS: [&str; 10] = [
    "etc",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "dev",
    "dev/shm",
    "dev/termination-log",
    "proc",
    "sys",
    "run/secrets",
];

/// The name of the image with this one of [`USERS`].
pub fn with_user(number: usize) -> String {
    format!("plain.test/user-{number}:1")
}

/// The name of the image with a link at this one of [`LINKS`] to this one of four targets.
pub fn with_link(number: usize, target: usize) -> String {
    format!("plain.test/link-{number}-{target}:1")
}

/// Has labels, volumes, a folder and variables that mean something to other runtimes, or to the host.
pub const DEMANDING: &str = "plain.test/demanding:1";
/// The labels of [`DEMANDING`].
pub const LABELS: [(&str, &str); 6] = [
    ("containerd.io/restart.loguri", "binary:///bin/touch?/wherry-was-here"),
    ("containerd.io/restart.status", "running"),
    ("io.cri-containerd.image", "managed"),
    ("io.kubernetes.container.name", "other"),
    ("io.kubernetes.pod.uid", "../../x"),
    ("org.systemd.property.ExecStopPost", "/bin/touch /wherry-was-here"),
];

/// Puts all of them into the store.
pub fn put(store: &mut Store, base: &Blob) {
    // Nothing of these has to run: their point is what happens before.
    let bare = || Image::new(Format::Oci).set("Cmd", json!(["sh"]));
    let passwd: String =
        USERS.iter().map(|user| format!("{}:x:0:0::/:/bin/sh\n", user.replace('\n', ""))).collect();
    let named = Layer::default().file("etc/passwd", 0o644, passwd.as_bytes());
    let named = named.pack(Compression::Gzip);
    for (number, user) in USERS.iter().enumerate() {
        let image = bare().layer(named.clone()).set("User", json!(user));
        image.put(store, &format!("user-{number}"), &["1"]);
    }
    for (number, path) in LINKS.iter().enumerate() {
        let climb = "../".repeat(30);
        let targets = [
            NOWHERE.into(),
            SOMEWHERE.into(),
            climb.clone() + &NOWHERE[1..],
            climb + &SOMEWHERE[1..],
        ];
        for (index, target) in targets.iter().enumerate() {
            let layer = Layer::default().link(path, target).pack(Compression::Gzip);
            bare().layer(layer).put(store, &format!("link-{number}-{index}"), &["1"]);
        }
    }
    let labels: Value = LABELS.iter().map(|(key, value)| (*key, json!(value))).collect();
    let volumes = json!({"/../../../etc": {}, "/away": {}, "/proc": {}});
    let away = Layer::default().link("away", "/etc").pack(Compression::Gzip);
    bare()
        .layer(base.clone())
        .layer(away)
        .set("Labels", labels)
        .set("Volumes", volumes)
        .set(
            "Env",
            json!(["PATH=/bin", "HOME=/root\nevil:x:0:0::/:/bin/sh", "LD_PRELOAD=/evil.so"]),
        )
        .put(store, "demanding", &["1"]);
}

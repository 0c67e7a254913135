//! The images that critest names, made here: it asks for what they contain, not for who made them.
//!
//! One it pins by a digest that nobody else's build has: `test-image-digest`.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{Blob, Compression, Format, Image, Layer, Store, architecture, catalog};

/// The registries that the names are in, the last one for [`catalog::PAUSE`]; one with all of the images stands for each.
pub const REGISTRIES: [&str; 5] =
    ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws", "plain.test"];

const STAGING: &str = "k8s-staging-cri-tools";
const E2E: &str = "e2e-test-images";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
bin:x:2:2:bin:/bin:/bin/false\n\
www-data:x:33:33:www-data:/var/www:/bin/false\n\
nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nbin:x:2:\nwww-data:x:33:\nnogroup:x:65534:\n";

/// All of them, with the programs that `hack/critest.d/programs` has put into this folder.
///
/// # Errors
/// If one of the programs cannot be read.
pub fn store(programs: &Path) -> io::Result<Store> {
    let mut store = Store::default();
    let base = base(&programs.join("busybox"))?;
    let shell = |format| Image::new(format).layer(base.clone()).set("Cmd", json!(["sh"]));
    shell(Format::Docker).put(&mut store, &format!("{E2E}/busybox"), &["1.29-2"]);
    web(&mut store, &base, programs)?;
    let setuid = std::fs::read(programs.join("nonewprivs"))?;
    shell(Format::Docker)
        .layer(packed(Layer::default().file("usr/bin/nonewprivs", 0o4755, &setuid)))
        .set("Cmd", json!(["/usr/bin/nonewprivs"]))
        .put(&mut store, &format!("{E2E}/nonewprivs"), &["1.3"]);
    // Not `sleep`: a spec looks for processes of this name.
    let pause = |label| {
        let image = shell(Format::Oci).set("Cmd", json!(["tail", "-f", "/dev/null"]));
        image.set("Labels", json!({ "is": label }))
    };
    pause("a pause").put(&mut store, "pause", &["3.9"]);
    // What a runtime that needs one holds pods with: it must not be the image above, which specs remove.
    pause(catalog::PAUSE).put(&mut store, "pause", &["1"]);
    let one_file = |format, name: &str| {
        shell(format).layer(packed(Layer::default().file(name, 0o644, name.as_bytes())))
    };
    for name in ["test-image-1", "test-image-2", "test-image-3", "test-image-latest"] {
        one_file(Format::Docker, name).put(&mut store, &format!("{STAGING}/{name}"), &["latest"]);
    }
    let tags = format!("{STAGING}/test-image-tags");
    one_file(Format::Docker, "same").put(&mut store, &tags, &["1", "2", "3"]);
    let tag = format!("{STAGING}/test-image-tag");
    one_file(Format::Docker, "test").put(&mut store, &tag, &["test"]);
    one_file(Format::Oci, "all").put(&mut store, &tag, &["all"]);
    for variant in ["1", "1-glibc", "1-musl", "1-uclibc", "1.35.0-glibc"] {
        one_file(Format::Oci, variant).put(&mut store, "docker/library/busybox", &[variant]);
    }
    users(&mut store, &base);
    Ok(store)
}

/// Images whose processes are somebody.
fn users(store: &mut Store, base: &Blob) {
    let shell = || Image::new(Format::Docker).layer(base.clone()).set("Cmd", json!(["sh"]));
    for (name, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ] {
        let repository = format!("{STAGING}/test-image-user-{name}");
        shell().set("User", json!(user)).put(store, &repository, &["latest"]);
    }
    let passwd = format!("{PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n");
    let group =
        format!("{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n");
    let accounts = Layer::default()
        .file("etc/passwd", 0o644, passwd.as_bytes())
        .file("etc/group", 0o644, group.as_bytes())
        .folder("home/default-user", 0o755);
    shell().layer(packed(accounts)).set("User", json!("1000")).put(
        store,
        &format!("{STAGING}/test-image-predefined-group"),
        &["latest"],
    );
}

/// Images that serve HTTP.
fn web(store: &mut Store, base: &Blob, programs: &Path) -> io::Result<()> {
    let program = packed(tree(Layer::default(), &programs.join("nginx"), "")?);
    let hostnet = format!("{STAGING}/hostnet-nginx-{}", architecture());
    for (repository, tag, port) in
        [(&format!("{E2E}/nginx"), "1.14-2", 80), (&hostnet, "latest", 12003)]
    {
        let configuration = format!(
            "pid /var/run/nginx.pid;\nevents {{}}\nhttp {{ access_log off; server {{\n\
             listen {port}; location / {{ root /var/www; }} }} }}\n"
        );
        let files = Layer::default()
            .file("etc/nginx/nginx.conf", 0o644, configuration.as_bytes())
            .file("var/www/index.html", 0o644, b"<html><body>served by nginx</body></html>\n")
            .folder("var/log/nginx", 0o755)
            .folder("var/lib/nginx", 0o755);
        Image::new(Format::Docker)
            .layer(base.clone())
            .layer(program.clone())
            .layer(packed(files))
            .set("Cmd", json!(["nginx", "-g", "daemon off;"]))
            .set("StopSignal", json!("SIGQUIT"))
            .put(store, repository, &[tag]);
    }
    let script = "echo httpd serves; exec httpd -f -p 80 -h /www";
    let page =
        Layer::default().file("www/index.html", 0o644, b"<html><body>served</body></html>\n");
    Image::new(Format::Oci)
        .layer(base.clone())
        .layer(packed(page))
        .set("Cmd", json!(["sh", "-c", script]))
        .put(store, &format!("{E2E}/httpd"), &["2.4.39-4"]);
    Ok(())
}

/// A small root file system with every program of this busybox.
fn base(busybox: &Path) -> io::Result<Blob> {
    let list = Command::new(busybox).arg("--list").output()?.stdout;
    let mut layer = Layer::default().folder("tmp", 0o1777);
    for folder in ["dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "usr/bin", "var"] {
        layer = layer.folder(folder, 0o755);
    }
    layer = layer.link("var/run", "/run").file("bin/busybox", 0o755, &std::fs::read(busybox)?);
    // Hard links: a mount over /bin/ls must not cover the other programs.
    for applet in String::from_utf8_lossy(&list).lines().filter(|applet| *applet != "busybox") {
        layer = layer.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    let accounts = [("etc/passwd", PASSWD), ("etc/group", GROUP)];
    let layer =
        accounts.iter().fold(layer, |layer, (path, text)| layer.file(path, 0o644, text.as_bytes()));
    Ok(packed(layer))
}

/// The files below this folder.
fn tree(mut layer: Layer, folder: &Path, path: &str) -> io::Result<Layer> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = format!("{path}{}", entry.file_name().to_string_lossy());
        layer = if entry.file_type()?.is_dir() {
            tree(layer, &entry.path(), &format!("{path}/"))?
        } else {
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            layer.file(&path, mode, &std::fs::read(entry.path())?)
        };
    }
    Ok(layer)
}

fn packed(layer: Layer) -> Blob {
    layer.pack(Compression::Gzip)
}

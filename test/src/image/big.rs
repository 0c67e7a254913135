//! A big image out of this machine's `/usr`, for measuring pulls.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Compression, Format, Image, Layer, Store};

/// About 440 MiB of files, which compress to some 150 MiB.
const LAYERS: usize = 6;
const LAYER_BYTES: u64 = 73 << 20;

/// The big image, under `big:1`: six layers of the files of `/usr`, in the order of their names.
pub fn store() -> Store {
    let mut files = Vec::new();
    for root in ["/usr/bin", "/usr/lib", "/usr/share"] {
        collect(Path::new(root), &mut files);
    }
    let mut files = files.into_iter();
    let mut image = Image::new(Format::Oci).set("Cmd", json!(["sh"]));
    for _ in 0..LAYERS {
        let mut layer = Layer::default();
        let mut bytes = 0;
        while bytes < LAYER_BYTES {
            let Some(path) = files.next() else { break };
            let Ok(data) = fs::read(&path) else { continue };
            bytes += data.len() as u64;
            layer = layer.file(path.to_string_lossy().trim_start_matches('/'), 0o644, &data);
        }
        image = image.layer(layer.pack(Compression::Gzip));
    }
    let mut store = Store::default();
    image.put(&mut store, "big", &["1"]);
    store
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

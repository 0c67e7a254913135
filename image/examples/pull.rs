//! Pulls one image and says what it took: `pull ROOT REFERENCE [CERTS_DIR]`.

use std::time::Instant;
use std::{env, error::Error, fs, sync::Arc};

use image::{Images, ImagesConfig, Reference};
use snapshotter::Overlay;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let mut next = |name| {
        arguments.next().ok_or(format!("usage: pull ROOT REFERENCE [CERTS_DIR], {name} is missing"))
    };
    let (root, name) = (next("ROOT")?, Reference::parse(&next("REFERENCE")?)?);
    fs::create_dir_all(&root)?;
    let layers = Arc::new(Overlay::open(format!("{root}/snapshots").as_ref())?);
    let mut config = ImagesConfig::new(&root);
    config.certs_dir = next("CERTS_DIR").ok().map(Into::into);
    let images = Images::open(config, layers)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let before = status("VmRSS");
    let started = Instant::now();
    let image = runtime.block_on(images.pull(&name, None))?;
    let took = started.elapsed();
    let mib = |bytes: u64| bytes >> 20;
    println!("{}: {} layers, {} MiB compressed", image.id, image.layers.len(), mib(image.size));
    println!("{} MiB unpacked in {took:.2?}", mib(images.usage().bytes));
    println!("memory: {before} before, {} at most, {} after", status("VmHWM"), status("VmRSS"));
    Ok(())
}

/// A line of `/proc/self/status`.
fn status(key: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or("?").trim().to_owned()
}

//! The whole way of one layer, on two threads.

use std::path::Path;
use std::thread;

use snapshotter::Usage;
use sys::confined::Root;

use super::LayerError;
use super::apply::Applier;
use super::decompress::{self, Inflater, Plain};
use super::fixup::Fixups;
use super::pipe::Intake;
use super::tarball::Archive;
use crate::Digest;

/// A layer that was unpacked and is what the configuration says.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// What it takes on the disk.
    pub(crate) usage: Usage,
    /// What is still to be done once the layers below are there.
    pub(crate) fixups: Fixups,
}

/// Unpacks what comes through `intake` into the directory `fs`, and verifies its diff id. Blocks until it is done.
pub(crate) fn unpack(intake: Intake, fs: &Path, diff_id: &Digest) -> Result<Unpacked, LayerError> {
    let root = Root::open(fs)?;
    let (inflater, plain) = decompress::stage(intake);
    thread::scope(|scope| {
        let inflating = thread::Builder::new()
            .name("inflate".to_owned())
            .spawn_scoped(scope, || Inflater::run(inflater))
            .map_err(|e| LayerError::disk("start a thread for", fs, e))?;
        let applied = apply(root, plain);
        // The reading side has gone by now, so this ends.
        let inflated = inflating
            .join()
            .unwrap_or_else(|_| Err(LayerError::malformed("its decompression panicked")));
        match (applied, inflated) {
            // Input that ends early makes both fail; its end is the cause.
            (_, Err(error)) => Err(error),
            (Err(error), Ok(_)) => Err(error),
            (Ok(unpacked), Ok(digest)) => verify(unpacked, digest, diff_id),
        }
    })
}

fn apply(root: Root, plain: Plain) -> Result<Unpacked, LayerError> {
    let mut archive = Archive::new(plain);
    let mut applier = Applier::new(root);
    while let Some(entry) = archive.next()? {
        applier.entry(&entry, &mut archive)?;
    }
    archive.drain();
    let (budget, fixups) = applier.finish();
    let usage = Usage { bytes: budget.written(), inodes: budget.entries() };
    Ok(Unpacked { usage, fixups })
}

fn verify(
    unpacked: Unpacked,
    actual: Option<Digest>,
    expected: &Digest,
) -> Result<Unpacked, LayerError> {
    match actual {
        Some(actual) if actual == *expected => Ok(unpacked),
        Some(actual) => Err(LayerError::WrongContent {
            expected: expected.to_string(),
            actual: actual.to_string(),
        }),
        None => Err(LayerError::malformed("its decompression ended early")),
    }
}

#[cfg(test)]
mod tests;

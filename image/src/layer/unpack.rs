//! The whole way of one layer, on two threads.

use std::io::ErrorKind;
use std::path::Path;
use std::thread;

use rustix::process::geteuid;
use snapshotter::Usage;
use sys::confined::Root;
use sys::jail;

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
    let (inflater, plain) = decompress::stage(intake);
    thread::scope(|scope| {
        let applying = thread::Builder::new()
            .name("unpack".to_owned())
            .spawn_scoped(scope, || apply(confine(fs)?, plain))
            .map_err(|e| LayerError::disk("start a thread for", fs, e))?;
        let inflated = Inflater::run(inflater);
        // The writing side has gone by now, so this ends.
        let applied = applying
            .join()
            .unwrap_or_else(|_| Err(LayerError::malformed("its unpacking panicked")));
        match (applied, inflated) {
            // Input that ends early makes both fail; its end is the cause.
            (_, Err(error)) => Err(error),
            (Err(error), Ok(_)) => Err(error),
            (Ok(unpacked), Ok(digest)) => verify(unpacked, digest, diff_id),
        }
    })
}

/// Leaves the host's files behind. Who is not root has no way to, and unpacks only what is its own.
fn confine(fs: &Path) -> Result<Root, LayerError> {
    match jail::enter(fs) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && !geteuid().is_root() => {
            Ok(Root::open(fs)?)
        }
        entered => entered.map_err(|e| LayerError::disk("confine unpacking to", fs, e)),
    }
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

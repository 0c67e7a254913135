//! What a pull will do, known before anything large is fetched.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;

use snapshotter::ChainId;

use crate::media::{self, Descriptor, Document, Manifest};
use crate::platform::{Machine, Platform};
use crate::reference::Version;
use crate::registry::{Fetched, Registry};
use crate::{Digest, ImageConfig, ImageError, Reference, config};

/// Indexes within indexes.
const MAX_DEPTH: usize = 4;
/// Documents fetched for one pull.
const MAX_FETCHES: usize = 32;
const MAX_CONFIG: u64 = 8 << 20;

/// One image for this machine, verified as far as its documents go.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) id: Digest,
    pub(super) config: ImageConfig,
    /// Bottom first.
    pub(super) layers: Vec<Layer>,
    /// Everything to be stored, the configuration too.
    pub(super) documents: Vec<(Digest, Vec<u8>)>,
    /// The name it was pulled by, if that has a tag.
    pub(super) repo_tag: Option<String>,
    pub(super) repo_digest: String,
    /// Compressed bytes: configuration and layers.
    pub(super) size: u64,
}

/// One layer to have.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) chain: ChainId,
    pub(super) parent: Option<ChainId>,
}

impl Plan {
    /// What must not be removed while the plan is carried out.
    pub(super) fn names(&self) -> Vec<String> {
        let documents = self.documents.iter().map(|(digest, _)| digest.to_string());
        documents.chain(self.layers.iter().map(|layer| layer.chain.to_string())).collect()
    }
}

/// Asks the registry what the name means for this machine.
pub(super) async fn make(registry: &Registry, name: &Reference) -> Result<Plan, ImageError> {
    let machine = Machine::this();
    let top = registry.manifest().await?;
    let repo_digest = format!("{}@{}", name.name(), top.digest);
    let mut search =
        Search { registry, machine: &machine, name, documents: Vec::new(), seen: HashSet::new() };
    let manifest = search.descend(top, 0).await?.ok_or_else(|| no_match(name, &machine))?;
    let mut documents = search.documents;

    let bytes = registry.small_blob(&manifest.config, MAX_CONFIG).await?;
    let parsed = config::parse(&bytes)?;
    check_platform(&parsed, name, &machine)?;
    let id = manifest.config.digest.clone();
    documents.push((id.clone(), bytes));
    let blobs: u64 = manifest.layers.iter().fold(0, |sum, blob| blob.size.saturating_add(sum));
    let repo_tag = matches!(name.version(), Version::Tag(_)).then(|| name.to_string());
    Ok(Plan {
        id,
        size: manifest.config.size.saturating_add(blobs),
        config: parsed.config,
        layers: stack(manifest.layers, parsed.diff_ids, name)?,
        documents,
        repo_tag,
        repo_digest,
    })
}

fn no_match(name: &Reference, machine: &Machine) -> ImageError {
    ImageError::unsupported(name.to_string(), format!("it has no manifest for {}", machine.name()))
}

/// An image's configuration names its platform, too; without an index in front it is the only place.
fn check_platform(
    parsed: &config::Parsed,
    name: &Reference,
    machine: &Machine,
) -> Result<(), ImageError> {
    let (os, architecture) = (parsed.os.clone(), parsed.architecture.clone());
    let platform = Platform { os, architecture, variant: parsed.variant.clone() };
    if machine.rank(&platform).is_some() || platform.architecture.is_empty() {
        return Ok(());
    }
    let why = format!(
        "it is for {}/{} and this machine is {}",
        platform.os,
        platform.architecture,
        machine.name()
    );
    Err(ImageError::unsupported(name.to_string(), why))
}

/// Pairs blobs with their diff ids and names the layers (OCI image-spec, config.md, "Layer ChainID").
fn stack(
    blobs: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
    name: &Reference,
) -> Result<Vec<Layer>, ImageError> {
    if blobs.len() != diff_ids.len() {
        let why = format!("it has {} layers and {} diff ids", blobs.len(), diff_ids.len());
        return Err(ImageError::corrupt(name.to_string(), why));
    }
    let mut layers: Vec<Layer> = Vec::with_capacity(blobs.len());
    for (blob, diff_id) in blobs.into_iter().zip(diff_ids) {
        let parent = layers.last().map(|layer| layer.chain.clone());
        let chain = match &parent {
            None => diff_id.clone(),
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        };
        let chain = ChainId::parse(chain.as_str())?;
        layers.push(Layer { blob, diff_id, chain, parent });
    }
    Ok(layers)
}

/// The way through indexes to a manifest.
struct Search<'a> {
    registry: &'a Registry,
    machine: &'a Machine,
    name: &'a Reference,
    /// What was read on the way to the manifest, in that order.
    documents: Vec<(Digest, Vec<u8>)>,
    seen: HashSet<Digest>,
}

impl Search<'_> {
    /// The manifest that a document is or leads to.
    fn descend(
        &mut self,
        fetched: Fetched,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Manifest>, ImageError>> + Send + '_>> {
        Box::pin(async move {
            let object = format!("{} of {}", fetched.digest, self.name.name());
            let document = media::parse(&fetched.bytes, &fetched.media_type, &object)?;
            let held = self.documents.len();
            self.documents.push((fetched.digest, fetched.bytes));
            let entries = match document {
                Document::Manifest(manifest) => return Ok(Some(manifest)),
                Document::Index(_) if depth >= MAX_DEPTH => {
                    return Err(ImageError::corrupt(
                        object,
                        format!("indexes within indexes, more than {MAX_DEPTH}"),
                    ));
                }
                Document::Index(entries) => entries,
            };
            for entry in self.ranked(entries) {
                if !self.seen.insert(entry.digest.clone()) {
                    continue;
                }
                if self.seen.len() > MAX_FETCHES {
                    return Err(ImageError::corrupt(object, "it leads through too many documents"));
                }
                let mut child = self.registry.manifest_by(&entry).await?;
                if !entry.media_type.is_empty() {
                    // What a descriptor says of its content is verified with it; a header is not.
                    child.media_type = entry.media_type.clone();
                }
                if let Some(manifest) = self.descend(child, depth + 1).await? {
                    return Ok(Some(manifest));
                }
            }
            self.documents.truncate(held);
            Ok(None)
        })
    }

    /// The entries that may lead to an image for this machine, best first; those that do not say come last.
    fn ranked(&self, entries: Vec<Descriptor>) -> Vec<Descriptor> {
        let rank = |entry: &Descriptor| match &entry.platform {
            Some(platform) => self.machine.rank(platform),
            None => Some(usize::MAX),
        };
        let mut ranked: Vec<(usize, Descriptor)> = entries
            .into_iter()
            .filter_map(|entry| rank(&entry).map(|rank| (rank, entry)))
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, entry)| entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let name = Reference::parse("a").unwrap();
        let blob = Descriptor {
            media_type: String::new(),
            digest: Digest::of(b""),
            size: 0,
            platform: None,
        };
        let ids = vec![Digest::of(b"1"), Digest::of(b"2")];
        let layers = stack(vec![blob.clone(), blob.clone()], ids.clone(), &name).unwrap();
        assert_eq!(layers[0].chain.as_str(), ids[0].as_str());
        let expected = Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes());
        assert_eq!(
            (layers[1].chain.as_str(), &layers[1].parent),
            (expected.as_str(), &Some(layers[0].chain.clone()))
        );
        assert!(stack(vec![blob], ids, &name).is_err());
    }
}

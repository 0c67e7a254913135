//! The last step of a pull: the record, and what it changes for other images.

use std::sync::{Arc, PoisonError};

use super::plan::Plan;
use crate::images::{Entry, Image};
use crate::store::Record;
use crate::{ImageError, Images};

impl Images {
    /// Writes the image's record and shows it. Blocks on the disk.
    ///
    /// A tag that belonged to another image moves: the new record is written first, so a power cut in between leaves
    /// the tag with two, and the later one wins at the next start.
    pub(super) fn publish(&self, plan: &Plan) -> Result<Arc<Image>, ImageError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let entries: Vec<Arc<Entry>> = self.entries().values().cloned().collect();
        let generation = entries.iter().map(|e| e.record.generation).max().unwrap_or(0) + 1;
        let old = entries.iter().find(|e| e.record.id == plan.id).map(|e| &e.record);
        let record = merged(plan, old, generation);
        if old.is_none_or(|old| !same(old, &record)) {
            self.records.write(&record)?;
        }
        for entry in &entries {
            self.take_tag(entry, plan)?;
        }
        Ok(self.replace(Entry::new(record, plan.config.clone(), &self.pinned)))
    }

    /// Takes the pulled tag away from an image that had it.
    fn take_tag(&self, entry: &Entry, plan: &Plan) -> Result<(), ImageError> {
        let Some(tag) = &plan.repo_tag else { return Ok(()) };
        if entry.record.id == plan.id || !entry.record.repo_tags.contains(tag) {
            return Ok(());
        }
        let mut record = entry.record.clone();
        record.repo_tags.retain(|t| t != tag);
        self.records.write(&record)?;
        self.replace(Entry::new(record, entry.image.config.clone(), &self.pinned));
        Ok(())
    }
}

fn merged(plan: &Plan, old: Option<&Record>, generation: u64) -> Record {
    let mut record = old.cloned().unwrap_or_else(|| Record {
        id: plan.id.clone(),
        repo_tags: Vec::new(),
        repo_digests: Vec::new(),
        size: plan.size,
        layers: plan.layers.iter().map(|layer| layer.chain.clone()).collect(),
        documents: Vec::new(),
        generation,
    });
    let add = |list: &mut Vec<String>, name: &String| {
        if !list.contains(name) {
            list.push(name.clone());
        }
    };
    plan.repo_tag.iter().for_each(|tag| add(&mut record.repo_tags, tag));
    add(&mut record.repo_digests, &plan.repo_digest);
    for (digest, _) in &plan.documents {
        if *digest != plan.id && !record.documents.contains(digest) {
            record.documents.push(digest.clone());
        }
    }
    record.generation = generation;
    record
}

/// Whether two records differ in nothing but their age.
fn same(old: &Record, new: &Record) -> bool {
    Record { generation: old.generation, ..new.clone() } == *old
}

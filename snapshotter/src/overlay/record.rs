//! The record beside a layer's directory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{ChainId, SnapshotError, Usage};

/// Longer than any record: what exceeds it is damaged.
const MAX_RECORD: u64 = 4096;

/// What a layer is, and what it takes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) chain: ChainId,
    pub(super) parent: Option<ChainId>,
    #[serde(flatten)]
    pub(super) usage: Usage,
}

const NAME: &str = "layer.json";

impl LayerRecord {
    pub(super) fn write(&self, dir: &Path) -> Result<(), SnapshotError> {
        let path = dir.join(NAME);
        let fail = |e: io::Error| SnapshotError::io("record layer", &path, e);
        let bytes = serde_json::to_vec(self).map_err(|e| fail(e.into()))?;
        sys::durable::write(&path, &bytes).map_err(fail)
    }

    pub(super) fn read(dir: &Path) -> Result<Self, SnapshotError> {
        let path = dir.join(NAME);
        let fail = |e: io::Error| SnapshotError::io("read record", &path, e);
        let mut bytes = Vec::new();
        File::open(&path).and_then(|f| f.take(MAX_RECORD).read_to_end(&mut bytes)).map_err(fail)?;
        serde_json::from_slice(&bytes).map_err(|e| fail(e.into()))
    }
}

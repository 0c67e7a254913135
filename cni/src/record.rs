//! What was used to attach each pod, on disk before it is used.
//!
//! ```text
//! attachments/<id>.json       one pod: the network as it was used, the pod's facts, the result once there is one
//! attachments/<id>.json.bad   a record that could not be read, set aside
//! ```
//!
//! How hard a record is written depends on what it protects. A plugin may leave things behind that outlive the
//! machine's power (a lease in an address server), so its record is on the disk before the plugin runs. All that
//! the built-in network makes dies with the kernel, so that its record has to survive our own death only: it is
//! written without waiting for the disk. A power cut can leave such a record empty, and it is dropped then.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;

use crate::bridge::Lease;
use crate::conf::{Conflist, parse_json};
use crate::error::NetworkError;
use crate::pod::{Attachment, PodNetwork, is_id};

/// The largest record that is read: a pod's annotations can be 256 KiB, a configuration and a result 1 MiB each.
const MAX_RECORD: u64 = 8 << 20;
const FORMAT: u32 = 1;

/// One pod's attachment, whole or begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    pub(crate) used: Used,
    /// The CNI result; absent while an attach is under way, or if it was cut short.
    pub(crate) result: Option<Value>,
}

/// The network that a pod was attached to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Used {
    /// The built-in one.
    BuiltIn(Lease),
    /// Plugins: their whole configuration, and what they were told about the pod.
    Plugins { conflist: Value, pod: Box<PodNetwork> },
}

impl Record {
    pub(crate) fn built_in(lease: Lease, result: Value) -> Self {
        Self { format: FORMAT, used: Used::BuiltIn(lease), result: Some(result) }
    }

    pub(crate) fn plugins(list: &Conflist, pod: &PodNetwork) -> Self {
        let used = Used::Plugins { conflist: list.to_value(), pod: Box::new(pod.clone()) };
        Self { format: FORMAT, used, result: None }
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let record: Self =
            serde_json::from_value(parse_json(text)?).map_err(|error| error.to_string())?;
        if record.format != FORMAT {
            return Err(format!("has format {}, not {FORMAT}", record.format));
        }
        if let Used::Plugins { conflist, .. } = &record.used {
            Conflist::from_value(conflist)?;
        }
        Ok(record)
    }

    fn lease(&self) -> Option<Lease> {
        match &self.used {
            Used::BuiltIn(lease) => Some(lease.clone()),
            Used::Plugins { .. } => None,
        }
    }
}

/// What is kept of a record in memory; the rest is read again when the pod is detached.
#[derive(Debug, Clone)]
struct Entry {
    attachment: Option<Arc<Attachment>>,
    lease: Option<Lease>,
}

impl Entry {
    fn of(record: &Record) -> Self {
        let attachment =
            record.result.clone().and_then(|result| Attachment::from_result(result).ok());
        Self { attachment: attachment.map(Arc::new), lease: record.lease() }
    }
}

/// All records of a node.
#[derive(Debug)]
pub(crate) struct Records {
    folder: PathBuf,
    entries: Mutex<HashMap<String, Entry>>,
}

impl Records {
    /// Reads all records below `state_dir`. One that cannot be read is set aside with a warning.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, NetworkError> {
        let folder = state_dir.join("attachments");
        let unreadable = || NetworkError::state("read folder", &folder);
        make_private_folder(&folder)?;
        let mut entries = HashMap::new();
        for file in fs::read_dir(&folder).map_err(unreadable())? {
            let path = file.map_err(unreadable())?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('.') && name.ends_with(".tmp") {
                // A draft whose writer was killed; its record is the one without it.
                drop(fs::remove_file(&path));
            } else if let Some(id) = name.strip_suffix(".json").filter(|id| is_id(id))
                && let Some(record) = read_or_set_aside(&path)
            {
                entries.insert(id.to_owned(), Entry::of(&record));
            }
        }
        Ok(Self { folder, entries: Mutex::new(entries) })
    }

    /// Returns the ids of all pods that have a record.
    pub(crate) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.lock().keys().cloned().collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// Returns what a pod got, if its attach came to its end.
    pub(crate) fn attachment(&self, id: &str) -> Option<Arc<Attachment>> {
        self.lock().get(id).and_then(|entry| entry.attachment.clone())
    }

    /// Returns what a pod has of the built-in network.
    pub(crate) fn lease(&self, id: &str) -> Option<Lease> {
        self.lock().get(id).and_then(|entry| entry.lease.clone())
    }

    /// Returns what all pods have of the built-in network.
    pub(crate) fn leases(&self) -> Vec<(String, Lease)> {
        let entries = self.lock();
        let leased =
            entries.iter().filter_map(|(id, entry)| Some((id.clone(), entry.lease.clone()?)));
        leased.collect()
    }

    /// Writes a record so that it survives as long as what it stands for.
    pub(crate) fn put(&self, id: &str, record: &Record) -> Result<(), NetworkError> {
        let path = self.path(id);
        let text = serde_json::to_vec(record)
            .map_err(|error| NetworkError::state("write", &path)(error.into()))?;
        match record.used {
            Used::BuiltIn(_) => sys::durable::write_volatile(&path, &text),
            Used::Plugins { .. } => sys::durable::write(&path, &text),
        }
        .map_err(NetworkError::state("write", &path))?;
        self.lock().insert(id.to_owned(), Entry::of(record));
        Ok(())
    }

    /// Reads a record back, whole. `None` if there is none, or if it had to be set aside.
    pub(crate) fn read(&self, id: &str) -> Option<Record> {
        read_or_set_aside(&self.path(id))
    }

    /// Forgets a pod. That the record may return after a power cut does no harm: a detach can be repeated.
    pub(crate) fn remove(&self, id: &str) -> Result<(), NetworkError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(NetworkError::state("remove", &path)(error));
            }
            _ => {}
        }
        self.lock().remove(id);
        Ok(())
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a folder of our state that only root may look into: records have the pods' annotations.
pub(crate) fn make_private_folder(path: &Path) -> Result<(), NetworkError> {
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(NetworkError::state("create folder", path))
}

fn read_or_set_aside(path: &Path) -> Option<Record> {
    let mut text = Vec::new();
    let read = fs::File::open(path).and_then(|f| f.take(MAX_RECORD + 1).read_to_end(&mut text));
    let reason = match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
        Ok(0) => {
            warn!(path = %path.display(), "empty attachment record dropped, as a power cut leaves it");
            drop(fs::remove_file(path));
            return None;
        }
        Ok(length) if length as u64 > MAX_RECORD => format!("is larger than {MAX_RECORD} bytes"),
        Ok(_) => match Record::parse(&text) {
            Ok(record) => return Some(record),
            Err(reason) => reason,
        },
    };
    let aside = path.with_extension("json.bad");
    warn!(path = %path.display(), aside = %aside.display(), reason, "damaged attachment record set aside");
    if let Err(error) = fs::rename(path, &aside) {
        warn!(path = %path.display(), %error, "the damaged record cannot be moved");
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;
    use crate::pod::tests::sample;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("cni-record-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn list() -> Conflist {
        let text = br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","k":1}]}"#;
        Conflist::parse(Path::new("n.conflist"), text).unwrap()
    }

    fn result() -> Value {
        json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.9.0.2/16" }] })
    }

    #[test]
    fn an_intent_is_read_back_with_its_whole_configuration_and_no_result() {
        let dir = scratch("intent");
        let records = Records::open(&dir).unwrap();
        records.put("a1", &Record::plugins(&list(), &sample("a1"))).unwrap();
        let records = Records::open(&dir).unwrap();
        assert_eq!(records.ids(), ["a1"]);
        assert!(records.attachment("a1").is_none());
        let Used::Plugins { conflist, pod } = records.read("a1").unwrap().used else { panic!() };
        assert_eq!(Conflist::from_value(&conflist).unwrap(), list());
        assert_eq!(*pod, sample("a1"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_result_is_there_after_reopening_and_gone_after_removal() {
        let dir = scratch("result");
        let records = Records::open(&dir).unwrap();
        let lease = Lease { address: Ipv4Addr::new(10, 9, 0, 2), ports: Vec::new() };
        records.put("b2", &Record::built_in(lease.clone(), result())).unwrap();
        let records = Records::open(&dir).unwrap();
        assert_eq!(records.leases(), [("b2".to_owned(), lease)]);
        assert_eq!(records.attachment("b2").unwrap().result, result());
        records.remove("b2").unwrap();
        records.remove("b2").unwrap();
        assert!(records.read("b2").is_none());
        assert!(Records::open(&dir).unwrap().ids().is_empty());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn damaged_records_are_set_aside_and_the_others_are_read() {
        let dir = scratch("damage");
        let records = Records::open(&dir).unwrap();
        let lease = Lease { address: Ipv4Addr::new(10, 9, 0, 2), ports: Vec::new() };
        records.put("ok", &Record::built_in(lease, result())).unwrap();
        let folder = dir.join("attachments");
        let whole = fs::read(folder.join("ok.json")).unwrap();
        let future =
            String::from_utf8(whole.clone()).unwrap().replace("\"format\":1", "\"format\":9");
        fs::write(folder.join("cut.json"), &whole[..whole.len() / 2]).unwrap();
        fs::write(folder.join("zero.json"), vec![0; 64]).unwrap();
        fs::write(folder.join("future.json"), future).unwrap();
        fs::write(folder.join("empty.json"), b"").unwrap();
        fs::write(folder.join(".ok.json.tmp"), b"draft").unwrap();
        fs::write(folder.join("Not An Id.json"), b"").unwrap();
        assert_eq!(Records::open(&dir).unwrap().ids(), ["ok"]);
        for id in ["cut", "zero", "future"] {
            assert!(folder.join(format!("{id}.json.bad")).exists(), "{id}");
            assert!(!folder.join(format!("{id}.json")).exists(), "{id}");
        }
        assert!(!folder.join("empty.json").exists() && !folder.join(".ok.json.tmp").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}

//! Protobuf's wire form, written from what is in memory: for answers of hundreds of items, each with maps of labels.
//!
//! The generated messages own their strings, and have hash maps for labels: an answer about 500 pods would be made of ten
//! thousand copies, to be encoded and thrown away. Here fields are borrowed. What has no maps in it is a message as
//! everywhere, and is added to its item by `prost`.
//!
//! Fields without a value are left out, as proto3 has it; decoders take fields in any order
//! (<https://protobuf.dev/programming-guides/encoding/>).

use std::collections::BTreeMap;

use prost::Message;
use prost::encoding::encode_varint;
use tonic::codegen::Bytes;

/// The wire types that occur here.
const VARINT: u32 = 0;
const LENGTH: u32 = 2;

/// The most that one message of a streamed list weighs, encoded: a quarter of what gRPC clients take by default.
pub const BATCH_BYTES: usize = 1 << 20;

/// The items of a list, encoded: field 1 of every answer of CRI's that is a list.
#[derive(Debug, Default)]
pub struct Items {
    bytes: Vec<u8>,
    /// Where each item ends.
    ends: Vec<usize>,
}

impl Items {
    const FIELD: u32 = 1;

    /// Adds an item.
    pub fn add(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        nested(&mut self.bytes, Self::FIELD, fill);
        self.ends.push(self.bytes.len());
    }

    /// All of them in one message.
    pub fn whole(self) -> Bytes {
        self.bytes.into()
    }

    /// Messages of less than [`BATCH_BYTES`] each, unless a single item is larger; none without items.
    pub fn batches(self) -> Vec<Bytes> {
        let whole = Bytes::from(self.bytes);
        let mut batches = Vec::new();
        let (mut start, mut last) = (0, 0);
        for end in self.ends {
            if end - start >= BATCH_BYTES && last > start {
                batches.push(whole.slice(start..last));
                start = last;
            }
            last = end;
        }
        if last > start {
            batches.push(whole.slice(start..last));
        }
        batches
    }
}

/// A field of text or bytes; left out if it is empty.
pub fn text(out: &mut Vec<u8>, field: u32, value: impl AsRef<[u8]>) {
    if !value.as_ref().is_empty() {
        element(out, field, value);
    }
}

/// One of a repeated field's texts, empty or not.
pub fn element(out: &mut Vec<u8>, field: u32, value: impl AsRef<[u8]>) {
    let value = value.as_ref();
    tag(out, field, LENGTH);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// A field of a whole number, left out if it is zero. Negative ones are their two's complement.
pub fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        tag(out, field, VARINT);
        encode_varint(value, out);
    }
}

/// A field with a message in it, written by `fill`; there also if that writes nothing.
pub fn nested(out: &mut Vec<u8>, field: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, LENGTH);
    let start = out.len();
    // Most messages are shorter than 128 bytes, whose length is one byte.
    out.push(0);
    fill(out);
    let mut length = out.len() - start - 1;
    let mut first = start;
    while length >= 0x80 {
        out[first] = length.to_le_bytes()[0] | 0x80;
        length >>= 7;
        first += 1;
        out.insert(first, 0);
    }
    out[first] = length.to_le_bytes()[0];
}

/// A field with a message in it that there is.
pub fn message(out: &mut Vec<u8>, field: u32, message: &impl Message) {
    tag(out, field, LENGTH);
    encode_varint(message.encoded_len() as u64, out);
    fields(out, message);
}

/// The fields of a message, among others of what is being written.
pub fn fields(out: &mut Vec<u8>, message: &impl Message) {
    // It fails for want of room, of which a vector has as much as it needs.
    message.encode(out).ok();
}

/// A field that is a map of texts.
pub fn map(out: &mut Vec<u8>, field: u32, map: &BTreeMap<String, String>) {
    for (key, value) in map {
        nested(out, field, |out| {
            text(out, 1, key);
            text(out, 2, value);
        });
    }
}

fn tag(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    encode_varint((field << 3 | wire_type).into(), out);
}

#[cfg(test)]
mod tests {
    use proto::cri;

    use super::*;

    #[test]
    fn a_message_written_by_hand_is_the_message() {
        let labels: BTreeMap<String, String> =
            [("a", ""), ("", "b"), ("key", "value")].map(|(k, v)| (k.into(), v.into())).into();
        let long: BTreeMap<String, String> = [("k".to_owned(), "v".repeat(40_000))].into();
        let mut out = Vec::new();
        text(&mut out, 1, "id");
        nested(&mut out, 2, |out| {
            text(out, 1, "name");
            number(out, 2, 300);
        });
        map(&mut out, 3, &labels);
        map(&mut out, 4, &long);
        let read = cri::ContainerAttributes::decode(&*out).unwrap();
        let metadata = cri::ContainerMetadata { name: "name".into(), attempt: 300 };
        let wanted = cri::ContainerAttributes {
            id: "id".into(),
            metadata: Some(metadata.clone()),
            labels: labels.into_iter().collect(),
            annotations: long.into_iter().collect(),
        };
        assert_eq!(read, wanted);
        let mut out = Vec::new();
        message(&mut out, 2, &metadata);
        text(&mut out, 1, "");
        number(&mut out, 9, 0);
        let read = cri::ContainerAttributes::decode(&*out).unwrap();
        assert_eq!(read.metadata, Some(metadata));
    }

    fn items(sizes: &[usize]) -> Items {
        let mut items = Items::default();
        for (number, size) in sizes.iter().enumerate() {
            items.add(|out| text(out, 1, number.to_string().repeat(*size)));
        }
        items
    }

    fn ids(message: &Bytes) -> Vec<String> {
        let read = cri::StreamImagesResponse::decode(message.clone()).unwrap();
        read.images.into_iter().map(|image| image.id).collect()
    }

    #[test]
    fn batches_stay_below_their_bound_and_lose_nothing() {
        let sizes: Vec<usize> = (0..3000).map(|number| number % 500).collect();
        let whole = ids(&items(&sizes).whole());
        let batches = items(&sizes).batches();
        assert!(batches.len() > 2, "{}", batches.len());
        assert!(batches.iter().all(|batch| batch.len() < BATCH_BYTES));
        assert_eq!(batches.iter().flat_map(ids).collect::<Vec<_>>(), whole);
        assert_eq!(whole.len(), 3000);
    }

    #[test]
    fn an_item_larger_than_a_batch_goes_alone_and_nothing_is_no_message() {
        let lengths: Vec<usize> = items(&[10, BATCH_BYTES + 1, 10, 10])
            .batches()
            .iter()
            .map(|batch| ids(batch).len())
            .collect();
        assert_eq!(lengths, [1, 1, 2]);
        assert!(items(&[]).batches().is_empty());
    }

    #[test]
    fn lengths_of_every_size_are_written() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
            let mut out = Vec::new();
            nested(&mut out, 1, |out| out.resize(out.len() + length, b'x'));
            let mut wanted = Vec::new();
            element(&mut wanted, 1, vec![b'x'; length]);
            assert!(out == wanted, "{length}");
        }
    }
}

//! What is answered piece by piece: long lists in batches, and events for as long as somebody listens.

use std::sync::Arc;

use futures_util::stream;
use prost::Message;
use proto::cri;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::refuse;
use crate::encode::BATCH_BYTES;
use crate::events::{Event, Kind, Reader};
use crate::sandbox::status::{containers, to_wire};

/// Sends `items` in messages of less than [`BATCH_BYTES`] each, unless a single item is larger. They are made as the
/// client takes them.
pub fn batches<T, R>(
    items: impl Iterator<Item = T> + Send + 'static,
    message: impl Fn(Vec<T>) -> R + Send + 'static,
) -> BoxStream<R>
where
    T: Message + 'static,
    R: Send + 'static,
{
    let mut items = items.peekable();
    let batches = std::iter::from_fn(move || {
        let mut batch = vec![items.next()?];
        let mut bytes = weight(&batch[0]);
        while let Some(item) = items.next_if(|item| bytes + weight(item) < BATCH_BYTES) {
            bytes += weight(&item);
            batch.push(item);
        }
        Some(Ok(message(batch)))
    });
    Box::pin(stream::iter(batches))
}

/// What an item adds to a message: itself, its length and its tag (the fields of the messages here are below 16).
fn weight<T: Message>(item: &T) -> usize {
    let bytes = item.encoded_len();
    1 + prost::length_delimiter_len(bytes) + bytes
}

/// Sends events until the reader goes, falls behind, or the daemon ends.
pub fn events(reader: Reader) -> BoxStream<cri::ContainerEventResponse> {
    let next = |reader: Option<Reader>| async move {
        let mut reader = reader?;
        Some(match reader.next().await {
            Ok(event) => (Ok(event_to_wire(&event)), Some(reader)),
            Err(error) => (Err::<_, Status>(refuse("GetContainerEvents")(error)), None),
        })
    };
    Box::pin(stream::unfold(Some(reader), next))
}

fn event_to_wire(event: &Arc<Event>) -> cri::ContainerEventResponse {
    let kind = match event.kind {
        Kind::Created => cri::ContainerEventType::ContainerCreatedEvent,
        Kind::Started => cri::ContainerEventType::ContainerStartedEvent,
        Kind::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        Kind::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    let moment = event.moment.clone();
    cri::ContainerEventResponse {
        container_id: event.subject.clone(),
        container_event_type: kind.into(),
        created_at: moment.at.get(),
        pod_sandbox_status: moment.sandbox.map(|(sandbox, state)| to_wire(&sandbox, &state)),
        containers_statuses: containers(moment.containers),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn image(bytes: usize) -> cri::Image {
        cri::Image { id: "a".repeat(bytes), ..Default::default() }
    }

    async fn sent(items: Vec<cri::Image>) -> Vec<cri::StreamImagesResponse> {
        let wrap = |images| cri::StreamImagesResponse { images };
        batches(items.into_iter(), wrap).map(Result::unwrap).collect().await
    }

    #[tokio::test]
    async fn batches_stay_below_their_bound_and_lose_nothing() {
        let items: Vec<_> = (0..3000).map(|number| image(number % 1500)).collect();
        let sent = sent(items.clone()).await;
        assert!(sent.len() == 3, "{}", sent.len());
        for message in &sent {
            assert!(message.encoded_len() < BATCH_BYTES, "{}", message.encoded_len());
        }
        let together: Vec<_> = sent.into_iter().flat_map(|message| message.images).collect();
        assert_eq!(together, items);
    }

    #[tokio::test]
    async fn an_item_larger_than_a_batch_goes_alone_and_nothing_is_no_message() {
        let sizes = [10, BATCH_BYTES + 1, 10, 10].map(image);
        let lengths: Vec<_> = sent(sizes.into()).await.iter().map(|one| one.images.len()).collect();
        assert_eq!(lengths, [1, 1, 2]);
        assert!(sent(Vec::new()).await.is_empty());
    }
}

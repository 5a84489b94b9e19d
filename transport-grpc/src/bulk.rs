//! Chunks, and which go first.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use shoal_runtime::transport::bulk::{CHUNK_BYTES, Filling, checksum, chunks};
use shoal_runtime::transport::{BulkError, BulkRefusal, BulkRequest, Priority, TransportError};
use tokio::sync::{Notify, mpsc};

use crate::line::Line;
use crate::proto::{Chunk, Request};

/// No message is longer: a chunk, or a piece of the control stream, and what surrounds it.
pub(crate) const MESSAGE_BYTES_MAX: usize = CHUNK_BYTES + (4 << 10);
/// Chunks of one request that have been made and not sent.
pub(crate) const CHUNKS_AHEAD: usize = 2;

/// Requests that are served on one connection: HTTP/2 gives all streams the same share, so those of lower
/// priority are held back here.
#[derive(Default)]
pub(crate) struct Gate {
    active: Mutex<BTreeMap<Priority, usize>>,
    changed: Notify,
}

/// One request at the gate.
pub(crate) struct Place<'a> {
    gate: &'a Gate,
    priority: Priority,
}

impl Gate {
    pub(crate) fn enter(&self, priority: Priority) -> Place<'_> {
        *self.active.lock().entry(priority).or_default() += 1;
        Place { gate: self, priority }
    }

    fn highest(&self) -> Option<Priority> {
        self.active.lock().keys().next_back().copied()
    }
}

impl Place<'_> {
    /// Wait until nothing of higher priority is served.
    pub(crate) async fn turn(&self) {
        loop {
            let mut changed = pin!(self.gate.changed.notified());
            changed.as_mut().enable();
            if self.gate.highest().is_none_or(|highest| highest <= self.priority) {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut active = self.gate.active.lock();
        if let Some(count) = active.get_mut(&self.priority) {
            *count -= 1;
            if *count == 0 {
                active.remove(&self.priority);
                self.gate.changed.notify_waiters();
            }
        }
    }
}

/// Cut bytes into chunks and send them when it is their turn, until nobody takes them any more.
pub(crate) async fn send<T>(
    bytes: Bytes,
    priority: Priority,
    gate: Arc<Gate>,
    wrap: impl Fn(Chunk) -> T,
    sender: mpsc::Sender<T>,
) {
    let place = gate.enter(priority);
    for chunk in chunks(bytes) {
        place.turn().await;
        let Ok(room) = sender.reserve().await else { return };
        room.send(wrap(Chunk { checksum: checksum(&chunk), bytes: chunk }));
    }
}

/// Write a chunk to where it belongs.
pub(crate) fn fill(filling: &mut Filling<'_>, chunk: &Chunk) -> Result<(), BulkError> {
    filling.room(chunk.bytes.len())?.copy_from_slice(&chunk.bytes);
    filling.advance(chunk.bytes.len(), chunk.checksum)
}

pub(crate) fn to_message(request: &BulkRequest) -> Request {
    Request {
        object: request.object.clone(),
        offset: request.offset,
        length: request.length,
        priority: u32::from(request.priority.0),
    }
}

pub(crate) fn from_message(request: Request) -> Result<BulkRequest, TransportError> {
    const MALFORMED: TransportError = TransportError::Malformed("a request for bytes of an object");
    let priority = Priority(u8::try_from(request.priority).map_err(|_| MALFORMED)?);
    let Request { object, offset, length, .. } = request;
    let request = BulkRequest { object, offset, length, priority };
    if request.is_valid() { Ok(request) } else { Err(MALFORMED) }
}

/// What a call that asked for bytes has failed of.
pub(crate) fn from_status(status: &tonic::Status, line: &Line) -> BulkError {
    match status.code() {
        tonic::Code::NotFound => BulkRefusal::NotOffered.into(),
        tonic::Code::OutOfRange => BulkRefusal::OutOfRange.into(),
        _ => line.explain(status).into(),
    }
}

pub(crate) fn to_status(refusal: BulkRefusal) -> tonic::Status {
    match refusal {
        BulkRefusal::NotOffered => tonic::Status::not_found(refusal.to_string()),
        BulkRefusal::OutOfRange => tonic::Status::out_of_range(refusal.to_string()),
    }
}

pub(crate) fn ended_early() -> BulkError {
    TransportError::Lost("a stream of chunks ended too early".into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_urgent_goes_first_and_the_rest_goes_on_after_it() {
        let gate = Arc::new(Gate::default());
        let urgent = gate.enter(Priority(9));
        let (sender, mut sent) = mpsc::channel(8);
        let bytes = Bytes::from(vec![1; CHUNK_BYTES + 1]);
        let sending = tokio::spawn(send(bytes, Priority(1), gate.clone(), |chunk| chunk, sender));
        tokio::task::yield_now().await;
        assert!(sent.try_recv().is_err());
        // Equals share.
        gate.enter(Priority(9)).turn().await;
        drop(urgent);
        sending.await.unwrap();
        assert_eq!(sent.recv().await.unwrap().bytes.len(), CHUNK_BYTES);
        assert_eq!(sent.recv().await.unwrap().bytes.len(), 1);
        assert!(gate.active.lock().is_empty());
    }
}

//! Bytes of objects between nodes: what this node offers to others, and what it fetches from them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use shoal_core::ids::{NodeId, ObjectId, OperationId};
use shoal_core::node::WorkResult;
use shoal_core::value::Failure;
use shoal_core::wire;
use tokio::task::AbortHandle;

use super::super::log;
use super::super::state::{Daemon, Shared, with};
use super::super::work::Memory;
use crate::transport::{Bulk, BulkError, BulkRefusal, BulkRequest, BulkSource, Peer, Priority};

/// A node that has just said that it offers an object must be connected again within this time.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(5);
const CONNECTION_POLL: Duration = Duration::from_millis(10);
/// What a reader is blocked by, and what is fetched ahead of its readers.
const URGENT: Priority = Priority(1);
const AHEAD: Priority = Priority(0);

/// A copy of an object that is to come from another node.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Wanted {
    pub(in super::super) object: ObjectId,
    pub(in super::super) from: NodeId,
    /// Where it goes.
    pub(in super::super) offset: u64,
    pub(in super::super) size: u64,
    /// Whether a reader is blocked by it.
    pub(in super::super) urgent: bool,
}

/// What this node offers to which other one, and where it is in the segment.
pub(in super::super) struct Offers {
    memory: Arc<Memory>,
    places: Mutex<HashMap<Bytes, (u64, u64)>>,
}

impl Offers {
    pub(in super::super) fn new(memory: Arc<Memory>) -> Offers {
        Offers { memory, places: Mutex::new(HashMap::new()) }
    }
}

impl BulkSource for Offers {
    fn open(&self, _peer: &Peer, request: &BulkRequest) -> Result<Bytes, BulkRefusal> {
        let place = self.places.lock().get(&request.object).copied();
        let (start, size) = place.ok_or(BulkRefusal::NotOffered)?;
        let end = request.offset.checked_add(request.length).filter(|end| *end <= size);
        let length = end.map(|end| end - request.offset).ok_or(BulkRefusal::OutOfRange)?;
        let range = Range { memory: Arc::clone(&self.memory), offset: start + request.offset, length };
        // Looked at once here, so that a place outside of the segment is an answer and no panic later.
        range.memory.slice(range.offset, range.length).ok_or(BulkRefusal::OutOfRange)?;
        Ok(Bytes::from_owner(range))
    }
}

/// A range of the segment that is being sent. The machine keeps an offered object where it is until the
/// other node has what it wants, or wants it no more; what is still sent then is not read by anybody.
struct Range {
    memory: Arc<Memory>,
    offset: u64,
    length: u64,
}

impl AsRef<[u8]> for Range {
    fn as_ref(&self) -> &[u8] {
        self.memory.slice(self.offset, self.length).unwrap_or_default()
    }
}

/// Fetches under way.
#[derive(Debug, Default)]
pub(in super::super) struct Fetches(HashMap<OperationId, AbortHandle>);

/// How a request names an object that is offered to a node.
fn name(to: NodeId, object: ObjectId) -> Option<Bytes> {
    wire::encode(&(to, object)).ok().map(Bytes::from)
}

impl Daemon {
    pub(in super::super) fn offer(&mut self, to: NodeId, object: ObjectId, offset: u64, size: u64) {
        if let Some(name) = name(to, object) {
            self.offers.places.lock().insert(name, (offset, size));
        }
    }

    pub(in super::super) fn withdraw(&mut self, to: NodeId, object: ObjectId) {
        if let Some(name) = name(to, object) {
            self.offers.places.lock().remove(&name);
        }
    }

    /// Copy an object from another node, which offers it.
    pub(in super::super) fn fetch(&mut self, operation: OperationId, wanted: Wanted) {
        let shared = self.shared();
        let memory = Arc::clone(&self.offers.memory);
        let own = self.id;
        let task = tokio::task::spawn_local(async move {
            let result = match fetch(&shared, memory, own, wanted).await {
                Ok(()) => WorkResult::Done,
                Err(detail) => WorkResult::Failed(Failure::ObjectLost { object: wanted.object, detail }),
            };
            with(&shared, |daemon| daemon.fetch_ended(operation, result));
        });
        self.fetches.0.insert(operation, task.abort_handle());
    }

    fn fetch_ended(&mut self, operation: OperationId, result: WorkResult) {
        if self.fetches.0.remove(&operation).is_some() {
            self.finish(operation, result);
        }
    }

    /// Nobody waits for a fetch any more.
    pub(in super::super) fn cancel_fetch(&mut self, operation: OperationId) {
        if let Some(task) = self.fetches.0.remove(&operation) {
            task.abort();
            let detail = String::from("nobody waited for it any more");
            self.finish(operation, WorkResult::Failed(Failure::Unschedulable { detail }));
        }
    }
}

async fn fetch(shared: &Shared, memory: Arc<Memory>, own: NodeId, wanted: Wanted) -> Result<(), String> {
    let Wanted { object, from, offset, size, urgent } = wanted;
    let name = name(own, object).ok_or_else(|| String::from("it has no name"))?;
    let prepared = Arc::clone(&memory);
    // Pages may have to be found, which takes time.
    tokio::task::spawn_blocking(move || prepared.reserve(offset, size))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let priority = if urgent { URGENT } else { AHEAD };
    let request = BulkRequest { object: name, offset: 0, length: size, priority };
    // SAFETY: the machine has set the range aside for this operation; nobody else reads or writes it
    // before the operation has ended, the mapping lives as long as `memory`, and of two slices that are
    // made here the first is gone when the second is made.
    let range = || unsafe { memory.slice_mut(offset, size) };
    let way = shared.borrow().way_to(from);
    if let Some((transport, address)) = way
        && let Some(into) = range()
        && let Some(fetching) = transport.fetch(address, request.clone(), into)
    {
        match fetching.await {
            Err(BulkError::Connection(error)) => {
                log!("no stream for objects leads to node {} ({error}): its connection is used", from.0);
            }
            fetched => return fetched.map_err(|error| not_copied(from, &error)),
        }
    }
    let bulk = connected(shared, from).await.ok_or_else(|| format!("node {} cannot be reached", from.0))?;
    let into = range().ok_or("the range is not in the segment")?;
    bulk.fetch(request, into).await.map_err(|error| not_copied(from, &error))
}

fn not_copied(from: NodeId, error: &BulkError) -> String {
    format!("it could not be copied from node {}: {error}", from.0)
}

/// The bulk side of the connection with a node, once there is one.
async fn connected(shared: &Shared, node: NodeId) -> Option<Arc<dyn Bulk>> {
    let deadline = tokio::time::Instant::now() + CONNECTION_PATIENCE;
    loop {
        if let Some(bulk) = shared.borrow_mut().bulk_of(node) {
            return Some(bulk);
        }
        if tokio::time::Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(CONNECTION_POLL).await;
    }
}

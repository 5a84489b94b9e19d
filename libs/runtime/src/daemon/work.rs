//! The store's slow work: disks and page faults, on threads that may wait.

use std::rc::Rc;
use std::sync::Arc;

use shoal_core::ids::{OperationId, ProcessId, TaskId};
use shoal_core::node::{Input, SpillLocation, Work, WorkResult};
use shoal_core::value::Failure;
use shoal_store::{
    ProcessTable, ReadMapping, Segment, SpillDirectory, SpilledObject, StoreError, WriteMapping,
};
use tokio::sync::Semaphore;

use super::log;
use super::state::{Daemon, with};

/// So much of it at once: more would only compete for the same disk and memory.
const WORK_AT_ONCE: usize = 2;

/// The node's object store.
pub(super) struct Store {
    segment: Segment,
    parts: Arc<Memory>,
    permits: Rc<Semaphore>,
}

/// The segment as this daemon maps it, and where objects are spilled to: what threads use.
pub(super) struct Memory {
    reader: ReadMapping,
    writer: WriteMapping,
    spill: SpillDirectory,
}

impl Store {
    pub(super) fn new(segment: Segment, spill: SpillDirectory) -> Result<Store, StoreError> {
        let parts =
            Memory { reader: ReadMapping::new(&segment)?, writer: WriteMapping::new(&segment)?, spill };
        let permits = Rc::new(Semaphore::new(WORK_AT_ONCE));
        Ok(Store { segment, parts: Arc::new(parts), permits })
    }

    pub(super) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.parts)
    }

    pub(super) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Clear the slot of a process that is about to start.
    pub(super) fn forget_started(&self, process: ProcessId) {
        ProcessTable::new(&self.parts.writer).slot(u64::from(process.number())).clear();
    }

    /// The task that a dead process started last.
    pub(super) fn take_started(&self, process: ProcessId) -> Option<TaskId> {
        let slot = ProcessTable::new(&self.parts.writer).slot(u64::from(process.number()));
        let (owner, number) = slot.load()?;
        slot.clear();
        Some(TaskId { owner: ProcessId(owner), number })
    }
}

impl Daemon {
    /// Have some of the store's work done elsewhere.
    pub(super) fn start_store_work(&mut self, operation: OperationId, work: Work) {
        let (shared, parts) = (self.shared(), Arc::clone(&self.store.parts));
        let permits = Rc::clone(&self.store.permits);
        tokio::task::spawn_local(async move {
            let _permit = permits.acquire().await;
            let result = tokio::task::spawn_blocking(move || parts.perform(work)).await;
            let result = result.unwrap_or_else(|error| {
                log!("work of the store has failed: {error}");
                let detail = format!("the node could not do its work: {error}");
                WorkResult::Failed(Failure::StoreFull { detail })
            });
            with(&shared, |daemon| daemon.finish(operation, result));
        });
    }

    /// Tell the machine how some work ended.
    pub(super) fn finish(&mut self, operation: OperationId, result: WorkResult) {
        self.tell_node(Input::Finished { operation, result });
    }
}

impl Memory {
    /// Bytes of the segment that nobody changes; `None` if they are not in it.
    pub(super) fn slice(&self, offset: u64, size: u64) -> Option<&[u8]> {
        // SAFETY: callers ask for ranges of sealed objects that the machine keeps where they are.
        unsafe { self.reader.slice(offset, size) }.ok()
    }

    /// Make sure that a range can be written to.
    pub(super) fn reserve(&self, offset: u64, size: u64) -> Result<(), StoreError> {
        self.writer.reserve(offset, size)
    }

    /// A range of the segment to write to; `None` if it is not in it.
    ///
    /// # Safety
    ///
    /// Nobody else may read or write the range while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "the caller vouches for the range, not for the whole segment")]
    pub(super) unsafe fn slice_mut(&self, offset: u64, size: u64) -> Option<&mut [u8]> {
        // SAFETY: as promised by the caller.
        unsafe { self.writer.slice_mut(offset, size) }.ok()
    }

    fn perform(&self, work: Work) -> WorkResult {
        let result = match work {
            Work::Spill { objects } => self.spill(&objects),
            Work::Restore { object, from, offset } => {
                return self.restore(from, offset).unwrap_or_else(|error| {
                    WorkResult::Failed(match error {
                        StoreError::OutOfMemory { .. } => Failure::StoreFull { detail: error.to_string() },
                        _ => Failure::ObjectLost { object, detail: error.to_string() },
                    })
                });
            }
            Work::DeleteSpilled { location } => {
                self.spill.delete(spilled(location)).map(|()| WorkResult::Done)
            }
            Work::Reserve { offset, size } => self.writer.reserve(offset, size).map(|()| WorkResult::Done),
            Work::ReleasePages { offset, size } => {
                // SAFETY: the machine asks for this only for ranges that hold no objects and belong to
                // no process, and uses them again only after the answer.
                unsafe { self.writer.release(offset, size) }.map(|_| WorkResult::Done)
            }
            Work::ForkWorker { .. } | Work::Fetch { .. } => {
                unreachable!("the daemon's own thread forks workers and fetches objects")
            }
        };
        result.unwrap_or_else(|error| {
            log!("work of the store has failed: {error}");
            let detail = error.to_string();
            WorkResult::Failed(match error {
                StoreError::OutOfDisk { .. } | StoreError::SpillFile { .. } => Failure::OutOfDisk { detail },
                _ => Failure::StoreFull { detail },
            })
        })
    }

    fn spill(&self, objects: &[(shoal_core::ids::ObjectId, u64, u64)]) -> Result<WorkResult, StoreError> {
        let slice = |(_, offset, size): &(_, u64, u64)| {
            // SAFETY: these are sealed objects, and the machine keeps their ranges until the answer.
            unsafe { self.reader.slice(*offset, *size) }
        };
        let slices = objects.iter().map(slice).collect::<Result<Vec<_>, _>>()?;
        let written = self.spill.write(&slices)?;
        Ok(WorkResult::Spilled(written.into_iter().map(location).collect()))
    }

    fn restore(&self, from: SpillLocation, offset: u64) -> Result<WorkResult, StoreError> {
        self.writer.reserve(offset, from.size)?;
        // SAFETY: the machine has set the range aside for this object, and nobody knows of it yet.
        let destination = unsafe { self.writer.slice_mut(offset, from.size) }?;
        self.spill.restore(spilled(from), destination)?;
        Ok(WorkResult::Done)
    }
}

fn spilled(location: SpillLocation) -> SpilledObject {
    SpilledObject { file: location.file, offset: location.offset, length: location.size }
}

fn location(object: SpilledObject) -> SpillLocation {
    SpillLocation { file: object.file, offset: object.offset, size: object.length }
}

//! The node's store as this process sees it: mapped whole, once, when first used.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use shoal_core::ids::{ProcessId, TaskId};
pub use shoal_store::StoreError;
use shoal_store::{ProcessTable, ReadMapping, Segment, WriteMapping};

use crate::control::Welcome;

/// The mapped store.
pub struct Store {
    segment: Segment,
    reading: OnceLock<ReadMapping>,
    writing: OnceLock<WriteMapping>,
    process: ProcessId,
}

/// A place in the store.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    /// First byte.
    pub pointer: *const u8,
    /// How many.
    pub length: usize,
}

impl Store {
    pub(super) fn new(segment: OwnedFd, welcome: &Welcome) -> Result<Store, StoreError> {
        Ok(Store {
            segment: Segment::from_fd(segment, welcome.segment)?,
            reading: OnceLock::new(),
            writing: OnceLock::new(),
            process: welcome.process,
        })
    }

    /// The bytes of a pinned object, read-only.
    pub fn read(&self, offset: u64, size: u64) -> Result<Mapped, StoreError> {
        if self.reading.get().is_none() {
            let _ = self.reading.set(ReadMapping::new(&self.segment)?);
        }
        let Some(mapping) = self.reading.get() else { unreachable!("set above") };
        Ok(Mapped { pointer: mapping.pointer(offset, size)?, length: size as usize })
    }

    /// Copy bytes to a place that this process has allocated.
    pub fn copy_in(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        // SAFETY: the owner machine gave the range to this process and to nobody else until it is
        // sealed, and readers pin only what is sealed.
        unsafe { self.writing()?.write_at(offset, &[bytes]).map(|_| ()) }
    }

    fn writing(&self) -> Result<&WriteMapping, StoreError> {
        if self.writing.get().is_none() {
            let _ = self.writing.set(WriteMapping::new(&self.segment)?);
        }
        let Some(mapping) = self.writing.get() else { unreachable!("set above") };
        Ok(mapping)
    }

    /// Note that this worker starts the task: its node reads that if the worker dies.
    pub fn note_started(&self, task: TaskId) -> Result<(), StoreError> {
        let table = ProcessTable::new(self.writing()?);
        table.slot(u64::from(self.process.number())).store(task.owner.0, task.number);
        Ok(())
    }
}

//! What the end of a process, or of a job, means for the store.

use alloc::vec::Vec;

use super::Store;
use super::objects::Place;
use super::outbox::Outbox;
use super::room::Operation;
use crate::ids::{JobId, ObjectId, ProcessId};

impl Store {
    /// A process is gone: with its pins, its claims, and the room that it had not sealed. Objects
    /// that it sealed stay, and so do those that it owned, unless their job has ended.
    pub(in crate::node) fn process_gone(&mut self, id: ProcessId, job_ended: bool, out: &mut Outbox) {
        self.waiting.retain(|room| !room.is_of(id));
        self.hopeful = true;
        for operation in self.operations.values_mut() {
            if let Operation::Back { room, .. } = operation
                && room.is_of(id)
            {
                room.abandon();
            }
        }
        if let Some(holder) = self.holders.remove(&id) {
            for (offset, size) in holder.ranges.iter() {
                self.held_bytes -= size;
                self.set_free(offset, size);
            }
            for object in self.resident.values() {
                let object = self.objects.get_mut(object).expect("resident objects are in the table");
                object.holder = object.holder.filter(|holder| *holder != id);
            }
        }
        self.reader_gone(id, out);
        let owned: Vec<ObjectId> =
            self.unsealed.keys().filter(|object| object.owner() == id).copied().collect();
        for object in owned {
            self.refuse_unsealed(object, "its owner died before it was sealed", out);
        }
        if job_ended {
            let orphans: Vec<ObjectId> =
                self.objects.keys().filter(|object| object.owner() == id).copied().collect();
            self.free_all(&orphans, out);
        }
    }

    fn reader_gone(&mut self, id: ProcessId, out: &mut Outbox) {
        self.unsealed.retain(|_, unsealed| {
            unsealed.readers.retain(|reader| *reader != id);
            !unsealed.readers.is_empty()
        });
        for (object, pins) in self.pins.remove(&id).unwrap_or_default() {
            self.unpinned(object, pins, out);
        }
        for (object, entry) in &mut self.objects {
            entry.readers.retain(|reader| *reader != id);
            if entry.place == Place::Queued && entry.readers.is_empty() {
                entry.place = Place::Disk;
                self.waiting.retain(|room| !room.is_for(*object));
            }
        }
    }

    /// The job has ended: nobody but its owner's process can reach an object of it.
    pub(in crate::node) fn owners_lost(
        &mut self,
        job: JobId,
        live: &dyn Fn(ProcessId) -> bool,
        out: &mut Outbox,
    ) {
        let of_job = self.objects.iter().filter(|(_, object)| object.job == job);
        let orphans: Vec<ObjectId> = of_job.map(|(id, _)| *id).filter(|id| !live(id.owner())).collect();
        self.free_all(&orphans, out);
    }

    /// No process of the job is left here.
    pub(in crate::node) fn job_gone(&mut self, job: JobId, out: &mut Outbox) {
        self.owners_lost(job, &|_| false, out);
    }

    fn free_all(&mut self, objects: &[ObjectId], out: &mut Outbox) {
        for object in objects {
            self.free_known(*object, out);
        }
    }
}

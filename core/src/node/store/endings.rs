//! What the end of a process, or of a job, means for the store.

use alloc::vec::Vec;

use super::Store;
use super::objects::Place;
use super::outbox::Outbox;
use super::room::Operation;
use crate::ids::{JobId, ObjectId, ProcessId};

impl Store {
    /// A process is gone: with its pins, its claims, and the room that it had not sealed. Objects
    /// that it sealed stay, and so do those that it owned.
    pub(in crate::node) fn process_gone(&mut self, id: ProcessId, out: &mut Outbox) {
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
    }

    /// Free what these dead processes owned of ended jobs; say what else they owned, and which attempt
    /// made it. Whether that can still be reached is not known here.
    pub(in crate::node) fn orphaned(
        &mut self,
        dead: impl Fn(ProcessId) -> bool,
        ended: &dyn Fn(JobId) -> bool,
        out: &mut Outbox,
    ) -> Vec<(ObjectId, u32)> {
        let owned = self.objects.iter().filter(|(id, object)| !object.freed && dead(id.owner()));
        let (freed, left): (Vec<_>, Vec<_>) =
            owned.map(|(id, object)| (*id, object.job, object.attempt)).partition(|(_, job, _)| ended(*job));
        for (object, ..) in freed {
            self.free_known(object, out);
        }
        left.into_iter().map(|(object, _, attempt)| (object, attempt)).collect()
    }

    /// A process, or the daemon of another node, reads nothing here any more.
    pub(super) fn reader_gone(&mut self, id: ProcessId, out: &mut Outbox) {
        self.unsealed.retain(|_, unsealed| {
            unsealed.readers.retain(|reader| *reader != id);
            !unsealed.readers.is_empty()
        });
        for (object, pins) in self.pins.remove(&id).unwrap_or_default() {
            self.withdraw(id, object, out);
            self.unpinned(object, pins, out);
        }
        let mut left = Vec::new();
        for (object, entry) in &mut self.objects {
            entry.readers.retain(|reader| *reader != id);
            if entry.place == Place::Queued && entry.readers.is_empty() {
                left.push(*object);
            }
        }
        for object in left {
            self.unqueue(object);
        }
        self.puller_gone(id, out);
    }

    /// An object that nobody waits for any more does not wait for room either.
    pub(super) fn unqueue(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        if object.place == Place::Queued && object.readers.is_empty() {
            object.place = Place::Disk;
            self.waiting.retain(|room| !room.is_for(id));
        }
    }
}

//! Objects: sealed by who made them, pinned by who reads them, freed by who owns them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::Store;
use super::outbox::Outbox;
use super::room::Room;
use crate::deadlines::Deadlines;
use crate::ids::{JobId, NodeId, ObjectId, ProcessId};
use crate::machine::{Span, Time, Wakeup};
use crate::message::Message;
use crate::mutants::Mutant;
use crate::node::{SpillLocation, Work};
use crate::room::{LARGE_OBJECT, object_room};
use crate::value::Failure;

/// A reader knows of an object from its owner, the owner from its producer, and the producer sealed
/// it before it told anybody: the news is on its way, or the object is gone.
pub(super) const SEALED_WITHIN: Span = Span::from_secs(5);

/// What is said of an object when it is complete.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Sealed {
    pub(in crate::node) object: ObjectId,
    /// Which attempt of its task made it.
    pub(in crate::node) attempt: u32,
    /// The job of the process that made it, or copied it for itself.
    pub(in crate::node) job: JobId,
    /// Bytes of its value.
    pub(in crate::node) size: u64,
}

/// An object that was freed before it was sealed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreedEarly {
    /// What a later attempt makes is wanted.
    attempt: u32,
    /// So are copies: the object is not free, but its owner believes that it never was here.
    missing: bool,
}

/// A sealed object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Which attempt of its task made it.
    pub(super) attempt: u32,
    /// Bytes of its value.
    pub(super) size: u64,
    /// The job of the process that sealed it.
    pub(super) job: JobId,
    /// The node that keeps it, if that is another one: then this copy is dropped, not spilled.
    pub(super) primary: Option<NodeId>,
    /// The live process that gets its room when it is freed.
    pub(super) holder: Option<ProcessId>,
    pub(super) place: Place,
    /// A copy on disk; it stays when the object is read back, so that the next eviction is free.
    pub(super) disk: Option<SpillLocation>,
    /// It is being written to disk.
    pub(super) spilling: bool,
    pub(super) pins: u32,
    /// Who waits for it to be in memory.
    pub(super) readers: Vec<ProcessId>,
    /// Nobody can reach it any more; it goes with its last pin.
    pub(super) freed: bool,
    /// When it was used last, in counted uses.
    pub(super) used: u64,
}

/// Where the bytes of an object can be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// In memory, at this offset.
    Memory(u64),
    /// On disk.
    Disk,
    /// On disk, and it waits for room in memory.
    Queued,
    /// On disk, and it is being read to this offset.
    Restoring(u64),
}

impl Place {
    /// Where it takes up memory.
    pub(super) fn offset(self) -> Option<u64> {
        match self {
            Place::Memory(offset) | Place::Restoring(offset) => Some(offset),
            Place::Disk | Place::Queued => None,
        }
    }
}

impl Object {
    /// One that has just been sealed.
    pub(super) fn sealed(sealed: Sealed, place: Place) -> Object {
        Object {
            attempt: sealed.attempt,
            size: sealed.size,
            job: sealed.job,
            primary: None,
            holder: None,
            place,
            disk: None,
            spilling: false,
            pins: 0,
            readers: Vec::new(),
            freed: false,
            used: 0,
        }
    }

    /// Bytes that it takes up in memory.
    pub(super) fn room(&self) -> u64 {
        object_room(self.size).expect("the room of a sealed object was held")
    }

    /// Whether no other node keeps it.
    pub(super) fn is_kept(&self) -> bool {
        self.primary.is_none() && !self.freed
    }

    /// Whether its memory could be used for something else.
    pub(super) fn is_evictable(&self) -> bool {
        (self.pins == 0 || Mutant::SpillPinned.is_active())
            && !self.spilling
            && matches!(self.place, Place::Memory(_))
    }
}

/// An object that somebody wants to read before it is sealed.
#[derive(Clone, Debug)]
pub(super) struct Unsealed {
    deadline: Time,
    pub(super) readers: Vec<ProcessId>,
}

pub(super) fn lost(object: ObjectId, detail: &str) -> Failure {
    Failure::ObjectLost { object, detail: String::from(detail) }
}

impl Store {
    pub(in crate::node) fn seal(&mut self, from: ProcessId, sealed: Sealed, offset: u64, out: &mut Outbox) {
        let Sealed { object: id, attempt, size, .. } = sealed;
        let Some(room) = object_room(size).filter(|room| self.holds(from, offset, *room)) else { return };
        if self.is_freed_early(id, attempt, out.now) || !self.make_way(id, attempt, out) {
            return out.send(from, Message::Freed { offset, size: room });
        }
        self.unhold(from, offset, room);
        self.hopeful = true;
        self.resident_bytes += room;
        self.resident.insert(offset, id);
        // What was to come from another node has been made here.
        let mut readers = self.cancel_pull(id, out);
        if let Some(replaced) = self.objects.remove(&id) {
            readers.extend(replaced.readers);
        }
        let object = Object { holder: Some(from), ..Object::sealed(sealed, Place::Memory(offset)) };
        self.objects.insert(id, object);
        self.greet(id, readers, out);
    }

    /// Whether what this attempt has made was freed before it was sealed.
    pub(super) fn is_freed_early(&mut self, id: ObjectId, attempt: u32, now: Time) -> bool {
        let early = self.freed_early.get(id, now);
        self.freed_early.forget(id);
        early.is_some_and(|early| attempt <= early.attempt)
    }

    /// When it was last said that an object that is not here is freed.
    pub(super) fn freed_at(&self, id: ObjectId) -> Option<Time> {
        self.freed_early.last(id).filter(|(_, early)| !early.missing).map(|(at, _)| at)
    }

    /// An object is there: those who wait for it get it.
    pub(super) fn greet(&mut self, id: ObjectId, readers: Vec<ProcessId>, out: &mut Outbox) {
        let unsealed = self.unsealed.remove(&id).map(|unsealed| unsealed.readers).unwrap_or_default();
        if let Some(object) = self.objects.get_mut(&id) {
            object.readers.extend(readers.into_iter().chain(unsealed));
        }
        self.dropped.forget(id);
        self.touch(id);
        self.serve_readers(id, out);
    }

    /// An object is sealed again, by another attempt of its task: the copy of the later attempt counts,
    /// for its owner has been told of that one, unless somebody reads the old one. Says whether it
    /// does.
    fn make_way(&mut self, id: ObjectId, attempt: u32, out: &mut Outbox) -> bool {
        let Some(object) = self.objects.get_mut(&id) else { return true };
        if attempt < object.attempt {
            return false;
        }
        if object.pins > 0 || object.spilling || matches!(object.place, Place::Restoring(_)) {
            // It may have been freed before it was made again: it is wanted now, as what it is now.
            object.freed = false;
            object.attempt = attempt;
            return false;
        }
        if let Some(location) = object.disk.take() {
            out.start(Work::DeleteSpilled { location });
        }
        if object.place == Place::Queued {
            self.waiting.retain(|room| !room.is_for(id));
        }
        self.vacate(id, true, out);
        true
    }

    /// Take an object out of memory. The room of a small one goes to who holds the extent, if that
    /// process lives and nobody waits for room, and `to_holder` is set.
    pub(super) fn vacate(&mut self, id: ObjectId, to_holder: bool, out: &mut Outbox) {
        let object = self.objects.get_mut(&id).expect("the object was just looked up");
        let room = object.room();
        let holder = object.holder.take();
        let Some(offset) = object.place.offset() else { return };
        object.place = Place::Disk;
        self.resident.remove(&offset);
        self.resident_bytes -= room;
        match holder.filter(|_| to_holder && room < LARGE_OBJECT && self.waiting.is_empty()) {
            Some(holder) => {
                self.hold(holder, offset, room);
                out.send(holder, Message::Freed { offset, size: room });
            }
            None => self.set_free(offset, room),
        }
    }

    /// The object was used just now.
    pub(super) fn touch(&mut self, id: ObjectId) {
        let used = self.used();
        if let Some(object) = self.objects.get_mut(&id) {
            object.used = used;
        }
    }

    pub(in crate::node) fn pin(&mut self, from: ProcessId, id: ObjectId, owner_dead: bool, out: &mut Outbox) {
        let Some(object) = self.objects.get_mut(&id) else {
            if owner_dead {
                let failure = lost(id, "its owner is dead, and it is not in this node's store");
                return self.refuse_reader(from, id, failure, out);
            }
            let deadline = out.now + SEALED_WITHIN;
            let fresh = Unsealed { deadline, readers: Vec::new() };
            return self.unsealed.entry(id).or_insert(fresh).readers.push(from);
        };
        if object.freed {
            return self.refuse_reader(from, id, Failure::Freed { object: id }, out);
        }
        object.readers.push(from);
        if object.place == Place::Disk {
            object.place = Place::Queued;
            let size = object.room();
            self.queue(Room::restore(id, size));
        }
        self.serve_readers(id, out);
    }

    /// Those who wait for an object get it, if it is in memory.
    pub(super) fn serve_readers(&mut self, id: ObjectId, out: &mut Outbox) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let Place::Memory(_) = object.place else { return };
        for reader in core::mem::take(&mut object.readers) {
            if reader == self.keeper() {
                self.keep(id, out);
                continue;
            }
            if let Some(node) = self.ask_instead(reader, id) {
                out.send(reader, Message::PullElsewhere { object: id, node });
                continue;
            }
            let object = self.objects.get_mut(&id).expect("it was just looked up");
            object.pins += 1;
            *self.pins.entry(reader).or_default().entry(id).or_default() += 1;
            self.tell_reader(reader, id, out);
        }
        self.touch(id);
    }

    /// Those who wait for an object will not get it.
    pub(super) fn refuse_readers(&mut self, id: ObjectId, failure: &Failure, out: &mut Outbox) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let readers = core::mem::take(&mut object.readers);
        self.refuse_all(readers, id, failure, out);
    }

    pub(in crate::node) fn unpin(&mut self, from: ProcessId, id: ObjectId, out: &mut Outbox) {
        let Some(pins) = self.pins.get_mut(&from) else { return };
        let Some(count) = pins.get_mut(&id) else { return };
        *count -= 1;
        if *count == 0 {
            pins.remove(&id);
        }
        if pins.is_empty() {
            self.pins.remove(&from);
        }
        self.withdraw(from, id, out);
        self.unpinned(id, 1, out);
    }

    pub(super) fn unpinned(&mut self, id: ObjectId, count: u32, out: &mut Outbox) {
        let object = self.objects.get_mut(&id).expect("pinned objects stay");
        object.pins = object.pins.checked_sub(count).expect("pins are counted");
        self.hopeful |= object.pins == 0;
        self.touch(id);
        self.reap(id, out);
    }

    /// The owner of an object, or the steward that owns it now, says that nobody can reach what this
    /// attempt has made. Of what is not here, or freed already, it is remembered until that may have come.
    pub(in crate::node) fn free_object(
        &mut self,
        from: ProcessId,
        id: ObjectId,
        attempt: u32,
        out: &mut Outbox,
    ) {
        if from != id.owner() && !from.is_steward() {
            return;
        }
        if let Some(object) = self.objects.get(&id) {
            let again = object.freed;
            if object.attempt <= attempt {
                self.free_known(id, out);
            }
            if !again {
                return;
            }
        }
        if attempt == u32::MAX {
            self.refuse_freed(id, out);
        }
        self.freed_early.remember(id, FreedEarly { attempt, missing: false }, out.now);
    }

    /// The owner of an object has taken this node out of its list, for a reader did not find it here.
    pub(in crate::node) fn copy_missing(&mut self, from: ProcessId, id: ObjectId, attempt: u32, now: Time) {
        if from != id.owner() && !from.is_steward() {
            return;
        }
        match self.objects.get(&id) {
            Some(object) if !object.freed => self.copied.push((id, object.attempt)),
            Some(_) => {}
            None if self.freed_at(id).is_some() => {}
            None => self.freed_early.remember(id, FreedEarly { attempt, missing: true }, now),
        }
    }

    /// Who waits for an object waits in vain.
    fn refuse_freed(&mut self, id: ObjectId, out: &mut Outbox) {
        let failure = Failure::Freed { object: id };
        let mut readers = self.cancel_pull(id, out);
        readers.extend(self.unsealed.remove(&id).into_iter().flat_map(|unsealed| unsealed.readers));
        self.refuse_all(readers, id, &failure, out);
    }

    /// Nobody can reach this object any more.
    pub(super) fn free_known(&mut self, id: ObjectId, out: &mut Outbox) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        object.freed = true;
        self.refuse_readers(id, &Failure::Freed { object: id }, out);
        self.reap(id, out);
    }

    /// Drop an object that nobody can reach, reads or moves.
    pub(super) fn reap(&mut self, id: ObjectId, out: &mut Outbox) {
        let Some(object) = self.objects.get(&id) else { return };
        let moving = object.spilling || matches!(object.place, Place::Restoring(_));
        if object.freed && object.pins == 0 && !moving {
            self.forget(id, out);
        }
    }

    /// Drop an object and its copies.
    pub(super) fn forget(&mut self, id: ObjectId, out: &mut Outbox) {
        self.vacate(id, true, out);
        let Some(object) = self.objects.remove(&id) else { return };
        if object.place == Place::Queued {
            self.waiting.retain(|room| !room.is_for(id));
        }
        if let Some(location) = object.disk.filter(|_| !Mutant::LeakSpilled.is_active()) {
            out.start(Work::DeleteSpilled { location });
        }
    }

    /// Whoever waits for an object that should have been sealed by now is told that it is lost.
    pub(super) fn expire_unsealed(&mut self, out: &mut Outbox, deadlines: &mut Deadlines) {
        if self.unsealed.is_empty() {
            return;
        }
        let mut late = Vec::new();
        for (id, unsealed) in &self.unsealed {
            if unsealed.deadline <= out.now {
                late.push(*id);
            } else {
                deadlines.arm(Wakeup::Unsealed, unsealed.deadline);
            }
        }
        for id in late {
            let seconds = SEALED_WITHIN.0 / 1_000_000_000;
            let detail = format!("it is not in this node's store, and did not come within {seconds} s");
            self.refuse_unsealed(id, &detail, out);
        }
    }

    pub(super) fn refuse_unsealed(&mut self, id: ObjectId, detail: &str, out: &mut Outbox) {
        let readers = self.unsealed.remove(&id).map(|unsealed| unsealed.readers).unwrap_or_default();
        self.refuse_all(readers, id, &lost(id, detail), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Effect;
    use crate::node::harness::{KILLED, driver, send, sent_to};
    use crate::node::store::harness::*;

    const MIB: u64 = 1 << 20;

    fn pinned(object: ObjectId, offset: u64, size: u64) -> Message {
        Message::Pinned { object, offset, size }
    }

    #[test]
    fn an_object_can_be_read_by_all_and_its_room_returns_with_the_last_pin() {
        let mut store = StoreHarness::new(64 * MIB);
        let reader = store.worker();
        let (offset, _) = store.extent(driver(), 100);
        let x = object(1);
        assert_eq!(
            store.node.receive(driver(), Message::Seal { object: x, attempt: 0, offset, size: 100 }),
            []
        );
        for _ in 0..2 {
            let effects = store.node.receive(reader, pin(x));
            assert_eq!(effects, [send(reader, pinned(x, offset, 100))]);
        }
        assert_eq!(store.node.receive(driver(), Message::FreeObject { object: x, attempt: u32::MAX }), []);
        let effects = store.node.receive(driver(), pin(x));
        let failure = Failure::Freed { object: x };
        assert_eq!(effects, [send(driver(), Message::PinFailed { object: x, failure })]);
        assert_eq!(store.node.receive(reader, Message::Unpin { object: x }), []);
        assert_eq!(store.node.receive(driver(), Message::Unpin { object: x }), [], "not its pin");
        let effects = store.node.receive(reader, Message::Unpin { object: x });
        assert_eq!(effects, [send(driver(), Message::Freed { offset, size: 128 })]);
        assert_eq!(store.node.receive(reader, Message::Unpin { object: x }), []);
    }

    #[test]
    fn what_is_freed_twice_is_freed_for_a_later_attempt_that_is_on_its_way_too() {
        for read in [false, true] {
            let mut store = StoreHarness::new(64 * MIB);
            let x = object(1);
            let [(first, _), (second, _)] = [0, 1].map(|_| store.extent(driver(), 100));
            store.node.receive(driver(), Message::Seal { object: x, attempt: 0, offset: first, size: 100 });
            if read {
                store.node.receive(driver(), pin(x));
            }
            for _ in 0..2 {
                store.node.receive(driver(), Message::FreeObject { object: x, attempt: u32::MAX });
            }
            let late = Message::Seal { object: x, attempt: 1, offset: second, size: 100 };
            let effects = store.node.receive(driver(), late);
            assert_eq!(effects, [send(driver(), Message::Freed { offset: second, size: 128 })]);
            if read {
                store.node.receive(driver(), Message::Unpin { object: x });
            }
            assert!(store.table().objects.is_empty());
        }
    }

    #[test]
    fn only_the_owner_frees_and_only_held_room_is_sealed() {
        let mut store = StoreHarness::new(64 * MIB);
        let worker = store.worker();
        let (offset, size) = store.extent(driver(), 100);
        let x = object(1);
        for (from, offset, size) in [
            (worker, offset, 100),
            (driver(), offset + 1, 100),
            (driver(), offset, size + 1),
            (driver(), offset, u64::MAX),
            (driver(), u64::MAX - 63, 100),
        ] {
            store.node.receive(from, Message::Seal { object: x, attempt: 0, offset, size });
        }
        assert!(store.table().objects.is_empty());
        store.node.receive(driver(), Message::Seal { object: x, attempt: 0, offset, size: 100 });
        store.node.receive(driver(), Message::Seal { object: object(2), attempt: 0, offset, size: 100 });
        store.node.receive(worker, Message::FreeObject { object: x, attempt: u32::MAX });
        assert_eq!(store.table().objects.len(), 1);
    }

    #[test]
    fn a_reader_that_is_faster_than_the_producer_waits_for_it() {
        let mut store = StoreHarness::new(64 * MIB);
        let (reader, other) = (store.worker(), store.worker());
        let (offset, _) = store.extent(driver(), 100);
        let x = object(1);
        assert_eq!(store.node.receive(reader, pin(x)), []);
        assert_eq!(store.node.receive(other, pin(x)), []);
        store.node.exited(other, KILLED);
        let effects = store.node.receive(driver(), Message::Seal { object: x, attempt: 0, offset, size: 5 });
        assert_eq!(effects, [send(reader, pinned(x, offset, 5))]);
    }

    #[test]
    fn an_object_that_does_not_come_is_lost_after_a_while_or_with_its_owner_or_freed() {
        let mut store = StoreHarness::new(64 * MIB);
        let (reader, owner) = (store.worker(), store.worker());
        store.node.receive(reader, pin(object(1)));
        assert_eq!(store.node.pass(Span::from_millis(4_999)), []);
        let effects = store.node.pass(Span::from_millis(1));
        let [Message::PinFailed { failure: Failure::ObjectLost { .. }, .. }] = &sent_to(reader, &effects)[..]
        else {
            panic!("{effects:?}")
        };

        store.node.receive(reader, pin(object(2)));
        let effects =
            store.node.receive(driver(), Message::FreeObject { object: object(2), attempt: u32::MAX });
        let failure = Failure::Freed { object: object(2) };
        assert_eq!(effects, [send(reader, Message::PinFailed { object: object(2), failure })]);

        let orphan = object_of(owner, 1);
        store.node.receive(reader, pin(orphan));
        let effects = store.node.exited(owner, KILLED);
        let failed = |effects: &[Effect]| {
            matches!(
                &sent_to(reader, effects)[..],
                [Message::PinFailed { object, failure: Failure::ObjectLost { .. } }] if *object == orphan
            )
        };
        assert!(failed(&effects), "{effects:?}");
        let effects = store.node.receive(reader, pin(orphan));
        assert!(failed(&effects), "{effects:?}");
    }

    #[test]
    fn an_object_that_is_freed_before_it_is_sealed_leaves_no_trace() {
        let mut store = StoreHarness::new(64 * MIB);
        let (offset, _) = store.extent(driver(), 1_000);
        let x = object(1);
        store.node.receive(driver(), Message::FreeObject { object: x, attempt: u32::MAX });
        let effects = store.node.receive(driver(), Message::Seal { object: x, attempt: 0, offset, size: 1 });
        assert_eq!(effects, [send(driver(), Message::Freed { offset, size: 64 })]);
        // Sealed again much later it is another matter: the object was rebuilt.
        store.node.receive(driver(), Message::FreeObject { object: x, attempt: u32::MAX });
        store.node.pass(Span::from_secs(6));
        assert_eq!(
            store.node.receive(driver(), Message::Seal { object: x, attempt: 0, offset, size: 1 }),
            []
        );
    }

    #[test]
    fn what_frees_one_attempt_does_not_free_the_next_whichever_comes_first() {
        let mut store = StoreHarness::new(64 * MIB);
        let reader = store.worker();
        let (offset, _) = store.extent(driver(), 1_000);
        let x = object(1);
        let seal = |attempt, offset| Message::Seal { object: x, attempt, offset, size: 1 };
        let free = |attempt| Message::FreeObject { object: x, attempt };
        // Freed, made again; the reader of what is made again waits for it.
        store.node.receive(driver(), seal(0, offset));
        store.node.receive(driver(), free(0));
        store.node.receive(reader, pin(x));
        store.node.receive(driver(), free(0));
        let effects = store.node.receive(driver(), seal(1, offset));
        assert_eq!(effects, [send(reader, pinned(x, offset, 1))]);
        // A late word of the first attempt, and a late copy of it.
        assert_eq!(store.node.receive(driver(), free(0)), []);
        let effects = store.node.receive(driver(), seal(0, offset + 64));
        assert_eq!(effects, [send(driver(), Message::Freed { offset: offset + 64, size: 64 })]);
        assert_eq!(store.node.receive(driver(), free(1)), []);
        let effects = store.node.receive(reader, Message::Unpin { object: x });
        assert_eq!(effects, [send(driver(), Message::Freed { offset, size: 64 })]);
    }

    #[test]
    fn the_copy_of_a_later_attempt_replaces_one_that_nobody_reads() {
        let mut store = StoreHarness::new(64 * MIB);
        let worker = store.worker();
        let (first, _) = store.extent(driver(), 100);
        let (second, _) = store.extent(worker, 100);
        let x = object(1);
        store.node.receive(driver(), Message::Seal { object: x, attempt: 0, offset: first, size: 100 });
        let effects =
            store.node.receive(worker, Message::Seal { object: x, attempt: 0, offset: second, size: 90 });
        assert_eq!(effects, [send(driver(), Message::Freed { offset: first, size: 128 })]);
        let effects = store.node.receive(driver(), pin(x));
        assert_eq!(effects, [send(driver(), pinned(x, second, 90))]);
        let effects =
            store.node.receive(driver(), Message::Seal { object: x, attempt: 0, offset: first, size: 100 });
        assert_eq!(effects, [send(driver(), Message::Freed { offset: first, size: 128 })]);
    }
}

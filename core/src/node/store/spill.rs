//! Moving objects between memory and disk.

use alloc::format;
use alloc::vec::Vec;

use super::Store;
use super::objects::{Place, lost};
use super::outbox::Outbox;
use super::room::{Operation, Prospect};
use super::victims::{Evictable, Piece, choose_victims};
use crate::ids::ObjectId;
use crate::node::{Work, WorkResult};
use crate::value::Failure;

/// How much more than is needed is spilled at once, so that disks see few large writes.
fn slack(capacity: u64) -> u64 {
    (capacity / 8).min(64 << 20)
}

impl Store {
    /// Move objects out of memory so that a piece of `size` bytes becomes free.
    pub(super) fn evict(&mut self, size: u64, alignment: u64, out: &mut Outbox) -> Prospect {
        let moving =
            |operation: &Operation| matches!(operation, Operation::Spill { .. } | Operation::Release { .. });
        if self.operations.values().any(moving) {
            // What comes free by it is seen then: choosing is not cheap when objects are many.
            return Prospect::Coming;
        }
        let pieces = self.pieces();
        let generous = || choose_victims(&pieces, size + slack(self.capacity), alignment);
        let Some(victims) = generous().or_else(|| choose_victims(&pieces, size, alignment)) else {
            return Prospect::None;
        };
        assert!(!victims.is_empty(), "there is no free piece of {size} bytes");
        let mut made = false;
        let mut spilled = Vec::new();
        let mut objects = Vec::new();
        for id in victims {
            let object = self.objects.get_mut(&id).expect("victims are in the table");
            let Place::Memory(offset) = object.place else { unreachable!("victims are in memory") };
            if object.disk.is_some() {
                self.vacate(id, false, out);
                made = true;
            } else if let Some(primary) = object.primary {
                // The node that keeps it lives, and can be asked again.
                self.dropped.add(id, object.attempt, primary, out.now);
                self.forget(id, out);
                made = true;
            } else {
                object.spilling = true;
                spilled.push((id, offset, object.size));
                objects.push(id);
            }
        }
        if !objects.is_empty() {
            let operation = out.start(Work::Spill { objects: spilled });
            self.operations.insert(operation, Operation::Spill { objects });
        }
        if made { Prospect::Made } else { Prospect::Coming }
    }

    /// Memory that is free or can be made so, in the order of offsets.
    fn pieces(&self) -> Vec<Piece> {
        let free = self.free.ranges().iter();
        let mut pieces: Vec<Piece> =
            free.map(|(offset, size)| Piece { offset, size, object: None }).collect();
        for (offset, id) in &self.resident {
            let object = &self.objects[id];
            if object.is_evictable() {
                let kept = object.disk.is_some() || object.primary.is_some();
                let writes = if kept { 0 } else { object.room() };
                let evictable = Evictable { object: *id, used: object.used, writes };
                pieces.push(Piece { offset: *offset, size: object.room(), object: Some(evictable) });
            }
        }
        // Two sorted runs: a stable sort merges them.
        pieces.sort_by_key(|piece| piece.offset);
        pieces
    }

    /// Objects are on disk, or could not be written.
    pub(super) fn spilled(&mut self, objects: &[ObjectId], result: WorkResult, out: &mut Outbox) {
        let locations = match result {
            WorkResult::Spilled(locations) if locations.len() == objects.len() => locations,
            other => return self.spill_failed(objects, other, out),
        };
        for (id, location) in objects.iter().zip(locations) {
            let object = self.objects.get_mut(id).expect("objects that are being spilled stay");
            object.spilling = false;
            object.disk = Some(location);
            self.spilled_total += object.size;
            let unused = object.pins == 0 && object.readers.is_empty();
            if object.freed {
                self.reap(*id, out);
            } else if unused {
                self.vacate(*id, false, out);
            }
        }
    }

    /// Nothing was moved: who needed the room most is told why there is none.
    fn spill_failed(&mut self, objects: &[ObjectId], result: WorkResult, out: &mut Outbox) {
        let failure = match result {
            WorkResult::Failed(failure) => failure,
            other => Failure::OutOfDisk { detail: format!("spilling ended in {other:?}") },
        };
        for id in objects {
            let object = self.objects.get_mut(id).expect("objects that are being spilled stay");
            object.spilling = false;
            self.reap(*id, out);
        }
        if let Some(room) = self.waiting.pop_front() {
            self.refuse(&room, &failure, out);
        }
    }

    /// There is room for an object that somebody wants to read.
    pub(super) fn restore(&mut self, id: ObjectId, offset: u64, out: &mut Outbox) {
        let object = self.objects.get(&id).expect("objects that are being restored stay");
        let from = object.disk.expect("objects that are not in memory are on disk");
        if object.freed || object.readers.is_empty() {
            // Nobody wants it any more.
            self.vacate(id, false, out);
            return self.reap(id, out);
        }
        let operation = out.start(Work::Restore { object: id, from, offset });
        self.operations.insert(operation, Operation::Restore { object: id });
    }

    /// An object is back in memory, or cannot be read.
    pub(super) fn restored(&mut self, id: ObjectId, result: WorkResult, out: &mut Outbox) {
        let object = self.objects.get_mut(&id).expect("objects that are being restored stay");
        let Place::Restoring(offset) = object.place else { unreachable!("{id:?} is being restored") };
        match result {
            WorkResult::Done => {
                object.place = Place::Memory(offset);
                self.restored_total += object.size;
                self.serve_readers(id, out);
                self.reap(id, out);
            }
            // There was no memory for it; it is still on disk.
            WorkResult::Failed(failure @ (Failure::StoreFull { .. } | Failure::OutOfDisk { .. })) => {
                self.refuse_readers(id, &failure, out);
                self.vacate(id, false, out);
                self.reap(id, out);
            }
            other => {
                let detail = match other {
                    WorkResult::Failed(Failure::ObjectLost { detail, .. }) => detail,
                    other => format!("reading it back ended in {other:?}"),
                };
                self.refuse_readers(id, &lost(id, &detail), out);
                self.forget(id, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{OperationId, ProcessId};
    use crate::machine::Span;
    use crate::message::{Answer, Message, Query, StoreSummary};
    use crate::node::harness::{KILLED, driver, send, sent_to};
    use crate::node::store::harness::*;
    use crate::node::{Effect, SpillLocation};

    const MIB: u64 = 1 << 20;

    /// A store of 64 MiB with six objects of 10 MiB, 1 to 6, and a process that wants more.
    fn full() -> (StoreHarness, ProcessId) {
        let mut store = StoreHarness::new(64 * MIB);
        for number in 1..=6 {
            store.put(driver(), object(number), 10 * MIB);
        }
        let worker = store.worker();
        (store, worker)
    }

    fn spill(effects: &[Effect]) -> (OperationId, Vec<ObjectId>) {
        let spills = effects.iter().find_map(|effect| match effect {
            Effect::Start { operation, work: Work::Spill { objects } } => {
                Some((*operation, objects.iter().map(|(id, ..)| *id).collect()))
            }
            _ => None,
        });
        spills.unwrap_or_else(|| panic!("{effects:?}"))
    }

    fn summary(store: &mut StoreHarness) -> StoreSummary {
        let request = crate::ids::RequestId(1);
        let effects = store.node.receive(driver(), Message::Ask { request, query: Query::Store });
        match &effects[..] {
            [Effect::Send { message: Message::Answer { answer: Answer::Store(summary), .. }, .. }] => {
                summary.clone()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_least_recently_used_objects_go_to_disk_and_come_back_when_they_are_read() {
        let (mut store, worker) = full();
        // 1 is used again, 2 is pinned.
        store.node.receive(driver(), pin(object(1)));
        store.node.receive(driver(), Message::Unpin { object: object(1) });
        store.node.receive(driver(), pin(object(2)));
        let effects = store.ask(worker, 10 * MIB);
        let (operation, objects) = spill(&effects);
        assert_eq!(objects, [object(3), object(4)], "what is needed and some slack, side by side");
        let locations = store.node_spilled(&objects);
        let effects = store.node.finished(operation, WorkResult::Spilled(locations));
        assert_eq!(effects.len(), 1, "{effects:?}");
        assert!(matches!(effects[0], Effect::Send { message: Message::ExtentGranted { .. }, .. }));
        let before = summary(&mut store);
        assert_eq!((before.objects, before.spilled, before.pinned), (4, 20 * MIB, 10 * MIB));

        // There is room for one of them.
        let effects = store.node.receive(worker, pin(object(3)));
        let [Effect::Start { operation, work: Work::Restore { object: restored, offset, .. } }] = effects[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!(restored, object(3));
        assert_eq!(store.node.receive(driver(), pin(object(3))), [], "it is on its way");
        let effects = store.node.finished(operation, WorkResult::Done);
        let pinned = Message::Pinned { object: object(3), offset, size: 10 * MIB };
        assert_eq!(effects, [send(worker, pinned.clone()), send(driver(), pinned)]);
        let after = summary(&mut store);
        assert_eq!((after.objects, after.restored_total, after.spilled_total), (5, 10 * MIB, 20 * MIB));
    }

    #[test]
    fn an_object_with_a_copy_on_disk_is_evicted_without_writing_it_again() {
        let (mut store, worker) = full();
        let effects = store.ask(worker, 10 * MIB);
        let effects = store.settle(effects);
        assert!(matches!(sent_to(worker, &effects)[..], [Message::ExtentGranted { .. }]));
        let effects = store.node.receive(driver(), pin(object(1)));
        store.settle(effects);
        store.node.receive(driver(), Message::Unpin { object: object(1) });
        for number in 3..=6 {
            store.node.receive(driver(), pin(object(number)));
        }
        // Only 1 can go, and it is on disk already.
        let effects = store.ask(worker, 10 * MIB);
        assert!(!effects.iter().any(|e| matches!(e, Effect::Start { work: Work::Spill { .. }, .. })));
        let mut effects = store.settle(effects);
        assert_eq!(effects, [send(worker, Message::ReturnRoom)], "it may have room to return");
        effects = store.node.pass(Span::from_millis(10));
        assert!(matches!(sent_to(worker, &effects)[..], [Message::ExtentGranted { .. }]), "{effects:?}");
        assert_eq!(summary(&mut store).spilled_total, 20 * MIB);
    }

    #[test]
    fn an_object_that_is_pinned_while_it_is_written_stays() {
        let (mut store, worker) = full();
        let effects = store.ask(worker, 10 * MIB);
        let (operation, objects) = spill(&effects);
        let effects = store.node.receive(driver(), pin(objects[0]));
        assert!(matches!(sent_to(driver(), &effects)[..], [Message::Pinned { .. }]));
        let locations = store.node_spilled(&objects);
        let effects = store.node.finished(operation, WorkResult::Spilled(locations));
        assert!(matches!(sent_to(worker, &effects)[..], [Message::ExtentGranted { .. }]), "{effects:?}");
        let kept = &store.table().objects[&objects[0]];
        assert!(matches!(kept.place, Place::Memory(_)) && kept.disk.is_some());
    }

    #[test]
    fn freeing_and_dying_while_objects_move_loses_no_room_and_no_disk() {
        let (mut store, worker) = full();
        let effects = store.ask(worker, 10 * MIB);
        let (operation, objects) = spill(&effects);
        for id in &objects {
            assert_eq!(
                store.node.receive(driver(), Message::FreeObject { object: *id, attempt: u32::MAX }),
                []
            );
        }
        let locations = store.node_spilled(&objects);
        let effects = store.node.finished(operation, WorkResult::Spilled(locations.clone()));
        let deleted: Vec<SpillLocation> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Start { work: Work::DeleteSpilled { location }, .. } => Some(*location),
                _ => None,
            })
            .collect();
        assert_eq!(deleted, locations);
        assert!(matches!(sent_to(worker, &effects)[..], [Message::ExtentGranted { .. }]));

        // The same while one is read back: the reader dies, the owner frees.
        store.ask(worker, 20 * MIB);
        let effects = store.node.pass(Span::from_millis(10));
        store.settle(effects);
        let spilled = store.spilled_object();
        let effects = store.node.receive(worker, pin(spilled));
        let effects = store.until_restore(effects);
        let [Effect::Start { operation, .. }] = effects[..] else { panic!("{effects:?}") };
        store.node.exited(worker, KILLED);
        store.node.receive(driver(), Message::FreeObject { object: spilled, attempt: u32::MAX });
        let effects = store.node.finished(operation, WorkResult::Done);
        assert!(
            matches!(effects[..], [Effect::Start { work: Work::DeleteSpilled { .. }, .. }]),
            "{effects:?}"
        );
    }

    #[test]
    fn a_full_disk_is_told_to_who_needs_room_and_loses_nothing() {
        let (mut store, worker) = full();
        let effects = store.ask(worker, 10 * MIB);
        let (operation, _) = spill(&effects);
        let failure = Failure::OutOfDisk { detail: "no space in /spill".into() };
        let effects = store.node.finished(operation, WorkResult::Failed(failure.clone()));
        let request = store.last_request();
        assert_eq!(effects, [send(worker, Message::ExtentRefused { request, failure })]);
        assert_eq!(summary(&mut store).objects, 6);
    }

    #[test]
    fn an_object_that_cannot_be_read_back_is_lost() {
        let (mut store, worker) = full();
        let effects = store.ask(worker, 10 * MIB);
        store.settle(effects);
        let spilled = store.spilled_object();
        let effects = store.node.receive(worker, pin(spilled));
        let effects = store.until_restore(effects);
        let [Effect::Start { operation, .. }] = effects[..] else { panic!("{effects:?}") };
        let failure = Failure::ObjectLost { object: spilled, detail: "bad checksum".into() };
        let effects = store.node.finished(operation, WorkResult::Failed(failure.clone()));
        assert_eq!(sent_to(worker, &effects), [Message::PinFailed { object: spilled, failure }]);
        assert!(!store.table().objects.contains_key(&spilled));
    }

    #[test]
    fn when_all_is_pinned_the_request_is_refused_after_the_grace_or_served_by_an_unpin() {
        let (mut store, worker) = full();
        for number in 1..=6 {
            store.node.receive(driver(), pin(object(number)));
        }
        assert_eq!(store.ask(worker, 10 * MIB), []);
        let effects = store.node.pass(Span::from_secs(2));
        let sent = sent_to(worker, &effects);
        let [Message::ExtentRefused { failure: Failure::StoreFull { detail }, .. }] = &sent[..] else {
            panic!("{effects:?}")
        };
        assert!(detail.contains("being read"), "{detail}");

        assert_eq!(store.ask(worker, 10 * MIB), []);
        store.node.pass(Span::from_secs(1));
        assert_eq!(store.ask(worker, 3 * MIB).len(), 1, "what fits is not kept waiting");
        let effects = store.node.receive(driver(), Message::Unpin { object: object(4) });
        assert_eq!(spill(&effects).1, [object(4)]);
    }
}

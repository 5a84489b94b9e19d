//! The object store's table: which bytes of the node's segment are free, given to processes as
//! extents, or objects; which objects are pinned, spilled, or on their way.
//!
//! Every byte is in exactly one place (invariant 7): free + held by processes + objects in memory +
//! in transit = capacity. A process allocates inside what it holds; sealing an object takes its range
//! out of that, freeing the object gives it back. What is spilled, or left by a dead process, goes to
//! the free space.

mod dropped;
mod endings;
mod extents;
mod handover;
mod objects;
mod offers;
mod pulls;
mod ranges;
mod recent;
mod release;
mod room;
#[cfg(test)]
mod soak;
mod spill;
mod victims;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use self::dropped::Dropped;
use self::extents::Holder;
use self::handover::Handover;
pub(super) use self::objects::Sealed;
use self::objects::{FreedEarly, Object, Place, Unsealed};
use self::pulls::Pulls;
pub(super) use self::pulls::{Offer, Wanted};
use self::ranges::{FreeSpace, PAGE, Ranges, round_down, round_up};
use self::recent::Recent;
use self::release::Floor;
use self::room::{Operation, Room};
use super::outbox::Outbox;
use super::{Config, WorkResult, outbox};
use crate::deadlines::Deadlines;
use crate::ids::{NodeId, ObjectId, OperationId, ProcessId};
use crate::machine::{Span, Time};
use crate::message::StoreSummary;

/// The table.
#[derive(Clone, Debug)]
pub(super) struct Store {
    /// This node.
    node: NodeId,
    capacity: u64,
    large_object: u64,
    copying_max: usize,
    /// How long nothing can be done for a request before it is refused.
    full_grace: Span,
    free: FreeSpace,
    /// Memory that has pages behind it.
    backed: Ranges,
    /// What live processes hold.
    holders: BTreeMap<ProcessId, Holder>,
    objects: BTreeMap<ObjectId, Object>,
    /// Objects in memory, and room that is being filled from disk, by offset.
    resident: BTreeMap<u64, ObjectId>,
    /// Whom to unpin when a process ends.
    pins: BTreeMap<ProcessId, BTreeMap<ObjectId, u32>>,
    unsealed: BTreeMap<ObjectId, Unsealed>,
    /// Freed before they were sealed: the owner's word was faster than the producer's.
    freed_early: Recent<FreedEarly>,
    pulls: Pulls,
    /// Copies that were made, and of which attempt: their owners do not know yet.
    copied: Vec<(ObjectId, u32)>,
    dropped: Dropped,
    handover: Handover,
    /// Requests for room, first come, first served.
    waiting: VecDeque<Room>,
    /// Something has changed for those who wait for room.
    hopeful: bool,
    /// Holders were asked for room; objects are not spilled before this.
    holders_asked: Option<Time>,
    operations: BTreeMap<OperationId, Operation>,
    /// Ranges that an operation works on: being backed for an extent, or released.
    transit: Ranges,
    /// Memory that stays free.
    floor: Floor,
    /// Counts uses of objects.
    uses: u64,
    held_bytes: u64,
    resident_bytes: u64,
    spilled_total: u64,
    restored_total: u64,
}

impl Store {
    pub(super) fn new(config: &Config) -> Store {
        let start = config.store_start;
        let aligned = round_up(start, PAGE);
        let capacity = round_down(config.store_capacity.saturating_sub(aligned - start), PAGE);
        Store {
            node: config.node,
            capacity,
            large_object: config.large_object,
            copying_max: config.copying_max,
            full_grace: config.store_full_grace,
            free: FreeSpace::new(aligned, capacity),
            backed: Ranges::default(),
            holders: BTreeMap::new(),
            objects: BTreeMap::new(),
            resident: BTreeMap::new(),
            pins: BTreeMap::new(),
            unsealed: BTreeMap::new(),
            freed_early: Recent::default(),
            pulls: Pulls::default(),
            copied: Vec::new(),
            dropped: Dropped::default(),
            handover: Handover::default(),
            waiting: VecDeque::new(),
            hopeful: false,
            holders_asked: None,
            operations: BTreeMap::new(),
            transit: Ranges::default(),
            floor: Floor::default(),
            uses: 0,
            held_bytes: 0,
            resident_bytes: 0,
            spilled_total: 0,
            restored_total: 0,
        }
    }

    /// Serve those who wait for room, and see to the timers.
    pub(super) fn settle(&mut self, out: &mut Outbox, deadlines: &mut Deadlines) {
        self.expire_unsealed(out, deadlines);
        self.hand_over(out, deadlines);
        self.advance_pulls(out);
        self.serve(out, deadlines);
        while self.pulls.hopeful {
            // Who was refused room lets others go on.
            self.advance_pulls(out);
            self.serve(out, deadlines);
        }
        self.release_idle(out, deadlines);
        let accounted = self.free.total() + self.held_bytes + self.resident_bytes + self.transit.total();
        assert_eq!(accounted, self.capacity, "every byte of the store is in one place");
    }

    pub(super) fn finished(&mut self, id: OperationId, result: WorkResult, out: &mut Outbox) {
        self.hopeful = true;
        match self.operations.remove(&id) {
            Some(Operation::Back { room, offset }) => self.backed(room, offset, result, out),
            Some(Operation::Spill { objects }) => self.spilled(&objects, result, out),
            Some(Operation::Restore { object }) => self.restored(object, result, out),
            Some(Operation::Fetch { object, offset, room }) => {
                self.fetched(id, object, (offset, room), result, out);
            }
            Some(Operation::Release { offset, size }) => self.released(offset, size, &result),
            // Nobody waits for the end of a deletion.
            None => {}
        }
    }

    pub(super) fn summary(&self) -> StoreSummary {
        let mut summary = StoreSummary {
            capacity: self.capacity,
            spilled_total: self.spilled_total,
            restored_total: self.restored_total,
            ..StoreSummary::default()
        };
        for object in self.objects.values() {
            if let Place::Memory(_) = object.place {
                summary.used += object.size;
                summary.objects += 1;
                summary.pinned += if object.pins > 0 { object.size } else { 0 };
            }
            summary.spilled += if object.disk.is_some() { object.size } else { 0 };
            summary.kept += u64::from(object.is_kept());
        }
        summary
    }

    /// The tables must agree, and cover the capacity without overlap.
    pub(super) fn check(&self) {
        self.free.check();
        let mut all = self.free.ranges().clone();
        for holder in self.holders.values() {
            all.add_all(&holder.ranges);
        }
        for (offset, id) in &self.resident {
            let object = &self.objects[id];
            assert_eq!(object.place.offset(), Some(*offset), "{id:?} is where it is said to be");
            all.insert(*offset, object.room());
        }
        all.add_all(&self.transit);
        let pieces: Vec<(u64, u64)> = all.iter().collect();
        assert!(self.capacity == 0 || (pieces.len() == 1 && pieces[0].1 == self.capacity), "{pieces:?}");

        for (id, object) in &self.objects {
            assert_eq!(object.place.offset().is_some(), self.resident.values().any(|other| other == id));
            let pins: u32 = self.pins.values().filter_map(|pins| pins.get(id)).sum();
            assert_eq!(object.pins, pins, "pins of {id:?}");
            let gone = object.freed && object.pins == 0 && !object.spilling;
            assert!(!gone || matches!(object.place, Place::Restoring(_)), "{id:?} is free and still here");
            assert!(object.disk.is_some() || matches!(object.place, Place::Memory(_)), "{id:?} has a copy");
            let queued = self.waiting.iter().any(|room| room.is_for(*id));
            assert_eq!(queued, object.place == Place::Queued, "{id:?} waits for room");
            if object.holder.is_some_and(|holder| !self.holders.contains_key(&holder)) {
                panic!("{id:?} is held by a dead process");
            }
        }
        assert!(self.unsealed.keys().all(|id| !self.objects.contains_key(id)));
        self.check_pulls();
        self.check_handover();
    }

    /// Whether an object is here, in memory or on disk.
    pub(super) fn has(&self, object: ObjectId) -> bool {
        self.objects.contains_key(&object)
    }

    /// Who was born as the owner of an object that is here, once for each object.
    pub(super) fn owners(&self) -> impl Iterator<Item = ProcessId> {
        self.objects.keys().map(|object| object.owner())
    }

    /// For [`Node::inspect`](super::Node::inspect).
    pub(super) fn objects(&self) -> impl Iterator<Item = (ObjectId, Option<NodeId>)> {
        self.objects.iter().map(|(id, object)| (*id, object.primary))
    }

    /// The copies that were made since the last call.
    pub(super) fn take_copied(&mut self) -> Vec<(ObjectId, u32)> {
        core::mem::take(&mut self.copied)
    }

    /// A deadline of those who wait for room has come.
    pub(super) fn room_due(&mut self) {
        self.hopeful = true;
    }

    /// Give a range back to the free space.
    fn set_free(&mut self, offset: u64, size: u64) {
        self.free.release(offset, size);
        self.hopeful = true;
    }

    /// Queue a request for room.
    fn queue(&mut self, room: Room) {
        self.waiting.push_back(room);
        self.hopeful = true;
    }

    fn used(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }
}

#[cfg(test)]
mod harness;

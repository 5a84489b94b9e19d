//! Room for those who wait for it: found, returned, or made by moving objects to disk.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::Store;
use super::extents::extent_size;
use super::objects::Place;
use super::outbox::Outbox;
use super::ranges::{OBJECT_ALIGNMENT, PAGE, round_down, round_up};
use crate::deadlines::Deadlines;
use crate::ids::{ObjectId, ProcessId, RequestId};
use crate::machine::{Span, Time, Wakeup};
use crate::message::Message;
use crate::node::{Work, WorkResult};
use crate::value::Failure;

/// How long holders have to return room before objects are spilled.
const RETURNED_WITHIN: Span = Span::from_millis(10);

/// A request for room.
#[derive(Clone, Debug)]
pub(super) struct Room {
    purpose: Purpose,
    /// Bytes, at least.
    size: u64,
    alignment: u64,
    /// Nothing could be done since a while: when to give up.
    deadline: Option<Time>,
}

/// What room is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// A process asked for it.
    Extent { process: ProcessId, request: RequestId },
    /// An object is to be read back.
    Restore(ObjectId),
    /// An object is to be copied from another node.
    Pull(ObjectId),
    /// The process that asked is gone.
    Nobody,
}

impl Room {
    pub(super) fn new(purpose: Purpose, size: u64, alignment: u64) -> Room {
        Room { purpose, size, alignment, deadline: None }
    }
    pub(super) fn restore(object: ObjectId, size: u64) -> Room {
        Room::new(Purpose::Restore(object), size, OBJECT_ALIGNMENT)
    }
    pub(super) fn pull(object: ObjectId, size: u64) -> Room {
        Room::new(Purpose::Pull(object), size, OBJECT_ALIGNMENT)
    }
    pub(super) fn is_for(&self, object: ObjectId) -> bool {
        matches!(self.purpose, Purpose::Restore(of) | Purpose::Pull(of) if of == object)
    }
    pub(super) fn is_of(&self, id: ProcessId) -> bool {
        matches!(self.purpose, Purpose::Extent { process, .. } if process == id)
    }
    /// The process that asked is gone.
    pub(super) fn abandon(&mut self) {
        self.purpose = Purpose::Nobody;
    }
}

/// Work that the store has started.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// Pages are put behind room that was found at `offset`.
    Back { room: Room, offset: u64 },
    /// Objects are written to disk.
    Spill { objects: Vec<ObjectId> },
    /// An object is read back.
    Restore { object: ObjectId },
    /// An object is copied from another node into this room.
    Fetch { object: ObjectId, offset: u64, room: u64 },
    /// Pages of free memory go back to the operating system.
    Release { offset: u64, size: u64 },
}

/// What can be done for a request that does not fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Prospect {
    /// Room was made: try again.
    Made,
    /// Room is on its way.
    Coming,
    /// Nothing, unless something is unpinned or freed.
    None,
}

impl Store {
    /// Serve requests in their order. One that nothing can be done for does not keep others waiting.
    pub(super) fn serve(&mut self, out: &mut Outbox, deadlines: &mut Deadlines) {
        if !core::mem::take(&mut self.hopeful) {
            return;
        }
        let mut index = 0;
        while let Some(room) = self.waiting.get(index).cloned() {
            if let Some((offset, size)) = self.find(&room) {
                self.waiting.remove(index);
                self.found(Room { size, ..room }, offset, out);
                continue;
            }
            match self.make_room(room.size, room.alignment, out, deadlines) {
                Prospect::Made => {}
                Prospect::Coming => {
                    self.waiting[index].deadline = None;
                    break;
                }
                Prospect::None => {
                    let deadline = *self.waiting[index].deadline.get_or_insert(out.now + self.full_grace);
                    if deadline <= out.now {
                        self.waiting.remove(index);
                        let failure = Failure::StoreFull { detail: self.describe(room.size) };
                        self.refuse(&room, &failure, out);
                    } else {
                        deadlines.arm(Wakeup::StoreFull, deadline);
                        index += 1;
                    }
                }
            }
        }
        if self.waiting.is_empty() {
            self.holders_asked = None;
        }
    }

    /// Free memory for a request, more than was asked for if there is plenty.
    fn find(&mut self, room: &Room) -> Option<(u64, u64)> {
        if let Purpose::Extent { process, .. } = room.purpose {
            let grants = self.holders.get(&process).map_or(0, |holder| holder.grants);
            let generous = extent_size(room.size, grants, self.free.total(), self.capacity);
            if let Some((offset, size)) = self.find_warm(room, generous) {
                self.free.take_at(offset, size);
                return Some((offset, size));
            }
            if let Some(offset) = self.free.take(generous, room.alignment) {
                return Some((offset, generous));
            }
        }
        self.free.take(room.size, room.alignment).map(|offset| (offset, room.size))
    }

    /// Free memory that has pages, of the size `most` or at least half of it. Objects are of all sizes, so what
    /// they leave is rarely what an extent would be like: without this, extents would go through the store.
    fn find_warm(&self, room: &Room, most: u64) -> Option<(u64, u64)> {
        let least = room.size.max(most / 2);
        self.free.pieces(least, most).find_map(|(start, length)| {
            let offset = round_up(start, room.alignment);
            let free = (start + length).saturating_sub(offset);
            let warm = round_down(self.backed.reach(offset).min(free).min(most), PAGE);
            (warm >= least).then_some((offset, warm))
        })
    }

    /// Room was found: put pages behind it if some are missing.
    fn found(&mut self, room: Room, offset: u64, out: &mut Outbox) {
        let size = room.size;
        if let Purpose::Restore(id) = room.purpose {
            let object = self.objects.get_mut(&id).expect("requests end with their objects");
            object.place = Place::Restoring(offset);
            self.resident.insert(offset, id);
            self.resident_bytes += size;
        } else {
            self.transit.insert(offset, size);
        }
        let start = round_down(offset, PAGE);
        let end = round_up(offset + size, PAGE);
        let missing = self.backed.parts(start, end - start, false);
        let (Some((first, _)), Some((last, length))) = (missing.first(), missing.last()) else {
            return self.backed(room, offset, WorkResult::Done, out);
        };
        let work = Work::Reserve { offset: *first, size: last + length - first };
        let operation = out.start(work);
        self.operations.insert(operation, Operation::Back { room, offset });
    }

    /// Pages are behind the room, or cannot be had.
    pub(super) fn backed(&mut self, room: Room, offset: u64, result: WorkResult, out: &mut Outbox) {
        let size = room.size;
        let failure = match result {
            WorkResult::Done => None,
            WorkResult::Failed(failure) => Some(failure),
            other => Some(Failure::StoreFull { detail: format!("reserving pages ended in {other:?}") }),
        };
        if failure.is_none() {
            let start = round_down(offset, PAGE);
            self.backed.cover(start, round_up(offset + size, PAGE) - start);
        }
        match (room.purpose, &failure) {
            (Purpose::Restore(id), None) => self.restore(id, offset, out),
            (Purpose::Restore(id), Some(failure)) => {
                self.vacate(id, false, out);
                self.refuse_readers(id, failure, out);
                self.reap(id, out);
            }
            (Purpose::Pull(id), None) => self.fetch(id, offset, size, out),
            (Purpose::Pull(id), Some(failure)) => {
                self.transit.remove(offset, size);
                self.set_free(offset, size);
                self.no_room(id, failure, out);
            }
            (Purpose::Extent { process, request }, None) => {
                self.transit.remove(offset, size);
                self.grant_extent(process, request, offset, size, out);
            }
            (Purpose::Extent { .. } | Purpose::Nobody, _) => {
                self.transit.remove(offset, size);
                self.set_free(offset, size);
                if let Some(failure) = &failure {
                    self.refuse(&room, failure, out);
                }
            }
        }
    }

    /// There will be no room.
    pub(super) fn refuse(&mut self, room: &Room, failure: &Failure, out: &mut Outbox) {
        match room.purpose {
            Purpose::Extent { process, request } => {
                let failure = failure.clone();
                out.send(process, Message::ExtentRefused { request, failure });
            }
            Purpose::Restore(id) => {
                if let Some(object) = self.objects.get_mut(&id) {
                    object.place = Place::Disk;
                }
                self.refuse_readers(id, failure, out);
            }
            Purpose::Pull(id) => self.no_room(id, failure, out),
            Purpose::Nobody => {}
        }
    }

    /// Ask for room, then make it.
    fn make_room(
        &mut self,
        size: u64,
        alignment: u64,
        out: &mut Outbox,
        deadlines: &mut Deadlines,
    ) -> Prospect {
        for (process, holder) in &mut self.holders {
            if !holder.asked && holder.ranges.total() > 0 {
                holder.asked = true;
                out.send(*process, Message::ReturnRoom);
                self.holders_asked = Some(out.now + RETURNED_WITHIN);
            }
        }
        if let Some(until) = self.holders_asked.filter(|until| *until > out.now) {
            deadlines.arm(Wakeup::MakeRoom, until);
            return Prospect::Coming;
        }
        self.evict(size, alignment, out)
    }

    /// What fills the store, for people.
    fn describe(&self, size: u64) -> String {
        let pinned = |id: &&ObjectId| self.objects[*id].pins > 0;
        let pinned: u64 = self.resident.values().filter(pinned).map(|id| self.objects[id].room()).sum();
        format!(
            "{size} bytes in one piece are needed; of the store's {} bytes, {} are free (the largest \
             piece has {}), {} are held by processes to write in, {} are in objects of which {pinned} \
             are being read and cannot be spilled, and {} are being moved",
            self.capacity,
            self.free.total(),
            self.free.largest(),
            self.held_bytes,
            self.resident_bytes,
            self.transit.total(),
        )
    }
}

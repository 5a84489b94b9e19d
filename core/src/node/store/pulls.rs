//! Copies of objects that other nodes have, for readers here.
//!
//! A node that has the object is asked to keep it in memory; then it says how large it is, room is found
//! here, the bytes are fetched, and the copy is sealed like an object that was made here. All readers of
//! an object share one pull. What is asked for and fetched at a time is bounded ([`next`]); a node that
//! fails is followed by the next one.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::vec::Vec;

use super::Store;
use super::objects::{Object, Place, Sealed, lost};
use super::outbox::Outbox;
use super::room::{Operation, Room};
use crate::ids::{JobId, NodeId, ObjectId, OperationId, ProcessId};
use crate::machine::Time;
use crate::message::Message;
use crate::node::{Effect, Work, WorkResult};
use crate::room::object_room;
use crate::value::Failure;

/// So many objects are asked for, or offered and not fetched yet, at a time; twice as many if readers
/// are blocked.
const ASKED_MAX: usize = 16;
/// An object that has begun to come so often, and never came whole, cannot be had.
const BROKEN_MAX: u8 = 8;
/// Bytes on their way at a time are at most this part of the store, but at least one object.
pub(super) const BUDGET_SHARE: u64 = 4;

/// All pulls.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulls {
    pub(super) table: BTreeMap<ObjectId, Pull>,
    /// How many answers of a node are to come that nobody waits for any more.
    unwanted: BTreeMap<(ObjectId, NodeId), u32>,
    last: u64,
    /// Something may be asked for or fetched that was not before.
    pub(super) hopeful: bool,
}

/// One object that is on its way here, or will be.
#[derive(Clone, Debug)]
pub(super) struct Pull {
    pub(super) readers: Vec<ProcessId>,
    /// Pulls are served in this order.
    number: u64,
    /// A reader cannot go on without it.
    urgent: bool,
    job: JobId,
    /// It was said to be freed before anybody asked for it: that was of what was here then.
    freed_before: Option<Time>,
    /// Where it may be had, of those that have not failed.
    locations: VecDeque<NodeId>,
    /// Why those failed that have; a shortage rather than a loss, for it is no reason to make the
    /// object again.
    failure: Option<Failure>,
    /// How often fetching it broke off.
    broken: u8,
    pub(super) stage: Stage,
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// It waits for its turn to be asked for.
    Waiting,
    /// The node was asked.
    Asked { from: NodeId },
    /// It can be fetched there, and waits for its turn.
    Offered { from: NodeId, offer: Offer },
    /// It waits for room here.
    Room { from: NodeId, offer: Offer },
    /// It is being fetched.
    Fetching { from: NodeId, offer: Offer, operation: OperationId },
}

/// What a node has said of an object that it keeps in memory for us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::node) struct Offer {
    pub(in crate::node) attempt: u32,
    pub(in crate::node) size: u64,
    /// The node that keeps it even if its memory is short.
    pub(in crate::node) primary: NodeId,
}

impl Stage {
    fn source(self) -> Option<NodeId> {
        match self {
            Stage::Waiting => None,
            Stage::Asked { from }
            | Stage::Offered { from, .. }
            | Stage::Room { from, .. }
            | Stage::Fetching { from, .. } => Some(from),
        }
    }

    fn offer_mut(&mut self) -> Option<&mut Offer> {
        match self {
            Stage::Waiting | Stage::Asked { .. } => None,
            Stage::Offered { offer, .. } | Stage::Room { offer, .. } | Stage::Fetching { offer, .. } => {
                Some(offer)
            }
        }
    }

    /// Bytes that are on their way, or for which room is being found.
    fn on_the_way(self) -> u64 {
        match self {
            Stage::Room { offer, .. } | Stage::Fetching { offer, .. } => offer.size,
            Stage::Waiting | Stage::Asked { .. } | Stage::Offered { .. } => 0,
        }
    }
}

/// Who wants what next.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    object: ObjectId,
    urgent: bool,
    number: u64,
    /// Its size, once a node offers it; before, it is to be asked for.
    offered: Option<u64>,
}

/// What is under way: of blocked readers, and in all.
#[derive(Clone, Copy, Debug, Default)]
struct UnderWay {
    asked: usize,
    urgent_bytes: u64,
    bytes: u64,
}

/// Which objects are to be asked for, or fetched, now: those of blocked readers first, then in the order
/// in which they were wanted. One that does not fit into the budget lets nobody pass, so that large ones
/// are not left behind; only what others fetch does not count for those that a reader is blocked by.
fn next(candidates: &mut Vec<Candidate>, mut under_way: UnderWay, budget: u64) -> Vec<ObjectId> {
    candidates.sort_unstable_by_key(|candidate| (!candidate.urgent, candidate.number));
    let mut chosen = Vec::new();
    let mut full = false;
    for candidate in candidates {
        let Some(size) = candidate.offered else {
            let most = if candidate.urgent { 2 * ASKED_MAX } else { ASKED_MAX };
            if under_way.asked < most {
                under_way.asked += 1;
                chosen.push(candidate.object);
            }
            continue;
        };
        let before = if candidate.urgent { under_way.urgent_bytes } else { under_way.bytes };
        full |= before > 0 && before.saturating_add(size) > budget;
        if !full {
            under_way.bytes = under_way.bytes.saturating_add(size);
            if candidate.urgent {
                under_way.urgent_bytes = under_way.urgent_bytes.saturating_add(size);
            }
            chosen.push(candidate.object);
        }
    }
    chosen
}

impl Pulls {
    fn under_way(&self) -> UnderWay {
        let mut under_way = UnderWay::default();
        for pull in self.table.values() {
            let asked = matches!(pull.stage, Stage::Asked { .. } | Stage::Offered { .. });
            let bytes = pull.stage.on_the_way();
            under_way.asked += usize::from(asked);
            under_way.bytes = under_way.bytes.saturating_add(bytes);
            if pull.urgent {
                under_way.urgent_bytes = under_way.urgent_bytes.saturating_add(bytes);
            }
        }
        under_way
    }

    fn candidates(&self) -> Vec<Candidate> {
        let candidate = |(object, pull): (&ObjectId, &Pull)| {
            let offered = match pull.stage {
                Stage::Waiting => None,
                Stage::Offered { offer, .. } => Some(offer.size),
                _ => return None,
            };
            let (object, urgent, number) = (*object, pull.urgent, pull.number);
            Some(Candidate { object, urgent, number, offered })
        };
        self.table.iter().filter_map(candidate).collect()
    }

    /// An answer came: whether somebody waits for it.
    fn is_wanted(&mut self, object: ObjectId, from: NodeId) -> bool {
        if let Some(unwanted) = self.unwanted.get_mut(&(object, from)) {
            *unwanted -= 1;
            if *unwanted == 0 {
                self.unwanted.remove(&(object, from));
            }
            return false;
        }
        self.table.get(&object).is_some_and(|pull| pull.stage == Stage::Asked { from })
    }
}

/// One who wants to read an object that is not here.
#[derive(Clone, Debug)]
pub(in crate::node) struct Wanted {
    pub(in crate::node) reader: ProcessId,
    pub(in crate::node) job: JobId,
    /// It cannot go on without it.
    pub(in crate::node) urgent: bool,
    /// Live nodes that may have it, this one left out.
    pub(in crate::node) locations: Vec<NodeId>,
}

impl Store {
    /// Copy an object from another node for a reader.
    pub(in crate::node) fn pull(&mut self, id: ObjectId, wanted: Wanted) {
        let Wanted { reader, job, urgent, locations } = wanted;
        let freed_before = self.freed_at(id);
        let pulls = &mut self.pulls;
        let number = pulls.last + 1;
        let pull = pulls.table.entry(id).or_insert_with(|| {
            pulls.last = number;
            let (readers, locations) = (Vec::new(), VecDeque::new());
            let stage = Stage::Waiting;
            Pull { readers, number, urgent, job, freed_before, locations, failure: None, broken: 0, stage }
        });
        pull.readers.push(reader);
        pull.urgent |= urgent;
        for node in locations {
            if pull.stage.source() != Some(node) && !pull.locations.contains(&node) {
                pull.locations.push_back(node);
            }
        }
        pulls.hopeful = true;
    }

    /// A process cannot go on without what it has asked for.
    pub(in crate::node) fn urge(&mut self, reader: ProcessId) {
        for pull in self.pulls.table.values_mut() {
            if !pull.urgent && pull.readers.contains(&reader) {
                pull.urgent = true;
                self.pulls.hopeful = true;
            }
        }
    }

    /// Ask for and fetch what may be now.
    pub(super) fn advance_pulls(&mut self, out: &mut Outbox) {
        while core::mem::take(&mut self.pulls.hopeful) {
            let mut candidates = self.pulls.candidates();
            let budget = self.capacity / BUDGET_SHARE;
            for id in next(&mut candidates, self.pulls.under_way(), budget) {
                let pull = self.pulls.table.get_mut(&id).expect("candidates are in the table");
                match pull.stage {
                    Stage::Offered { from, offer } => {
                        pull.stage = Stage::Room { from, offer };
                        let size = object_room(offer.size).expect("offers were checked");
                        self.queue(Room::pull(id, size));
                    }
                    _ => self.ask(id, out),
                }
            }
        }
    }

    /// Ask the next node, or give up.
    fn ask(&mut self, id: ObjectId, out: &mut Outbox) {
        let pull = self.pulls.table.get_mut(&id).expect("who calls has just looked it up");
        if let Some(from) = pull.locations.pop_front() {
            pull.stage = Stage::Asked { from };
            return out.send(ProcessId::daemon(from), Message::PullObject { object: id });
        }
        let pull = self.pulls.table.remove(&id).expect("it was just there");
        self.pulls.hopeful = true;
        let failure = pull.failure.unwrap_or_else(|| lost(id, "none of the nodes that had it has it now"));
        self.refuse_all(pull.readers, id, &failure, out);
    }

    /// A node failed: go on with the next one in turn.
    fn try_next(&mut self, id: ObjectId, failure: Option<Failure>) {
        let Some(pull) = self.pulls.table.get_mut(&id) else { return };
        pull.stage = Stage::Waiting;
        let lost = |failure: &Failure| matches!(failure, Failure::ObjectLost { .. });
        if pull.failure.as_ref().is_none_or(lost) && failure.is_some() {
            pull.failure = failure;
        }
        self.pulls.hopeful = true;
    }

    pub(in crate::node) fn pull_ready(&mut self, from: NodeId, id: ObjectId, offer: Offer, out: &mut Outbox) {
        if !self.pulls.is_wanted(id, from) {
            return;
        }
        if object_room(offer.size).is_none_or(|room| room > self.capacity) {
            self.end_offer(from, id, out);
            let detail = format!(
                "the object has {} bytes, and this node's whole store has {}",
                offer.size, self.capacity
            );
            return self.fail_pull(id, &Failure::StoreFull { detail }, out);
        }
        let pull = self.pulls.table.get_mut(&id).expect("it is wanted");
        pull.stage = Stage::Offered { from, offer };
        self.pulls.hopeful = true;
    }

    pub(in crate::node) fn pull_failed(&mut self, from: NodeId, id: ObjectId, failure: Failure) {
        if self.pulls.is_wanted(id, from) {
            self.try_next(id, Some(failure));
        }
    }

    /// Enough nodes copy it from there already. One of them, if it lives, is asked first: it answers when it has its
    /// copy, or in a while that it has none yet.
    pub(in crate::node) fn pull_elsewhere(&mut self, from: NodeId, id: ObjectId, at: Option<NodeId>) {
        if !self.pulls.is_wanted(id, from) {
            return;
        }
        let pull = self.pulls.table.get_mut(&id).expect("it is wanted");
        pull.locations.retain(|location| Some(*location) != at);
        at.into_iter().for_each(|at| pull.locations.push_front(at));
        pull.locations.push_back(from);
        self.try_next(id, None);
    }

    /// Room for a copy is there, and has pages.
    pub(super) fn fetch(&mut self, id: ObjectId, offset: u64, room: u64, out: &mut Outbox) {
        let pull = self.pulls.table.get_mut(&id).expect("room of a pull that is over is nobody's");
        let Stage::Room { from, offer } = pull.stage else { unreachable!("{id:?} got room twice") };
        let (size, urgent) = (offer.size, pull.urgent);
        let operation = out.start(Work::Fetch { object: id, from, offset, size, urgent });
        pull.stage = Stage::Fetching { from, offer, operation };
        self.operations.insert(operation, Operation::Fetch { object: id, offset, room });
    }

    /// There will be no room for a copy.
    pub(super) fn no_room(&mut self, id: ObjectId, failure: &Failure, out: &mut Outbox) {
        if let Some(from) = self.pulls.table.get(&id).and_then(|pull| pull.stage.source()) {
            self.end_offer(from, id, out);
        }
        self.fail_pull(id, failure, out);
    }

    /// A fetch ended, as wanted or after nobody wanted it any more.
    pub(super) fn fetched(
        &mut self,
        operation: OperationId,
        id: ObjectId,
        (offset, room): (u64, u64),
        result: WorkResult,
        out: &mut Outbox,
    ) {
        self.transit.remove(offset, room);
        let stage = self.pulls.table.get(&id).map(|pull| pull.stage);
        let current = match stage {
            Some(Stage::Fetching { from, offer, operation: current }) if current == operation => {
                Some((from, offer))
            }
            _ => None,
        };
        let Some((from, offer)) = current else { return self.set_free(offset, room) };
        self.end_offer(from, id, out);
        let failure = match result {
            WorkResult::Done => return self.seal_copy(id, offer, offset, out),
            WorkResult::Failed(failure) => failure,
            other => lost(id, &format!("fetching it ended in {other:?}")),
        };
        self.set_free(offset, room);
        match failure {
            Failure::StoreFull { .. } | Failure::OutOfDisk { .. } => self.fail_pull(id, &failure, out),
            failure => self.broke_off(id, from, failure),
        }
    }

    /// The way to a node broke while an object came from there: that node still has it, and is asked again
    /// after the others. Until it is reached again that question waits, and if it died another answer comes.
    fn broke_off(&mut self, id: ObjectId, from: NodeId, failure: Failure) {
        let Some(pull) = self.pulls.table.get_mut(&id) else { return };
        if pull.broken < BROKEN_MAX {
            pull.broken += 1;
            pull.locations.push_back(from);
        }
        self.try_next(id, Some(failure));
    }

    /// The bytes are here: the copy is an object like any other, but that another node keeps it, too.
    fn seal_copy(&mut self, id: ObjectId, offer: Offer, offset: u64, out: &mut Outbox) {
        let pull = self.pulls.table.remove(&id).expect("it was just looked up");
        self.pulls.hopeful = true;
        let Offer { attempt, size, primary } = offer;
        let news = self.freed_at(id) != pull.freed_before;
        if news && self.is_freed_early(id, attempt, out.now) {
            self.set_free(offset, object_room(size).expect("offers were checked"));
            return self.refuse_all(pull.readers, id, &Failure::Freed { object: id }, out);
        }
        let sealed = Sealed { object: id, attempt, job: pull.job, size };
        let primary = Some(primary).filter(|primary| *primary != self.node);
        let object = Object { primary, ..Object::sealed(sealed, Place::Memory(offset)) };
        self.resident_bytes += object.room();
        self.resident.insert(offset, id);
        self.objects.insert(id, object);
        self.copied.push((id, attempt));
        self.greet(id, pull.readers, out);
    }

    /// Nobody will get the object by this pull.
    pub(super) fn fail_pull(&mut self, id: ObjectId, failure: &Failure, out: &mut Outbox) {
        let Some(pull) = self.pulls.table.remove(&id) else { return };
        self.pulls.hopeful = true;
        self.refuse_all(pull.readers, id, failure, out);
    }

    /// Nobody needs the object from elsewhere any more. Returns who waited for it.
    pub(super) fn cancel_pull(&mut self, id: ObjectId, out: &mut Outbox) -> Vec<ProcessId> {
        let Some(pull) = self.pulls.table.get(&id) else { return Vec::new() };
        if let Some(from) = pull.stage.source() {
            self.end_offer(from, id, out);
        }
        self.leave_stage(id, out);
        let pull = self.pulls.table.remove(&id).expect("it was just there");
        self.pulls.hopeful = true;
        pull.readers
    }

    /// Undo what a pull has under way.
    fn leave_stage(&mut self, id: ObjectId, out: &mut Outbox) {
        let pull = self.pulls.table.get_mut(&id).expect("who calls has just looked it up");
        match core::mem::replace(&mut pull.stage, Stage::Waiting) {
            Stage::Waiting | Stage::Offered { .. } => {}
            Stage::Asked { from } => *self.pulls.unwanted.entry((id, from)).or_default() += 1,
            Stage::Room { .. } => {
                self.waiting.retain(|room| !room.is_for(id));
                for operation in self.operations.values_mut() {
                    if let Operation::Back { room, .. } = operation
                        && room.is_for(id)
                    {
                        room.abandon();
                    }
                }
            }
            Stage::Fetching { operation, .. } => out.push(Effect::Cancel { operation }),
        }
    }

    fn end_offer(&self, from: NodeId, id: ObjectId, out: &mut Outbox) {
        out.send(ProcessId::daemon(from), Message::PullEnded { object: id });
    }

    /// A reader is dead: what only it wanted is not pulled any more.
    pub(super) fn puller_gone(&mut self, reader: ProcessId, out: &mut Outbox) {
        let mut idle = Vec::new();
        for (id, pull) in &mut self.pulls.table {
            pull.readers.retain(|other| *other != reader);
            if pull.readers.is_empty() {
                idle.push(*id);
            }
        }
        for id in idle {
            self.cancel_pull(id, out);
        }
    }

    /// A node is dead: what was to come from it must come from another, and what it kept, this one
    /// must keep if it has it.
    pub(super) fn source_gone(&mut self, node: NodeId, out: &mut Outbox) {
        let from_it: Vec<ObjectId> = self.pulls.table.keys().copied().collect();
        for id in from_it {
            let pull = self.pulls.table.get_mut(&id).expect("it was just listed");
            pull.locations.retain(|location| *location != node);
            if let Some(offer) = pull.stage.offer_mut().filter(|offer| offer.primary == node) {
                offer.primary = self.node;
            }
            if pull.stage.source() == Some(node) {
                self.leave_stage(id, out);
                self.try_next(id, Some(lost(id, &format!("node {}, which had it, died", node.0))));
            }
        }
        self.pulls.unwanted.retain(|(_, from), _| *from != node);
        for object in self.objects.values_mut() {
            object.primary = object.primary.filter(|primary| *primary != node);
        }
    }

    /// For [`Node::inspect`](crate::node::Node::inspect).
    pub(in crate::node) fn pulls(&self) -> impl Iterator<Item = (ObjectId, Option<NodeId>)> {
        self.pulls.table.iter().map(|(id, pull)| (*id, pull.stage.source()))
    }

    /// What the table says of itself must be true.
    pub(super) fn check_pulls(&self) {
        for (id, pull) in &self.pulls.table {
            assert!(!self.objects.contains_key(id), "{id:?} is pulled and here");
            assert!(!pull.readers.is_empty(), "{id:?} is pulled for somebody");
            let backing =
                |operation: &Operation| matches!(operation, Operation::Back { room, .. } if room.is_for(*id));
            let room =
                self.waiting.iter().any(|room| room.is_for(*id)) || self.operations.values().any(backing);
            assert_eq!(room, matches!(pull.stage, Stage::Room { .. }), "{id:?} waits for room");
            if let Stage::Fetching { operation, .. } = pull.stage {
                assert!(self.operations.contains_key(&operation), "{id:?} is being fetched");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TaskId;

    #[test]
    fn blocked_readers_come_first_and_nobody_passes_what_does_not_fit() {
        let owner = ProcessId::new(NodeId(1), 1);
        let object = |number| TaskId { owner, number }.object(0);
        // Urgent, offered bytes (0: not asked for yet) of objects 1, 2, …; under way (asked, urgent
        // bytes, all bytes); the budget; the chosen ones.
        type Case<'a> = (&'a [(bool, u64)], (usize, u64, u64), u64, &'a [u64]);
        let cases: [Case; 11] = [
            (&[], (0, 0, 0), 10, &[]),
            (&[(false, 0), (false, 0)], (0, 0, 0), 10, &[1, 2]),
            (&[(false, 0), (true, 0)], (0, 0, 0), 10, &[2, 1]),
            (&[(false, 0), (true, 0)], (16, 0, 0), 10, &[2]),
            (&[(false, 0), (true, 0)], (32, 0, 0), 10, &[]),
            // One always goes, however large.
            (&[(false, 99)], (0, 0, 0), 10, &[1]),
            (&[(false, 99)], (0, 0, 1), 10, &[]),
            (&[(false, 5), (false, 5), (false, 1)], (0, 0, 0), 10, &[1, 2]),
            // The large one waits for its turn, and the small one behind it, too.
            (&[(false, 8), (false, 1)], (0, 0, 5), 10, &[]),
            // What nobody is blocked by does not hold up what somebody is.
            (&[(false, 1), (true, 8)], (0, 0, 10), 10, &[2]),
            (&[(true, 8), (true, 8)], (0, 0, 10), 10, &[1]),
        ];
        for (index, (wanted, (asked, urgent_bytes, bytes), budget, expected)) in cases.into_iter().enumerate()
        {
            let mut candidates: Vec<Candidate> = (1..)
                .zip(wanted)
                .map(|(number, (urgent, size))| Candidate {
                    object: object(number),
                    urgent: *urgent,
                    number,
                    offered: (*size > 0).then_some(*size),
                })
                .collect();
            let chosen = next(&mut candidates, UnderWay { asked, urgent_bytes, bytes }, budget);
            let chosen: Vec<u64> = chosen.into_iter().map(|object| object.task.number).collect();
            assert_eq!(chosen, expected, "case {index}");
        }
    }
}

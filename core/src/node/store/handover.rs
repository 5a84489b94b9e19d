//! Objects of a node that is to be emptied: other nodes copy what it keeps, and keep it from then on.
//!
//! The node goes through its objects, and asks one other node after the other to take one. Who has a copy of
//! the object only has to keep that; the others pull one as if for a reader of their own. The owner hears of the
//! copy as of every copy, so it has another place to send readers when the node is gone. What is made here
//! meanwhile, and what nobody could take, has its turn in the next round.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::ops::Bound;

use super::Store;
use super::objects::Object;
use super::outbox::Outbox;
use super::pulls::{BUDGET_SHARE, Wanted};
use crate::deadlines::Deadlines;
use crate::ids::{JobId, NodeId, ObjectId, ProcessId};
use crate::machine::{Span, Time, Wakeup};
use crate::message::Message;
use crate::mutants::Mutant;

/// So many objects are handed over at a time, of at most as many bytes as a node pulls at a time.
const AT_ONCE: usize = 16;
/// From the end of a round to the beginning of the next.
const PAUSE: Span = Span::from_secs(1);

/// What this node hands over, and what it was asked to take.
#[derive(Clone, Debug, Default)]
pub(super) struct Handover {
    /// The nodes that may take something; none unless this one is to be emptied.
    successors: Vec<NodeId>,
    /// Counts the rounds, so that what one node could not take is offered to another.
    round: usize,
    /// Counts who is asked next.
    turn: usize,
    /// Who was asked to keep what, of how many bytes.
    asked: BTreeMap<ObjectId, (NodeId, u64)>,
    /// The object that this round has come to.
    reached: Option<ObjectId>,
    /// When the next round begins, if this one is over.
    next_round: Option<Time>,
    /// What other nodes have asked this one to keep and it does not have yet.
    promised: BTreeSet<(ObjectId, NodeId)>,
}

impl Store {
    /// This node is to be emptied, and these others may take what it keeps; without others it is not, or
    /// cannot be.
    pub(in crate::node) fn hand_over_to(&mut self, successors: Vec<NodeId>) {
        self.handover.successors = successors;
    }

    /// Ask other nodes to keep what only this one does.
    pub(super) fn hand_over(&mut self, out: &mut Outbox, deadlines: &mut Deadlines) {
        if self.handover.successors.is_empty() || !self.is_round(out.now, deadlines) {
            return;
        }
        while self.handover.asked.len() < AT_ONCE {
            let Some((id, object)) = self.next_kept() else {
                let next = out.now + PAUSE;
                self.handover.next_round = Some(next);
                return deadlines.arm(Wakeup::HandOver, next);
            };
            let (job, size) = (object.job, object.size);
            let under_way: u64 = self.handover.asked.values().map(|(_, size)| size).sum();
            if under_way > 0 && under_way.saturating_add(size) > self.capacity / BUDGET_SHARE {
                return;
            }
            let handover = &mut self.handover;
            let to = handover.successors[handover.turn % handover.successors.len()];
            handover.turn = handover.turn.wrapping_add(1);
            handover.reached = Some(id);
            handover.asked.insert(id, (to, size));
            out.send(ProcessId::daemon(to), Message::KeepObject { object: id, job });
        }
    }

    /// Whether a round is under way or begins now.
    fn is_round(&mut self, now: Time, deadlines: &mut Deadlines) -> bool {
        let handover = &mut self.handover;
        match handover.next_round {
            None => true,
            Some(_) if Mutant::HandOverOnce.is_active() => false,
            Some(next) if next > now => {
                deadlines.arm(Wakeup::HandOver, next);
                false
            }
            Some(_) => {
                handover.round = handover.round.wrapping_add(1);
                handover.turn = handover.round;
                (handover.next_round, handover.reached) = (None, None);
                true
            }
        }
    }

    /// The next object of this round that only this node keeps.
    fn next_kept(&self) -> Option<(ObjectId, &Object)> {
        let from = self.handover.reached.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.objects.range((from, Bound::Unbounded)).map(|(id, object)| (*id, object));
        rest.find(|(id, object)| object.is_kept() && !self.handover.asked.contains_key(id))
    }

    /// Another node has what it was asked to keep, as this attempt made it, or will not have it.
    pub(in crate::node) fn object_kept(&mut self, from: NodeId, id: ObjectId, attempt: Option<u32>) {
        if self.handover.asked.get(&id).is_none_or(|(node, _)| *node != from) {
            return;
        }
        self.handover.asked.remove(&id);
        if let Some(object) = self.objects.get_mut(&id)
            && attempt == Some(object.attempt)
        {
            object.primary = Some(from);
            self.hopeful = true;
        }
    }

    /// A node that is to be emptied wants an object kept here. It is told when that is so, or cannot be.
    pub(in crate::node) fn keep_object(&mut self, from: NodeId, id: ObjectId, job: JobId, out: &mut Outbox) {
        self.handover.promised.insert((id, from));
        if self.has(id) {
            return self.keep(id, out);
        }
        if !self.comes_to_stay(id) {
            let reader = self.keeper();
            self.pull(id, Wanted { reader, job, urgent: false, locations: [from].into() });
        }
    }

    /// Whether this node pulls an object that it is to keep.
    fn comes_to_stay(&self, id: ObjectId) -> bool {
        self.pulls.table.get(&id).is_some_and(|pull| pull.readers.contains(&self.keeper()))
    }

    /// The reader for whom this node pulls what it is to keep: itself.
    pub(super) fn keeper(&self) -> ProcessId {
        ProcessId::daemon(self.node)
    }

    /// What is here stays here, even if room is short.
    pub(super) fn keep(&mut self, id: ObjectId, out: &mut Outbox) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        object.primary = None;
        let attempt = Some(object.attempt);
        self.tell_askers(id, attempt, out);
    }

    /// Those who have asked this node to keep an object learn what came of it.
    pub(super) fn tell_askers(&mut self, id: ObjectId, attempt: Option<u32>, out: &mut Outbox) {
        let askers = (id, NodeId(0))..=(id, NodeId(u32::MAX));
        let askers: Vec<NodeId> = self.handover.promised.range(askers).map(|(_, node)| *node).collect();
        for node in askers {
            self.handover.promised.remove(&(id, node));
            out.send(ProcessId::daemon(node), Message::ObjectKept { object: id, attempt });
        }
    }

    /// Whether others keep everything that was made here, and nothing is being made, copied or read.
    pub(in crate::node) fn is_emptied(&self) -> bool {
        let is_still = self.unsealed.is_empty() && self.pulls.table.is_empty() && self.copied.is_empty();
        is_still && self.offers().next().is_none() && !self.objects.values().any(Object::is_kept)
    }

    /// A node is dead: it keeps nothing of what it was asked to.
    pub(super) fn successor_gone(&mut self, node: NodeId) {
        self.handover.asked.retain(|_, (to, _)| *to != node);
    }

    /// What the table says of itself must be true.
    pub(super) fn check_handover(&self) {
        for (id, node) in &self.handover.promised {
            assert!(self.comes_to_stay(*id), "{id:?} was promised to {node:?} and is not on its way");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TaskId;
    use crate::node::WorkResult;
    use crate::node::cluster::Cluster;
    use crate::node::harness::{afar, draining, summary};

    const MIB: u64 = 1 << 20;

    fn object(node: u32, number: u64) -> ObjectId {
        TaskId { owner: afar(node, 1), number }.object(0)
    }

    fn drain(cluster: &mut Cluster, node: u32, on: bool) {
        cluster.says(ProcessId::HEAD, node, draining(on));
    }

    /// So many nodes; the driver of the first has made an object of one MiB there.
    fn with_one(nodes: u32) -> (Cluster, ObjectId) {
        let (mut cluster, x) = (Cluster::new(nodes, 64 * MIB), object(1, 1));
        cluster.put(afar(1, 1), x, MIB);
        (cluster, x)
    }

    /// Who keeps an object, and who has a copy.
    fn places(cluster: &Cluster, object: ObjectId) -> (Vec<u32>, Vec<u32>) {
        let (mut kept, mut copies) = (Vec::new(), Vec::new());
        for (node, harness) in &cluster.nodes {
            for (_, primary) in harness.node.inspect().objects.iter().filter(|(id, _)| *id == object) {
                if primary.is_some() { &mut copies } else { &mut kept }.push(node.0);
            }
        }
        (kept, copies)
    }

    fn keeps(cluster: &Cluster, node: u32) -> u64 {
        cluster.nodes[&NodeId(node)].node.inspect().store.kept
    }

    #[test]
    fn what_a_draining_node_keeps_others_keep_in_turns_and_owners_learn_of_it() {
        let mut cluster = Cluster::new(3, 64 * MIB);
        let objects: Vec<ObjectId> = (1..=40).map(|number| object(2, number)).collect();
        objects.iter().for_each(|object| cluster.put(afar(2, 1), *object, 1_000));
        drain(&mut cluster, 2, true);
        cluster.run();
        assert_eq!(cluster.fetches().len(), AT_ONCE, "not all at once");
        cluster.finish_all();
        assert_eq!([1, 2, 3].map(|node| keeps(&cluster, node)), [20, 0, 20]);
        let told = cluster.told(afar(2, 1));
        let added = |message: &&Message| matches!(message, Message::CopyAdded { .. });
        assert_eq!(told.iter().filter(added).count(), 40);
        // What is made later, too.
        let late = object(2, 41);
        cluster.put(afar(2, 1), late, 1_000);
        cluster.pass(PAUSE);
        cluster.finish_all();
        assert_eq!(keeps(&cluster, 2), 0);
        cluster.die(2);
        assert_eq!(places(&cluster, late).0.len(), 1, "it survives the node");
        assert!(cluster.offers.is_empty());
    }

    #[test]
    fn who_has_a_copy_keeps_that() {
        let (mut cluster, x) = with_one(2);
        cluster.pin(afar(2, 1), x, &[1]);
        cluster.finish_all();
        assert_eq!(places(&cluster, x), ([1].into(), [2].into()));
        drain(&mut cluster, 1, true);
        cluster.run();
        assert_eq!((cluster.fetches().len(), places(&cluster, x)), (0, ([2].into(), [1].into())));
    }

    #[test]
    fn what_nobody_could_take_is_offered_to_the_next_one_later() {
        let (mut cluster, x) = with_one(3);
        drain(&mut cluster, 1, true);
        cluster.run();
        let [(first, _, fetch)] = cluster.fetches()[..] else { panic!("{:?}", cluster.work) };
        let full = crate::value::Failure::StoreFull { detail: "full".into() };
        cluster.finish(first, fetch, WorkResult::Failed(full));
        cluster.run();
        assert_eq!((cluster.fetches().len(), keeps(&cluster, 1)), (0, 1));
        cluster.pass(PAUSE);
        cluster.run();
        let [(second, _, _)] = cluster.fetches()[..] else { panic!("{:?}", cluster.work) };
        assert_ne!(first, second);
        // That one dies.
        cluster.die(second.0);
        cluster.pass(PAUSE);
        cluster.finish_all();
        assert_eq!(places(&cluster, x), ([first.0].into(), [1].into()));
    }

    #[test]
    fn nothing_goes_to_nodes_that_drain_and_nothing_goes_when_the_drain_is_called_off() {
        let mut cluster = Cluster::new(3, 64 * MIB);
        let objects: Vec<ObjectId> = (1..=30).map(|number| object(1, number)).collect();
        objects.iter().for_each(|object| cluster.put(afar(1, 1), *object, 1_000));
        // Of a draining node the head says that it has nothing but what groups have there.
        cluster.node(1).view(&[summary(2, &[("CPU_group_1", 1.0)]), summary(3, &[("CPU", 8.0)])]);
        drain(&mut cluster, 1, true);
        cluster.run();
        drain(&mut cluster, 1, false);
        cluster.finish_all();
        assert_eq!([1, 2, 3].map(|node| keeps(&cluster, node)), [30 - AT_ONCE as u64, 0, AT_ONCE as u64]);
        cluster.pass(PAUSE);
        assert_eq!(cluster.fetches(), []);
    }

    #[test]
    fn a_node_that_drains_takes_nothing_from_one_that_does_not_know() {
        let mut cluster = Cluster::new(3, 64 * MIB);
        let objects: Vec<ObjectId> = (1..=4).map(|number| object(1, number)).collect();
        objects.iter().for_each(|object| cluster.put(afar(1, 1), *object, 1_000));
        drain(&mut cluster, 2, true);
        drain(&mut cluster, 1, true);
        for _ in 0..8 {
            cluster.finish_all();
            cluster.pass(PAUSE);
        }
        assert_eq!([1, 2, 3].map(|node| keeps(&cluster, node)), [0, 0, 4]);
    }

    #[test]
    fn what_is_freed_on_its_way_is_kept_nowhere() {
        let (mut cluster, x) = with_one(2);
        drain(&mut cluster, 1, true);
        cluster.run();
        for node in [1, 2] {
            cluster.says(afar(1, 1), node, Message::FreeObject { object: x, attempt: u32::MAX });
        }
        cluster.finish_all();
        assert_eq!(places(&cluster, x), ([].into(), [].into()));
    }
}

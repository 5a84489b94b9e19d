//! Where the bytes of stored objects are.
//!
//! The outcome of a stored object names one node. Nodes that copy the object for their own readers tell
//! the owner, who keeps the list. A reader is sent where the fewest were sent before, so that those who come
//! after the first copies read from these: a broadcast becomes a tree. (Who asks before there is any copy is sent
//! to where the object was made; that node sends on whom it has no time for.) Nodes die with their copies; an object
//! whose last copy went is made again, or is lost and says why.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use super::objects::State;
use super::{Out, Owner};
use crate::ids::{NodeId, ObjectId, ProcessId};
use crate::machine::Time;
use crate::message::Message;
use crate::mutants::Mutant;
use crate::value::{Outcome, Payload, Value};

/// The copies of a stored object beside the one that its outcome names.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    copies: Vec<Copy>,
    /// Readers that were sent to the node that the outcome names. The first copy came from there.
    named: u32,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
struct Copy {
    node: NodeId,
    /// Readers that were sent there.
    readers: u32,
}

impl Copies {
    fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.copies.iter().map(|copy| copy.node)
    }

    fn at(&self, node: NodeId) -> Option<usize> {
        self.copies.iter().position(|copy| copy.node == node)
    }

    /// Where the next reader is sent, if `named` is the node that the outcome names.
    fn next(&mut self, named: NodeId) -> NodeId {
        let (node, readers) = match self.copies.iter_mut().min_by_key(|copy| copy.readers) {
            Some(copy) if copy.readers < self.named => (copy.node, &mut copy.readers),
            _ => (named, &mut self.named),
        };
        *readers = readers.saturating_add(1);
        node
    }
}

/// The value of an outcome that has one.
fn value_of(outcome: &Outcome) -> Option<&Value> {
    match outcome {
        Outcome::Value(value) | Outcome::Exception(value) => Some(value),
        Outcome::Failure(_) => None,
    }
}

/// The node that a stored outcome names.
pub(super) fn named_location(outcome: &Outcome) -> Option<NodeId> {
    match value_of(outcome)?.payload {
        Payload::Stored { node, .. } => Some(node),
        Payload::Inline(_) => None,
    }
}

pub(super) fn name_location(outcome: &mut Outcome, at: NodeId) {
    if let Outcome::Value(value) | Outcome::Exception(value) = outcome
        && let Payload::Stored { node, .. } = &mut value.payload
    {
        *node = at;
    }
}

impl Owner {
    /// Where the object's bytes are, as far as this process knows; a reader here asks in this order.
    pub(super) fn locations(&self, object: ObjectId) -> Vec<NodeId> {
        let Some(named) = self.outcome(object).and_then(named_location) else {
            return Vec::new();
        };
        let mut locations = vec![named];
        if let Some(copies) = self.copies.get(&object) {
            locations.extend(copies.nodes());
            let here = self.node();
            locations.sort_by_key(|node| *node != here);
        }
        locations
    }

    /// Whether an object that was at `node` is not there any more, and somewhere else.
    pub(super) fn has_moved(&self, object: ObjectId, node: Option<NodeId>) -> bool {
        let locations = self.locations(object);
        node.is_some_and(|node| !locations.is_empty() && !locations.contains(&node))
    }

    /// The outcome of an object as a reader on `reader` is told it: the bytes are there, or where the fewest
    /// were sent.
    pub(super) fn outcome_for(&mut self, object: ObjectId, reader: NodeId) -> Option<Outcome> {
        let mut outcome = self.outcome(object)?.clone();
        let Some(copies) = self.copies.get_mut(&object) else {
            return Some(outcome);
        };
        let named = named_location(&outcome)?;
        let has_it = named == reader || copies.at(reader).is_some();
        let at = if has_it { reader } else { copies.next(named) };
        name_location(&mut outcome, at);
        Some(outcome)
    }

    /// Somebody who knows better says where a borrowed object's bytes are.
    pub(super) fn told_location(&mut self, object: ObjectId, value: &Value) {
        let owned = self.is_owned(object);
        if let Payload::Stored { node, .. } = value.payload
            && let Some(State::Ready(outcome)) = self.objects.get_mut(&object).map(|record| &mut record.state)
            && !owned
        {
            name_location(outcome, node);
        }
    }

    /// A node has copied the object for its readers, or tells an heir what it has.
    pub(super) fn copy_added(&mut self, object: ObjectId, node: NodeId, attempt: u32, out: Out<'_>) {
        let message = Message::CopyAdded { object, node, attempt };
        let daemon = ProcessId::daemon(node);
        if self.is_dead_node(node) || self.keep_early(daemon, object, message, out) {
            return;
        }
        let unknown = self.objects.get(&object).is_none_or(|record| matches!(record.state, State::Unknown));
        if unknown && self.copy_while_mourning(object, node, attempt, out) {
            return;
        }
        // A copy of what an earlier attempt made is not a copy of what is there now.
        let current = self.present_attempt(object) == attempt;
        let named = self.outcome(object).filter(|_| current).and_then(named_location);
        match named {
            Some(named) if self.is_owned(object) => {
                let first = || Copies { copies: Vec::new(), named: 1 };
                let copies = self.copies.entry(object).or_insert_with(first);
                if named != node && copies.at(node).is_none() {
                    copies.copies.push(Copy { node, readers: 0 });
                }
            }
            _ if Mutant::KeepStrayCopy.is_active() => {}
            _ => self.send(daemon, Message::FreeObject { object, attempt }, out),
        }
    }

    /// A node has dropped the copy that it had made.
    pub(super) fn copy_removed(&mut self, object: ObjectId, node: NodeId, attempt: u32) {
        if self.is_owned(object) && self.present_attempt(object) == attempt {
            self.forget_location(object, node);
        }
    }

    /// The attempt whose value the object has.
    fn present_attempt(&self, object: ObjectId) -> u32 {
        self.objects.get(&object).map_or(0, |record| record.attempt)
    }

    /// The object's bytes are not needed any more: free the copies that the outcome does not name.
    pub(super) fn free_copies(&mut self, object: ObjectId, attempt: u32, out: Out<'_>) {
        let copies = self.copies.swap_remove(&object);
        for Copy { node, .. } in copies.map(|copies| copies.copies).unwrap_or_default() {
            self.send(ProcessId::daemon(node), Message::FreeObject { object, attempt }, out);
        }
    }

    /// A reader could not get the bytes there.
    pub(super) fn missing_at(&mut self, now: Time, object: ObjectId, node: NodeId, out: Out<'_>) {
        let attempt = self.present_attempt(object);
        if self.forget_location(object, node) {
            self.send(ProcessId::daemon(node), Message::CopyMissing { object, attempt }, out);
        } else if self.outcome(object).and_then(named_location) == Some(node) {
            let cause = format!("node {} does not have it any more", node.0);
            self.lost(now, object, &cause, out);
        }
    }

    /// Forget one of several locations. Says whether there was another one left.
    pub(super) fn forget_location(&mut self, object: ObjectId, node: NodeId) -> bool {
        let Some(copies) = self.copies.get_mut(&object) else {
            return false;
        };
        if let Some(at) = copies.at(node) {
            copies.copies.remove(at);
            return true;
        }
        let Some(State::Ready(outcome)) = self.objects.get_mut(&object).map(|record| &mut record.state)
        else {
            return false;
        };
        if named_location(outcome) != Some(node) || copies.copies.is_empty() {
            return false;
        }
        let Copy { node, readers } = copies.copies.remove(0);
        copies.named = readers;
        name_location(outcome, node);
        true
    }

    /// A node died with its copies: who has none left is made again, or lost.
    pub(super) fn copies_of_dead_node(&mut self, now: Time, node: NodeId, out: Out<'_>) {
        for copies in self.copies.values_mut() {
            copies.copies.retain(|copy| copy.node != node);
        }
        let named = |state: &State| match state {
            State::Ready(outcome) => named_location(outcome) == Some(node),
            _ => false,
        };
        let objects = self.objects.iter().filter(|(_, record)| named(&record.state));
        let mut objects: Vec<ObjectId> = objects.map(|(object, _)| *object).collect();
        objects.retain(|object| self.is_owned(*object));
        objects.sort_unstable();
        for object in objects {
            let again = self.outcome(object).and_then(named_location) == Some(node);
            if again && !self.forget_location(object, node) {
                let cause = format!("its only copy was on node {}, which died", node.0);
                self.lost(now, object, &cause, out);
            }
        }
    }
}

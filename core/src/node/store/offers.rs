//! Objects that other nodes read here: their daemons pin them like readers of this node.

use alloc::vec::Vec;

use super::Store;
use super::objects::{Place, lost};
use super::outbox::Outbox;
use crate::ids::{NodeId, ObjectId, ProcessId};
use crate::message::Message;
use crate::node::Effect;
use crate::value::Failure;

impl Store {
    /// Another node wants a copy. Answered once: by an offer, or by why not.
    pub(in crate::node) fn pull_object(&mut self, from: NodeId, id: ObjectId, out: &mut Outbox) {
        let reader = ProcessId::daemon(from);
        if self.is_reader(reader, id) {
            // It has asked, and has not said that it is done.
            return;
        }
        if !self.has(id) && self.primary_of_dropped(id, out.now).is_some() {
            let failure = lost(id, "its copy on this node was dropped");
            return self.refuse_reader(reader, id, failure, out);
        }
        self.pin(reader, id, false, out);
    }

    /// The other node has its copy, or does not want one any more.
    pub(in crate::node) fn pull_ended(&mut self, from: NodeId, id: ObjectId, out: &mut Outbox) {
        let reader = ProcessId::daemon(from);
        if self.pins.get(&reader).is_some_and(|pins| pins.contains_key(&id)) {
            return self.unpin(reader, id, out);
        }
        let mut waited = false;
        if let Some(unsealed) = self.unsealed.get_mut(&id) {
            waited |= remove(&mut unsealed.readers, reader);
            if unsealed.readers.is_empty() {
                self.unsealed.remove(&id);
            }
        }
        if let Some(object) = self.objects.get_mut(&id) {
            waited |= remove(&mut object.readers, reader);
            self.unqueue(id);
        }
        if waited {
            // Each question has one answer, so that the other node knows which it is that comes.
            self.refuse_reader(reader, id, Failure::Cancelled, out);
        }
    }

    /// Whom another node that wants a copy is to ask instead, if enough nodes copy the object from here now.
    pub(super) fn ask_instead(&self, reader: ProcessId, id: ObjectId) -> Option<NodeId> {
        if !reader.is_daemon() || self.objects.get(&id)?.size < self.large_object {
            return None;
        }
        let copying = || self.offers().filter(|(_, object)| *object == id).map(|(node, _)| node);
        let count = copying().count();
        if count < self.copying_max { None } else { copying().nth(reader.node().0 as usize % count) }
    }

    fn is_reader(&self, reader: ProcessId, id: ObjectId) -> bool {
        let waits = |readers: &Vec<ProcessId>| readers.contains(&reader);
        self.pins.get(&reader).is_some_and(|pins| pins.contains_key(&id))
            || self.objects.get(&id).is_some_and(|object| waits(&object.readers))
            || self.unsealed.get(&id).is_some_and(|unsealed| waits(&unsealed.readers))
    }

    /// An object is in memory until the reader, which has pinned it, says that it is done.
    pub(super) fn tell_reader(&self, reader: ProcessId, id: ObjectId, out: &mut Outbox) {
        let object = &self.objects[&id];
        let Place::Memory(offset) = object.place else { unreachable!("{id:?} is in memory") };
        let (attempt, size) = (object.attempt, object.size);
        if reader.is_daemon() {
            out.push(Effect::Offer { to: reader.node(), object: id, offset, size });
            let primary = object.primary.unwrap_or(self.node);
            out.send(reader, Message::PullReady { object: id, attempt, size, primary });
        } else {
            out.send(reader, Message::Pinned { object: id, offset, size });
        }
    }

    /// A reader will not get the object here.
    pub(super) fn refuse_reader(
        &mut self,
        reader: ProcessId,
        id: ObjectId,
        failure: Failure,
        out: &mut Outbox,
    ) {
        if reader == self.keeper() {
            return self.tell_askers(id, None, out);
        }
        let message = if reader.is_daemon() {
            Message::PullFailed { object: id, failure }
        } else {
            Message::PinFailed { object: id, failure }
        };
        out.send(reader, message);
    }

    pub(super) fn refuse_all(
        &mut self,
        readers: Vec<ProcessId>,
        id: ObjectId,
        failure: &Failure,
        out: &mut Outbox,
    ) {
        for reader in readers {
            self.refuse_reader(reader, id, failure.clone(), out);
        }
    }

    /// A reader does not read an object any more.
    pub(super) fn withdraw(&self, reader: ProcessId, id: ObjectId, out: &mut Outbox) {
        if reader.is_daemon() {
            out.push(Effect::Withdraw { to: reader.node(), object: id });
        }
    }

    /// For [`Node::inspect`](crate::node::Node::inspect).
    pub(in crate::node) fn offers(&self) -> impl Iterator<Item = (NodeId, ObjectId)> {
        let readers = self.pins.iter().filter(|(reader, _)| reader.is_daemon());
        readers.flat_map(|(reader, pins)| pins.keys().map(|id| (reader.node(), *id)))
    }

    /// A node is dead: it reads nothing here, nothing comes from it, and it keeps nothing.
    pub(in crate::node) fn node_gone(&mut self, node: NodeId, out: &mut Outbox) {
        self.reader_gone(ProcessId::daemon(node), out);
        self.source_gone(node, out);
        self.successor_gone(node);
        self.hopeful = true;
    }
}

fn remove(readers: &mut Vec<ProcessId>, reader: ProcessId) -> bool {
    let before = readers.len();
    readers.retain(|other| *other != reader);
    readers.len() < before
}

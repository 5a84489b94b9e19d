//! Objects in the shared store that this process reads: pinned at the node while somebody does.

use alloc::vec::Vec;

use super::{Effect, Out, Owner};
use crate::ids::{NodeId, ObjectId};
use crate::machine::{Time, Wakeup};
use crate::message::Message;

/// An object of the store as this process sees it.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    state: Pin,
    /// Where the bytes were said to be when the node was asked for them.
    asked_at: Option<NodeId>,
    /// Buffers of the program and running tasks that look at the bytes.
    readers: u32,
    /// When the last reader went.
    idle_since: Time,
}

#[derive(Clone, Debug)]
enum Pin {
    Asked,
    Held { offset: u64, size: u64 },
}

impl Mapping {
    /// For [`Owner::inspect`].
    pub(super) fn readers(&self) -> u32 {
        self.readers
    }
}

impl Owner {
    /// Ask the node for the bytes of a stored object unless that has been done.
    pub(super) fn pin(&mut self, now: Time, object: ObjectId, out: Out<'_>) {
        if self.mappings.contains_key(&object) {
            return;
        }
        let locations = self.locations(object);
        let asked_at = locations.first().copied();
        self.mappings.insert(object, Mapping { state: Pin::Asked, asked_at, readers: 0, idle_since: now });
        self.send(self.daemon(), Message::Pin { object, locations }, out);
    }

    /// Where a stored object lies, if it is pinned; the caller becomes one more reader.
    pub fn open(&mut self, object: ObjectId) -> Option<(u64, u64)> {
        let mapping = self.mappings.get_mut(&object)?;
        let Pin::Held { offset, size } = mapping.state else {
            return None;
        };
        mapping.readers += 1;
        Some((offset, size))
    }

    /// Whether the object has an outcome whose bytes are in the store and were not asked for.
    pub fn is_elsewhere(&self, object: ObjectId) -> bool {
        self.has_outcome(object)
            && !self.mappings.contains_key(&object)
            && matches!(self.lookup(object), super::Lookup::NotReady)
    }

    /// A task's argument: it stays pinned from the moment it is until [`Owner::remove_reader`].
    pub(super) fn pin_argument(&mut self, now: Time, object: ObjectId, out: Out<'_>) {
        self.pin(now, object, out);
        if let Some(mapping) = self.mappings.get_mut(&object) {
            mapping.readers += 1;
        }
    }

    /// Whether the bytes of a stored object are pinned for this process, so that it can be opened.
    pub fn is_pinned(&self, object: ObjectId) -> bool {
        self.mappings.get(&object).is_some_and(|m| matches!(m.state, Pin::Held { .. }))
    }

    pub(super) fn pinned(&mut self, now: Time, object: ObjectId, offset: u64, size: u64, out: Out<'_>) {
        let Some(mapping) = self.mappings.get_mut(&object) else {
            // Given up meanwhile.
            self.send(self.daemon(), Message::Unpin { object }, out);
            return;
        };
        mapping.state = Pin::Held { offset, size };
        mapping.idle_since = now;
        out.push(Effect::Changed { object });
        self.argument_pinned(object, out);
    }

    pub(super) fn remove_reader(&mut self, now: Time, object: ObjectId) {
        if let Some(mapping) = self.mappings.get_mut(&object) {
            mapping.readers = mapping.readers.saturating_sub(1);
            mapping.idle_since = now;
        }
    }

    /// The object is gone or moved: forget the pin if nobody reads.
    pub(super) fn unmap(&mut self, object: ObjectId, out: Out<'_>) {
        // One that was only asked for is answered first, and goes once it has been idle.
        let idle = |m: &Mapping| m.readers == 0 && matches!(m.state, Pin::Held { .. });
        if self.mappings.get(&object).is_some_and(idle) {
            self.mappings.remove(&object);
            self.send(self.daemon(), Message::Unpin { object }, out);
        }
    }

    /// The object is being made again: a pin that was only asked for is asked for anew then. One
    /// that is held stays, for somebody reads the old bytes, and goes with the last reader.
    pub(super) fn forget_asked(&mut self, object: ObjectId) {
        if !self.is_pinned(object) {
            self.mappings.remove(&object);
        }
    }

    /// The node refused the pin. Returns where the bytes were looked for, which need not be where they
    /// are said to be by now.
    pub(super) fn forget_mapping(&mut self, object: ObjectId) -> Option<NodeId> {
        self.mappings.remove(&object)?.asked_at
    }

    pub(super) fn unpin_due(&mut self, now: Time, out: Out<'_>) {
        let keep = self.config.unpin_after;
        let mut idle: Vec<ObjectId> = self
            .mappings
            .iter()
            .filter(|(_, m)| m.readers == 0 && matches!(m.state, Pin::Held { .. }))
            .filter(|(_, m)| m.idle_since + keep <= now)
            .map(|(object, _)| *object)
            .collect();
        idle.sort_unstable();
        for object in idle {
            self.unmap(object, out);
        }
    }

    pub(super) fn unpin_deadline(&self) -> Option<(Time, Wakeup)> {
        self.mappings
            .values()
            .filter(|m| m.readers == 0 && matches!(m.state, Pin::Held { .. }))
            .map(|m| (m.idle_since + self.config.unpin_after, Wakeup::Resend))
            .min()
    }
}

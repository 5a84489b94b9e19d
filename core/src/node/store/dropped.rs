//! Copies that were dropped because room was short.
//!
//! Their owners learn of it, and until they have, they send readers here. Such a reader must not wait
//! for an object as if it were about to be sealed: it reads where the copy came from.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::Store;
use super::objects::SEALED_WITHIN;
use crate::ids::{NodeId, ObjectId};
use crate::machine::Time;

/// How many copies are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// Copies that were dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Dropped {
    /// Those whose owners do not know yet, and which attempt had made them.
    news: Vec<(ObjectId, u32)>,
    /// When each was dropped, and the node that keeps the object.
    remembered: BTreeMap<ObjectId, (Time, NodeId)>,
}

impl Dropped {
    pub(super) fn add(&mut self, object: ObjectId, attempt: u32, primary: NodeId, now: Time) {
        self.news.push((object, attempt));
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.retain(|_, (at, _)| *at + SEALED_WITHIN > now);
        }
        if self.remembered.len() < REMEMBERED_MAX {
            self.remembered.insert(object, (now, primary));
        }
    }

    /// The object is here again.
    pub(super) fn forget(&mut self, object: ObjectId) {
        self.remembered.remove(&object);
    }

    /// The node that keeps an object of which a copy was dropped here a moment ago.
    pub(super) fn primary(&self, object: ObjectId, now: Time) -> Option<NodeId> {
        let (at, primary) = self.remembered.get(&object)?;
        (*at + SEALED_WITHIN > now).then_some(*primary)
    }
}

impl Store {
    /// The copies that were dropped since the last call.
    pub(in crate::node) fn take_dropped(&mut self) -> Vec<(ObjectId, u32)> {
        core::mem::take(&mut self.dropped.news)
    }

    /// Who keeps an object of which there was a copy here until a moment ago.
    pub(in crate::node) fn primary_of_dropped(&self, object: ObjectId, now: Time) -> Option<NodeId> {
        self.dropped.primary(object, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ProcessId, TaskId};
    use crate::machine::Span;

    #[test]
    fn what_was_dropped_is_remembered_for_a_while_and_not_without_bound() {
        let owner = ProcessId::new(NodeId(1), 1);
        let object = |number: u64| TaskId { owner, number }.object(0);
        let (start, primary) = (Time::default(), NodeId(3));
        let mut dropped = Dropped::default();
        dropped.add(object(0), 0, primary, start);
        assert_eq!(dropped.primary(object(0), start + Span::from_secs(4)), Some(primary));
        assert_eq!(dropped.primary(object(0), start + SEALED_WITHIN), None);
        for number in 1..2 * REMEMBERED_MAX as u64 {
            dropped.add(object(number), 0, primary, start);
        }
        assert_eq!(dropped.remembered.len(), REMEMBERED_MAX);
        let later = start + SEALED_WITHIN;
        dropped.add(object(0), 0, primary, later);
        assert_eq!((dropped.remembered.len(), dropped.primary(object(0), later)), (1, Some(primary)));
        dropped.forget(object(0));
        assert_eq!(dropped.primary(object(0), later), None);
    }
}

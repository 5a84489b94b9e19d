//! Copies that were dropped because room was short.
//!
//! Their owners learn of it, and until they have, they send readers here. Such a reader must not wait
//! for an object as if it were about to be sealed: it reads where the copy came from.

use alloc::vec::Vec;

use super::Store;
use super::recent::Recent;
use crate::ids::{NodeId, ObjectId};
use crate::machine::Time;

/// Copies that were dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Dropped {
    /// Those whose owners do not know yet, and which attempt had made them.
    news: Vec<(ObjectId, u32)>,
    /// The node that keeps the object.
    primaries: Recent<NodeId>,
}

impl Dropped {
    pub(super) fn add(&mut self, object: ObjectId, attempt: u32, primary: NodeId, now: Time) {
        self.news.push((object, attempt));
        self.primaries.remember(object, primary, now);
    }

    /// The object is here again.
    pub(super) fn forget(&mut self, object: ObjectId) {
        self.primaries.forget(object);
    }
}

impl Store {
    /// The copies that were dropped since the last call.
    pub(in crate::node) fn take_dropped(&mut self) -> Vec<(ObjectId, u32)> {
        core::mem::take(&mut self.dropped.news)
    }

    /// Who keeps an object of which there was a copy here until a moment ago.
    pub(in crate::node) fn primary_of_dropped(&self, object: ObjectId, now: Time) -> Option<NodeId> {
        self.dropped.primaries.get(object, now)
    }
}

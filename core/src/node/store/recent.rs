//! What a store remembers of objects that it does not have: for as long as news of them may be on its way.

use alloc::collections::BTreeMap;

use super::objects::SEALED_WITHIN;
use crate::ids::ObjectId;
use crate::machine::Time;

/// How many objects are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// Something of each object, for [`SEALED_WITHIN`]. While that is known of [`REMEMBERED_MAX`] objects no more
/// is remembered.
#[derive(Clone, Debug)]
pub(super) struct Recent<T>(BTreeMap<ObjectId, (Time, T)>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Recent(BTreeMap::new())
    }
}

impl<T: Copy> Recent<T> {
    pub(super) fn remember(&mut self, object: ObjectId, what: T, now: Time) {
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, (at, _)| *at + SEALED_WITHIN > now);
        }
        if self.0.len() < REMEMBERED_MAX {
            self.0.insert(object, (now, what));
        }
    }

    /// What was remembered a moment ago.
    pub(super) fn get(&self, object: ObjectId, now: Time) -> Option<T> {
        self.last(object).filter(|(at, _)| *at + SEALED_WITHIN > now).map(|(_, what)| what)
    }

    /// What was remembered last, and when, be it long ago.
    pub(super) fn last(&self, object: ObjectId) -> Option<(Time, T)> {
        self.0.get(&object).copied()
    }

    pub(super) fn forget(&mut self, object: ObjectId) {
        self.0.remove(&object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, ProcessId, TaskId};
    use crate::machine::Span;

    #[test]
    fn objects_are_remembered_for_a_while_and_not_without_bound() {
        let owner = ProcessId::new(NodeId(1), 1);
        let object = |number: u64| TaskId { owner, number }.object(0);
        let start = Time::default();
        let mut recent = Recent::default();
        recent.remember(object(0), 'a', start);
        assert_eq!(recent.get(object(0), start + Span::from_secs(4)), Some('a'));
        assert_eq!(recent.get(object(0), start + SEALED_WITHIN), None);
        assert_eq!(recent.last(object(0)), Some((start, 'a')));
        for number in 1..2 * REMEMBERED_MAX as u64 {
            recent.remember(object(number), 'b', start);
        }
        assert_eq!(recent.0.len(), REMEMBERED_MAX);
        let later = start + SEALED_WITHIN;
        recent.remember(object(0), 'c', later);
        assert_eq!((recent.0.len(), recent.get(object(0), later)), (1, Some('c')));
        recent.forget(object(0));
        assert_eq!(recent.get(object(0), later), None);
    }
}

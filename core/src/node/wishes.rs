//! Bundles that the head wanted and that there was no room for: they wait here without a place in the queue.
//!
//! The head asks again and again, of this node or of others, so a wish ends when it has not been repeated
//! for a while, or when its bundles are set aside.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use super::Node;
use crate::ids::GroupId;
use crate::machine::{Span, Time, Wakeup};
use crate::resources::{Demand, Resources};

/// A wish that was not repeated for so long is none any more. The head repeats what it wants within one.
const KEPT: Span = Span::from_secs(3);

/// Bundles of one group.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// What all bundles ask for together.
    pub(super) demand: Arc<Demand>,
    pub(super) since: Time,
    repeated: Time,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes(BTreeMap<GroupId, Wish>);

impl Wishes {
    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupId, &Wish)> {
        self.0.iter().map(|(group, wish)| (*group, wish))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn end(&mut self, group: GroupId) {
        self.0.remove(&group);
    }
}

impl Node {
    /// There is no room for these bundles.
    pub(super) fn wish(&mut self, group: GroupId, bundles: &[(u32, Resources)], now: Time) {
        let mut demand = Demand::default();
        bundles.iter().for_each(|(_, amounts)| demand.resources.add(amounts));
        let fresh = Wish { demand: Arc::new(Demand::default()), since: now, repeated: now };
        let wish = self.wishes.0.entry(group).or_insert(fresh);
        wish.repeated = now;
        if *wish.demand != demand {
            wish.demand = Arc::new(demand);
        }
    }

    /// Forget what is not wanted any more.
    pub(super) fn expire_wishes(&mut self, now: Time) {
        self.wishes.0.retain(|_, wish| wish.repeated + KEPT > now);
        if let Some(first) = self.wishes.0.values().map(|wish| wish.repeated + KEPT).min() {
            self.deadlines.arm(Wakeup::HoldBack, first);
        }
    }
}

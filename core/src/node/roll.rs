//! The other nodes that live, in the order of their numbers, and where there is room.
//!
//! A table in one piece: the head tells of thousands of nodes at once, in the order of their numbers, and each is
//! found right behind the one before. Where there is room is found out when somebody looks for it, a bit for each
//! place, so that whoever looks passes over 64 nodes without any at a time.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::ids::NodeId;
use crate::message::NodeSummary;
use crate::resources::{Quantity, Resources};

/// Summaries by the number of their nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Roll {
    nodes: Vec<Listed>,
    /// None if it is to be found out.
    room: Option<Room>,
}

#[derive(Clone, Debug)]
struct Listed {
    node: NodeId,
    summary: Arc<NodeSummary>,
}

impl Roll {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Where a node is, or would be.
    pub(super) fn place(&self, node: NodeId) -> Result<usize, usize> {
        self.nodes.binary_search_by_key(&node, |listed| listed.node)
    }

    /// The same, looking at one place first.
    pub(super) fn place_near(&self, node: NodeId, near: usize) -> Result<usize, usize> {
        match self.nodes.get(near) {
            Some(listed) if listed.node == node => Ok(near),
            _ => self.place(node),
        }
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Arc<NodeSummary>> {
        let place = self.place(node).ok()?;
        Some(&self.nodes[place].summary)
    }

    pub(super) fn contains(&self, node: NodeId) -> bool {
        self.place(node).is_ok()
    }

    /// Who is at a place that [`Roll::place`] has found.
    pub(super) fn at(&self, place: usize) -> &Arc<NodeSummary> {
        &self.nodes[place].summary
    }

    /// Note what is known of a node, which has this place or gets it. Says where it is.
    pub(super) fn set(&mut self, summary: Arc<NodeSummary>, place: Result<usize, usize>) -> usize {
        match place {
            Ok(place) => {
                if let Some(room) = &mut self.room {
                    room.mark(place, is_roomy(&summary));
                }
                self.nodes[place].summary = summary;
                place
            }
            Err(place) => {
                self.room = None;
                self.nodes.insert(place, Listed { node: summary.node, summary });
                place
            }
        }
    }

    /// Take up news as far as they are of living nodes that have this place and those after it. Says of how many.
    pub(super) fn renew_from(&mut self, place: usize, news: &[Arc<NodeSummary>]) -> usize {
        let mut count = 0;
        for (listed, summary) in self.nodes.iter_mut().skip(place).zip(news) {
            if listed.node != summary.node || !summary.alive {
                break;
            }
            listed.summary = summary.clone();
            count += 1;
        }
        if count > 0 {
            self.room = None;
        }
        count
    }

    pub(super) fn remove(&mut self, node: NodeId) {
        if let Ok(place) = self.place(node) {
            self.room = None;
            self.nodes.remove(place);
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &NodeSummary> {
        self.nodes.iter().map(|listed| &*listed.summary)
    }

    /// All of them, beginning after one.
    pub(super) fn iter_after(&self, node: NodeId) -> impl Iterator<Item = &NodeSummary> {
        let (before, after) = self.nodes.split_at(self.first_after(node));
        after.iter().chain(before).map(|listed| &*listed.summary)
    }

    /// Those where a whole CPU is free, beginning after one.
    pub(super) fn roomy_after(&mut self, node: NodeId) -> impl Iterator<Item = &NodeSummary> {
        let (first, end) = (self.first_after(node), self.nodes.len());
        let room = self.room.get_or_insert_with(|| Room::of(&self.nodes));
        let places = room.within(first, end).chain(room.within(0, first));
        places.map(|place| &*self.nodes[place].summary)
    }

    fn first_after(&self, node: NodeId) -> usize {
        self.nodes.partition_point(|listed| listed.node <= node)
    }

    /// What the table says of itself must be true.
    pub(super) fn check(&self) {
        assert!(self.nodes.is_sorted_by(|one, next| one.node < next.node), "each is listed once");
        if let Some(room) = &self.room {
            assert_eq!(*room, Room::of(&self.nodes));
        }
    }
}

/// Where a whole CPU is free.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Room {
    /// A bit for each place.
    places: Vec<u64>,
    count: usize,
}

impl Room {
    fn of(nodes: &[Listed]) -> Room {
        let mut room = Room { places: alloc::vec![0; nodes.len().div_ceil(64)], count: 0 };
        for (place, listed) in nodes.iter().enumerate() {
            room.mark(place, is_roomy(&listed.summary));
        }
        room
    }

    fn mark(&mut self, place: usize, roomy: bool) {
        let (word, bit) = (&mut self.places[place / 64], 1 << (place % 64));
        if roomy != (*word & bit != 0) {
            *word ^= bit;
            self.count = if roomy { self.count + 1 } else { self.count - 1 };
        }
    }

    /// Places from `first` to before `end` where there is room.
    fn within(&self, first: usize, end: usize) -> impl Iterator<Item = usize> {
        let next = move |from: usize| self.next(from).filter(|place| *place < end);
        core::iter::successors(next(first), move |place| next(place + 1))
    }

    /// The first place from this one on where there is room.
    fn next(&self, from: usize) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let mut at = from / 64;
        let mut word = self.places.get(at)? & !0 << (from % 64);
        while word == 0 {
            at += 1;
            word = *self.places.get(at)?;
        }
        Some(64 * at + word.trailing_zeros() as usize)
    }
}

/// Whether a whole CPU is free there.
fn is_roomy(node: &NodeSummary) -> bool {
    node.free.get(Resources::CPU) >= Quantity::ONE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::harness::summary;

    fn set(roll: &mut Roll, node: u32, cpus: f64) {
        let place = roll.place(NodeId(node));
        roll.set(Arc::new(summary(node, &[("CPU", cpus)])), place);
        roll.check();
    }

    fn roomy_after(roll: &mut Roll, node: u32) -> Vec<u32> {
        roll.roomy_after(NodeId(node)).map(|node| node.node.0).collect()
    }

    #[test]
    fn room_is_found_behind_hundreds_without_any_and_around_the_end() {
        let mut roll = Roll::default();
        assert_eq!(roomy_after(&mut roll, 1), []);
        for node in 1..=300 {
            set(&mut roll, 2 * node, if [3, 64, 65, 300].contains(&node) { 1.0 } else { 0.5 });
        }
        assert_eq!(roomy_after(&mut roll, 0), [6, 128, 130, 600]);
        assert_eq!(roomy_after(&mut roll, 6), [128, 130, 600, 6], "whoever looks comes last");
        assert_eq!(roomy_after(&mut roll, 129), [130, 600, 6, 128]);
        assert_eq!(roomy_after(&mut roll, 700), [6, 128, 130, 600]);
        set(&mut roll, 128, 0.0);
        set(&mut roll, 130, 0.0);
        set(&mut roll, 256, 4.0);
        assert_eq!(roomy_after(&mut roll, 6), [256, 600, 6]);
        for node in [6, 256, 600] {
            set(&mut roll, node, 0.0);
        }
        assert_eq!(roomy_after(&mut roll, 6), []);
    }

    #[test]
    fn places_move_when_nodes_come_in_between_or_go() {
        let mut roll = Roll::default();
        for node in 1..=128 {
            set(&mut roll, 2 * node, f64::from(node % 2));
        }
        set(&mut roll, 1, 1.0);
        set(&mut roll, 129, 0.0);
        assert_eq!(
            roomy_after(&mut roll, 250),
            [254, 1, 2, 6].into_iter().chain((10..=250).step_by(4)).collect::<Vec<_>>()
        );
        for node in (2..=256).step_by(2) {
            roll.remove(NodeId(node));
            roll.check();
        }
        roll.remove(NodeId(7));
        assert_eq!((roomy_after(&mut roll, 1), roll.len()), (alloc::vec![1], 2));
    }
}

//! Which workers of a class take another task, the least loaded first, however many there are.

use alloc::collections::BTreeMap;

use super::leases::{Leases, Worker};
use crate::ids::{NodeId, ProcessId};
use crate::machine::Span;

/// At most this many tasks are on their way to one worker.
const IN_FLIGHT_MAX: u32 = 256;

/// How much a worker has to do. The first of equals is the one that was leased first.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Rank {
    in_flight: u32,
    /// Sum of the expected microseconds.
    load: u32,
    turn: u64,
}

impl Rank {
    /// Whether a task of this expected duration may be pushed to such a worker now.
    fn takes(&self, expected: Option<u32>, ahead: Span) -> bool {
        if self.in_flight == 0 {
            return true;
        }
        let room = (ahead.0 / 1_000) as u32;
        let fits = |expected| self.load.saturating_add(expected) <= room;
        self.in_flight < IN_FLIGHT_MAX && expected.is_some_and(fits)
    }
}

impl Worker {
    /// None if nothing may be pushed to it, whatever it is.
    pub(super) fn rank(&self) -> Option<Rank> {
        let stalled = self.stalled && !self.in_flight.is_empty();
        if stalled || self.leaving || self.closed || self.ended.is_some() {
            return None;
        }
        Some(Rank { in_flight: self.in_flight.len() as u32, load: self.load, turn: self.turn })
    }
}

/// Workers by their rank.
#[derive(Clone, Debug, Default)]
pub(super) struct Ready(BTreeMap<Rank, ProcessId>);

impl Ready {
    /// The worker that takes such a task: one with as few tasks in flight as there is, and of those the one with
    /// the least to do.
    pub(super) fn least_loaded(&self, expected: Option<u32>, ahead: Span) -> Option<ProcessId> {
        let mut from = Rank::default();
        while let Some((rank, worker)) = self.0.range(from..).next() {
            if rank.takes(expected, ahead) {
                return Some(*worker);
            }
            // The others with as many tasks have more to do.
            from = Rank { in_flight: rank.in_flight + 1, ..Rank::default() };
        }
        None
    }

    /// The same, of those on one node.
    pub(super) fn on(&self, node: NodeId, expected: Option<u32>, ahead: Span) -> Option<ProcessId> {
        let mut there = self.0.iter().filter(|(_, worker)| worker.node() == node);
        there.find(|(rank, _)| rank.takes(expected, ahead)).map(|(_, worker)| *worker)
    }

    pub(super) fn remove(&mut self, rank: Option<Rank>) {
        rank.and_then(|rank| self.0.remove(&rank));
    }

    /// For [`super::Owner::check`].
    pub(super) fn check(&self, leases: &Leases) {
        for (rank, worker) in &self.0 {
            assert_eq!(
                leases.workers.get(worker).and_then(|worker| worker.ranked),
                Some(*rank),
                "{worker:?}"
            );
        }
    }
}

impl Leases {
    /// A worker has more or less to do, or takes nothing any more. Whoever changes one says so.
    pub(super) fn rank(&mut self, id: ProcessId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let rank = worker.rank();
        let before = core::mem::replace(&mut worker.ranked, rank);
        if before != rank {
            let ready = &mut self.classes[worker.class].ready;
            ready.remove(before);
            ready.0.extend(rank.map(|rank| (rank, id)));
        }
    }

    /// A worker is given up or dead.
    pub(super) fn remove(&mut self, id: ProcessId) -> Option<Worker> {
        let worker = self.workers.shift_remove(&id)?;
        let class = &mut self.classes[worker.class];
        class.workers.retain(|other| *other != id);
        class.ready.remove(worker.ranked);
        Some(worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_comes_first_and_the_full_are_passed_over() {
        let mut ready = Ready::default();
        let worker = |number| ProcessId::new(NodeId(1), number);
        let rank = |in_flight, load, turn| Rank { in_flight, load, turn };
        let ranks = [rank(1, 900, 1), rank(1, 1_000, 2), rank(2, 30, 3), rank(2, 30, 4), rank(256, 1, 5)];
        for (number, rank) in (1..).zip(ranks) {
            ready.0.insert(rank, worker(number));
        }
        let ahead = Span::from_millis(1);
        let least = |ready: &Ready, expected| ready.least_loaded(expected, ahead);
        assert_eq!(least(&ready, Some(100)), Some(worker(1)));
        assert_eq!(least(&ready, Some(101)), Some(worker(3)), "it has more tasks and less to do");
        assert_eq!(least(&ready, Some(971)), None);
        assert_eq!(least(&ready, None), None, "nothing unknown waits behind anything");
        ready.0.insert(rank(0, 0, 6), worker(6));
        assert_eq!(least(&ready, None), Some(worker(6)));
        ready.remove(Some(rank(0, 0, 6)));
        assert_eq!(least(&ready, Some(1)), Some(worker(1)));
    }
}

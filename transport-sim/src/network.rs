//! Frames under way. Along one way they keep their order; between ways anything goes.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use shoal_core::ids::ProcessId;
use shoal_core::{Span, Time};

use crate::Random;

/// One direction of one socket: between a process and a daemon, or a direct link of two processes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Way {
    /// The sending end.
    pub from: ProcessId,
    /// The receiving end.
    pub to: ProcessId,
}

/// How long frames take.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Delays {
    /// At least this.
    pub least: Span,
    /// Usually at most this.
    pub most: Span,
    /// In so many of 1000 cases a way is clogged: nothing arrives on it for a while.
    pub clog_per_mille: u64,
    /// How long at most.
    pub clog_most: Span,
}

/// All ways, and what is under way on them.
#[derive(Debug)]
pub struct Network<F> {
    random: Random,
    delays: Delays,
    ways: BTreeMap<Way, Traffic<F>>,
}

#[derive(Debug)]
struct Traffic<F> {
    queue: VecDeque<F>,
    last_arrival: Time,
}

impl<F> Network<F> {
    /// A network without traffic.
    pub fn new(random: Random, delays: Delays) -> Network<F> {
        Network { random, delays, ways: BTreeMap::new() }
    }

    /// Stop clogging; what is under way arrives as it would have.
    pub fn heal(&mut self) {
        self.delays.clog_per_mille = 0;
    }

    /// Put a frame on a way. The caller lets [`Network::arrive`] happen at the time returned.
    pub fn send(&mut self, now: Time, way: Way, frame: F) -> Time {
        let mut arrival = now + self.random.span(self.delays.least, self.delays.most);
        if self.random.chance(self.delays.clog_per_mille) {
            arrival = arrival + self.random.span(Span(0), self.delays.clog_most);
        }
        let traffic =
            self.ways.entry(way).or_insert_with(|| Traffic { queue: VecDeque::new(), last_arrival: Time(0) });
        traffic.last_arrival = traffic.last_arrival.max(arrival);
        traffic.queue.push_back(frame);
        traffic.last_arrival
    }

    /// The next frame of a way; none if it was lost.
    pub fn arrive(&mut self, way: Way) -> Option<F> {
        self.ways.get_mut(&way)?.queue.pop_front()
    }

    /// A process died without flushing: of each way from it, any part at the end is lost.
    pub fn lose_unsent(&mut self, process: ProcessId) {
        for (way, traffic) in &mut self.ways {
            if way.from == process && !traffic.queue.is_empty() {
                let kept = self.random.between(0, traffic.queue.len() as u64);
                traffic.queue.truncate(kept as usize);
            }
        }
    }

    /// Nobody will ever read what is under way to this process.
    pub fn forget_receiver(&mut self, process: ProcessId) {
        self.ways.retain(|way, _| way.to != process);
    }

    /// A way on which nothing will be sent any more, once it is empty.
    pub fn forget(&mut self, way: Way) {
        self.ways.remove(&way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::ids::NodeId;

    fn network() -> Network<u32> {
        let delays =
            Delays { least: Span(1), most: Span(1000), clog_per_mille: 100, clog_most: Span(100_000) };
        Network::new(Random::new(1), delays)
    }

    const WAY: Way = Way { from: ProcessId::new(NodeId(1), 1), to: ProcessId::new(NodeId(1), 2) };

    #[test]
    fn a_way_keeps_its_order() {
        let mut network = network();
        let arrivals: Vec<Time> = (0..100).map(|n| network.send(Time(0), WAY, n)).collect();
        assert!(arrivals.is_sorted());
        let frames: Vec<u32> = std::iter::from_fn(|| network.arrive(WAY)).collect();
        assert!(frames.into_iter().eq(0..100));
    }

    #[test]
    fn a_crash_loses_an_end_and_nothing_before_it() {
        let mut lost_some = false;
        let mut network = network();
        for _ in 0..20 {
            for n in 0..10 {
                network.send(Time(0), WAY, n);
            }
            network.lose_unsent(WAY.from);
            let frames: Vec<u32> = std::iter::from_fn(|| network.arrive(WAY)).collect();
            lost_some |= frames.len() < 10;
            let expected: Vec<u32> = (0..frames.len() as u32).collect();
            assert_eq!(frames, expected);
        }
        assert!(lost_some);
    }
}

//! Frames under way. Along one way they keep their order; between ways anything goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use shoal_core::ids::ProcessId;
use shoal_core::{Span, Time};

use crate::Random;

/// One direction of one connection: between a process and its daemon, between two processes that have a
/// direct link, between two daemons, or between a daemon and a head.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Way {
    /// The sending end.
    pub from: ProcessId,
    /// The receiving end.
    pub to: ProcessId,
}

impl Way {
    /// The other direction.
    pub fn back(self) -> Way {
        Way { from: self.to, to: self.from }
    }
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
    healed: bool,
    ways: BTreeMap<Way, Traffic<F>>,
    /// The ways to each receiver, by receiver and sender.
    inbound: BTreeSet<(ProcessId, ProcessId)>,
    sent: u64,
    /// Of each sender, the last frame to a peer that has certainly left it.
    left: BTreeMap<ProcessId, u64>,
}

#[derive(Debug)]
struct Traffic<F> {
    /// With their places in the order of everything that was ever sent.
    queue: VecDeque<(u64, F)>,
    last_arrival: Time,
}

impl<F> Network<F> {
    /// A network without traffic.
    pub fn new(random: Random) -> Network<F> {
        Network {
            random,
            healed: false,
            ways: BTreeMap::new(),
            inbound: BTreeSet::new(),
            sent: 0,
            left: BTreeMap::new(),
        }
    }

    /// Stop clogging; what is under way arrives as it would have.
    pub fn heal(&mut self) {
        self.healed = true;
    }

    /// Put a frame on a way. The caller lets [`Network::arrive`] happen at the time returned.
    pub fn send(&mut self, now: Time, way: Way, frame: F, delays: &Delays) -> Time {
        let mut arrival = now + self.random.span(delays.least, delays.most);
        if !self.healed && self.random.chance(delays.clog_per_mille) {
            arrival = arrival + self.random.span(Span(0), delays.clog_most);
        }
        let inbound = &mut self.inbound;
        let traffic = self.ways.entry(way).or_insert_with(|| {
            inbound.insert((way.to, way.from));
            Traffic { queue: VecDeque::new(), last_arrival: Time(0) }
        });
        traffic.last_arrival = traffic.last_arrival.max(arrival);
        self.sent += 1;
        traffic.queue.push_back((self.sent, frame));
        traffic.last_arrival
    }

    /// The next frame of a way, without taking it.
    pub fn peek(&self, way: Way) -> Option<&F> {
        self.ways.get(&way)?.queue.front().map(|(_, frame)| frame)
    }

    /// The next frame of a way; none if it was lost.
    pub fn arrive(&mut self, way: Way) -> Option<F> {
        let (place, frame) = self.ways.get_mut(&way)?.queue.pop_front()?;
        if !way.to.is_daemon() {
            self.left.insert(way.from, place);
        }
        Some(frame)
    }

    /// What has been lost of a way never arrives: any part at its end.
    pub fn lose_end(&mut self, way: Way) {
        if let Some(traffic) = self.ways.get_mut(&way)
            && !traffic.queue.is_empty()
        {
            let kept = self.random.between(0, traffic.queue.len() as u64);
            traffic.queue.truncate(kept as usize);
        }
    }

    /// The last two frames of a way change places.
    pub fn swap_last(&mut self, way: Way) {
        if let Some(traffic) = self.ways.get_mut(&way)
            && traffic.queue.len() >= 2
        {
            let last = traffic.queue.len() - 1;
            traffic.queue.swap(last - 1, last);
        }
    }

    /// A process died without flushing: of each way from it, any part at the end is lost. A process
    /// writes to its daemon before it writes to its peers, so what it had sent to the daemon before
    /// something that a peer gets is not lost.
    pub fn lose_unsent(&mut self, process: ProcessId) {
        let mut left = self.left.remove(&process).unwrap_or(0);
        let ways: Vec<Way> = self.ways_from(process).collect();
        for way in ways.iter().filter(|way| !way.to.is_daemon()) {
            self.lose_end(*way);
            let last = self.ways[way].queue.back().map_or(0, |(place, _)| *place);
            left = left.max(last);
        }
        for way in ways.iter().filter(|way| way.to.is_daemon()) {
            let Some(traffic) = self.ways.get_mut(way) else { continue };
            let least = traffic.queue.partition_point(|(place, _)| *place < left);
            let kept = self.random.between(least as u64, traffic.queue.len() as u64);
            traffic.queue.truncate(kept as usize);
        }
    }

    fn ways_from(&self, process: ProcessId) -> impl Iterator<Item = Way> {
        let first = Way { from: process, to: ProcessId(0) };
        let last = Way { from: process, to: ProcessId(u64::MAX) };
        self.ways.range(first..=last).map(|(way, _)| *way)
    }

    /// Nobody will ever read what is under way to this process.
    pub fn forget_receiver(&mut self, process: ProcessId) {
        let range = (process, ProcessId(0))..=(process, ProcessId(u64::MAX));
        let senders: Vec<ProcessId> = self.inbound.range(range).map(|(_, from)| *from).collect();
        for from in senders {
            self.forget(Way { from, to: process });
        }
    }

    /// Nothing from this process will ever arrive.
    pub fn forget_sender(&mut self, process: ProcessId) {
        self.left.remove(&process);
        let ways: Vec<Way> = self.ways_from(process).collect();
        for way in ways {
            self.forget(way);
        }
    }

    /// A way on which nothing will be sent any more, once it is empty.
    pub fn forget(&mut self, way: Way) {
        self.ways.remove(&way);
        self.inbound.remove(&(way.to, way.from));
    }

    /// How many frames are under way to this process from others.
    pub fn under_way_to(&self, process: ProcessId) -> usize {
        let range = (process, ProcessId(0))..=(process, ProcessId(u64::MAX));
        let queue = |(to, from): &(ProcessId, ProcessId)| {
            self.ways.get(&Way { from: *from, to: *to }).map_or(0, |traffic| traffic.queue.len())
        };
        self.inbound.range(range).map(queue).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::ids::NodeId;

    const DELAYS: Delays =
        Delays { least: Span(1), most: Span(1000), clog_per_mille: 100, clog_most: Span(100_000) };
    const DAEMON: ProcessId = ProcessId::daemon(NodeId(1));
    const WAY: Way = Way { from: ProcessId::new(NodeId(1), 1), to: ProcessId::new(NodeId(1), 2) };

    fn rest(network: &mut Network<u32>, way: Way) -> Vec<u32> {
        std::iter::from_fn(|| network.arrive(way)).collect()
    }

    #[test]
    fn a_way_keeps_its_order() {
        let mut network = Network::new(Random::new(1));
        let arrivals: Vec<Time> = (0..100).map(|n| network.send(Time(0), WAY, n, &DELAYS)).collect();
        assert!(arrivals.is_sorted());
        assert!(rest(&mut network, WAY).into_iter().eq(0..100));
    }

    #[test]
    fn a_crash_loses_an_end_and_nothing_before_it() {
        let mut lost_some = false;
        let mut network = Network::new(Random::new(1));
        for _ in 0..20 {
            for n in 0..10 {
                network.send(Time(0), WAY, n, &DELAYS);
            }
            network.lose_unsent(WAY.from);
            let frames = rest(&mut network, WAY);
            lost_some |= frames.len() < 10;
            let expected: Vec<u32> = (0..frames.len() as u32).collect();
            assert_eq!(frames, expected);
        }
        assert!(lost_some);
    }

    #[test]
    fn the_daemon_gets_what_was_sent_before_anything_that_a_peer_gets() {
        let to_daemon = Way { from: WAY.from, to: DAEMON };
        for seed in 0..50 {
            let mut network = Network::new(Random::new(seed));
            for n in 0..10 {
                network.send(Time(0), to_daemon, n, &DELAYS);
                network.send(Time(0), WAY, n, &DELAYS);
            }
            let arrived = (0..seed % 4).filter_map(|_| network.arrive(WAY)).count();
            network.lose_unsent(WAY.from);
            let at_peer = arrived + rest(&mut network, WAY).len();
            assert!(rest(&mut network, to_daemon).len() >= at_peer, "seed {seed}");
        }
    }

    #[test]
    fn nothing_comes_from_or_to_those_who_are_forgotten() {
        let mut network = Network::new(Random::new(1));
        network.send(Time(0), WAY, 1, &DELAYS);
        network.send(Time(0), WAY.back(), 2, &DELAYS);
        assert_eq!(network.under_way_to(WAY.to), 1);
        network.forget_receiver(WAY.to);
        assert_eq!(network.arrive(WAY), None);
        assert_eq!(network.arrive(WAY.back()), Some(2));
        network.send(Time(0), WAY.back(), 3, &DELAYS);
        network.forget_sender(WAY.to);
        assert_eq!(network.arrive(WAY.back()), None);
    }
}

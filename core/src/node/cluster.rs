//! Several nodes that talk to each other in tests: what they say travels in order, when the test lets
//! it; what they start ends when the test says so.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::harness::*;
use super::{Config, Effect, SpillLocation, Work, WorkResult};
use crate::ids::{NodeId, ObjectId, OperationId, ProcessId};
use crate::machine::Span;
use crate::message::{Message, NodeSummary};
use crate::value::Death;

pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<NodeId, Harness>,
    /// What processes were told.
    pub(super) told: Vec<(ProcessId, Message)>,
    /// What one daemon has said to another, and did not arrive yet.
    pub(super) ways: BTreeMap<(NodeId, NodeId), VecDeque<Message>>,
    pub(super) work: BTreeMap<(NodeId, OperationId), Work>,
    /// What each node lets which other one read.
    pub(super) offers: BTreeSet<(NodeId, NodeId, ObjectId)>,
    pub(super) cancelled: Vec<(NodeId, OperationId)>,
    /// What lies on disks.
    pub(super) disks: BTreeSet<(NodeId, u64, u64)>,
    files: u64,
    requests: u64,
}

impl Cluster {
    /// Nodes 1, 2, … with a driver each (process 1), eight CPUs and a store of so many bytes.
    pub(super) fn new(count: u32, store_capacity: u64) -> Cluster {
        let all: Vec<NodeSummary> = (1..=count).map(|number| summary(number, &[("CPU", 8.0)])).collect();
        let nodes = all.iter().map(|summary| {
            let config = Config { node: summary.node, store_capacity, ..config(&[("CPU", 8.0)]) };
            let mut node = Harness::new(config);
            node.connect(0);
            node.register(ProcessId::new(summary.node, 1), JOB);
            node.view(&all);
            (summary.node, node)
        });
        Cluster {
            nodes: nodes.collect(),
            told: Vec::new(),
            ways: BTreeMap::new(),
            work: BTreeMap::new(),
            offers: BTreeSet::new(),
            cancelled: Vec::new(),
            disks: BTreeSet::new(),
            files: 0,
            requests: 0,
        }
    }

    pub(super) fn node(&mut self, number: u32) -> &mut Harness {
        self.nodes.get_mut(&NodeId(number)).expect("the node lives")
    }

    /// A worker that the node's driver leases.
    pub(super) fn worker(&mut self, number: u32) -> ProcessId {
        let worker = self.node(number).lease(afar(number, 1), &demand(&[("CPU", 1.0)])).1;
        // It is of use, so others like it are started without delay.
        self.says(worker, number, Message::Blocked);
        self.says(worker, number, Message::Unblocked);
        worker
    }

    /// A process says something to its node, or to another one.
    pub(super) fn says(&mut self, from: ProcessId, to: u32, message: Message) {
        let Some(node) = self.nodes.get_mut(&NodeId(to)) else { return };
        let effects = node.receive(from, message);
        self.absorb(NodeId(to), effects);
    }

    pub(super) fn absorb(&mut self, node: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } if to.is_daemon() && to != ProcessId::HEAD => {
                    assert_ne!(to.node(), node, "nobody writes to itself");
                    if self.nodes.contains_key(&to.node()) {
                        self.ways.entry((node, to.node())).or_default().push_back(message);
                    }
                }
                Effect::Send { to, message } => self.told.push((to, message)),
                Effect::Start { work: Work::DeleteSpilled { location }, .. } => {
                    assert!(self.disks.remove(&(node, location.file, location.offset)), "deleted once");
                }
                Effect::Start { operation, work } => {
                    self.work.insert((node, operation), work);
                }
                Effect::Offer { to, object, .. } => {
                    assert!(self.offers.insert((node, to, object)), "{object:?} is offered once to {to:?}");
                }
                Effect::Withdraw { to, object } => {
                    assert!(self.offers.remove(&(node, to, object)), "{object:?} was offered to {to:?}");
                }
                Effect::Cancel { operation } => self.cancelled.push((node, operation)),
                _ => {}
            }
        }
    }

    /// Deliver the oldest message of a way.
    pub(super) fn deliver(&mut self, from: NodeId, to: NodeId) {
        let Some(message) = self.ways.get_mut(&(from, to)).and_then(VecDeque::pop_front) else { return };
        self.says(ProcessId::daemon(from), to.0, message);
    }

    /// Deliver everything that daemons have said to each other, and what they say to that.
    pub(super) fn talk(&mut self) {
        loop {
            self.ways.retain(|_, messages| !messages.is_empty());
            let Some((from, to)) = self.ways.keys().next().copied() else { return };
            self.deliver(from, to);
        }
    }

    /// Started work ends.
    pub(super) fn finish(&mut self, node: NodeId, operation: OperationId, result: WorkResult) {
        if self.work.remove(&(node, operation)).is_some()
            && let Some(harness) = self.nodes.get_mut(&node)
        {
            let effects = harness.finished(operation, result);
            self.absorb(node, effects);
        }
    }

    /// How work ends that succeeds.
    pub(super) fn success(&mut self, node: NodeId, operation: OperationId) -> WorkResult {
        let Some(Work::Spill { objects }) = self.work.get(&(node, operation)) else {
            return WorkResult::Done;
        };
        self.files += 1;
        let mut offset = 0;
        let mut locations = Vec::new();
        for (_, _, size) in objects {
            locations.push(SpillLocation { file: self.files, offset, size: *size });
            self.disks.insert((node, self.files, offset));
            offset += size.max(&1);
        }
        WorkResult::Spilled(locations)
    }

    /// Do everything that is started except fetches, and deliver everything, until nothing is left.
    pub(super) fn run(&mut self) {
        loop {
            self.talk();
            let next = self.work.iter().find(|(_, work)| !matches!(work, Work::Fetch { .. }));
            let Some((node, operation)) = next.map(|(key, _)| *key) else { return };
            let result = self.success(node, operation);
            self.finish(node, operation, result);
        }
    }

    /// The fetches that are under way: by whom, from where.
    pub(super) fn fetches(&self) -> Vec<(NodeId, NodeId, OperationId)> {
        let fetch = |((node, operation), work): (&(NodeId, OperationId), &Work)| match work {
            Work::Fetch { from, .. } => Some((*node, *from, *operation)),
            _ => None,
        };
        self.work.iter().filter_map(fetch).collect()
    }

    /// All that is started succeeds, and all that is said arrives.
    pub(super) fn finish_all(&mut self) {
        loop {
            self.run();
            let Some((node, _, operation)) = self.fetches().first().copied() else { return };
            self.finish(node, operation, WorkResult::Done);
        }
    }

    pub(super) fn pass(&mut self, span: Span) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            let effects = self.nodes.get_mut(&node).expect("it lives").pass(span);
            self.absorb(node, effects);
        }
    }

    /// Make an object of so many bytes in the store of its maker's node, doing what that takes.
    pub(super) fn put(&mut self, maker: ProcessId, object: ObjectId, size: u64) {
        let request = self.ask_for_room(maker, size);
        self.run();
        self.seal(maker, request, object, size);
    }

    /// The same, if room is there or can be had by work of the node alone.
    pub(super) fn put_now(&mut self, maker: ProcessId, object: ObjectId, size: u64) {
        let request = self.ask_for_room(maker, size);
        loop {
            let own = |((node, _), work): &(&(NodeId, OperationId), &Work)| {
                *node == maker.node() && !matches!(work, Work::Fetch { .. })
            };
            let Some((node, operation)) = self.work.iter().find(own).map(|(key, _)| *key) else { break };
            let result = self.success(node, operation);
            self.finish(node, operation, result);
        }
        self.seal(maker, request, object, size);
    }

    fn ask_for_room(&mut self, maker: ProcessId, size: u64) -> crate::ids::RequestId {
        self.requests += 1;
        let request = crate::ids::RequestId(self.requests);
        self.says(maker, maker.node().0, Message::RequestExtent { request, size });
        request
    }

    fn seal(&mut self, maker: ProcessId, request: crate::ids::RequestId, object: ObjectId, size: u64) {
        let granted = self.told.iter().rev().find_map(|(to, message)| match message {
            Message::ExtentGranted { request: answered, offset, .. }
                if *answered == request && *to == maker =>
            {
                Some(*offset)
            }
            _ => None,
        });
        if let Some(offset) = granted {
            self.says(maker, maker.node().0, Message::Seal { object, attempt: 0, offset, size });
        }
    }

    pub(super) fn pin(&mut self, reader: ProcessId, object: ObjectId, locations: &[u32]) {
        let locations = locations.iter().map(|number| NodeId(*number)).collect();
        self.says(reader, reader.node().0, Message::Pin { object, locations });
    }

    pub(super) fn unpin(&mut self, reader: ProcessId, object: ObjectId) {
        self.says(reader, reader.node().0, Message::Unpin { object });
    }

    /// What this process was told since the last call, without the room that it got.
    pub(super) fn told(&mut self, process: ProcessId) -> Vec<Message> {
        let (his, others) = core::mem::take(&mut self.told).into_iter().partition(|(to, _)| *to == process);
        self.told = others;
        let his: Vec<(ProcessId, Message)> = his;
        let store = |message: &Message| {
            matches!(message, Message::ExtentGranted { .. } | Message::ReturnRoom | Message::Freed { .. })
        };
        his.into_iter().map(|(_, message)| message).filter(|message| !store(message)).collect()
    }

    pub(super) fn exited(&mut self, process: ProcessId) {
        let death = Death::Signalled { signal: 9 };
        let effects = self.node(process.node().0).exited(process, death);
        self.absorb(process.node(), effects);
    }

    /// A node dies, and the others hear of it.
    pub(super) fn die(&mut self, number: u32) {
        let node = NodeId(number);
        self.nodes.remove(&node);
        self.work.retain(|(of, _), _| *of != node);
        self.ways.retain(|(from, to), _| *from != node && *to != node);
        self.offers.retain(|(from, _, _)| *from != node);
        self.disks.retain(|(of, _, _)| *of != node);
        let others: Vec<NodeId> = self.nodes.keys().copied().collect();
        for other in others {
            let effects = self.nodes.get_mut(&other).expect("it lives").node_died(number);
            self.absorb(other, effects);
        }
    }
}

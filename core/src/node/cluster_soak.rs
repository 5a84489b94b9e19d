//! Stores of several nodes under random use: what is read was there, what is freed is gone everywhere,
//! and nothing of the dead stays.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use proptest::prelude::{Strategy, any, prop, proptest};
use proptest::strategy::Union;

use super::cluster::Cluster;
use super::harness::{afar, draining};
use super::{Work, WorkResult};
use crate::ids::{NodeId, ObjectId, ProcessId, TaskId};
use crate::machine::Span;
use crate::message::Message;
use crate::value::Failure;

const CAPACITY: u64 = 1 << 20;
const NODES: u32 = 3;
const OBJECTS: u64 = 8;

#[derive(Clone, Debug)]
enum Step {
    Put { node: u32, object: u64, size: u64 },
    Pin { node: u32, object: u64, locations: Vec<u32> },
    Unpin { node: u32, pick: usize },
    Free { object: u64 },
    Deliver { pick: usize },
    Finish { pick: usize, fail: bool },
    Worker { node: u32 },
    Pass { millis: u64 },
    Die { node: u32 },
    Drain { node: u32, on: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let node = 1..=NODES;
    let object = 0..OBJECTS;
    let pick = any::<usize>();
    let locations = prop::collection::vec(1..=NODES, 0..4);
    Union::new_weighted(alloc::vec![
        (
            4,
            (node.clone(), object.clone(), 1u64..300_000)
                .prop_map(|(node, object, size)| Step::Put { node, object, size })
                .boxed()
        ),
        (
            8,
            (node.clone(), object.clone(), locations)
                .prop_map(|(node, object, locations)| Step::Pin { node, object, locations })
                .boxed()
        ),
        (4, (node.clone(), pick).prop_map(|(node, pick)| Step::Unpin { node, pick }).boxed()),
        (1, object.prop_map(|object| Step::Free { object }).boxed()),
        (20, pick.prop_map(|pick| Step::Deliver { pick }).boxed()),
        (10, (pick, prop::bool::weighted(0.1)).prop_map(|(pick, fail)| Step::Finish { pick, fail }).boxed()),
        (1, node.clone().prop_map(|node| Step::Worker { node }).boxed()),
        (2, (0u64..3_000).prop_map(|millis| Step::Pass { millis }).boxed()),
        (1, (2..=NODES).prop_map(|node| Step::Die { node }).boxed()),
        (2, (node, any::<bool>()).prop_map(|(node, on)| Step::Drain { node, on }).boxed()),
    ])
}

struct Model {
    cluster: Cluster,
    /// On each node, who reads: the last of its workers.
    readers: BTreeMap<u32, ProcessId>,
    reads: BTreeSet<(ProcessId, ObjectId)>,
    /// Pins that were not answered.
    asked: BTreeMap<(ProcessId, ObjectId), u32>,
    pins: Vec<(ProcessId, ObjectId)>,
    made: BTreeSet<u64>,
}

/// All objects belong to the driver of the first node, which lives.
fn object(number: u64) -> ObjectId {
    TaskId { owner: afar(1, 1), number }.object(0)
}

impl Model {
    fn new() -> Model {
        let mut cluster = Cluster::new(NODES, CAPACITY);
        let readers = (1..=NODES).map(|number| (number, cluster.worker(number))).collect();
        let (reads, asked, pins, made) = (BTreeSet::new(), BTreeMap::new(), Vec::new(), BTreeSet::new());
        Model { cluster, readers, reads, asked, pins, made }
    }

    /// Take in what readers were told: each question has one answer.
    fn learn(&mut self) {
        for (to, message) in core::mem::take(&mut self.cluster.told) {
            let answered = match &message {
                Message::Pinned { object, .. } => {
                    self.pins.push((to, *object));
                    *object
                }
                Message::PinFailed { object, .. } => *object,
                _ => continue,
            };
            let asked = self.asked.get_mut(&(to, answered)).expect("nobody is told what it did not ask");
            *asked -= 1;
            if *asked == 0 {
                self.asked.remove(&(to, answered));
            }
            if matches!(message, Message::Pinned { .. }) {
                assert!(self.made.contains(&answered.task.number), "{answered:?} was never made");
                self.reads.insert((to, answered));
            }
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Put { node, object: number, size } => {
                // Each object is made once: what is freed is not made again.
                if self.cluster.nodes.contains_key(&NodeId(*node)) && self.made.insert(*number) {
                    let maker = self.readers[node];
                    self.cluster.put_now(maker, object(*number), *size);
                }
            }
            Step::Pin { node, object: number, locations } => {
                if self.cluster.nodes.contains_key(&NodeId(*node)) {
                    let reader = self.readers[node];
                    *self.asked.entry((reader, object(*number))).or_default() += 1;
                    self.cluster.pin(reader, object(*number), locations);
                }
            }
            Step::Unpin { node, pick } => {
                let reader = self.readers[node];
                let his: Vec<usize> = (0..self.pins.len()).filter(|at| self.pins[*at].0 == reader).collect();
                if !his.is_empty() && self.cluster.nodes.contains_key(&NodeId(*node)) {
                    let (reader, object) = self.pins.swap_remove(his[pick % his.len()]);
                    self.cluster.unpin(reader, object);
                }
            }
            Step::Free { object: number } => self.free(*number),
            Step::Deliver { pick } => {
                let ways: Vec<(NodeId, NodeId)> = self.cluster.ways.keys().copied().collect();
                if !ways.is_empty() {
                    let (from, to) = ways[pick % ways.len()];
                    self.cluster.deliver(from, to);
                    self.cluster.ways.retain(|_, messages| !messages.is_empty());
                }
            }
            Step::Finish { pick, fail } => self.finish(*pick, *fail),
            Step::Worker { node } => self.replace(*node),
            Step::Pass { millis } => self.cluster.pass(Span::from_millis(*millis)),
            Step::Drain { node, on } => self.drain(*node, *on),
            Step::Die { node } => {
                if self.cluster.nodes.contains_key(&NodeId(*node)) {
                    self.cluster.die(*node);
                    self.asked.retain(|(reader, _), _| reader.node().0 != *node);
                    self.pins.retain(|(reader, _)| reader.node().0 != *node);
                }
            }
        }
        self.learn();
    }

    fn drain(&mut self, node: u32, on: bool) {
        self.cluster.says(ProcessId::HEAD, node, draining(on));
    }

    /// The owner frees an object wherever it may be.
    fn free(&mut self, number: u64) {
        self.made.insert(number);
        for node in 1..=NODES {
            let free = Message::FreeObject { object: object(number), attempt: u32::MAX };
            self.cluster.says(afar(1, 1), node, free);
        }
    }

    fn finish(&mut self, pick: usize, fail: bool) {
        let keys: Vec<_> = self.cluster.work.keys().copied().collect();
        if keys.is_empty() {
            return;
        }
        let (node, operation) = keys[pick % keys.len()];
        if let Work::Fetch { object, from, .. } = &self.cluster.work[&(node, operation)] {
            let offered = self.cluster.offers.contains(&(*from, node, *object));
            let cancelled = self.cluster.cancelled.contains(&(node, operation));
            let lives = self.cluster.nodes.contains_key(from);
            assert!(offered || cancelled || !lives, "{object:?} is fetched while it is offered");
        }
        let result = if fail {
            WorkResult::Failed(Failure::ObjectLost { object: object(0), detail: "broken".into() })
        } else {
            self.cluster.success(node, operation)
        };
        self.cluster.finish(node, operation, result);
    }

    /// The reader of a node dies, and another one comes.
    fn replace(&mut self, node: u32) {
        if self.cluster.nodes.contains_key(&NodeId(node)) {
            let old = self.readers[&node];
            self.cluster.exited(old);
            self.asked.retain(|(reader, _), _| *reader != old);
            self.pins.retain(|(reader, _)| *reader != old);
            // A node that is to be emptied would have none.
            self.drain(node, false);
            let new = self.cluster.worker(node);
            self.readers.insert(node, new);
        }
    }
}

proptest! {
    /// Every pin is answered once; what is fetched is offered for as long; and when all is freed, no
    /// byte of it is left in any store and nothing is offered.
    #[test]
    fn copies_come_and_go_and_leave_nothing(steps in prop::collection::vec(step(), 1..150)) {
        let mut model = Model::new();
        for step in &steps {
            model.apply(step);
        }
        for _ in 0..20 {
            model.cluster.finish_all();
            model.cluster.pass(Span::from_secs(1));
            model.learn();
        }
        assert!(model.asked.is_empty(), "never answered: {:?}", model.asked);
        for number in 0..OBJECTS {
            model.free(number);
        }
        for (reader, object) in core::mem::take(&mut model.pins) {
            model.cluster.unpin(reader, object);
        }
        model.cluster.finish_all();
        assert!(model.cluster.offers.is_empty(), "{:?}", model.cluster.offers);
        assert!(model.cluster.disks.is_empty(), "{:?}", model.cluster.disks);
        for (id, node) in &model.cluster.nodes {
            let store = node.node.inspect().store;
            assert_eq!((store.used, store.pinned, store.spilled), (0, 0, 0), "{id:?}");
        }
    }
}

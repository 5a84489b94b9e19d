//! Ownership survives, under random use: references go round between processes of three nodes, processes
//! and nodes die at any moment, and everything takes every way that it can take.
//!
//! The ways are those of a cluster. What a process says through its daemon keeps its order as far as the
//! other node; direct links between processes of one node do not wait for that. Of a dead process
//! everything is read before its death is told; of a dead node nothing is read any more.
//!
//! Two things are not asked for, because they are not promised: that a reference survives whose lender, not
//! its owner, dies before the borrower has registered; and that a record reaches other nodes before the
//! owner's node dies in the same moment.

use super::*;
use crate::message::{Answer, NodeSummary};
use crate::resources::Resources;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use proptest::prelude::{Strategy, any, prop, proptest};

const NODES: u32 = 3;
const PROCESSES: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    Put {
        who: usize,
        inside: Option<usize>,
    },
    /// A process gives another one a reference that it has.
    Pass {
        from: usize,
        to: usize,
        pick: usize,
    },
    Drop {
        who: usize,
        pick: usize,
    },
    Kill {
        who: usize,
    },
    /// Everything arrives; then a node dies.
    KillNode {
        node: u32,
        heir: u32,
    },
    /// So many things arrive.
    Deliver {
        seed: u64,
        count: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..(NODES * PROCESSES) as usize;
    let pick = any::<usize>;
    prop::strategy::Union::new_weighted(vec![
        (4, (who(), prop::option::of(pick())).prop_map(|(who, inside)| Step::Put { who, inside }).boxed()),
        (8, (who(), who(), pick()).prop_map(|(from, to, pick)| Step::Pass { from, to, pick }).boxed()),
        (3, (who(), pick()).prop_map(|(who, pick)| Step::Drop { who, pick }).boxed()),
        (2, who().prop_map(|who| Step::Kill { who }).boxed()),
        (1, (1..=NODES, 1..=NODES).prop_map(|(node, heir)| Step::KillNode { node, heir }).boxed()),
        (8, (any::<u64>(), 1usize..30).prop_map(|(seed, count)| Step::Deliver { seed, count }).boxed()),
    ])
}

/// What travels.
#[derive(Clone, Debug)]
enum Load {
    Message(Message),
    /// A reference, in something whose content does not matter.
    Reference(ObjectId),
}

/// A way that keeps its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// From a process to its daemon.
    Up(ProcessId),
    /// From a daemon to a process.
    Down(ProcessId),
    /// From a daemon, or the head, to a daemon.
    Between(NodeId, NodeId),
    Direct(ProcessId, ProcessId),
}

type Parcel = (ProcessId, ProcessId, Load);

struct Cluster {
    owners: BTreeMap<ProcessId, Harness>,
    ways: BTreeMap<Way, VecDeque<Parcel>>,
    watchers: BTreeMap<ProcessId, BTreeSet<ProcessId>>,
    dead: BTreeSet<ProcessId>,
    /// What the head has recorded.
    heirs: BTreeMap<NodeId, NodeId>,
    /// The deaths of nodes that a node has heard of.
    heard: BTreeSet<(NodeId, NodeId)>,
    /// The references in each program.
    held: BTreeMap<ProcessId, Vec<ObjectId>>,
}

fn processes() -> Vec<ProcessId> {
    let of_node = |node| (1..=PROCESSES).map(move |number| ProcessId::new(NodeId(node), number));
    (1..=NODES).flat_map(of_node).collect()
}

impl Cluster {
    fn new() -> Cluster {
        let start = |config: Config| Harness { owner: Owner::new(config), now: Time(0) };
        let with_stewards = |process| Config { stewards: true, ..Config::new(process, JobId(1), 2) };
        let mut owners: BTreeMap<ProcessId, Harness> =
            processes().into_iter().map(|process| (process, start(with_stewards(process)))).collect();
        for node in 1..=NODES {
            owners.insert(ProcessId::steward(NodeId(node)), start(Config::steward(NodeId(node), 2)));
        }
        Cluster {
            owners,
            ways: BTreeMap::new(),
            watchers: BTreeMap::new(),
            dead: BTreeSet::new(),
            heirs: BTreeMap::new(),
            heard: BTreeSet::new(),
            held: processes().into_iter().map(|process| (process, Vec::new())).collect(),
        }
    }

    fn tell(&mut self, process: ProcessId, input: Input) {
        let Some(harness) = self.owners.get_mut(&process) else { return };
        let effects = harness.tell(input);
        self.carry(process, effects);
    }

    /// Call into an owner as the code that passes references does.
    fn call(&mut self, process: ProcessId, call: impl FnOnce(&mut Owner, &mut Effects<Effect>)) {
        let Some(harness) = self.owners.get_mut(&process) else { return };
        let mut effects = Effects::new();
        call(&mut harness.owner, &mut effects);
        let effects: Vec<Effect> = effects.drain().collect();
        self.carry(process, effects);
    }

    fn carry(&mut self, from: ProcessId, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Send { to, message } = effect {
                self.send(from, to, Load::Message(message));
            }
        }
    }

    fn send(&mut self, from: ProcessId, to: ProcessId, load: Load) {
        if from.is_steward() {
            return self.route(from.node(), (from, to, load));
        }
        let is_direct = from.node() == to.node() && !to.is_steward() && !to.is_daemon();
        let way = if is_direct { Way::Direct(from, to) } else { Way::Up(from) };
        self.ways.entry(way).or_default().push_back((from, to, load));
    }

    /// A daemon sends something on its way.
    fn route(&mut self, at: NodeId, parcel: Parcel) {
        let (from, to, load) = parcel;
        if to.is_daemon() {
            return self.daemon(at, from, load);
        }
        if to.node() != at {
            if !self.heard.contains(&(at, to.node())) {
                self.ways.entry(Way::Between(at, to.node())).or_default().push_back((from, to, load));
            }
        } else if !to.is_steward() {
            self.ways.entry(Way::Down(to)).or_default().push_back((from, to, load));
        } else if let Load::Message(message) = load {
            self.tell(to, Input::Received { from, message });
        }
    }

    /// A daemon, or the head, is told something.
    fn daemon(&mut self, at: NodeId, from: ProcessId, load: Load) {
        match load {
            Load::Message(Message::WatchProcess { process }) => {
                let node = process.node();
                if self.heard.contains(&(at, node)) {
                    let died = Message::NodeDied { node, heir: self.heirs[&node] };
                    self.route(at, (ProcessId::daemon(at), from, Load::Message(died)));
                } else if self.dead.contains(&process) && !self.heirs.contains_key(&node) {
                    self.tell_of_death(process, from);
                } else if !process.is_steward() {
                    self.watchers.entry(process).or_default().insert(from);
                }
            }
            // There is no store here: no copies to tell of.
            Load::Message(Message::Mourn { of, .. }) => {
                let mourned = Load::Message(Message::Mourned { of });
                self.route(at, (ProcessId::daemon(at), from, mourned));
            }
            Load::Message(Message::Ask { request, .. }) => {
                let summary = |node| NodeSummary {
                    node: NodeId(node),
                    alive: !self.heirs.contains_key(&NodeId(node)),
                    name: "".into(),
                    host: "".into(),
                    address: "".into(),
                    total: Resources::default(),
                    free: Resources::default(),
                    labels: vec![],
                };
                let answer = Answer::Nodes((1..=NODES).map(summary).collect());
                let load = Load::Message(Message::Answer { request, answer });
                let way = Way::Between(ProcessId::HEAD.node(), at);
                self.ways.entry(way).or_default().push_back((ProcessId::HEAD, from, load));
            }
            _ => {}
        }
    }

    /// The node of a dead process tells somebody, after everything that it had said.
    fn tell_of_death(&mut self, process: ProcessId, watcher: ProcessId) {
        let at = process.node();
        let load = Load::Message(Message::ProcessDied { process, death: KILLED });
        // The watcher has it from its own daemon, which has it from this one.
        self.route(at, (ProcessId::daemon(watcher.node()), watcher, load));
    }

    fn kill(&mut self, process: ProcessId) {
        if self.owners.remove(&process).is_none() {
            return;
        }
        self.held.remove(&process);
        // Its link is read to its end before its death is recorded.
        for parcel in self.ways.remove(&Way::Up(process)).unwrap_or_default() {
            self.route(process.node(), parcel);
        }
        self.dead.insert(process);
        for watcher in self.watchers.remove(&process).unwrap_or_default() {
            self.tell_of_death(process, watcher);
        }
    }

    fn kill_node(&mut self, node: NodeId, heir: NodeId) {
        self.heirs.insert(node, heir);
        let here: Vec<ProcessId> =
            self.owners.keys().filter(|process| process.node() == node).copied().collect();
        for process in here {
            self.owners.remove(&process);
            self.held.remove(&process);
            self.dead.insert(process);
        }
        self.ways.retain(|way, _| match way {
            Way::Up(process) | Way::Down(process) | Way::Direct(process, _) => process.node() != node,
            Way::Between(_, to) => *to != node,
        });
        for other in (1..=NODES).map(NodeId).filter(|other| !self.heirs.contains_key(other)) {
            let died = Load::Message(Message::NodeDied { node, heir });
            let way = Way::Between(ProcessId::HEAD.node(), other);
            self.ways.entry(way).or_default().push_back((ProcessId::HEAD, ProcessId::daemon(other), died));
        }
    }

    /// Whether the first on a way may arrive: of a dead process everything is read before its death is told,
    /// by its daemon or by its heir. Of real links the owner itself sees to that for those that it has
    /// called, from whom results may come; calls from the dead are not taken any more.
    fn is_ready(&self, way: Way) -> bool {
        let (Way::Down(to), Some(first)) = (way, self.ways[&way].front()) else { return true };
        match &first.2 {
            Load::Message(Message::ProcessDied { process: dead, .. } | Message::Mourn { of: dead, .. }) => {
                !self.ways.contains_key(&Way::Direct(*dead, to))
            }
            _ => true,
        }
    }

    /// The next thing on one of the ways arrives. Says whether there was any.
    fn deliver(&mut self, pick: usize) -> bool {
        let ready: Vec<Way> = self.ways.keys().copied().filter(|way| self.is_ready(*way)).collect();
        let Some(way) = ready.get(pick % ready.len().max(1)).copied() else { return false };
        let queue = self.ways.get_mut(&way).expect("it is one of them");
        let (from, to, load) = queue.pop_front().expect("empty ways are removed");
        if queue.is_empty() {
            self.ways.remove(&way);
        }
        match way {
            Way::Up(process) => self.route(process.node(), (from, to, load)),
            Way::Between(_, at) => match load {
                Load::Message(Message::NodeDied { node, heir }) => self.node_died(at, node, heir),
                load => self.route(at, (from, to, load)),
            },
            Way::Down(_) | Way::Direct(..) => match load {
                Load::Message(message) => self.tell(to, Input::Received { from, message }),
                Load::Reference(object) => {
                    let Some(held) = self.held.get_mut(&to) else { return true };
                    held.push(object);
                    self.tell(to, Input::AddReference { object });
                    self.call(to, |owner, out| owner.receive_grant(object, from, out));
                }
            },
        }
        true
    }

    /// A node hears of another one's death, and tells all its processes.
    fn node_died(&mut self, at: NodeId, node: NodeId, heir: NodeId) {
        self.heard.insert((at, node));
        self.ways.remove(&Way::Between(node, at));
        let here: Vec<ProcessId> =
            self.owners.keys().filter(|process| process.node() == at).copied().collect();
        for process in here {
            let died = Load::Message(Message::NodeDied { node, heir });
            self.route(at, (ProcessId::daemon(at), process, died));
        }
    }

    fn settle(&mut self) {
        let mut arrived = 0;
        while self.deliver(arrived) {
            arrived += 1;
            assert!(arrived < 1_000_000, "it never ends: {:?}", self.ways);
        }
        assert!(self.ways.is_empty(), "{:?}", self.ways);
    }

    fn step(&mut self, step: Step) {
        let all = processes();
        match step {
            Step::Put { who, inside } => {
                let who = all[who];
                let Some(harness) = self.owners.get_mut(&who) else { return };
                let object = harness.owner.next_task_id().object(0);
                let held = self.held.get_mut(&who).expect("it lives");
                let own: Vec<ObjectId> =
                    held.iter().copied().filter(|object| object.owner() == who).collect();
                let inside = inside.filter(|_| !own.is_empty()).map(|pick| own[pick % own.len()]);
                held.push(object);
                let value = Value { contains: inside.into_iter().collect(), ..small() };
                self.tell(who, Input::Put { object, value });
            }
            Step::Pass { from, to, pick } => {
                let (from, to) = (all[from], all[to]);
                let Some(held) = self.held.get(&from).filter(|held| !held.is_empty()) else { return };
                let object = held[pick % held.len()];
                if from != to {
                    self.call(from, |owner, out| owner.grant(object, to, out));
                    self.send(from, to, Load::Reference(object));
                    if object.owner() != from {
                        self.settle();
                    }
                }
            }
            Step::Drop { who, pick } => {
                let who = all[who];
                let Some(held) = self.held.get_mut(&who).filter(|held| !held.is_empty()) else { return };
                let object = held.swap_remove(pick % held.len());
                self.tell(who, Input::RemoveReference { object });
            }
            Step::Kill { who } => self.kill(all[who]),
            Step::KillNode { node, heir } => {
                let (node, heir) = (NodeId(node), NodeId(heir));
                let gone = |node| self.heirs.contains_key(node);
                if node != heir && !gone(&node) && !gone(&heir) {
                    self.settle();
                    self.kill_node(node, heir);
                }
            }
            Step::Deliver { seed, count } => {
                let mut seed = seed;
                for _ in 0..count {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    self.deliver((seed >> 33) as usize);
                }
            }
        }
    }

    /// Invariant 2: whoever lives reads whatever it holds.
    fn assert_everything_is_there(&mut self) {
        self.settle();
        for (process, held) in self.held.clone() {
            for object in held {
                self.tell(process, Input::Need { object });
                self.settle();
                let found = self.owners[&process].owner.lookup(object);
                assert!(matches!(found, Lookup::Inline { .. }), "{process:?} reads {object:?}: {found:?}");
            }
        }
    }

    /// Invariant 2: and what nobody holds is gone everywhere.
    fn assert_nothing_is_left(&mut self) {
        for (process, held) in core::mem::take(&mut self.held) {
            for object in held {
                self.tell(process, Input::RemoveReference { object });
            }
        }
        self.settle();
        for (process, harness) in &self.owners {
            let inspection = harness.owner.inspect();
            assert!(inspection.objects.is_empty(), "{process:?}: {:?}", inspection.objects);
            assert_eq!((inspection.records, inspection.mournings), (0, vec![]), "{process:?}");
        }
    }
}

proptest! {
    #[test]
    fn whoever_dies_what_is_held_is_there_and_nothing_else(steps in prop::collection::vec(step(), 1..60)) {
        let mut cluster = Cluster::new();
        for step in steps {
            cluster.step(step);
        }
        cluster.assert_everything_is_there();
        cluster.assert_nothing_is_left();
    }
}

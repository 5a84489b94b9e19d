//! A head with a log and real nodes, over sessions that lose nothing while both ends live: groups come
//! and go, nodes join and die, the head dies and another one takes over, at any moment.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use proptest::prelude::{prop, proptest};

use crate::group::{Bundle, GroupSpec, GroupState, GroupStrategy};
use crate::head::harness::{resources, summary};
use crate::head::{Config, Effect, Head, Input, Key, Row, WriteResult};
use crate::ids::{GroupId, JobId, NodeId, OperationId, ProcessId, RequestId, TaskId};
use crate::machine::{Effects, Machine, Span, Time};
use crate::message::{Message, NodeSummary};
use crate::node::{Config as NodeConfig, Effect as NodeEffect, Input as NodeInput, Node};

/// The process that makes the groups lives on the first node, which never dies.
const MAKER: ProcessId = ProcessId::new(NodeId(1), 1);

/// A node and its session with the head.
struct Member {
    node: Node,
    /// What the head has not dealt with for good; the first so many were delivered.
    up: VecDeque<(ProcessId, Message)>,
    delivered: usize,
    down: VecDeque<Message>,
    /// The present head has let it in.
    connected: bool,
}

type Write = (OperationId, Vec<(Key, Option<Row>)>);

struct World {
    now: Time,
    head: Head,
    log: BTreeMap<Key, Row>,
    writing: Option<Write>,
    members: BTreeMap<u32, Member>,
    /// What the maker was told last of each group.
    told: BTreeMap<GroupId, GroupState>,
    groups: u64,
    heads: u64,
}

fn head(seed: u64, log: &BTreeMap<Key, Row>) -> Head {
    let rows = log.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
    Head::new(Config { durable: true, ..Config::new(seed) }, rows)
}

impl World {
    fn new() -> World {
        let log = BTreeMap::new();
        let mut world = World {
            now: Time(0),
            head: head(1, &log),
            log,
            writing: None,
            members: BTreeMap::new(),
            told: BTreeMap::new(),
            groups: 0,
            heads: 1,
        };
        world.join(4);
        world.settle(Span::from_secs(1));
        world
    }

    fn tell_head(&mut self, input: Input) {
        let mut effects = Effects::new();
        self.head.handle(self.now, input, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, mut effects: Effects<Effect>) {
        self.head.check();
        for effect in effects.drain() {
            match effect {
                Effect::Write { operation, rows, .. } => self.writing = Some((operation, rows)),
                Effect::Handled { node } => {
                    let member = self.members.get_mut(&node.0);
                    if let Some(member) = member.filter(|member| member.delivered > 0) {
                        member.up.pop_front();
                        member.delivered -= 1;
                    }
                }
                Effect::Send { to: MAKER, message: Message::GroupUpdate { group, state } } => {
                    self.told.insert(group, state);
                }
                Effect::Send { to, message } => {
                    if let Some(member) = self.members.get_mut(&to.node().0).filter(|member| member.connected)
                        && to.is_daemon()
                    {
                        member.down.push_back(message);
                    }
                }
                Effect::Admit { connection, node, epoch } => {
                    // The number was foretold by whoever joined.
                    assert_eq!(connection, u64::from(node.0));
                    self.connected(node, epoch);
                }
                Effect::Resume { node, epoch, .. } => self.connected(node, epoch),
                Effect::Refuse { connection, .. } => drop(self.members.remove(&(connection as u32))),
                Effect::Forget { .. } | Effect::Call { .. } | Effect::StepDown => {}
            }
        }
    }

    fn connected(&mut self, node: NodeId, epoch: u64) {
        if let Some(member) = self.members.get_mut(&node.0) {
            member.connected = true;
            self.tell_node(node.0, NodeInput::HeadChanged { epoch });
        }
    }

    fn tell_node(&mut self, id: u32, input: NodeInput) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let mut effects = Effects::new();
        member.node.handle(self.now, input, &mut effects);
        self.node_says(id, effects);
    }

    fn node_says(&mut self, id: u32, mut effects: Effects<NodeEffect>) {
        let member = self.members.get_mut(&id).expect("it has just spoken");
        member.node.check();
        for effect in effects.drain() {
            match effect {
                NodeEffect::Send { to: ProcessId::HEAD, message } => {
                    member.up.push_back((ProcessId::daemon(NodeId(id)), message));
                }
                NodeEffect::Stop { .. } => {
                    self.members.remove(&id);
                    return;
                }
                _ => {}
            }
        }
    }

    fn join(&mut self, cpus: i64) {
        let last = self.log.get(&Key::Meta).map_or(0, |row| match row {
            Row::Meta(meta) => meta.last_node,
            other => panic!("{other:?}"),
        });
        let id = last + 1;
        let total = resources(&[("CPU", cpus)]);
        let mut config = NodeConfig::new(NodeId(id));
        config.resources = total.clone();
        config.address = String::from("somewhere");
        let (up, down) = (VecDeque::new(), VecDeque::new());
        let member = Member { node: Node::new(config), up, delivered: 0, down, connected: false };
        self.members.insert(id, member);
        let summary = NodeSummary { free: total.clone(), total, ..summary(NodeId(0)) };
        self.tell_head(Input::NodeJoins { connection: u64::from(id), summary: Box::new(summary) });
        self.write_all();
    }

    fn create(&mut self, strategy: GroupStrategy, cpus: &[i64]) {
        self.groups += 1;
        let id = GroupId(TaskId { owner: MAKER, number: self.groups });
        let bundle = |cpus: &i64| Bundle { resources: resources(&[("CPU", *cpus)]), labels: Vec::new() };
        let spec = GroupSpec {
            id,
            job: JobId(1),
            creator: None,
            name: String::new(),
            namespace: String::new(),
            detached: true,
            bundles: cpus.iter().map(bundle).collect(),
            strategy,
        };
        let create = Message::CreateGroup { spec: Box::new(spec), request: RequestId(self.groups) };
        self.maker_says(create);
        self.maker_says(Message::SubscribeGroup { group: id });
    }

    fn maker_says(&mut self, message: Message) {
        self.members.get_mut(&1).expect("the first node lives").up.push_back((MAKER, message));
    }

    fn pick(&self, pick: usize) -> u32 {
        *self.members.keys().nth(pick % self.members.len()).expect("there is one")
    }

    /// One message goes up, or one down.
    fn deliver(&mut self, id: u32, upwards: bool) -> bool {
        let Some(member) = self.members.get_mut(&id).filter(|member| member.connected) else { return false };
        if upwards {
            let Some((from, message)) = member.up.get(member.delivered).cloned() else { return false };
            member.delivered += 1;
            self.tell_head(Input::Received { via: NodeId(id), from, message });
        } else {
            let Some(message) = member.down.pop_front() else { return false };
            if let Message::CommitBundles { group, .. } = message {
                self.check_whole(group);
            }
            self.tell_node(id, NodeInput::Received { from: ProcessId::HEAD, message });
        }
        true
    }

    /// Invariant 4: nothing of a group is opened before all of it is set aside, and that is in the log.
    fn check_whole(&self, id: GroupId) {
        let Some(Row::Group(row)) = self.log.get(&Key::Group(id)) else { return };
        for (index, node) in (0..).zip(&row.nodes) {
            let Some(member) = node.and_then(|node| self.members.get(&node.0)) else { continue };
            let set_aside = member.node.inspect().bundles;
            let here =
                set_aside.iter().any(|(group, _, indices, _)| *group == id && indices.contains(&index));
            let ended = member
                .down
                .iter()
                .any(|message| matches!(message, Message::ReturnBundles { group, .. } if *group == id));
            assert!(here || ended, "bundle {index} of {id:?} is not set aside on {node:?}");
        }
    }

    fn finish_write(&mut self, done: bool) -> bool {
        let Some((operation, rows)) = self.writing.take() else { return false };
        if done {
            for (key, row) in rows {
                match row {
                    Some(row) => drop(self.log.insert(key, row)),
                    None => drop(self.log.remove(&key)),
                }
            }
            self.tell_head(Input::Finished { operation, result: WriteResult::Done });
        }
        true
    }

    fn write_all(&mut self) {
        while self.finish_write(true) {}
    }

    /// The head dies, with what it was about to write or after that, and another one takes over.
    fn restart(&mut self, written: bool) {
        if written && let Some((_, rows)) = self.writing.take() {
            for (key, row) in rows {
                match row {
                    Some(row) => drop(self.log.insert(key, row)),
                    None => drop(self.log.remove(&key)),
                }
            }
        }
        self.writing = None;
        self.heads += 1;
        self.head = head(self.heads, &self.log);
        for member in self.members.values_mut() {
            member.connected = false;
            member.delivered = 0;
            member.down.clear();
        }
        for id in self.members.keys().copied().collect::<Vec<u32>>() {
            self.tell_head(Input::NodeReturns { connection: u64::from(id), node: NodeId(id) });
        }
        self.maker_says_again();
    }

    /// What a process asks again when it hears of another head.
    fn maker_says_again(&mut self) {
        for number in 1..=self.groups {
            let group = GroupId(TaskId { owner: MAKER, number });
            if self.told.get(&group) != Some(&GroupState::Removed) {
                self.maker_says(Message::SubscribeGroup { group });
            }
        }
    }

    fn kill(&mut self, id: u32) {
        if id != 1 && self.members.len() > 2 {
            self.members.remove(&id);
            self.tell_head(Input::NodeLost { node: NodeId(id) });
        }
    }

    fn pass(&mut self, span: Span) {
        self.now = self.now + span;
        let mut effects = Effects::new();
        self.head.handle_timeout(self.now, &mut effects);
        self.carry_out(effects);
        for id in self.members.keys().copied().collect::<Vec<u32>>() {
            let mut effects = Effects::new();
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.node.handle_timeout(self.now, &mut effects);
            self.node_says(id, effects);
        }
    }

    /// Time passes, in which the head hears of the first node.
    fn idle(&mut self, span: Span) {
        self.write_all();
        while self.deliver(1, true) {
            self.write_all();
        }
        self.pass(span);
    }

    /// Everything that is under way arrives, and time passes.
    fn settle(&mut self, span: Span) {
        let end = self.now + span;
        while self.now < end {
            let mut moved = true;
            while moved {
                moved = self.finish_write(true);
                for id in self.members.keys().copied().collect::<Vec<u32>>() {
                    moved |= self.deliver(id, true) | self.deliver(id, false);
                }
            }
            self.pass(Span::from_millis(50));
        }
    }

    /// What the head, the log, the nodes and the maker know must be the same.
    fn check_settled(&self) {
        let mut expected: BTreeMap<(u32, GroupId), Vec<u32>> = BTreeMap::new();
        for (key, row) in &self.log {
            let (Key::Group(id), Row::Group(row)) = (key, row) else { continue };
            let nodes: Vec<NodeId> = row.nodes.iter().flatten().copied().collect();
            assert_eq!(nodes.len(), row.spec.bundles.len(), "{id:?} is placed: {:?}", self.told.get(id));
            assert_eq!(self.told.get(id), Some(&GroupState::Placed { nodes }));
            for (index, node) in (0..).zip(row.nodes.iter().flatten()) {
                expected.entry((node.0, *id)).or_default().push(index);
            }
        }
        let mut found: BTreeMap<(u32, GroupId), Vec<u32>> = BTreeMap::new();
        for (node, member) in &self.members {
            for (group, _, indices, committed) in member.node.inspect().bundles {
                assert!(committed, "{group:?} is open on node {node}");
                found.entry((*node, group)).or_default().extend(indices);
            }
        }
        found.values_mut().for_each(|indices| indices.sort_unstable());
        assert_eq!(found, expected);
        for id in (1..=self.groups).map(|number| GroupId(TaskId { owner: MAKER, number })) {
            let there = self.log.contains_key(&Key::Group(id));
            assert!(there || self.told.get(&id) == Some(&GroupState::Removed), "{id:?}");
        }
    }
}

const STRATEGIES: [GroupStrategy; 4] =
    [GroupStrategy::Pack, GroupStrategy::Spread, GroupStrategy::StrictPack, GroupStrategy::StrictSpread];

proptest! {
    #[test]
    fn groups_are_whole_in_the_end_and_never_open_in_part(
        steps in prop::collection::vec((0u8..24, 0usize..64, 0usize..64), 1..120),
    ) {
        let mut world = World::new();
        for (kind, pick, other) in steps {
            match kind {
                0 | 1 => {
                    let cpus: Vec<i64> = (0..1 + other % 3).map(|bundle| 1 + ((other + bundle) % 3) as i64).collect();
                    world.create(STRATEGIES[pick % 4], &cpus);
                }
                2 if world.groups > 0 => {
                    let number = 1 + pick as u64 % world.groups;
                    let group = GroupId(TaskId { owner: MAKER, number });
                    world.maker_says(Message::RemoveGroup { group });
                }
                3 if world.members.len() < 6 && world.writing.is_none() => world.join(4),
                4 => { let id = world.pick(pick); world.kill(id); }
                5 if other % 3 == 0 => world.restart(pick % 2 == 0),
                6 => world.idle(Span::from_millis((pick * other) as u64)),
                7 => world.settle(Span::from_millis(pick as u64 * 40)),
                8..=11 => { world.finish_write(true); }
                _ => {
                    let id = world.pick(pick);
                    world.deliver(id, other % 2 == 0);
                }
            }
        }
        // By then a head knows who is dead.
        world.settle(Span::from_secs(12));
        for _ in 0..4 {
            world.join(64);
        }
        world.settle(Span::from_secs(5));
        world.check_settled();
    }
}

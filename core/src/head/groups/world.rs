//! A head with its log and real nodes, over sessions that lose nothing while both ends live: for tests of how
//! groups are placed. Who uses it says what happens next; nothing happens by itself.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::group::{Bundle, GroupSpec, GroupState, GroupStrategy};
use crate::head::{Config, Effect, Head, Input, Key, Row, WriteResult};
use crate::ids::{GroupId, JobId, NodeId, OperationId, ProcessId, RequestId, TaskId};
use crate::machine::{Effects, Machine, Time};
use crate::message::{Message, NodeSummary};
use crate::node::{Config as NodeConfig, Effect as NodeEffect, Input as NodeInput, Node};
use crate::resources::{Quantity, Resources};

/// Who asks for groups; it lives on the first node, which should never die.
const MAKER: ProcessId = ProcessId::new(NodeId(1), 1);

type Rows = Vec<(Key, Option<Row>)>;

/// A node and its session with the head.
#[derive(Clone, Debug)]
struct Member {
    node: Node,
    /// What the head has not dealt with for good; the first so many were delivered.
    up: VecDeque<(ProcessId, Message)>,
    delivered: usize,
    down: VecDeque<Message>,
    /// The present head has let it in.
    connected: bool,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct World {
    now: Time,
    head: Head,
    log: BTreeMap<Key, Row>,
    writing: Option<(OperationId, Rows)>,
    members: BTreeMap<u32, Member>,
    /// What the maker was told last of each group.
    told: BTreeMap<GroupId, GroupState>,
    /// Which head this is.
    heads: u64,
}

fn head(seed: u64, log: &BTreeMap<Key, Row>) -> Head {
    let rows = log.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
    Head::new(Config { durable: true, ..Config::new(seed) }, rows)
}

fn cpus(count: i64) -> Resources {
    let mut resources = Resources::default();
    resources.set(Resources::CPU, Quantity(count * Quantity::ONE.0));
    resources
}

fn id_of(number: u64) -> GroupId {
    GroupId(TaskId { owner: MAKER, number })
}

impl Default for World {
    /// A head that has just been made, and no nodes.
    fn default() -> World {
        let log = BTreeMap::new();
        World {
            now: Time(0),
            head: head(1, &log),
            log,
            writing: None,
            members: BTreeMap::new(),
            told: BTreeMap::new(),
            heads: 1,
        }
    }
}

// What happens.
impl World {
    /// A node with so many CPUs joins, and everything that is written meanwhile is in the log.
    pub fn join(&mut self, count: i64) {
        let last = match self.log.get(&Key::Meta) {
            Some(Row::Meta(meta)) => meta.last_node,
            _ => 0,
        };
        // The head will give it this number.
        let id = last + 1;
        let mut config = NodeConfig::new(NodeId(id));
        config.resources = cpus(count);
        config.address = String::from("somewhere");
        let summary = NodeSummary {
            node: NodeId(0),
            alive: true,
            name: String::new(),
            host: String::new(),
            address: config.address.clone(),
            total: cpus(count),
            free: cpus(count),
            labels: Vec::new(),
        };
        let (up, down) = (VecDeque::new(), VecDeque::new());
        let member = Member { node: Node::new(config), up, delivered: 0, down, connected: false };
        self.members.insert(id, member);
        self.tell_head(Input::NodeJoins { connection: u64::from(id), summary: Box::new(summary) });
        while self.finish_write() {}
    }

    /// The maker asks for a group of that number, whose bundles have so many CPUs, and for news of it.
    pub fn create(&mut self, number: u64, strategy: GroupStrategy, bundles: &[i64]) {
        let bundle = |count: &i64| Bundle { resources: cpus(*count), labels: Vec::new() };
        let spec = GroupSpec {
            id: id_of(number),
            job: JobId(1),
            creator: None,
            name: String::new(),
            namespace: String::new(),
            detached: true,
            bundles: bundles.iter().map(bundle).collect(),
            strategy,
        };
        self.maker_says(Message::CreateGroup { spec: Box::new(spec), request: RequestId(number) });
        self.maker_says(Message::SubscribeGroup { group: id_of(number) });
    }

    /// The maker removes a group.
    pub fn remove(&mut self, number: u64) {
        self.maker_says(Message::RemoveGroup { group: id_of(number) });
    }

    /// The head gets the next message of a node, if there is one.
    pub fn go_up(&mut self, id: u32) -> bool {
        let Some(member) = self.members.get_mut(&id).filter(|member| member.connected) else { return false };
        let Some((from, message)) = member.up.get(member.delivered).cloned() else { return false };
        member.delivered += 1;
        self.tell_head(Input::Received { via: NodeId(id), from, message });
        true
    }

    /// A node gets the next message of the head, if there is one.
    ///
    /// # Errors
    ///
    /// If it opens a group of which something is not set aside.
    pub fn go_down(&mut self, id: u32) -> Result<bool, String> {
        let Some(member) = self.members.get_mut(&id).filter(|member| member.connected) else {
            return Ok(false);
        };
        let Some(message) = member.down.pop_front() else { return Ok(false) };
        if let Message::CommitBundles { group, .. } = message {
            self.is_whole(group)?;
        }
        self.tell_node(id, NodeInput::Received { from: ProcessId::HEAD, message });
        Ok(true)
    }

    /// What is being written is in the log, and the head hears of it. False if nothing is being written.
    pub fn finish_write(&mut self) -> bool {
        let Some((operation, rows)) = self.writing.take() else { return false };
        self.write(rows);
        self.tell_head(Input::Finished { operation, result: WriteResult::Done });
        true
    }

    /// The head dies, with what it was writing or (`written`) after that, and another one takes over.
    pub fn restart(&mut self, written: bool) {
        let writing = self.writing.take();
        if let Some((_, rows)) = writing.filter(|_| written) {
            self.write(rows);
        }
        self.heads += 1;
        self.head = head(self.heads, &self.log);
        for member in self.members.values_mut() {
            member.connected = false;
            member.delivered = 0;
            member.down.clear();
        }
        for id in self.nodes() {
            self.tell_head(Input::NodeReturns { connection: u64::from(id), node: NodeId(id) });
        }
        // What a process asks again when it hears of another head.
        let removed = |id: &GroupId| self.told.get(id) == Some(&GroupState::Removed);
        let watched: Vec<GroupId> = self.told.keys().copied().filter(|id| !removed(id)).collect();
        for group in watched {
            self.maker_says(Message::SubscribeGroup { group });
        }
    }

    /// A node dies.
    pub fn kill(&mut self, id: u32) {
        self.members.remove(&id);
        self.tell_head(Input::NodeLost { node: NodeId(id) });
    }

    /// It is later now: machines with a deadline that has come hear of that.
    pub fn pass(&mut self, now: Time) {
        self.now = now;
        if self.head.poll_timeout().is_some_and(|(due, _)| due <= now) {
            let mut effects = Effects::new();
            self.head.handle_timeout(now, &mut effects);
            self.carry_out(effects);
        }
        for id in self.nodes() {
            let Some(member) = self.members.get_mut(&id) else { continue };
            if member.node.poll_timeout().is_some_and(|(due, _)| due <= now) {
                let mut effects = Effects::new();
                member.node.handle_timeout(now, &mut effects);
                self.node_says(id, effects);
            }
        }
    }

    /// Everything that is under way arrives; no time passes.
    ///
    /// # Errors
    ///
    /// As [`World::go_down`].
    pub fn deliver_all(&mut self) -> Result<(), String> {
        loop {
            let mut moved = self.finish_write();
            for id in self.nodes() {
                moved |= self.go_up(id) | self.go_down(id)?;
            }
            if !moved {
                return Ok(());
            }
        }
    }
}

// What can be seen.
impl World {
    /// What time it is.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The nodes that live.
    pub fn nodes(&self) -> Vec<u32> {
        self.members.keys().copied().collect()
    }

    /// What the maker was told last of a group.
    pub fn told(&self, number: u64) -> Option<&GroupState> {
        self.told.get(&id_of(number))
    }

    /// What the head is told next by a node.
    pub fn next_up(&self, id: u32) -> Option<&Message> {
        let member = self.members.get(&id).filter(|member| member.connected)?;
        member.up.get(member.delivered).map(|(_, message)| message)
    }

    /// What a node is told next by the head.
    pub fn next_down(&self, id: u32) -> Option<&Message> {
        self.members.get(&id).filter(|member| member.connected)?.down.front()
    }

    /// Whether something is being written.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// When the next deadline of any machine comes.
    pub fn next_deadline(&self) -> Option<Time> {
        let nodes = self.members.values().filter_map(|member| member.node.poll_timeout());
        nodes.chain(self.head.poll_timeout()).map(|(due, _)| due).min()
    }

    /// Whether the head, the log, the nodes and the maker know the same, and no group waits.
    ///
    /// # Errors
    ///
    /// What they do not agree on.
    pub fn settled(&self) -> Result<(), String> {
        let mut expected: BTreeMap<(u32, GroupId), Vec<u32>> = BTreeMap::new();
        for (key, row) in &self.log {
            let (Key::Group(id), Row::Group(row)) = (key, row) else { continue };
            let nodes: Vec<NodeId> = row.nodes.iter().flatten().copied().collect();
            if nodes.len() != row.spec.bundles.len() {
                return Err(format!("{id:?} waits: {:?}", self.told.get(id)));
            }
            if self.told.get(id) != Some(&GroupState::Placed { nodes: nodes.clone() }) {
                return Err(format!("{id:?} is on {nodes:?}, and its maker knows {:?}", self.told.get(id)));
            }
            for (index, node) in (0..).zip(nodes) {
                expected.entry((node.0, *id)).or_default().push(index);
            }
        }
        let mut found: BTreeMap<(u32, GroupId), Vec<u32>> = BTreeMap::new();
        for (node, member) in &self.members {
            for (group, attempt, indices, committed) in member.node.inspect().bundles {
                if !committed {
                    return Err(format!("{group:?}, placement {attempt}, is not open on node {node}"));
                }
                found.entry((*node, group)).or_default().extend(indices);
            }
        }
        found.values_mut().for_each(|indices| indices.sort_unstable());
        if found != expected {
            return Err(format!("nodes hold {found:?}, and the log knows {expected:?}"));
        }
        let lost = self
            .told
            .iter()
            .find(|(id, state)| !self.log.contains_key(&Key::Group(**id)) && **state != GroupState::Removed);
        lost.map_or(Ok(()), |(id, state)| Err(format!("{id:?} is gone, and its maker knows {state:?}")))
    }

    /// Invariant 4: nothing of a group is opened before all of it is set aside, and that is in the log.
    fn is_whole(&self, id: GroupId) -> Result<(), String> {
        let Some(Row::Group(row)) = self.log.get(&Key::Group(id)) else { return Ok(()) };
        for (index, node) in (0..).zip(&row.nodes) {
            let Some(member) = node.and_then(|node| self.members.get(&node.0)) else { continue };
            let set_aside = member.node.inspect().bundles;
            let here = set_aside.iter().any(|(group, _, list, _)| *group == id && list.contains(&index));
            let ends =
                |message: &Message| matches!(message, Message::ReturnBundles { group, .. } if *group == id);
            if !here && !member.down.iter().any(ends) {
                return Err(format!("{id:?} is opened, and {node:?} has not set bundle {index} aside"));
            }
        }
        Ok(())
    }
}

// What follows from it.
impl World {
    fn maker_says(&mut self, message: Message) {
        self.members.get_mut(&1).expect("the first node lives").up.push_back((MAKER, message));
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
                Effect::Send { to, message } if to.is_daemon() => {
                    let member = self.members.get_mut(&to.node().0);
                    if let Some(member) = member.filter(|member| member.connected) {
                        member.down.push_back(message);
                    }
                }
                Effect::Admit { connection, node, epoch } => {
                    assert_eq!(connection, u64::from(node.0), "its number was foretold");
                    self.connected(node, epoch);
                }
                Effect::Resume { node, epoch, .. } => self.connected(node, epoch),
                Effect::Refuse { connection, .. } => drop(self.members.remove(&(connection as u32))),
                // Nodes come to a new head by themselves.
                Effect::Send { .. } | Effect::Forget { .. } | Effect::Call { .. } | Effect::StepDown => {}
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

    fn write(&mut self, rows: Rows) {
        for (key, row) in rows {
            match row {
                Some(row) => drop(self.log.insert(key, row)),
                None => drop(self.log.remove(&key)),
            }
        }
    }
}

//! Two-phase placement: a head with its log and real nodes, whose messages, writes and deaths come in every
//! order. Programs are left out: what is asked for is a list, and what counts is who holds what.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use shoal_core::group::{Bundle, GroupSpec, GroupState, GroupStrategy};
use shoal_core::head::{Config, Effect, Head, Input, Key, Row, WriteResult};
use shoal_core::ids::{GroupId, JobId, NodeId, OperationId, ProcessId, RequestId, TaskId};
use shoal_core::message::{Message, NodeSummary};
use shoal_core::node::{Config as NodeConfig, Effect as NodeEffect, Input as NodeInput, Node};
use shoal_core::{Effects, Machine, Time};

use crate::fingerprint::Printer;
use crate::program::cpus;
use crate::search::{Check, Model, Story, Violation};

/// Who asks for groups; it lives on the first node, which never dies.
const MAKER: ProcessId = ProcessId::new(NodeId(1), 1);
/// When nothing but deadlines was left to wait for so often, what is still left stays for ever.
const WAITS_MAX: u16 = 300;

/// What is asked for, and what may go wrong meanwhile.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is explored, in a line.
    pub about: &'static str,
    /// CPUs of each node.
    pub nodes: Vec<i64>,
    /// What is asked for, in order.
    pub requests: Vec<Request>,
    /// Heads that die, with what they were writing or without it.
    pub heads: u8,
    /// Nodes that die.
    pub deaths: u8,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Request {
    /// A group of that number, whose bundles have so many CPUs and lie on different nodes.
    Create(u64, Vec<i64>),
    /// Its end.
    Remove(u64),
}

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

type Rows = Vec<(Key, Option<Row>)>;

#[derive(Clone, Debug)]
struct Cluster {
    now: Time,
    head: Head,
    log: BTreeMap<Key, Row>,
    writing: Option<(OperationId, Rows)>,
    members: BTreeMap<u32, Member>,
    /// What the maker was told last of each group.
    told: BTreeMap<GroupId, GroupState>,
    /// How many requests were made.
    asked: usize,
    /// Which head this is.
    heads: u64,
    heads_left: u8,
    deaths_left: u8,
    waited: u16,
}

/// A state of the cluster.
#[derive(Clone)]
pub struct State {
    cluster: Rc<Cluster>,
    fingerprint: u64,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.fingerprint);
    }
}

/// One thing that can happen.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// The next request is made.
    Ask,
    /// The head gets the next message of a node.
    Up(u32),
    /// A node gets the next message of the head.
    Down(u32),
    /// What is being written is in the log.
    Write,
    /// The head dies, and another one takes over.
    HeadDies {
        /// What it was writing is in the log.
        written: bool,
    },
    /// A node dies.
    NodeDies(u32),
    /// Nothing else can happen: the next deadline comes.
    Wait,
}

/// The model of a placement.
pub struct PlacementModel {
    placement: Placement,
    printer: Printer,
}

impl PlacementModel {
    /// Nothing has happened yet.
    pub fn new(placement: Placement) -> PlacementModel {
        PlacementModel { placement, printer: Printer::default() }
    }

    fn state(&mut self, cluster: Cluster) -> State {
        let fingerprint = self.printer.fingerprint(&cluster, cluster.now);
        State { cluster: Rc::new(cluster), fingerprint }
    }
}

impl Model for PlacementModel {
    type State = State;
    type Action = Action;

    fn start(&mut self, _: &mut Story) -> Check<State> {
        let placement = self.placement.clone();
        let cluster = guarded(|| {
            let mut cluster = Cluster::new(&placement);
            placement.nodes.iter().for_each(|cpus| cluster.join(*cpus));
            cluster.settle();
            cluster
        })?;
        Ok(self.state(cluster))
    }

    fn actions(&mut self, state: &State, actions: &mut Vec<Action>) {
        let cluster = &state.cluster;
        for (id, member) in cluster.members.iter().filter(|(_, member)| member.connected) {
            actions.extend((member.delivered < member.up.len()).then_some(Action::Up(*id)));
            actions.extend((!member.down.is_empty()).then_some(Action::Down(*id)));
        }
        actions.extend(cluster.writing.is_some().then_some(Action::Write));
        let quiet = actions.is_empty();
        let more = cluster.asked < self.placement.requests.len();
        actions.extend(more.then_some(Action::Ask));
        if quiet && !more {
            let over = cluster.settled().is_ok() || cluster.waited >= WAITS_MAX;
            if over {
                return;
            }
            actions.push(Action::Wait);
        }
        if cluster.heads_left > 0 {
            actions.push(Action::HeadDies { written: false });
            actions.extend(cluster.writing.is_some().then_some(Action::HeadDies { written: true }));
        }
        if cluster.deaths_left > 0 {
            actions.extend(cluster.members.keys().filter(|id| **id != 1).map(|id| Action::NodeDies(*id)));
        }
    }

    fn step(&mut self, state: &State, action: &Action, story: &mut Story) -> Check<State> {
        story.line(|| format!("    {}", state.cluster.tell(action, &self.placement)));
        let mut cluster = Cluster::clone(&state.cluster);
        let requests = &self.placement.requests;
        let cluster = guarded(move || {
            cluster.act(*action, requests)?;
            Ok(cluster)
        })??;
        Ok(self.state(cluster))
    }

    fn at_end(&mut self, state: &State) -> Check {
        state.cluster.settled().map_err(|detail| Violation::new("placement", detail))
    }
}

/// Assertions of machines end in violations.
fn guarded<T>(step: impl FnOnce() -> T) -> Check<T> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        Violation::new("assertions", text.unwrap_or_default())
    })
}

fn group(number: u64) -> GroupId {
    GroupId(TaskId { owner: MAKER, number })
}

fn head(seed: u64, log: &BTreeMap<Key, Row>) -> Head {
    let rows = log.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
    Head::new(Config { durable: true, ..Config::new(seed) }, rows)
}

impl Cluster {
    fn new(placement: &Placement) -> Cluster {
        let log = BTreeMap::new();
        Cluster {
            now: Time(0),
            head: head(1, &log),
            log,
            writing: None,
            members: BTreeMap::new(),
            told: BTreeMap::new(),
            asked: 0,
            heads: 1,
            heads_left: placement.heads,
            deaths_left: placement.deaths,
            waited: 0,
        }
    }

    fn act(&mut self, action: Action, requests: &[Request]) -> Check {
        match action {
            Action::Ask => {
                self.ask(&requests[self.asked]);
                self.asked += 1;
            }
            Action::Up(id) => self.go_up(id),
            Action::Down(id) => return self.go_down(id),
            Action::Write => self.finish_write(),
            Action::HeadDies { written } => {
                self.heads_left -= 1;
                self.restart(written);
            }
            Action::NodeDies(id) => {
                self.deaths_left -= 1;
                self.members.remove(&id);
                self.tell_head(Input::NodeLost { node: NodeId(id) });
            }
            Action::Wait => {
                self.waited += 1;
                self.pass();
            }
        }
        Ok(())
    }

    fn ask(&mut self, request: &Request) {
        match request {
            Request::Create(number, bundles) => {
                let bundle = |count: &i64| Bundle { resources: cpus(*count), labels: Vec::new() };
                let spec = GroupSpec {
                    id: group(*number),
                    job: JobId(1),
                    creator: None,
                    name: String::new(),
                    namespace: String::new(),
                    detached: true,
                    bundles: bundles.iter().map(bundle).collect(),
                    strategy: GroupStrategy::StrictSpread,
                };
                let request = RequestId(*number);
                self.maker_says(Message::CreateGroup { spec: Box::new(spec), request });
                self.maker_says(Message::SubscribeGroup { group: group(*number) });
            }
            Request::Remove(number) => self.maker_says(Message::RemoveGroup { group: group(*number) }),
        }
    }

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
                Effect::Admit { node, epoch, .. } | Effect::Resume { node, epoch, .. } => {
                    self.connected(node, epoch);
                }
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

    fn join(&mut self, amount: i64) {
        let id = self.members.len() as u32 + 1;
        let mut config = NodeConfig::new(NodeId(id));
        config.resources = cpus(amount);
        config.address = String::from("somewhere");
        let summary = NodeSummary {
            node: NodeId(0),
            alive: true,
            host: String::new(),
            address: config.address.clone(),
            total: cpus(amount),
            free: cpus(amount),
            labels: Vec::new(),
        };
        let (up, down) = (VecDeque::new(), VecDeque::new());
        let member = Member { node: Node::new(config), up, delivered: 0, down, connected: false };
        self.members.insert(id, member);
        self.tell_head(Input::NodeJoins { connection: u64::from(id), summary: Box::new(summary) });
        while self.writing.is_some() {
            self.finish_write();
        }
    }

    fn go_up(&mut self, id: u32) {
        let member = self.members.get_mut(&id).expect("it has something to say");
        let (from, message) = member.up[member.delivered].clone();
        member.delivered += 1;
        self.tell_head(Input::Received { via: NodeId(id), from, message });
    }

    fn go_down(&mut self, id: u32) -> Check {
        let member = self.members.get_mut(&id).expect("it is told something");
        let message = member.down.pop_front().expect("it is told something");
        if let Message::CommitBundles { group, .. } = message {
            self.is_whole(group)?;
        }
        self.tell_node(id, NodeInput::Received { from: ProcessId::HEAD, message });
        Ok(())
    }

    /// Invariant 4: nothing of a group is opened before all of it is set aside, and that is in the log.
    fn is_whole(&self, id: GroupId) -> Check {
        let Some(Row::Group(row)) = self.log.get(&Key::Group(id)) else { return Ok(()) };
        for (index, node) in (0..).zip(&row.nodes) {
            let Some(member) = node.and_then(|node| self.members.get(&node.0)) else { continue };
            let set_aside = member.node.inspect().bundles;
            let here = set_aside.iter().any(|(group, _, list, _)| *group == id && list.contains(&index));
            let ends =
                |message: &Message| matches!(message, Message::ReturnBundles { group, .. } if *group == id);
            if !here && !member.down.iter().any(ends) {
                let detail = format!("{id:?} is opened, and {node:?} has not set bundle {index} aside");
                return Err(Violation::new("atomicity", detail));
            }
        }
        Ok(())
    }

    fn finish_write(&mut self) {
        let Some((operation, rows)) = self.writing.take() else { return };
        self.write(rows);
        self.tell_head(Input::Finished { operation, result: WriteResult::Done });
    }

    fn write(&mut self, rows: Rows) {
        for (key, row) in rows {
            match row {
                Some(row) => drop(self.log.insert(key, row)),
                None => drop(self.log.remove(&key)),
            }
        }
    }

    fn restart(&mut self, written: bool) {
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
        for id in self.members.keys().copied().collect::<Vec<u32>>() {
            self.tell_head(Input::NodeReturns { connection: u64::from(id), node: NodeId(id) });
        }
        // What a process asks again when it hears of another head.
        let removed = |id: &GroupId| self.told.get(id) == Some(&GroupState::Removed);
        let watched: Vec<GroupId> = self.told.keys().copied().filter(|id| !removed(id)).collect();
        for group in watched {
            self.maker_says(Message::SubscribeGroup { group });
        }
    }

    /// The next deadline comes.
    fn pass(&mut self) {
        let nodes = self.members.values().filter_map(|member| member.node.poll_timeout());
        let Some((due, _)) = nodes.chain(self.head.poll_timeout()).min_by_key(|(due, _)| *due) else {
            return;
        };
        self.now = self.now.max(due);
        if self.head.poll_timeout().is_some_and(|(due, _)| due <= self.now) {
            let mut effects = Effects::new();
            self.head.handle_timeout(self.now, &mut effects);
            self.carry_out(effects);
        }
        for id in self.members.keys().copied().collect::<Vec<u32>>() {
            let Some(member) = self.members.get_mut(&id) else { continue };
            if member.node.poll_timeout().is_some_and(|(due, _)| due <= self.now) {
                let mut effects = Effects::new();
                member.node.handle_timeout(self.now, &mut effects);
                self.node_says(id, effects);
            }
        }
    }

    /// The start: everything that is under way arrives.
    fn settle(&mut self) {
        loop {
            let up = |(_, member): &(&u32, &Member)| member.delivered < member.up.len();
            if self.writing.is_some() {
                self.finish_write();
            } else if let Some(id) = self.members.iter().find(up).map(|(id, _)| *id) {
                self.go_up(id);
            } else if let Some(id) = self.members.iter().find(|(_, member)| !member.down.is_empty()) {
                let id = *id.0;
                // Nothing is placed yet.
                let _ = self.go_down(id);
            } else {
                return;
            }
        }
    }

    /// Whether the head, the log, the nodes and the maker know the same, and no group waits.
    fn settled(&self) -> Result<(), String> {
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

    /// An action in words.
    fn tell(&self, action: &Action, placement: &Placement) -> String {
        match action {
            Action::Ask => format!("asked: {:?}", placement.requests[self.asked]),
            Action::Up(id) => {
                let member = &self.members[id];
                format!("node {id} -> head: {:?}", member.up[member.delivered].1)
            }
            Action::Down(id) => format!("head -> node {id}: {:?}", self.members[id].down[0]),
            other => format!("{other:?}"),
        }
    }
}

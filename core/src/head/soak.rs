//! A random test: heads crash at any moment, and in the end everything is as if none had.
//!
//! The nodes here do what the protocol asks of nodes, and no more: they keep what was not acknowledged,
//! send it to the next head, and say what is on them. What the last head had sent and they had not yet
//! received is lost. What programs do is the same with crashes and without, and so must be what comes
//! of it: every actor at the same incarnation with as many restarts left, or dead for the same reason;
//! every job, every value, every answer. At no moment does an actor live twice.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use proptest::prelude::{ProptestConfig, prop, prop_assert_eq, proptest};

use super::harness::{spec, summary};
use super::{Config, Effect, Head, Input, Key, Row, WriteResult};
use crate::actor::{ActorSpec, ActorState};
use crate::ids::{ActorId, JobId, NodeId, OperationId, ProcessId, RequestId, TaskId};
use crate::machine::{Effects, Machine, Span, Time};
use crate::message::{ActorEvent, ActorPresence, Answer, Message, NodeState, Query};
use crate::value::Death;

const NODES: u32 = 3;
const CRASH: Death = Death::Signalled { signal: 11 };

fn on(node: u32, number: u32) -> ProcessId {
    ProcessId::new(NodeId(node), number)
}

/// What a write changes.
type Rows = Vec<(Key, Option<Row>)>;

/// A node, as far as the head can tell.
#[derive(Default)]
struct Node {
    /// It has come to this head.
    came: bool,
    /// And was let in.
    connected: bool,
    /// For the head: not yet there, and then there and not acknowledged.
    unsent: VecDeque<(ProcessId, Message)>,
    unacknowledged: VecDeque<(ProcessId, Message)>,
    /// From the head.
    inbox: VecDeque<Message>,
    actors: BTreeMap<ActorId, (u32, bool)>,
    drivers: BTreeMap<ProcessId, (Message, Option<JobId>)>,
    jobs: BTreeMap<JobId, bool>,
    /// Questions of its processes without an answer.
    open: BTreeMap<(ProcessId, RequestId), Message>,
}

/// What comes of it all.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    actors: Vec<String>,
    jobs: Vec<(ProcessId, String)>,
    values: Vec<String>,
    answers: BTreeMap<(ProcessId, RequestId), Answer>,
}

struct World {
    head: Head,
    now: Time,
    log: BTreeMap<Key, Row>,
    writing: Option<(OperationId, Rows)>,
    nodes: BTreeMap<NodeId, Node>,
    answers: BTreeMap<(ProcessId, RequestId), Answer>,
    /// How many incarnations of an actor crash once they serve.
    crashes: BTreeMap<ActorId, u32>,
    /// Actors with fewer restarts than crashes. Whether they die of a crash or of something that their
    /// program does later depends on luck.
    frail: BTreeSet<ActorId>,
    numbers: BTreeMap<ProcessId, u64>,
    ended: BTreeSet<ProcessId>,
}

/// What a program does.
#[derive(Clone, Copy, Debug)]
struct Deed {
    process: ProcessId,
    kind: u8,
    choice: u64,
}

impl World {
    fn new() -> World {
        let config = Config { durable: true, ..Config::new(7) };
        let mut world = World {
            head: Head::new(config, Vec::new()),
            now: Time(0),
            log: BTreeMap::new(),
            writing: None,
            nodes: BTreeMap::new(),
            answers: BTreeMap::new(),
            crashes: BTreeMap::new(),
            frail: BTreeSet::new(),
            numbers: BTreeMap::new(),
            ended: BTreeSet::new(),
        };
        for _ in 0..NODES {
            world.tell(Input::NodeJoins { connection: 0, summary: Box::new(summary(NodeId(0))) });
            while world.writing.is_some() {
                world.write();
            }
        }
        world
    }

    fn tell(&mut self, input: Input) {
        let mut effects = Effects::new();
        self.head.handle(self.now, input, &mut effects);
        self.perform(effects);
    }

    fn fire(&mut self) {
        if self.head.poll_timeout().is_some_and(|(due, _)| due <= self.now) {
            let mut effects = Effects::new();
            self.head.handle_timeout(self.now, &mut effects);
            self.perform(effects);
        }
    }

    fn perform(&mut self, mut effects: Effects<Effect>) {
        self.head.check();
        for effect in effects.drain() {
            match effect {
                Effect::Send { to, message } => {
                    let node = self.nodes.get_mut(&to.node()).expect("only who is in is spoken to");
                    assert!(node.connected, "{message:?} for a node that the head cannot reach");
                    if let Message::Answer { request, answer } = message {
                        if node.open.remove(&(to, request)).is_some() {
                            self.answers.insert((to, request), answer);
                        }
                    } else {
                        node.inbox.push_back(message);
                    }
                }
                Effect::Write { operation, rows, .. } => {
                    assert!(self.writing.replace((operation, rows)).is_none(), "one write at a time");
                }
                Effect::Admit { node, .. } => {
                    self.nodes.insert(node, Node { came: true, connected: true, ..Node::default() });
                }
                Effect::Resume { node: id, epoch, .. } => self.resumed(id, epoch),
                Effect::Handled { node } => {
                    let node = self.nodes.get_mut(&node).expect("it is in");
                    node.unacknowledged.pop_front().expect("what is acknowledged was sent");
                }
                // They come when they like.
                Effect::Call { .. } => {}
                Effect::Refuse { .. } | Effect::Forget { .. } | Effect::StepDown => {
                    panic!("nobody dies here: {effect:?}")
                }
            }
        }
    }

    /// A node and a new head have found each other. What has come from the old one is dealt with before.
    fn resumed(&mut self, id: NodeId, epoch: u64) {
        while !self.nodes[&id].inbox.is_empty() {
            self.receive(id);
        }
        let node = self.nodes.get_mut(&id).expect("it was in");
        node.connected = true;
        let mut unsent: VecDeque<(ProcessId, Message)> = node.unacknowledged.drain(..).collect();
        unsent.append(&mut node.unsent);
        let actors = node.actors.iter().map(|(actor, (incarnation, alive))| ActorPresence {
            actor: *actor,
            incarnation: *incarnation,
            process: alive.then_some((on(id.0, 1_000), 1)),
        });
        let state = NodeState {
            epoch,
            report: summary(id),
            actors: actors.collect(),
            bundles: Vec::new(),
            drivers: node.drivers.iter().map(|(driver, (_, job))| (*driver, *job)).collect(),
            jobs: node.jobs.iter().map(|(job, ended)| (*job, *ended)).collect(),
            dead: Vec::new(),
            draining: false,
        };
        let daemon = ProcessId::daemon(id);
        unsent.push_back((daemon, Message::NodeState { state: Box::new(state) }));
        let unregistered = node.drivers.values().filter(|(_, job)| job.is_none());
        unsent.extend(unregistered.map(|(register, _)| (daemon, register.clone())));
        unsent.extend(node.open.iter().map(|((process, _), question)| (*process, question.clone())));
        node.unsent = unsent;
    }

    fn write(&mut self) {
        let Some((operation, rows)) = self.writing.take() else { return };
        self.log_rows(rows);
        self.tell(Input::Finished { operation, result: WriteResult::Done });
    }

    fn log_rows(&mut self, rows: Rows) {
        for (key, row) in rows {
            match row {
                Some(row) => drop(self.log.insert(key, row)),
                None => drop(self.log.remove(&key)),
            }
        }
    }

    /// The head is gone, and another one takes over. Of what it was writing the log has all or nothing;
    /// of what it had sent, nodes receive some.
    fn crash(&mut self, choice: u64) {
        if let Some((_, rows)) = self.writing.take().filter(|_| choice.is_multiple_of(2)) {
            self.log_rows(rows);
        }
        for (id, node) in &mut self.nodes {
            let arrives = (choice / 2 + u64::from(id.0)) as usize % (node.inbox.len() + 1);
            node.inbox.truncate(arrives);
            (node.came, node.connected) = (false, false);
        }
        let rows = self.log.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        self.head = Head::new(Config { durable: true, ..Config::new(8) }, rows);
        self.fire();
    }

    fn connect(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("it was in");
        if !core::mem::replace(&mut node.came, true) {
            self.tell(Input::NodeReturns { connection: u64::from(id.0), node: id });
        }
    }

    /// The next frame of a node comes to the head.
    fn send(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("it is in");
        if !node.connected {
            return;
        }
        let Some((from, message)) = node.unsent.pop_front() else { return };
        node.unacknowledged.push_back((from, message.clone()));
        self.tell(Input::Received { via: id, from, message });
    }

    /// The next message of the head comes to a node.
    fn receive(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("it is in");
        let Some(message) = node.inbox.pop_front() else { return };
        let daemon = ProcessId::daemon(id);
        let mut report = |actor, incarnation, event| {
            node.unsent.push_back((daemon, Message::ActorReport { actor, incarnation, event }));
        };
        match message {
            Message::StartActor { spec, incarnation, .. } if !node.actors.contains_key(&spec.id) => {
                let actor = spec.id;
                report(actor, incarnation, ActorEvent::Alive { process: on(id.0, 1_000), pid: 1 });
                if incarnation < self.crashes[&actor] {
                    report(actor, incarnation, ActorEvent::Died { death: CRASH, intended: false });
                } else {
                    node.actors.insert(actor, (incarnation, true));
                }
            }
            Message::StopActor { actor, incarnation, .. }
                if node.actors.get(&actor).is_some_and(|(here, _)| *here == incarnation) =>
            {
                node.actors.remove(&actor);
                report(actor, incarnation, ActorEvent::Died { death: CRASH, intended: true });
            }
            Message::JobRegistered { driver, job, .. } => {
                if let Some((_, known)) = node.drivers.get_mut(&driver) {
                    *known = Some(job);
                }
                node.jobs.entry(job).or_insert(false);
            }
            Message::JobStarted { job, .. } => drop(node.jobs.entry(job).or_insert(false)),
            Message::JobEnded { job } => drop(node.jobs.insert(job, true)),
            Message::JobForgotten { job } => drop(node.jobs.remove(&job)),
            _ => {}
        }
    }

    /// No actor lives on two nodes.
    fn check(&self) {
        let mut seen = BTreeSet::new();
        for actor in self.nodes.values().flat_map(|node| node.actors.keys()) {
            assert!(seen.insert(*actor), "{actor:?} lives twice");
        }
    }

    /// A program does something: the same, whatever happens to heads.
    fn act(&mut self, deed: Deed) {
        let Deed { process, kind, choice } = deed;
        if self.ended.contains(&process) {
            return;
        }
        let number = self.numbers.entry(process).or_default();
        *number += 1;
        let number = *number;
        let request = RequestId(number);
        let made = |number: u64| ActorId(TaskId { owner: process, number });
        let earlier = made(choice % number);
        let key = format!("{process:?}/{}", choice % 3);
        let node = self.nodes.get_mut(&process.node()).expect("it is in");
        let message = match kind % 8 {
            0..=2 => {
                let id = made(number);
                let crashes = (choice % 3) as u32;
                let restarts_max = (choice / 3 % 3) as i32 - 1;
                self.crashes.insert(id, crashes);
                let frail = u32::try_from(restarts_max).is_ok_and(|restarts| restarts < crashes);
                if frail {
                    self.frail.insert(id);
                }
                let spec = ActorSpec {
                    restarts_max,
                    detached: choice.is_multiple_of(5),
                    // Names are taken by the same process only, and by what does not die by itself, so
                    // who has a name does not depend on luck.
                    name: if choice.is_multiple_of(4) && !frail { key } else { String::new() },
                    // Which number a job gets depends on who registers first.
                    job: JobId(0),
                    ..spec(id)
                };
                Message::CreateActor { spec: Box::new(spec), request: Some(request) }
            }
            3 => Message::KillActor { actor: earlier, no_restart: true },
            4 => Message::ActorOutOfScope { actor: earlier },
            5 => {
                let value = Bytes::from(vec![choice as u8]);
                let query = Query::Put { key, value, overwrite: choice.is_multiple_of(2) };
                Message::Ask { request, query }
            }
            6 => Message::Ask { request, query: Query::Delete { key } },
            _ => {
                self.ended.insert(process);
                node.drivers.remove(&process);
                node.open.retain(|(asker, _), _| *asker != process);
                let ended = Message::ProcessEnded { process, death: CRASH };
                return node.unsent.push_back((ProcessId::daemon(process.node()), ended));
            }
        };
        if matches!(message, Message::CreateActor { .. } | Message::Ask { .. }) {
            node.open.insert((process, request), message.clone());
        }
        node.unsent.push_back((process, message));
    }

    fn register(&mut self, driver: ProcessId) {
        let node = self.nodes.get_mut(&driver.node()).expect("it is in");
        let register = Message::RegisterJob {
            driver,
            namespace: format!("{driver:?}"),
            launch: Bytes::from_static(b"launch"),
        };
        node.drivers.insert(driver, (register.clone(), None));
        node.unsent.push_back((ProcessId::daemon(driver.node()), register));
    }

    /// Everything that can happen happens, until nothing is left to happen.
    fn settle(&mut self) {
        for id in (1..=NODES).map(NodeId) {
            self.connect(id);
        }
        for _ in 0..200 {
            for id in (1..=NODES).map(NodeId) {
                while !self.nodes[&id].unsent.is_empty() && self.nodes[&id].connected {
                    self.send(id);
                }
                while !self.nodes[&id].inbox.is_empty() {
                    self.receive(id);
                    self.check();
                }
                let node = self.nodes.get_mut(&id).expect("it is in");
                node.unsent.push_back((ProcessId::daemon(id), Message::Heartbeat));
            }
            self.write();
            self.now = self.now + Span::from_millis(100);
            self.fire();
        }
        while self.writing.is_some() {
            self.write();
        }
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome { answers: self.answers.clone(), ..Outcome::default() };
        outcome.answers.retain(|(process, _), _| !self.ended.contains(process));
        let left: Vec<_> = self.nodes.values().flat_map(|node| node.open.keys()).collect();
        assert!(left.is_empty(), "without an answer: {left:?}\n{:?}", self.head.pending());
        for id in self.crashes.keys() {
            let text = match self.head.actors.get(*id) {
                Some(actor) => {
                    assert!(matches!(actor.state, ActorState::Alive { .. }), "{:?}", self.head.pending());
                    let there = &self.nodes[&actor.node.expect("it serves somewhere")].actors;
                    assert_eq!(there.get(id), Some(&(actor.incarnation, true)), "{id:?}");
                    format!("incarnation {} restarts {}", actor.incarnation, actor.restarts_left)
                }
                None => {
                    let lives = self.nodes.values().any(|node| node.actors.contains_key(id));
                    assert!(!lives, "{id:?} lives though it is dead");
                    let cause = self.head.actors.ended_for(*id).expect("dead actors are remembered");
                    if self.frail.contains(id) { String::from("dead") } else { format!("{cause:?}") }
                }
            };
            outcome.actors.push(format!("{id:?}: {text}"));
        }
        for (id, job) in self.head.jobs.iter() {
            outcome.jobs.push((job.driver, job.namespace.clone()));
            for node in self.nodes.values() {
                assert_eq!(node.jobs.get(&id), Some(&job.ended), "{id:?}");
            }
        }
        outcome.jobs.sort();
        for key in self.head.values.keys("") {
            outcome.values.push(format!("{key}: {:?}", self.head.values.get(&key)));
        }
        outcome
    }
}

/// Run what programs do, in one order for each process, with other things in between.
fn run(steps: &[(u8, u64)], crashes: bool) -> Outcome {
    let mut world = World::new();
    for node in 1..=NODES {
        world.register(on(node, 1));
    }
    for (kind, choice) in steps {
        let node = NodeId((choice % u64::from(NODES)) as u32 + 1);
        match kind {
            0..=7 => {
                let process = on(node.0, (choice / 8 % 2) as u32 + 1);
                world.act(Deed { process, kind: *kind, choice: choice / 16 });
            }
            8..=11 => world.send(node),
            12..=15 => world.receive(node),
            16..=17 => world.write(),
            18 => {
                world.now = world.now + Span::from_millis(choice % 50);
                world.fire();
            }
            19..=20 => world.connect(node),
            _ if crashes => world.crash(*choice),
            _ => {}
        }
        world.check();
    }
    world.settle();
    world.outcome()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_programs_do_comes_out_the_same_however_often_the_head_crashes(
        steps in prop::collection::vec((0u8..23, 0u64..100_000), 1..150),
    ) {
        prop_assert_eq!(run(&steps, true), run(&steps, false));
    }
}

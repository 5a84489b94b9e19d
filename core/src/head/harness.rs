//! Drives a head in tests: what goes in, and exactly what comes out.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use super::{Config, Effect, Head, Input, Key, Row, WriteResult};
use crate::actor::ActorSpec;
use crate::ids::{ActorId, FunctionId, JobId, NodeId, OperationId, ProcessId, TaskId};
use crate::machine::{Effects, Machine, Span, Time};
use crate::message::{ActorEvent, ActorPresence, Message, NodeState, NodeSummary};
use crate::resources::{Demand, Quantity, Resources};

pub(super) const NODE: NodeId = NodeId(1);
pub(super) const DAEMON: ProcessId = ProcessId::daemon(NODE);

pub(super) const fn process(number: u32) -> ProcessId {
    ProcessId::new(NODE, number)
}

pub(super) fn actor(creator: u32, number: u64) -> ActorId {
    ActorId(TaskId { owner: process(creator), number })
}

pub(super) fn spec(id: ActorId) -> ActorSpec {
    ActorSpec {
        id,
        job: JobId(1),
        class: FunctionId(1),
        code: Bytes::new(),
        label: Arc::from("Counter"),
        arguments: Bytes::new(),
        dependencies: Vec::new(),
        borrows: Vec::new(),
        placement: Demand::default(),
        running: Resources::default(),
        restarts_max: 0,
        name: String::new(),
        namespace: String::from("tests"),
        detached: false,
        asynchronous: false,
        groups: Vec::new(),
        out_of_order: false,
        handle: Bytes::from_static(b"handle"),
    }
}

pub(super) fn resources(amounts: &[(&str, i64)]) -> Resources {
    let mut resources = Resources::default();
    for (name, amount) in amounts {
        resources.set(name, Quantity(amount * Quantity::ONE.0));
    }
    resources
}

/// An actor that asks for something.
pub(super) fn spec_of(id: ActorId, amounts: &[(&str, i64)]) -> ActorSpec {
    let placement = Demand { resources: resources(amounts), ..Demand::default() };
    ActorSpec { placement, ..spec(id) }
}

/// What a node says to a new head that has nothing on it.
pub(super) fn state(node: NodeId) -> NodeState {
    NodeState {
        epoch: 0,
        report: summary(node),
        actors: Vec::new(),
        bundles: Vec::new(),
        drivers: Vec::new(),
        jobs: Vec::new(),
        dead: Vec::new(),
        draining: false,
    }
}

/// A node with four CPUs.
pub(super) fn summary(node: NodeId) -> NodeSummary {
    let total = resources(&[("CPU", 4)]);
    NodeSummary {
        node,
        alive: true,
        name: String::new(),
        host: String::from("here"),
        address: String::new(),
        free: total.clone(),
        total,
        labels: vec![],
    }
}

type Write = (OperationId, Vec<(Key, Option<Row>)>);

pub(super) struct Harness {
    pub(super) head: Head,
    pub(super) now: Time,
    /// What the log holds.
    pub(super) log: BTreeMap<Key, Row>,
    writing: Option<Write>,
    /// What the head has let out and nobody has looked at.
    pub(super) let_out: Vec<Effect>,
    /// What nodes were told of each other: to whom, of whom.
    pub(super) views: Vec<(u32, Vec<u32>)>,
}

impl Harness {
    /// A head without nodes.
    pub(super) fn new() -> Harness {
        Harness::of(Config::new(7), BTreeMap::new())
    }

    /// A head with a log, which writes when the test says so.
    pub(super) fn durable() -> Harness {
        Harness::of(Config { durable: true, ..Config::new(7) }, BTreeMap::new())
    }

    fn of(config: Config, log: BTreeMap<Key, Row>) -> Harness {
        let rows = log.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        let head = Head::new(config, rows);
        Harness { head, now: Time(0), log, writing: None, let_out: Vec::new(), views: Vec::new() }
    }

    /// Another head, from what this one has written.
    pub(super) fn restart(&self) -> Harness {
        Harness::of(Config { durable: true, ..Config::new(8) }, self.log.clone())
    }

    /// Another head, in the daemon of a node that is there already.
    pub(super) fn elected(&self, home: NodeId) -> Harness {
        let config = Config { durable: true, home: Some(home), elected: true, ..Config::new(8) };
        Harness::of(config, self.log.clone())
    }

    /// A head with one node.
    pub(super) fn with_node() -> Harness {
        let mut harness = Harness::new();
        assert_eq!(harness.report_node(), []);
        harness
    }

    pub(super) fn report_node(&mut self) -> Vec<(ProcessId, Message)> {
        self.receive(DAEMON, Message::NodeReport { report: Box::new(summary(NODE)), order: 0 })
    }

    /// Another node joins: its number.
    pub(super) fn join(&mut self) -> NodeId {
        let effects = self.tell(Input::NodeJoins { connection: 1, summary: Box::new(summary(NodeId(0))) });
        self.let_out.extend(effects);
        self.write_all();
        let admitted = self.let_out.iter().rev().find_map(|effect| match effect {
            Effect::Admit { node, .. } => Some(*node),
            _ => None,
        });
        admitted.expect("it is let in")
    }

    /// A node comes to another head, and tells it what is on it.
    pub(super) fn returns(&mut self, node: NodeId, actors: Vec<ActorPresence>) -> Vec<Effect> {
        let mut effects = self.tell(Input::NodeReturns { connection: 2, node });
        let state = NodeState { actors, ..state(node) };
        let message = Message::NodeState { state: Box::new(state) };
        effects.extend(self.tell(Input::Received { via: node, from: ProcessId::daemon(node), message }));
        effects
    }

    /// A message from the daemon of a node.
    pub(super) fn daemon_says(&mut self, node: NodeId, message: Message) -> Vec<(ProcessId, Message)> {
        self.receive(ProcessId::daemon(node), message)
    }

    /// Tell the head; what it lets out but for writes, views and [`Effect::Handled`].
    pub(super) fn tell(&mut self, mut input: Input) -> Vec<Effect> {
        if let Input::Received { message: Message::NodeState { state }, .. } = &mut input {
            // Tests need not count heads.
            state.epoch = self.head.meta.epoch;
        }
        let mut effects = Effects::new();
        self.head.handle(self.now, input, &mut effects);
        self.learn(effects)
    }

    fn learn(&mut self, mut effects: Effects<Effect>) -> Vec<Effect> {
        self.head.check();
        let mut rest = Vec::new();
        for effect in effects.drain() {
            match effect {
                Effect::Write { operation, rows, .. } => {
                    assert!(self.writing.replace((operation, rows)).is_none(), "one write at a time");
                }
                Effect::Handled { .. } => {}
                Effect::Send { to, message: Message::View { nodes } } => {
                    self.views.push((to.node().0, nodes.iter().map(|node| node.node.0).collect()));
                }
                effect => rest.push(effect),
            }
        }
        rest
    }

    /// The write under way ends.
    pub(super) fn write(&mut self, result: WriteResult) -> Vec<Effect> {
        let (operation, rows) = self.writing.take().expect("a write is under way");
        for (key, row) in rows.into_iter().filter(|_| result == WriteResult::Done) {
            match row {
                Some(row) => drop(self.log.insert(key, row)),
                None => drop(self.log.remove(&key)),
            }
        }
        self.tell(Input::Finished { operation, result })
    }

    /// All writes end well.
    pub(super) fn write_all(&mut self) {
        while self.writing.is_some() {
            let effects = self.write(WriteResult::Done);
            self.let_out.extend(effects);
        }
    }

    /// The messages among what was let out by [`Harness::write_all`].
    pub(super) fn sent(&mut self) -> Vec<(ProcessId, Message)> {
        sent(core::mem::take(&mut self.let_out))
    }

    pub(super) fn receive(&mut self, from: ProcessId, message: Message) -> Vec<(ProcessId, Message)> {
        sent(self.tell(Input::Received { via: from.node(), from, message }))
    }

    /// Let time pass, and fire what becomes due on the way.
    pub(super) fn pass(&mut self, span: Span) -> Vec<(ProcessId, Message)> {
        sent(self.pass_for_all(span))
    }

    /// The same, with all effects.
    pub(super) fn pass_for_all(&mut self, span: Span) -> Vec<Effect> {
        let end = self.now + span;
        let mut all = Vec::new();
        while let Some((at, _)) = self.head.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = at.max(self.now);
            let mut effects = Effects::new();
            self.head.handle_timeout(self.now, &mut effects);
            all.extend(self.learn(effects));
        }
        self.now = end;
        all
    }

    pub(super) fn create(&mut self, spec: &ActorSpec) -> Vec<(ProcessId, Message)> {
        let message = Message::CreateActor { spec: Box::new(spec.clone()), request: None };
        self.receive(spec.id.creator(), message)
    }

    pub(super) fn report(
        &mut self,
        actor: ActorId,
        incarnation: u32,
        event: ActorEvent,
    ) -> Vec<(ProcessId, Message)> {
        self.receive(DAEMON, Message::ActorReport { actor, incarnation, event })
    }
}

fn sent(effects: Vec<Effect>) -> Vec<(ProcessId, Message)> {
    let messages = effects.into_iter().filter_map(|effect| match effect {
        Effect::Send { to, message } => Some((to, message)),
        _ => None,
    });
    messages.collect()
}

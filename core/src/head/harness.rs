//! Drives a head in tests: what goes in, and exactly what comes out.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use super::{Config, Effect, Head, Input};
use crate::actor::ActorSpec;
use crate::ids::{ActorId, FunctionId, JobId, NodeId, ProcessId, TaskId};
use crate::machine::{Effects, Machine, Span, Time};
use crate::message::{ActorEvent, Message, NodeSummary};
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

pub(super) struct Harness {
    pub(super) head: Head,
    pub(super) now: Time,
}

impl Harness {
    /// A head without nodes.
    pub(super) fn new() -> Harness {
        Harness { head: Head::new(Config::new(7), Vec::new()), now: Time(0) }
    }

    /// A head with one node.
    pub(super) fn with_node() -> Harness {
        let mut harness = Harness::new();
        assert_eq!(harness.report_node(), []);
        harness
    }

    pub(super) fn report_node(&mut self) -> Vec<(ProcessId, Message)> {
        let mut total = Resources::default();
        total.set(Resources::CPU, Quantity(4 * Quantity::ONE.0));
        let report = NodeSummary {
            node: NODE,
            alive: true,
            host: String::from("here"),
            address: String::new(),
            free: total.clone(),
            total,
            labels: vec![],
        };
        self.receive(DAEMON, Message::NodeReport { report: Box::new(report) })
    }

    pub(super) fn receive(&mut self, from: ProcessId, message: Message) -> Vec<(ProcessId, Message)> {
        let mut effects = Effects::new();
        self.head.handle(self.now, Input::Received { via: from.node(), from, message }, &mut effects);
        self.head.check();
        sent(effects)
    }

    /// Let time pass, and fire what becomes due on the way.
    pub(super) fn pass(&mut self, span: Span) -> Vec<(ProcessId, Message)> {
        let end = self.now + span;
        let mut effects = Effects::new();
        while let Some((at, _)) = self.head.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = at.max(self.now);
            self.head.handle_timeout(self.now, &mut effects);
            self.head.check();
        }
        self.now = end;
        sent(effects)
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

fn sent(mut effects: Effects<Effect>) -> Vec<(ProcessId, Message)> {
    effects
        .drain()
        .filter_map(|effect| match effect {
            Effect::Send { to, message } => Some((to, message)),
            _ => None,
        })
        .collect()
}

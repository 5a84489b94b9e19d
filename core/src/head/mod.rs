//! The `Head` role: membership, jobs, actors, names, key-value.
//!
//! Each file holds one subject with its tests. All that changes an actor's recorded state goes
//! through [`actors::Actors`], which also tells the subscribers.

mod actors;
mod endings;
#[cfg(test)]
mod harness;
mod jobs;
mod lifecycle;
mod nodes;
mod questions;

use alloc::collections::BTreeMap;
use alloc::string::String;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::actors::Actors;
use self::jobs::Jobs;
use crate::deadlines::Deadlines;
use crate::ids::{NodeId, ProcessId};
use crate::machine::{Effects, Machine, Time, Wakeup};
use crate::message::{Message, NodeSummary};

/// What can happen to the head.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// A message for the head came.
    Received {
        /// From whom.
        from: ProcessId,
        /// What.
        message: Message,
    },
}

/// What the head asks of the world.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Effect {
    /// Send a message.
    Send {
        /// To whom.
        to: ProcessId,
        /// What.
        message: Message,
    },
}

/// The machine of the head.
///
/// Methods named after a message handle it; methods named after a wakeup handle that.
#[derive(Debug)]
pub struct Head {
    jobs: Jobs,
    nodes: BTreeMap<NodeId, NodeSummary>,
    actors: Actors,
    values: BTreeMap<String, Bytes>,
    deadlines: Deadlines,
}

/// The effects of one input, with the moment of it.
struct Outbox<'a> {
    now: Time,
    effects: &'a mut Effects<Effect>,
}

impl Outbox<'_> {
    fn send(&mut self, to: ProcessId, message: Message) {
        self.effects.push(Effect::Send { to, message });
    }
}

impl Head {
    /// A head that knows of nothing. `seed` makes the names of anonymous namespaces.
    pub fn new(seed: u64) -> Head {
        Head {
            jobs: Jobs::new(seed),
            nodes: BTreeMap::new(),
            actors: Actors::default(),
            values: BTreeMap::new(),
            deadlines: Deadlines::default(),
        }
    }

    /// Check the head's invariants; a violation panics. The simulator calls it after every event.
    pub fn check(&self) {
        self.actors.check();
    }

    fn received(&mut self, from: ProcessId, message: Message, out: &mut Outbox) {
        if from.is_daemon() {
            self.received_from_node(from, message, out);
        } else {
            self.received_from_process(from, message, out);
        }
    }

    fn received_from_node(&mut self, from: ProcessId, message: Message, out: &mut Outbox) {
        let node = from.node();
        match message {
            Message::RegisterJob { driver, namespace } if driver.node() == node => {
                self.register_job(driver, namespace, out);
            }
            Message::ProcessEnded { process, .. } if process.node() == node => {
                self.process_ended(process, out);
            }
            Message::NodeReport { report } if report.node == node => self.node_report(*report, out),
            Message::ActorReport { actor, incarnation, event } => {
                self.actor_report(node, actor, incarnation, event, out);
            }
            Message::Ask { request, query } => self.answer(from, request, query, out),
            // The rest is for others, or of others.
            _ => {}
        }
    }

    fn received_from_process(&mut self, from: ProcessId, message: Message, out: &mut Outbox) {
        match message {
            Message::CreateActor { spec, request } => self.create_actor(from, spec, request, out),
            Message::SubscribeActor { actor } => self.subscribe_actor(from, actor, out),
            Message::KillActor { actor, no_restart } => self.kill_actor(actor, no_restart, out),
            Message::ActorOutOfScope { actor } => self.actor_out_of_scope(from, actor, out),
            Message::Ask { request, query } => self.answer(from, request, query, out),
            _ => {}
        }
    }
}

impl Machine for Head {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, effects: &mut Effects<Effect>) {
        let Input::Received { from, message } = input;
        self.received(from, message, &mut Outbox { now, effects });
    }

    fn handle_timeout(&mut self, now: Time, effects: &mut Effects<Effect>) {
        let out = &mut Outbox { now, effects };
        for wakeup in self.deadlines.take_due(now) {
            match wakeup {
                Wakeup::RestartActor => self.restart_due(out),
                Wakeup::UnknownActor => self.awaited_due(out),
                _ => {}
            }
        }
    }

    fn poll_timeout(&self) -> Option<(Time, Wakeup)> {
        self.deadlines.earliest()
    }
}

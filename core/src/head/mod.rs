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
mod rows;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::actors::Actors;
use self::jobs::Jobs;
pub use self::rows::{Key, Row};
use crate::deadlines::Deadlines;
use crate::ids::{NodeId, OperationId, ProcessId};
use crate::machine::{Effects, Machine, Span, Time, Wakeup};
use crate::message::{Message, NodeSummary};

/// What a head is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Seed of its random choices.
    pub seed: u64,
    /// What is acknowledged must be in the log first. Otherwise the head lives and dies with its
    /// daemon, and nothing is written.
    pub durable: bool,
    /// How long a node may be without a connection before it is declared dead.
    pub reconnect_grace: Span,
    /// How long a connected node may say nothing before it is declared dead.
    pub silence_grace: Span,
}

impl Config {
    /// The usual settings of a head that keeps no log.
    pub fn new(seed: u64) -> Config {
        Config {
            seed,
            durable: false,
            reconnect_grace: Span::from_secs(2),
            silence_grace: Span::from_secs(10),
        }
    }
}

/// What can happen to the head.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// A daemon wants to join; answered by [`Effect::Admit`].
    NodeJoins {
        /// The driver's name for its connection.
        connection: u64,
        /// What it has; its number is still to be given.
        summary: Box<NodeSummary>,
    },
    /// An admitted node is there again after a cut, or greets a head that has taken over; answered by
    /// [`Effect::Resume`] or [`Effect::Refuse`].
    NodeReturns {
        /// The driver's name for its connection.
        connection: u64,
        /// The node.
        node: NodeId,
    },
    /// The connection of a node broke.
    NodeLost {
        /// The node.
        node: NodeId,
    },
    /// A message for the head came.
    Received {
        /// The node whose session brought it; answered by one [`Effect::Handled`].
        via: NodeId,
        /// From whom.
        from: ProcessId,
        /// What.
        message: Message,
    },
    /// Started work ended.
    Finished {
        /// Which.
        operation: OperationId,
        /// How.
        result: WriteResult,
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
    /// Write to the log, all or nothing, if no newer head has written to it; answered by
    /// [`Input::Finished`].
    Write {
        /// Names it in the answer.
        operation: OperationId,
        /// The epoch of this head.
        epoch: u64,
        /// The rows that change; `None` deletes.
        rows: Vec<(Key, Option<Row>)>,
    },
    /// Let a daemon in, under this number.
    Admit {
        /// Its connection.
        connection: u64,
        /// Its number.
        node: NodeId,
        /// The head's epoch.
        epoch: u64,
    },
    /// Go on with a node.
    Resume {
        /// Its connection.
        connection: u64,
        /// The node.
        node: NodeId,
        /// The head's epoch.
        epoch: u64,
    },
    /// Turn a daemon away.
    Refuse {
        /// Its connection.
        connection: u64,
        /// Why, for people.
        reason: String,
    },
    /// The next message that came through this node's session is dealt with for good: the session may
    /// acknowledge it.
    Handled {
        /// The node.
        node: NodeId,
    },
    /// Nothing of this node is worth hearing any more: drop its session.
    Forget {
        /// The node.
        node: NodeId,
    },
    /// A newer head acts: this one must do nothing any more.
    StepDown,
}

/// How a write to the log ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum WriteResult {
    /// It is durable.
    Done,
    /// A newer head has written to the log; nothing was written.
    Fenced,
}

/// The machine of the head.
///
/// Methods named after a message handle it; methods named after a wakeup handle that.
#[derive(Clone, Debug)]
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
    /// A head that takes up what the log holds.
    pub fn new(config: Config, _rows: Vec<(Key, Row)>) -> Head {
        Head {
            jobs: Jobs::new(config.seed),
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
            Message::RegisterJob { driver, namespace, .. } if driver.node() == node => {
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
        if let Input::Received { via, from, message } = input {
            self.received(from, message, &mut Outbox { now, effects });
            effects.push(Effect::Handled { node: via });
        }
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

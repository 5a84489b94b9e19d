//! The `Head` role: membership, jobs, actors, names, key-value.
//!
//! Each file holds one subject with its tests. All that changes an actor's recorded state goes
//! through `actors::Actors`, which also tells the subscribers. What must survive the head is a table
//! of rows ([`Key`], [`Row`]); `journal` writes what changes of it before anybody hears of it.

mod actors;
mod deaths;
mod draining;
mod endings;
mod groups;
#[cfg(test)]
mod harness;
mod inspect;
mod jobs;
mod journal;
mod lifecycle;
mod membership;
mod nodes;
mod outbox;
mod placing;
mod questions;
mod restore;
mod rows;
#[cfg(test)]
mod soak;
mod takeover;
mod values;
mod view;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use self::actors::Actors;
use self::groups::Groups;
#[cfg(feature = "world")]
pub use self::groups::world;
pub use self::inspect::{ActorView, GroupView, Inspection, NodeView};
use self::jobs::Jobs;
use self::journal::Journal;
use self::nodes::Nodes;
use self::outbox::Outbox;
pub use self::rows::{ActorRow, DeadActorRow, EarlyEnd, JobRow, Key, Meta, NodeRow, Row};
use self::values::Values;
use self::view::View;
use crate::deadlines::Deadlines;
use crate::ids::{NodeId, OperationId, ProcessId};
use crate::machine::{Effects, Machine, Span, Time, Wakeup};
use crate::message::{Message, NodeSummary};
use crate::views;

/// What a head is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Seed of its random choices.
    pub seed: u64,
    /// What is acknowledged must be in the log first. Otherwise the head lives and dies with its
    /// daemon, and nothing is written.
    pub durable: bool,
    /// The node that the daemon of this head is already, if it is one: a standby that was elected. It is not
    /// dead, also if the head before lived in it.
    pub home: Option<NodeId>,
    /// Heads of this log are elected: the daemon of the last one may have lost no more than its office, and go on
    /// as a node. Otherwise it is dead, or another head could not have the log.
    pub elected: bool,
    /// How long a node may be without a connection before it is declared dead.
    pub reconnect_grace: Span,
    /// How long a connected node may say nothing before it is declared dead.
    pub silence_grace: Span,
    /// How long an actor that no node can ever run waits for the cluster to change.
    pub infeasible_grace: Span,
    /// Nodes are told of each other at most once in this time, for each 64 nodes.
    pub view_every: Span,
}

impl Config {
    /// The usual settings of a head that keeps no log.
    pub fn new(seed: u64) -> Config {
        Config {
            seed,
            durable: false,
            home: None,
            elected: false,
            reconnect_grace: Span::from_secs(2),
            silence_grace: Span::from_secs(10),
            infeasible_grace: Span::from_secs(10),
            view_every: views::VIEW_EVERY,
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
    /// The connection of a node broke, the newest one if it had several; also when it broke before the
    /// node could be told that it is in.
    NodeLost {
        /// The node.
        node: NodeId,
    },
    /// The head lives in the daemon of this node, which is heard without a connection. What becomes of it
    /// without this head [`Config::elected`] tells the next one.
    Hosted {
        /// The node.
        node: NodeId,
    },
    /// The head is being stopped in order and its log is not kept: no other head will follow it.
    ClusterEnds,
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
    /// Another head may act by now, for this one was elected for a time that is over; answered by
    /// [`Effect::StepDown`].
    TenureEnds,
}

/// What the head asks of the world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Tell a node of the log that this head acts, and where, so that it need not find out. Nothing depends on
    /// it: nodes that have lost their head look for it.
    Call {
        /// The node.
        node: NodeId,
        /// Where it is reached.
        address: String,
    },
    /// A newer head acts or may act, or the log cannot be written: this one does nothing any more, and what it
    /// has decided and not written is void.
    StepDown,
}

/// How a write to the log ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum WriteResult {
    /// It is durable.
    Done,
    /// A newer head has written to the log; nothing was written.
    Fenced,
    /// Nobody knows whether it was written.
    Unknown,
}

/// The machine of the head.
///
/// Methods named after a message handle it; methods named after a wakeup handle that. Whatever changes
/// something that a row tells of calls `Outbox::touch`; `Head::row` tells what the row is now.
#[derive(Clone, Debug)]
pub struct Head {
    config: Config,
    journal: Journal,
    /// It has begun to act: see [`Head::new`].
    acts: bool,
    meta: Meta,
    jobs: Jobs,
    nodes: Nodes,
    actors: Actors,
    groups: Groups,
    values: Values,
    view: View,
    deadlines: Deadlines,
    /// The node that got an actor last.
    turn: NodeId,
    /// When nodes are looked at next, for those that have fallen silent.
    patrol: Time,
}

impl Head {
    /// Check the head's invariants; a violation panics. The simulator calls it after every event.
    pub fn check(&self) {
        self.journal.check();
        self.nodes.check();
        self.actors.check();
        self.groups.check(|node| self.nodes.get(node).is_some());
    }

    fn input(&mut self, input: Input, out: &mut Outbox) {
        match input {
            Input::NodeJoins { connection, summary } => self.node_joins(connection, *summary, out),
            Input::NodeReturns { connection, node } => self.node_returns(connection, node, out),
            Input::NodeLost { node } => self.node_lost(node, out),
            Input::Hosted { node } => self.hosted(node, out),
            Input::ClusterEnds => self.cluster_ends(out),
            Input::TenureEnds => {}
            Input::Received { via, from, message } => {
                if self.hears(via, out) && from.node() == via {
                    self.received(from, message, out);
                }
                out.push(Effect::Handled { node: via });
            }
            Input::Finished { .. } => {}
        }
    }

    fn timeout(&mut self, out: &mut Outbox) {
        for wakeup in self.deadlines.take_due(out.now) {
            match wakeup {
                Wakeup::RestartActor => self.restart_due(out),
                Wakeup::UnknownActor => self.awaited_due(out),
                Wakeup::UnknownGroup => self.awaited_groups_due(out),
                Wakeup::PlaceGroups => self.groups.stir(),
                Wakeup::SilentNodes => self.silent_due(out),
                Wakeup::DrainOver => self.drain_due(out),
                Wakeup::Unschedulable => self.unplaced_due(out),
                // Changes are told, and a head begins, after whatever call it is.
                _ => {}
            }
        }
    }

    fn outbox(&self, now: Time) -> Outbox {
        Outbox::new(now, self.journal.is_durable())
    }

    /// Let out what may be known at once, and have written what must be written first.
    fn settle(&mut self, mut out: Outbox, effects: &mut Effects<Effect>) {
        self.remove_groups_of_dead_actors(&mut out);
        self.forget_jobs(&mut out);
        self.place_groups(&mut out);
        self.tell_changes(&mut out);
        self.journal.take(out.dirty, out.effects, effects);
        if let Some((operation, keys)) = self.journal.begin_write() {
            let rows = keys.into_iter().map(|key| {
                let row = self.row(&key);
                (key, row)
            });
            effects.push(Effect::Write { operation, epoch: self.meta.epoch, rows: rows.collect() });
        }
    }

    /// What the log must hold under this key.
    fn row(&self, key: &Key) -> Option<Row> {
        match key {
            Key::Meta => Some(Row::Meta(self.meta)),
            Key::Node(node) => self.nodes.row(*node),
            Key::Job(job) => self.jobs.row(*job),
            Key::Actor(actor) => self.actors.row(*actor),
            Key::ActorSpec(actor) => self.actors.spec_row(*actor),
            Key::Group(group) => self.groups.row(*group),
            Key::Value(key) => self.values.row(key),
            Key::Answers(process) => self.values.answers_row(*process),
        }
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
            Message::RegisterJob { driver, namespace, launch } if driver.node() == node => {
                self.register_job(driver, namespace, launch, out);
            }
            Message::ProcessEnded { process, .. } if process.node() == node => {
                self.process_ended(process, out);
            }
            Message::NodeReport { report, order } if report.node == node => {
                self.node_report(*report, order, out)
            }
            Message::Emptied { order } => self.node_emptied(node, order, out),
            Message::NodeState { state } if state.report.node == node => self.node_state(node, *state, out),
            Message::ActorReport { actor, incarnation, event } => {
                self.actor_report(node, actor, incarnation, event, out);
            }
            Message::BundlesReserved { group, attempt } => self.bundles_reserved(node, group, attempt, out),
            Message::BundlesRefused { group, attempt } => self.bundles_refused(node, group, attempt, out),
            Message::Ask { request, query } => self.answer(from, request, query, out),
            // That something came is all that a heartbeat says. The rest is for others, or of others.
            _ => {}
        }
    }

    fn received_from_process(&mut self, from: ProcessId, message: Message, out: &mut Outbox) {
        match message {
            Message::CreateActor { spec, request } => self.create_actor(from, spec, request, out),
            Message::SubscribeActor { actor } => self.subscribe_actor(from, actor, out),
            Message::KillActor { actor, no_restart } => self.kill_actor(actor, no_restart, out),
            Message::ActorUnmade { summary } => self.actor_unmade(from, summary, out),
            Message::ActorOutOfScope { actor } => self.actor_out_of_scope(from, actor, out),
            Message::CreateGroup { spec, request } => self.create_group(from, spec, request, out),
            Message::RemoveGroup { group } => self.remove_group_asked(from, group, out),
            Message::SubscribeGroup { group } => self.subscribe_group(from, group, out),
            Message::UnsubscribeGroup { group } => self.unsubscribe_group(from, group),
            Message::Ask { request, query } => self.answer(from, request, query, out),
            _ => {}
        }
    }
}

impl Machine for Head {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, effects: &mut Effects<Effect>) {
        if self.journal.is_closed() {
            return;
        }
        if let Input::TenureEnds = input {
            return self.journal.close(effects);
        }
        let mut out = self.outbox(now);
        self.begin(&mut out);
        if let Input::Finished { operation, result } = input {
            self.journal.written(operation, result, effects);
        } else {
            self.input(input, &mut out);
        }
        self.settle(out, effects);
    }

    fn handle_timeout(&mut self, now: Time, effects: &mut Effects<Effect>) {
        if self.journal.is_closed() {
            return;
        }
        let mut out = self.outbox(now);
        self.begin(&mut out);
        self.timeout(&mut out);
        self.settle(out, effects);
    }

    fn poll_timeout(&self) -> Option<(Time, Wakeup)> {
        if self.journal.is_closed() {
            return None;
        }
        self.deadlines.earliest()
    }
}

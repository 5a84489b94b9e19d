//! Heads and the log that they share.

use std::collections::BTreeMap;

use shoal_core::head::{self, Head, Key, Row, WriteResult};
use shoal_core::ids::{NodeId, OperationId, ProcessId};
use shoal_core::message::NodeSummary;
use shoal_core::session::Acknowledging;
use shoal_core::{Effects, Machine, Time};

use super::links::{Greeting, Welcome};
use super::{Cluster, Envelope, Event, Fact};
use crate::{Content, Way};

/// A head that runs.
pub struct HeadProcess {
    /// Its machine.
    pub head: Head,
    /// Where it runs.
    pub host: usize,
    /// Its epoch.
    pub epoch: u64,
    /// Which cluster it is the head of: a log's, for as long as there is one.
    pub(super) cluster: u64,
    pub(super) paused_until: Time,
    timer: Option<Time>,
    writes: BTreeMap<OperationId, Write>,
}

#[derive(Clone, Debug)]
struct Write {
    epoch: u64,
    rows: Vec<(Key, Option<Row>)>,
}

/// What heads have written.
#[derive(Clone, Debug)]
pub struct Log {
    /// Which cluster's it is.
    pub cluster: u64,
    /// The newest epoch that was written.
    pub epoch: u64,
    /// What holds.
    pub rows: BTreeMap<Key, Row>,
    /// The head that wrote last.
    writer: Option<ProcessId>,
}

impl Log {
    pub(super) fn new(cluster: u64) -> Log {
        Log { cluster, epoch: 0, rows: BTreeMap::new(), writer: None }
    }

    /// All or nothing, unless a newer head has written, or another one of the same epoch.
    fn write(&mut self, writer: ProcessId, write: Write) -> WriteResult {
        let mine = self.writer == Some(writer) && write.epoch == self.epoch;
        if !mine && write.epoch <= self.epoch {
            return WriteResult::Fenced;
        }
        self.epoch = write.epoch;
        self.writer = Some(writer);
        for (key, row) in write.rows {
            match row {
                Some(row) => drop(self.rows.insert(key, row)),
                None => drop(self.rows.remove(&key)),
            }
        }
        WriteResult::Done
    }
}

impl<C: Content> Cluster<C> {
    /// A head starts from what the log holds.
    pub(super) fn head_boots(&mut self, host: usize) {
        let address = ProcessId::new(NodeId(0), self.heads_started);
        self.heads_started += 1;
        let mut config = head::Config::new(self.random.draw());
        config.durable = self.settings.durable;
        let rows = self.log.rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        let process = HeadProcess {
            head: Head::new(config, rows),
            host,
            epoch: self.log.epoch + 1,
            cluster: self.log.cluster,
            paused_until: Time(0),
            timer: None,
            writes: BTreeMap::new(),
        };
        self.heads.insert(address, process);
        self.facts.push(Fact::HeadStarted { head: address, forgetful: false });
        self.arm_head(address);
    }

    pub(super) fn tell_head(&mut self, address: ProcessId, input: head::Input) {
        let now = self.now();
        let Some(process) = self.heads.get_mut(&address) else { return };
        if process.paused_until > now {
            let at = process.paused_until;
            self.schedule(at, Event::Head(address, input));
            return;
        }
        self.trace.record(now, address, '<', &input);
        let mut effects = Effects::new();
        let local = self.hosts[process.host].clock.shows(now);
        process.head.handle(local, input, &mut effects);
        self.perform_head(address, effects);
    }

    pub(super) fn head_timer(&mut self, address: ProcessId) {
        let now = self.now();
        let Some(process) = self.heads.get_mut(&address) else { return };
        if process.timer.is_none_or(|due| due > now) {
            return;
        }
        if process.paused_until > now {
            process.timer = Some(process.paused_until);
            self.heap.schedule(process.paused_until, Event::Timer(address));
            return;
        }
        process.timer = None;
        self.trace.record(now, address, '<', &"timeout");
        let mut effects = Effects::new();
        let local = self.hosts[process.host].clock.shows(now);
        process.head.handle_timeout(local, &mut effects);
        if let Some((due, wakeup)) = process.head.poll_timeout()
            && due <= local
        {
            self.broken = Some(format!("the head's deadline {wakeup:?} is still due after it fired"));
        }
        self.perform_head(address, effects);
    }

    fn arm_head(&mut self, address: ProcessId) {
        let now = self.now();
        let Some(process) = self.heads.get_mut(&address) else { return };
        if let Some((due, _)) = process.head.poll_timeout() {
            let due = self.hosts[process.host].clock.moment(due).max(now);
            if process.timer.is_none_or(|armed| due < armed) {
                process.timer = Some(due);
                self.heap.schedule(due, Event::Timer(address));
            }
        }
    }

    fn perform_head(&mut self, address: ProcessId, mut effects: Effects<head::Effect>) {
        let now = self.now();
        for effect in effects.drain() {
            self.trace.record(now, address, '>', &effect);
            match effect {
                head::Effect::Send { to, message } => {
                    let way = Way { from: address, to: ProcessId::daemon(to.node()) };
                    self.send_on(way, Envelope { from: ProcessId::HEAD, to, message });
                }
                head::Effect::Write { operation, epoch, rows } => {
                    self.write_begins(address, operation, Write { epoch, rows });
                }
                head::Effect::Admit { connection, node, epoch } => {
                    self.answer_greeting(address, connection, node, epoch);
                }
                head::Effect::Resume { connection, node, epoch } => {
                    self.answer_greeting(address, connection, node, epoch);
                }
                head::Effect::Refuse { connection, .. } => {
                    if let Some(greeting) = self.greetings.remove(&connection) {
                        let welcome = Welcome { greeting, admitted: None };
                        self.schedule_in(1_000, Event::Welcome(Box::new(welcome)));
                    }
                }
                head::Effect::Handled { node } => self.handled(address, node),
                head::Effect::Forget { node } => self.head_forgets(address, node),
                head::Effect::StepDown => {
                    self.count("a head stepped down");
                    self.head_ends(address);
                    break;
                }
            }
        }
        self.arm_head(address);
    }

    /// A daemon has reached the head.
    pub(super) fn head_is_greeted(&mut self, head: ProcessId, connection: u64, greeting: Greeting) {
        match greeting.node {
            Some(node) => self.tell_head(head, head::Input::NodeReturns { connection, node }),
            None => {
                let summary = Box::new(self.summary(greeting.host));
                self.tell_head(head, head::Input::NodeJoins { connection, summary });
            }
        }
        self.admit_in_its_stead(head, connection, greeting);
    }

    /// Heads do not answer greetings yet.
    fn admit_in_its_stead(&mut self, head: ProcessId, connection: u64, greeting: Greeting) {
        let Some(process) = self.heads.get(&head) else { return };
        if !self.greetings.contains_key(&connection) || !process.writes.is_empty() {
            return;
        }
        let epoch = process.epoch;
        let node = greeting.node.unwrap_or_else(|| {
            self.nodes_admitted += 1;
            NodeId(self.nodes_admitted)
        });
        self.answer_greeting(head, connection, node, epoch);
    }

    fn summary(&self, host: usize) -> NodeSummary {
        let settings = &self.hosts[host].settings;
        NodeSummary {
            node: NodeId(0),
            alive: true,
            host: format!("host{host}"),
            address: format!("host{host}"),
            total: settings.amounts(),
            free: settings.amounts(),
            labels: settings.labels.clone(),
        }
    }

    /// The head lets a daemon in, or goes on with it.
    fn answer_greeting(&mut self, head: ProcessId, connection: u64, node: NodeId, epoch: u64) {
        let Some(greeting) = self.greetings.remove(&connection) else { return };
        let way = Way { from: head, to: ProcessId::daemon(node) };
        if !self.has_end(way) {
            self.add_end(way, Acknowledging::WhenHandled);
        }
        let welcome = Welcome { greeting, admitted: Some((node, epoch)) };
        let most = self.handshake_micros(greeting.host, head);
        self.schedule_in(most, Event::Welcome(Box::new(welcome)));
    }

    pub(super) fn head_lost_node(&mut self, head: ProcessId, node: NodeId) {
        self.tell_head(head, head::Input::NodeLost { node });
    }

    fn write_begins(&mut self, address: ProcessId, operation: OperationId, write: Write) {
        if let Some(process) = self.heads.get_mut(&address) {
            process.writes.insert(operation, write);
        }
        self.schedule_in(self.settings.log_micros, Event::Logged(address, operation));
    }

    pub(super) fn write_ends(&mut self, address: ProcessId, operation: OperationId) {
        let Some(process) = self.heads.get_mut(&address) else { return };
        let Some(write) = process.writes.remove(&operation) else { return };
        let result = self.log.write(address, write);
        self.tell_head(address, head::Input::Finished { operation, result });
    }

    /// A head is gone. What it was writing may be in the log or not.
    pub(super) fn head_ends(&mut self, address: ProcessId) {
        let Some(process) = self.heads.remove(&address) else { return };
        self.trace.record(self.now(), address, '!', &"ends");
        for write in process.writes.into_values() {
            if self.random.chance(500) {
                self.count("a write reached the log and its head did not learn of it");
                self.log.write(address, write);
            }
        }
        self.drop_ends(address);
    }
}

//! Heads and the log that they share.

use std::collections::BTreeMap;

use shoal_core::head::{self, Head, Key, Meta, Row, WriteResult};
use shoal_core::ids::{NodeId, OperationId, ProcessId};
use shoal_core::message::{Message, NodeSummary};
use shoal_core::session::Acknowledging;
use shoal_core::{Effects, Machine, Span, Time};

use super::contact::{Greeting, Welcome};
use super::{Cluster, Envelope, Event, Fact, Residence, micros, rare};
use crate::{Content, LogFate, Way};

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
    /// When it began, and when it heard of each node last. A node counts as silent from the beginning until it
    /// has said something: it may have been let in long before that was written.
    began: Time,
    heard: BTreeMap<NodeId, Time>,
    /// The nodes whose connections are gone, and since when it knows.
    cut: BTreeMap<NodeId, Time>,
    /// How long those were silent and cut off of which it has heard again while it writes: it may be
    /// writing that they are dead.
    earlier: BTreeMap<NodeId, (Span, Option<Span>)>,
    writes: BTreeMap<OperationId, Write>,
    /// A log that only this head has.
    own_log: Option<Log>,
}

#[derive(Clone, Debug)]
struct Write {
    epoch: u64,
    rows: Vec<(Key, Option<Row>)>,
}

impl HeadProcess {
    /// Whether it started from a copy of the log.
    pub fn has_old_log(&self) -> bool {
        self.own_log.is_some()
    }

    /// Keep in mind what it is told of nodes.
    fn note(&mut self, now: Time, input: &head::Input) {
        match input {
            head::Input::Received { via: node, .. } | head::Input::NodeReturns { node, .. } => {
                let before = self.missed(now, *node);
                self.earlier.remove(node);
                if !self.writes.is_empty() {
                    self.earlier.insert(*node, before);
                }
                self.heard.insert(*node, now);
                self.cut.remove(node);
            }
            head::Input::NodeLost { node } => drop(self.cut.entry(*node).or_insert(now)),
            _ => {}
        }
    }

    /// For how long it has heard nothing of a node, and known that the connection is gone.
    fn missed(&self, now: Time, node: NodeId) -> (Span, Option<Span>) {
        let heard = self.heard.get(&node).copied().unwrap_or(self.began);
        let cut = self.cut.get(&node).map(|since| now - *since);
        let (silent, earlier) = self.earlier.get(&node).copied().unwrap_or_default();
        (silent.max(now - heard), cut.max(earlier))
    }
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
    /// The head that was elected last. It reads the log after that, so that it misses nothing.
    holder: Option<ProcessId>,
    /// How many clusters there were before this one.
    clusters: u32,
    /// The last number that was given to a node, in the log or not.
    last_node: u32,
}

impl Log {
    pub(super) fn new(cluster: u64) -> Log {
        Log { cluster, epoch: 0, rows: BTreeMap::new(), holder: None, clusters: 0, last_node: 0 }
    }

    /// The log of another cluster. Its numbers go on, so that no id means two things in one run.
    fn of_another_cluster(&self, cluster: u64) -> Log {
        let clusters = self.clusters + 1;
        let (last_node, last_job) = (self.last_node, clusters * 10_000);
        let meta = Meta { last_node, last_job, ..Meta::default() };
        let mut log = Log { clusters, last_node, ..Log::new(cluster) };
        log.rows.insert(Key::Meta, Row::Meta(meta));
        log
    }

    /// All or nothing, and only from the head that was elected last.
    fn write(&mut self, writer: ProcessId, write: Write) -> WriteResult {
        if self.holder != Some(writer) || write.epoch < self.epoch {
            return WriteResult::Fenced;
        }
        self.epoch = write.epoch;
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
    /// A head starts from what it finds of the log.
    pub(super) fn head_boots(&mut self, host: usize, fate: LogFate) {
        let mut own_log = match fate {
            LogFate::Kept => None,
            LogFate::Lost => {
                let identity = self.random.draw();
                self.log = self.log.of_another_cluster(identity);
                self.old_log = None;
                None
            }
            LogFate::Old => self.old_log.clone(),
        };
        let address = ProcessId::new(NodeId(0), self.heads_started);
        self.heads_started += 1;
        let (began, home) = (self.now(), self.node_of(host));
        let log = own_log.as_mut().unwrap_or(&mut self.log);
        log.holder = Some(address);
        let mut config = head::Config::new(self.random.draw());
        config.durable = self.settings.durable;
        config.view_every = Span::from_micros(self.settings.view_micros);
        let former_host = log.rows.get(&Key::Meta).and_then(|row| match row {
            Row::Meta(meta) => meta.host,
            _ => None,
        });
        let mut cut = BTreeMap::new();
        if self.settings.residence == Residence::Elected {
            config.elected = true;
            config.home = home;
            cut.extend(former_host.filter(|former| Some(*former) != home).map(|former| (former, began)));
        }
        let rows: Vec<(Key, Row)> = log.rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
        let places = rare::is_placing(&rows);
        let process = HeadProcess {
            head: Head::new(config, rows),
            host,
            epoch: log.epoch + 1,
            cluster: log.cluster,
            paused_until: Time(0),
            timer: None,
            began,
            heard: BTreeMap::new(),
            cut,
            earlier: BTreeMap::new(),
            writes: BTreeMap::new(),
            own_log,
        };
        self.heads.insert(address, process);
        if places {
            self.count(rare::HEAD_CAME_DURING_PLACEMENT);
        }
        self.trace.record(self.now(), address, '!', &"starts");
        self.facts.push(Fact::HeadStarted { head: address, forgetful: fate != LogFate::Kept });
        self.arm_head(address);
    }

    /// A head is gone; another one starts in its place later.
    pub fn crash_head(&mut self, head: ProcessId) {
        self.crash_head_with(head, self.usual_fate());
    }

    /// What a head finds of the log if nothing is wrong with that.
    fn usual_fate(&self) -> LogFate {
        if self.settings.durable { LogFate::Kept } else { LogFate::Lost }
    }

    fn crash_head_with(&mut self, head: ProcessId, log: LogFate) {
        let Some(host) = self.heads.get(&head).map(|head| head.host) else { return };
        self.head_ends(head);
        self.crash_home(host);
        self.schedule_in(self.settings.restart_micros, Event::HeadBoot { host, log });
    }

    /// The head crashes. With an old log, the next one is not the right one for so long.
    pub(super) fn replace_head(&mut self, fate: LogFate, micros_long: u64) {
        let fate = match fate {
            _ if !self.settings.durable => LogFate::Lost,
            _ if !self.settings.residence.is_apart() => LogFate::Kept,
            // While a right head is there whoever finds an old log is not the next one, but a second.
            LogFate::Old if self.heads.len() > 1 => LogFate::Kept,
            LogFate::Old if self.old_log.as_ref().is_none_or(|old| old.epoch >= self.log.epoch) => {
                LogFate::Kept
            }
            fate => fate,
        };
        self.count(match fate {
            LogFate::Kept => "a head crashed",
            LogFate::Old => "a head crashed, and one with an old log came",
            LogFate::Lost => "a head crashed, and its log was lost",
        });
        let Some((address, host)) = self.heads.iter().next().map(|(at, head)| (*at, head.host)) else {
            return;
        };
        if fate != LogFate::Old {
            return self.crash_head_with(address, fate);
        }
        self.head_ends(address);
        let impostor = ProcessId::new(NodeId(0), self.heads_started);
        self.head_boots(host, LogFate::Old);
        let at = self.now() + micros(micros_long);
        self.schedule(at, Event::HeadEnds { head: impostor, next: Some(host) });
    }

    /// Another head starts, and the one before ends if it has not noticed after so long.
    pub(super) fn second_head(&mut self, choice: u64, micros_long: u64) {
        let Some(first) = self.heads.keys().next().copied().filter(|_| self.settings.durable) else { return };
        if self.heads[&first].own_log.is_some() {
            return;
        }
        let host = match self.settings.residence {
            Residence::Apart => Some((choice % self.hosts.len() as u64) as usize),
            // They cannot both have the log.
            Residence::Daemon => None,
            Residence::Elected => self.electable(choice),
        };
        let Some(host) = host else { return };
        self.count("two heads at once");
        self.head_boots(host, LogFate::Kept);
        let at = self.now() + micros(micros_long);
        self.schedule(at, Event::HeadEnds { head: first, next: None });
    }

    /// A machine with a member that is not the head already.
    fn electable(&self, choice: u64) -> Option<usize> {
        let has_head = |host: usize| self.heads.values().any(|head| head.host == host);
        let fits: Vec<usize> =
            (0..self.hosts.len()).filter(|host| self.node_of(*host).is_some() && !has_head(*host)).collect();
        let index = choice.checked_rem(fits.len() as u64)?;
        fits.get(index as usize).copied()
    }

    pub(super) fn head_is_ended(&mut self, head: ProcessId, next: Option<usize>) {
        self.head_retires(head);
        match next {
            Some(host) => self.next_head_boots(host, LogFate::Kept),
            None => self.ensure_head(),
        }
    }

    fn has_right_head(&self) -> bool {
        self.heads.values().any(|head| !head.has_old_log())
    }

    pub(super) fn next_head_boots(&mut self, host: usize, fate: LogFate) {
        if self.has_right_head() {
            return;
        }
        let elected = match self.settings.residence {
            Residence::Elected => {
                let choice = self.random.draw();
                self.electable(choice)
            }
            Residence::Apart | Residence::Daemon => None,
        };
        self.head_boots(elected.unwrap_or(host), fate);
    }

    /// Somebody sees to it that there is a head that has the log.
    fn ensure_head(&mut self) {
        if !self.has_right_head() {
            let (host, log) = (self.settings.head_host, self.usual_fate());
            self.schedule_in(self.settings.restart_micros, Event::HeadBoot { host, log });
        }
    }

    /// There is one head from now on: the one that started last, if it has the log.
    pub(super) fn heal_heads(&mut self) {
        let right = |(address, head): (&ProcessId, &HeadProcess)| (!head.has_old_log()).then_some(*address);
        let last = self.heads.iter().rev().find_map(right);
        let others: Vec<ProcessId> = self.heads.keys().copied().filter(|head| Some(*head) != last).collect();
        for head in others {
            self.head_ends(head);
        }
        self.ensure_head();
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
        process.note(now, &input);
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
                    // It may have learned from the log what the head before could not tell any more.
                    if let Message::NodeDied { node, .. } = message {
                        self.declared_dead.insert(node);
                    }
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
                head::Effect::Forget { node } => {
                    let lives = self.nodes.contains_key(&node);
                    if let Some(process) = self.heads.get(&address) {
                        let (silent, cut) = process.missed(now, node);
                        let drained = self.ending.get(&node).into_iter().flatten();
                        let drained = drained.map(|(since, grace)| (now - *since, *grace)).collect();
                        let empty = self.is_empty(node);
                        self.facts.push(Fact::NodeBuried { node, lives, empty, silent, cut, drained });
                    }
                    self.declared_dead.insert(node);
                    self.head_forgets(address, node);
                }
                // A hint: here nodes find the head without it, sooner or later.
                head::Effect::Call { .. } => {}
                head::Effect::StepDown => {
                    self.count("a head stepped down");
                    self.head_retires(address);
                    self.ensure_head();
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
    }

    fn summary(&self, host: usize) -> NodeSummary {
        let settings = &self.hosts[host].settings;
        NodeSummary {
            node: NodeId(0),
            alive: true,
            name: String::new(),
            host: format!("host{host}"),
            address: format!("host{host}"),
            total: settings.amounts(),
            free: settings.amounts(),
            labels: settings.labels.clone(),
        }
    }

    /// The head lets a daemon in, or goes on with it.
    fn answer_greeting(&mut self, head: ProcessId, connection: u64, node: NodeId, epoch: u64) {
        self.log.last_node = self.log.last_node.max(node.0);
        let Some(greeting) = self.greetings.remove(&connection) else { return };
        let way = Way { from: head, to: ProcessId::daemon(node) };
        if !self.has_end(way) {
            self.add_end(way, Acknowledging::WhenHandled);
        }
        let at_home = self.heads.get(&head).is_some_and(|process| process.host == greeting.host);
        if at_home && self.settings.durable && !self.settings.residence.is_apart() {
            self.schedule(self.now(), Event::Head(head, head::Input::Hosted { node }));
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
        let log = process.own_log.as_mut().unwrap_or(&mut self.log);
        if log.epoch > 0 && write.epoch > log.epoch && process.own_log.is_none() {
            self.old_log = Some(self.log.clone());
        }
        let log = process.own_log.as_mut().unwrap_or(&mut self.log);
        let result = log.write(address, write);
        self.tell_head(address, head::Input::Finished { operation, result });
    }

    /// A head acts no more. A daemon that it lived in goes on.
    fn head_retires(&mut self, address: ProcessId) {
        if let Some(host) = self.heads.get(&address).map(|head| head.host) {
            self.note_former_host(host);
        }
        self.head_ends(address);
    }

    /// A head is gone. What it was writing may be in the log or not.
    pub(super) fn head_ends(&mut self, address: ProcessId) {
        let Some(process) = self.heads.remove(&address) else { return };
        self.trace.record(self.now(), address, '!', &"ends");
        for write in process.writes.into_values() {
            if process.own_log.is_none() && self.random.chance(500) {
                self.count("a write reached the log and its head did not learn of it");
                self.log.write(address, write);
            }
        }
        self.drop_ends(address);
        let waits = |(_, greeting): &(&u64, &Greeting)| greeting.head == address;
        let waiting: Vec<u64> = self.greetings.iter().filter(waits).map(|(number, _)| *number).collect();
        for number in waiting {
            if let Some(greeting) = self.greetings.remove(&number)
                && self.hosts[greeting.host].life == greeting.life
            {
                self.greet_in(greeting.host);
            }
        }
    }
}

//! A node daemon that is a member of the cluster: its `Node` machine, the store's memory and the disk.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::ids::{JobId, NodeId, ObjectId, OperationId, ProcessId};
use shoal_core::node::{self, Node, Work};
use shoal_core::owner::{self, Owner};
use shoal_core::value::Death;
use shoal_core::{Effects, Machine, Time};

use super::{Call, Cluster, Envelope, Event};
use crate::{Content, Disk, Segment};

/// See the module's text.
pub struct Daemon<C: Content> {
    /// The machine it runs on.
    pub host: usize,
    /// The node's machine.
    pub node: Node,
    /// The steward's machine, which it hosts.
    pub steward: Owner,
    /// The store's memory.
    pub segment: Segment<C>,
    /// The spill directory.
    pub disk: Disk<C>,
    /// The head it listens to.
    pub(super) head: Contact,
    pub(super) paused_until: Time,
    pub(super) disk_full_until: Time,
    pub(super) unreadable_until: Time,
    pub(super) timer: Option<Time>,
    pub(super) steward_timer: Option<Time>,
    pub(super) operations: BTreeMap<OperationId, Work>,
    /// Fetches that nobody waits for any more.
    pub(super) cancelled: BTreeSet<OperationId>,
    /// Workers that are being forked or are not up yet, and their jobs.
    pub(super) starting: BTreeMap<ProcessId, JobId>,
    /// Workers to kill as soon as they exist.
    pub(super) killed_early: BTreeMap<ProcessId, Death>,
    /// Drivers that wait to be let in.
    pub(super) waiting_drivers: BTreeSet<usize>,
    /// Nodes of which nothing is worth hearing any more.
    pub(super) forgotten: BTreeSet<NodeId>,
    /// What other nodes may read, and where it is.
    pub(super) offers: BTreeMap<(NodeId, ObjectId), (u64, u64)>,
    pub(super) forks: u32,
    pub(super) spills: u32,
    pub(super) restores: u32,
    pub(super) reserves: u32,
}

/// Which head a daemon listens to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contact {
    pub(super) address: ProcessId,
    pub(super) epoch: u64,
    pub(super) cluster: u64,
    /// The connection is there.
    pub(super) connected: bool,
}

impl<C: Content> Daemon<C> {
    /// Work that was started and has not ended.
    pub fn operations(&self) -> impl Iterator<Item = &Work> {
        self.operations.values()
    }

    /// The epoch of the head that this daemon listens to.
    pub fn epoch(&self) -> u64 {
        self.head.epoch
    }

    /// Whether this daemon hears nothing of that node any more.
    pub fn has_forgotten(&self, node: NodeId) -> bool {
        self.forgotten.contains(&node)
    }
}

impl<C: Content> Cluster<C> {
    /// A daemon that was admitted begins.
    pub(super) fn daemon_begins(&mut self, host: usize, node: NodeId, head: Contact) {
        let settings = &self.hosts[host].settings;
        let mut config = node::Config::new(node);
        config.host = format!("host{host}");
        config.address = config.host.clone();
        config.resources = settings.amounts();
        config.labels = settings.labels.clone();
        config.store_capacity = settings.store_bytes;
        (config.copying_max, config.large_object) = self.settings.copying;
        config.seed = self.random.draw();
        let daemon = Daemon {
            host,
            node: Node::new(config),
            steward: Owner::new(owner::Config::steward(node, settings.cpus)),
            segment: Segment::default(),
            disk: Disk::new(settings.disk_bytes),
            head,
            paused_until: Time(0),
            disk_full_until: Time(0),
            unreadable_until: Time(0),
            timer: None,
            steward_timer: None,
            operations: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            starting: BTreeMap::new(),
            killed_early: BTreeMap::new(),
            waiting_drivers: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            offers: BTreeMap::new(),
            forks: 0,
            spills: 0,
            restores: 0,
            reserves: 0,
        };
        self.nodes.insert(node, daemon);
        self.arm_node(node);
    }

    pub(super) fn tell_node(&mut self, id: NodeId, input: node::Input) {
        let now = self.now();
        let Some(daemon) = self.nodes.get_mut(&id) else { return };
        if daemon.paused_until > now {
            let at = daemon.paused_until;
            self.schedule(at, Event::Node(id, input));
            return;
        }
        self.trace.record(now, ProcessId::daemon(id), '<', &input);
        let mut effects = Effects::new();
        let local = self.hosts[daemon.host].clock.shows(now);
        daemon.node.handle(local, input, &mut effects);
        self.perform_node(id, effects);
    }

    pub(super) fn node_timer(&mut self, id: NodeId) {
        let now = self.now();
        let Some(daemon) = self.nodes.get_mut(&id) else { return };
        if daemon.timer.is_none_or(|due| due > now) {
            return;
        }
        if daemon.paused_until > now {
            daemon.timer = Some(daemon.paused_until);
            self.heap.schedule(daemon.paused_until, Event::Timer(ProcessId::daemon(id)));
            return;
        }
        daemon.timer = None;
        self.trace.record(now, ProcessId::daemon(id), '<', &"timeout");
        let mut effects = Effects::new();
        let local = self.hosts[daemon.host].clock.shows(now);
        daemon.node.handle_timeout(local, &mut effects);
        if let Some((due, wakeup)) = daemon.node.poll_timeout()
            && due <= local
        {
            self.broken = Some(format!("{id:?}: the deadline {wakeup:?} is still due after it fired"));
        }
        self.perform_node(id, effects);
    }

    fn arm_node(&mut self, id: NodeId) {
        let Some(daemon) = self.nodes.get_mut(&id) else { return };
        if let Some((due, _)) = daemon.node.poll_timeout() {
            let due = self.hosts[daemon.host].clock.moment(due).max(self.heap.now());
            if daemon.timer.is_none_or(|armed| due < armed) {
                daemon.timer = Some(due);
                self.heap.schedule(due, Event::Timer(ProcessId::daemon(id)));
            }
        }
    }

    fn perform_node(&mut self, id: NodeId, mut effects: Effects<node::Effect>) {
        let now = self.now();
        for effect in effects.drain() {
            self.trace.record(now, ProcessId::daemon(id), '>', &effect);
            if !self.nodes.contains_key(&id) {
                break;
            }
            self.node_effect(id, effect);
        }
        self.arm_node(id);
    }

    fn node_effect(&mut self, id: NodeId, effect: node::Effect) {
        match effect {
            node::Effect::Send { to, message } => {
                self.note_redirect(&message);
                self.note_reader_sent_on(&message);
                self.note_drain(&message);
                let from = ProcessId::daemon(id);
                self.send_from_daemon(id, Envelope { from, to, message });
            }
            node::Effect::AcceptDriver { connection, process, job, .. } => {
                self.driver_in(id, connection as usize, process, job);
            }
            node::Effect::Start { operation, work } => self.start_work(id, operation, work),
            node::Effect::Cancel { operation } => self.cancel_work(id, operation),
            node::Effect::Kill { process, death } => self.kill_for_node(id, process, death),
            node::Effect::Offer { to, object, offset, size } => {
                if let Some(daemon) = self.nodes.get_mut(&id) {
                    daemon.offers.insert((to, object), (offset, size));
                }
            }
            node::Effect::Withdraw { to, object } => {
                if let Some(daemon) = self.nodes.get_mut(&id) {
                    daemon.offers.remove(&(to, object));
                }
            }
            node::Effect::Forget { node } => self.forget_node(id, node),
            node::Effect::Stop { .. } => {
                self.count("a node was told that it is dead");
                self.node_stops(id);
            }
            node::Effect::StopTemplate { .. } => self.count("a template was stopped"),
            node::Effect::RememberJob { .. } | node::Effect::ForgetJob { .. } => {}
        }
    }

    fn kill_for_node(&mut self, id: NodeId, process: ProcessId, death: Death) {
        self.count("the node killed a process");
        if self.processes.contains_key(&process) {
            self.die(process, death, true);
        } else if let Some(daemon) = self.nodes.get_mut(&id)
            && daemon.starting.contains_key(&process)
        {
            daemon.killed_early.insert(process, death);
        }
    }

    /// Nothing that this daemon had is there any more; who waited to be let in is not.
    pub(super) fn daemon_ends(&mut self, id: NodeId) -> Option<Daemon<C>> {
        let daemon = self.nodes.remove(&id)?;
        let address = ProcessId::daemon(id);
        for number in &daemon.waiting_drivers {
            self.calls.push_back((address, Call::Rejected { driver: *number }));
        }
        let objects = daemon.node.inspect().objects;
        let kept = objects.into_iter().filter(|(_, primary)| primary.is_none()).map(|(object, _)| object);
        self.facts.push(super::Fact::NodeEnded { node: id, kept: kept.collect() });
        self.note_node_death(id);
        self.trace.record(self.now(), address, '!', &"ends");
        Some(daemon)
    }
}

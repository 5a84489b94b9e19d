//! The node daemon: the `Node` and `Head` machines, the store's memory and the disk.

use std::collections::BTreeMap;

use shoal_core::ids::{JobId, OperationId, ProcessId};
use shoal_core::message::Message;
use shoal_core::node::{self, Work, WorkResult};
use shoal_core::resources::{Quantity, Resources};
use shoal_core::value::{Death, Failure};
use shoal_core::{Effects, Machine, Time, head};
use shoal_transport_sim::{Content, Disk, DiskError, Fault, Segment};

use super::{Event, NODE, World};
use crate::machines::{Head, Node};
use crate::observation::Observation;
use crate::scenario::Cluster;

const DAEMON: ProcessId = ProcessId::daemon(NODE);

/// See the module's text.
pub struct Daemon {
    /// The node's machine.
    pub node: Node,
    /// The head's machine.
    pub head: Head,
    /// The store's memory.
    pub segment: Segment,
    /// The spill directory.
    pub disk: Disk,
    pub(super) paused_until: Time,
    pub(super) disk_full_until: Time,
    node_timer: Option<Time>,
    head_timer: Option<Time>,
    operations: BTreeMap<OperationId, Work>,
    /// Workers that are being forked or are not up yet, and their jobs.
    starting: BTreeMap<ProcessId, JobId>,
    /// Workers to kill as soon as they exist.
    killed_early: BTreeMap<ProcessId, Death>,
    forks: u32,
    spills: u32,
    restores: u32,
    reserves: u32,
}

impl Daemon {
    pub(super) fn new(cluster: &Cluster, seed: u64) -> Daemon {
        let mut config = node::Config::new(NODE);
        let mut resources = Resources::default();
        resources.set(Resources::CPU, Quantity(i64::from(cluster.cpus) * Quantity::ONE.0));
        config.resources = resources;
        config.store_capacity = cluster.store_bytes;
        config.seed = seed;
        Daemon {
            node: Node::new(config),
            head: Head::new(head::Config::new(seed ^ 1), Vec::new()),
            segment: Segment::default(),
            disk: Disk::new(cluster.disk_bytes),
            paused_until: Time(0),
            disk_full_until: Time(0),
            node_timer: None,
            head_timer: None,
            operations: BTreeMap::new(),
            starting: BTreeMap::new(),
            killed_early: BTreeMap::new(),
            forks: 0,
            spills: 0,
            restores: 0,
            reserves: 0,
        }
    }

    /// Work that was started and has not ended.
    pub fn operations(&self) -> impl Iterator<Item = &Work> {
        self.operations.values()
    }
}

impl World {
    pub(super) fn start_daemon(&mut self) {
        self.arm_daemon_timers();
    }

    pub(super) fn tell_node(&mut self, input: node::Input) {
        let now = self.now();
        if self.daemon.paused_until > now {
            self.schedule(self.daemon.paused_until, Event::Node(input));
            return;
        }
        self.trace.record(now, DAEMON, '<', &input);
        let mut effects = Effects::new();
        self.daemon.node.handle(now, input, &mut effects);
        self.perform_node(effects);
    }

    pub(super) fn tell_head(&mut self, input: head::Input) {
        let now = self.now();
        if self.daemon.paused_until > now {
            self.schedule(self.daemon.paused_until, Event::Head(input));
            return;
        }
        self.trace.record(now, ProcessId::HEAD, '<', &input);
        let mut effects = Effects::new();
        self.daemon.head.handle(now, input, &mut effects);
        self.perform_head(effects);
    }

    pub(super) fn node_timer(&mut self) {
        let now = self.now();
        if self.daemon.node_timer.is_none_or(|due| due > now) {
            return;
        }
        if self.daemon.paused_until > now {
            self.daemon.node_timer = Some(self.daemon.paused_until);
            self.heap.schedule(self.daemon.paused_until, Event::NodeTimer);
            return;
        }
        self.daemon.node_timer = None;
        self.trace.record(now, DAEMON, '<', &"timeout");
        let mut effects = Effects::new();
        self.daemon.node.handle_timeout(now, &mut effects);
        if let Some((due, wakeup)) = self.daemon.node.poll_timeout()
            && due <= now
        {
            self.broken = Some(format!("the node's deadline {wakeup:?} is still due after it fired"));
        }
        self.perform_node(effects);
    }

    pub(super) fn head_timer(&mut self) {
        let now = self.now();
        if self.daemon.head_timer.is_none_or(|due| due > now) {
            return;
        }
        self.daemon.head_timer = None;
        self.trace.record(now, ProcessId::HEAD, '<', &"timeout");
        let mut effects = Effects::new();
        self.daemon.head.handle_timeout(now, &mut effects);
        if let Some((due, wakeup)) = self.daemon.head.poll_timeout()
            && due <= now
        {
            self.broken = Some(format!("the head's deadline {wakeup:?} is still due after it fired"));
        }
        self.perform_head(effects);
    }

    fn arm_daemon_timers(&mut self) {
        if let Some((due, _)) = self.daemon.node.poll_timeout()
            && self.daemon.node_timer.is_none_or(|armed| due < armed)
        {
            self.daemon.node_timer = Some(due);
            self.heap.schedule(due, Event::NodeTimer);
        }
        if let Some((due, _)) = self.daemon.head.poll_timeout()
            && self.daemon.head_timer.is_none_or(|armed| due < armed)
        {
            self.daemon.head_timer = Some(due);
            self.heap.schedule(due, Event::HeadTimer);
        }
    }

    fn perform_node(&mut self, mut effects: Effects<node::Effect>) {
        let now = self.now();
        for effect in effects.drain() {
            self.trace.record(now, DAEMON, '>', &effect);
            match effect {
                node::Effect::Send { to: ProcessId::HEAD, message } => {
                    self.schedule(
                        now,
                        Event::Head(head::Input::Received { via: NODE, from: DAEMON, message }),
                    );
                }
                node::Effect::Send { to, message } => self.deliver_to(DAEMON, to, message),
                node::Effect::AcceptDriver { connection, process, job, .. } => {
                    self.driver_in(connection as usize, process, job);
                }
                node::Effect::Start { operation, work } => self.start_work(operation, work),
                node::Effect::Kill { process, death } => self.kill_for_node(process, death),
                node::Effect::StopTemplate { .. } => self.count("a template was stopped"),
                _ => {}
            }
        }
        self.arm_daemon_timers();
    }

    fn perform_head(&mut self, mut effects: Effects<head::Effect>) {
        let now = self.now();
        for effect in effects.drain() {
            self.trace.record(now, ProcessId::HEAD, '>', &effect);
            let head::Effect::Send { to, message } = effect else { continue };
            if to == DAEMON {
                let input = node::Input::Received { from: ProcessId::HEAD, message };
                self.schedule(now, Event::Node(input));
            } else {
                self.deliver_to(ProcessId::HEAD, to, message);
            }
        }
        self.arm_daemon_timers();
    }

    fn deliver_to(&mut self, from: ProcessId, to: ProcessId, message: Message) {
        if to == ProcessId::HEAD || to == DAEMON {
            self.broken = Some(format!("{from:?} sends {message:?} to {to:?}"));
        }
        self.send_from_daemon(from, to, message);
    }

    fn kill_for_node(&mut self, process: ProcessId, death: Death) {
        self.count("the node killed a process");
        if self.processes.contains_key(&process) {
            self.die(process, death, true);
        } else if self.daemon.starting.contains_key(&process) {
            self.daemon.killed_early.insert(process, death);
        }
    }

    fn start_work(&mut self, operation: OperationId, work: Work) {
        let cluster = &self.scenario.cluster;
        let most = match &work {
            Work::ForkWorker { .. } => cluster.fork_micros,
            Work::Spill { .. } | Work::Restore { .. } | Work::DeleteSpilled { .. } => cluster.disk_micros,
            Work::Reserve { .. } | Work::ReleasePages { .. } | Work::Fetch { .. } => 1_000,
        };
        if let Work::ForkWorker { process, job, .. } = &work {
            self.daemon.starting.insert(*process, *job);
        }
        if self.daemon.operations.insert(operation, work).is_some() {
            self.broken = Some(format!("{operation:?} was started twice"));
        }
        self.schedule_in(most, Event::Work(operation));
    }

    pub(super) fn work_ends(&mut self, operation: OperationId) {
        let Some(work) = self.daemon.operations.remove(&operation) else {
            return;
        };
        let result = match work {
            Work::ForkWorker { process, .. } => self.fork_ends(process),
            Work::Spill { objects } => self.spill_ends(&objects),
            Work::Restore { object, from, offset } => self.restore_ends(object, from, offset),
            Work::DeleteSpilled { location } => {
                if !self.daemon.disk.delete(location) {
                    self.broken = Some(format!("{location:?} was deleted, and is not there"));
                }
                WorkResult::Done
            }
            Work::Reserve { .. } => {
                let nth = self.daemon.reserves;
                self.daemon.reserves += 1;
                if self.has_fault(|fault| matches!(fault, Fault::ReserveFails { nth: n } if *n == nth)) {
                    self.count("a reservation failed");
                    let detail = String::from("no memory for the store");
                    WorkResult::Failed(Failure::StoreFull { detail })
                } else {
                    WorkResult::Done
                }
            }
            Work::Fetch { object, .. } => {
                let detail = String::from("there is no other node");
                WorkResult::Failed(Failure::ObjectLost { object, detail })
            }
            Work::ReleasePages { offset, size } => {
                self.daemon.segment.release(offset, size);
                WorkResult::Done
            }
        };
        self.tell_node(node::Input::Finished { operation, result });
    }

    fn fork_ends(&mut self, process: ProcessId) -> WorkResult {
        let nth = self.daemon.forks;
        self.daemon.forks += 1;
        if self.has_fault(|fault| matches!(fault, Fault::ForkFails { nth: n } if *n == nth)) {
            self.count("a fork failed");
            self.daemon.starting.remove(&process);
            self.daemon.killed_early.remove(&process);
            let detail = String::from("the worker could not be forked");
            return WorkResult::Failed(Failure::EnvironmentSetup { detail });
        }
        let Some(job) = self.daemon.starting.remove(&process) else {
            return WorkResult::Done;
        };
        self.spawn(process, job);
        let most = self.scenario.cluster.fork_micros;
        self.schedule_in(most, Event::WorkerUp(process));
        if let Some(death) = self.daemon.killed_early.remove(&process) {
            self.die(process, death, true);
        } else if self.has_fault(|fault| matches!(fault, Fault::StartCrash { nth: n } if *n == nth)) {
            self.count("a worker crashed while it started");
            self.die(process, Death::Signalled { signal: 6 }, true);
        }
        WorkResult::Forked { pid: 10_000 + process.number() }
    }

    pub(super) fn worker_up(&mut self, process: ProcessId) {
        if self.processes.contains_key(&process) {
            self.send(process, DAEMON, Message::WorkerReady);
        }
    }

    fn spill_ends(&mut self, objects: &[(shoal_core::ids::ObjectId, u64, u64)]) -> WorkResult {
        let nth = self.daemon.spills;
        self.daemon.spills += 1;
        let full = self.daemon.disk_full_until > self.now();
        let torn = self.has_fault(|fault| matches!(fault, Fault::TornSpill { nth: n } if *n == nth));
        let mut contents = Vec::new();
        for (object, offset, size) in objects {
            match self.daemon.segment.read(*offset, *size) {
                Some(content) if content.object == *object => contents.push((content, *size)),
                found => {
                    self.broken = Some(format!("{object:?} is spilled from {offset}, where {found:?} lies"));
                    contents.push((Content { object: *object, attempt: u32::MAX }, *size));
                }
            }
        }
        let written = if full { Err(DiskError::Full) } else { self.daemon.disk.write(&contents, torn) };
        match written {
            Ok(locations) => {
                self.count("objects were spilled");
                if torn {
                    self.lost(String::from("a spill was torn"));
                }
                WorkResult::Spilled(locations)
            }
            Err(_) => {
                self.count("the disk was full");
                let detail = String::from("no room on the disk");
                self.lost(detail.clone());
                WorkResult::Failed(Failure::OutOfDisk { detail })
            }
        }
    }

    fn restore_ends(
        &mut self,
        object: shoal_core::ids::ObjectId,
        from: node::SpillLocation,
        offset: u64,
    ) -> WorkResult {
        let nth = self.daemon.restores;
        self.daemon.restores += 1;
        let fails = self.has_fault(|fault| matches!(fault, Fault::RestoreFails { nth: n } if *n == nth));
        match self.daemon.disk.read(from) {
            Ok(content) if !fails => {
                if content.object != object {
                    self.broken =
                        Some(format!("{object:?} is restored from {from:?}, where {content:?} lies"));
                }
                self.daemon.segment.write(offset, from.size, content);
                self.count("an object was restored");
                WorkResult::Done
            }
            _ => {
                self.count("a restore failed");
                self.lost(format!("{object:?} could not be restored"));
                let detail = String::from("the spill file is damaged");
                WorkResult::Failed(Failure::ObjectLost { object, detail })
            }
        }
    }

    fn lost(&mut self, detail: String) {
        self.observations.push(Observation::Lost { detail });
    }
}

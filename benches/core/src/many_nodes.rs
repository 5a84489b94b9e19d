//! A cluster of any size as bare machines under virtual time: what a task costs the head, the nodes and the
//! owners as the number of nodes grows.
//!
//! Unlike the simulator it plays no faults and checks nothing, so that the machines take most of the time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use shoal_core::head::{self, Head};
use shoal_core::ids::{JobId, NodeId, ObjectId, OperationId, ProcessId, TaskId};
use shoal_core::message::{Message, NodeSummary};
use shoal_core::node::{self, Node, Work, WorkResult};
use shoal_core::owner::{self, Owner, RunResult};
use shoal_core::resources::{Quantity, Resources};
use shoal_core::task::{Definition, Submission, Target};
use shoal_core::{Effects, Machine, Span, Time};

/// A message takes so long within a node, and between nodes.
const NEAR: Span = Span::from_micros(20);
const FAR: Span = Span::from_micros(100);
/// How long a worker takes to start.
const FORK: Span = Span::from_millis(3);

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many nodes there are.
    pub nodes: u32,
    /// CPUs of each.
    pub cpus: u32,
    /// How many nodes have a driver.
    pub drivers: u32,
    /// Tasks of all drivers together.
    pub tasks: u64,
    /// Virtual time that a task takes, on average.
    pub task: Span,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// In the head's machine.
    pub head: Duration,
    /// In the nodes' machines.
    pub nodes: Duration,
    /// In the owners' machines, of drivers and workers.
    pub owners: Duration,
}

impl Spent {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.head + self.nodes + self.owners
    }

    fn since(self, before: Spent) -> Spent {
        Spent {
            head: self.head.saturating_sub(before.head),
            nodes: self.nodes.saturating_sub(before.nodes),
            owners: self.owners.saturating_sub(before.owners),
        }
    }
}

/// What a run has shown.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// To let all nodes in and tell them of each other.
    pub joining: Spent,
    /// From the first submission until the last task has ended.
    pub working: Spent,
    /// Virtual time from the first submission until the last task has ended.
    pub makespan: Span,
    /// The whole run in real time.
    pub wall: Duration,
    /// How many events there were.
    pub events: u64,
    /// How many nodes ran a task.
    pub busy_nodes: usize,
}

enum Event {
    Deliver { from: ProcessId, to: ProcessId, message: Message },
    Ended { process: ProcessId, task: TaskId },
    Forked { node: NodeId, operation: OperationId, process: ProcessId, job: JobId },
    Due { address: ProcessId },
}

/// A machine, and when it wants to be woken.
struct Timed<M> {
    machine: M,
    armed: Option<Time>,
}

impl<M: Machine> Timed<M> {
    fn new(machine: M) -> Timed<M> {
        Timed { machine, armed: None }
    }

    /// The deadline to wake it at, if it is earlier than the one that it is to be woken at.
    fn earlier(&mut self) -> Option<Time> {
        let (due, _) = self.machine.poll_timeout()?;
        if self.armed.is_some_and(|armed| armed <= due) {
            return None;
        }
        self.armed = Some(due);
        Some(due)
    }

    /// Whether it is to be woken now. There may be an earlier and a later event for it, when its deadline moves.
    fn is_due(&self, now: Time) -> bool {
        self.armed == Some(now)
    }

    /// Give it an input, or wake it. A function of its own, so that what machines do can be counted apart.
    #[inline(never)]
    fn run(&mut self, now: Time, input: Option<M::Input>, effects: &mut Effects<M::Effect>) -> Duration {
        let start = Instant::now();
        match input {
            Some(input) => self.machine.handle(now, input, effects),
            None => {
                self.armed = None;
                self.machine.handle_timeout(now, effects);
            }
        }
        start.elapsed()
    }
}

/// A driver's program: it keeps so many tasks under way until all are done.
struct Program {
    left: u64,
    under_way: FxHashSet<ObjectId>,
}

struct World {
    plan: Plan,
    now: Time,
    number: u64,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    events: FxHashMap<u64, Event>,
    head: Timed<Head>,
    nodes: Vec<Timed<Node>>,
    owners: FxHashMap<ProcessId, Timed<Owner>>,
    programs: FxHashMap<ProcessId, Program>,
    definition: Arc<Definition>,
    joined: Vec<(u64, NodeId, u64)>,
    drivers: Vec<ProcessId>,
    busy: Vec<bool>,
    done: u64,
    count: u64,
    spent: Spent,
}

/// Play a plan to its end.
///
/// # Panics
///
/// If the tasks do not end: the machines wait for something that never comes.
pub fn play(plan: Plan) -> Outcome {
    let start = Instant::now();
    let mut world = World::new(plan);
    world.join();
    let joining = world.spent;
    world.connect_drivers();
    let before = world.spent;
    let began = world.now;
    let drivers = world.drivers.clone();
    let window = 4 * u64::from(plan.nodes * plan.cpus / plan.drivers).max(1);
    for (index, driver) in drivers.iter().enumerate() {
        let share = plan.tasks / drivers.len() as u64;
        let rest = if index == 0 { plan.tasks % drivers.len() as u64 } else { 0 };
        let program = Program { left: share + rest, under_way: FxHashSet::default() };
        world.programs.insert(*driver, program);
        for _ in 0..window {
            world.submit(*driver);
        }
    }
    while world.done < plan.tasks {
        assert!(
            world.step(),
            "{} of {} tasks have ended, and nothing happens any more",
            world.done,
            plan.tasks
        );
    }
    Outcome {
        joining,
        working: world.spent.since(before),
        makespan: world.now - began,
        wall: start.elapsed(),
        events: world.count,
        busy_nodes: world.busy.iter().filter(|busy| **busy).count(),
    }
}

impl World {
    fn new(plan: Plan) -> World {
        let config = head::Config::new(1);
        World {
            plan,
            now: Time(0),
            number: 0,
            queue: BinaryHeap::new(),
            events: FxHashMap::default(),
            head: Timed::new(Head::new(config, Vec::new())),
            nodes: Vec::new(),
            owners: FxHashMap::default(),
            programs: FxHashMap::default(),
            definition: super::definition(),
            joined: Vec::new(),
            drivers: Vec::new(),
            busy: vec![false; plan.nodes as usize + 2],
            done: 0,
            count: 0,
            spent: Spent::default(),
        }
    }

    /// Let all nodes in, and wait until they know of each other.
    fn join(&mut self) {
        for connection in 0..u64::from(self.plan.nodes) {
            let summary = NodeSummary {
                node: NodeId(0),
                alive: true,
                name: String::new(),
                host: String::from("host"),
                address: format!("10.0.0.0:{connection}"),
                total: self.resources(),
                free: self.resources(),
                labels: Vec::new(),
            };
            self.tell_head(Some(head::Input::NodeJoins { connection, summary: Box::new(summary) }));
            for (_, node, epoch) in std::mem::take(&mut self.joined) {
                self.begin(node, epoch);
            }
            self.settle();
        }
        // The last round of news about nodes is slow where there are many.
        let informed = self.now + Span::from_secs(1 + u64::from(self.plan.nodes) / 500);
        while self.queue.peek().is_some_and(|Reverse((at, _))| *at < informed) {
            self.step();
        }
    }

    fn begin(&mut self, node: NodeId, epoch: u64) {
        let mut config = node::Config::new(node);
        config.address = format!("10.0.0.0:{}", node.0);
        config.resources = self.resources();
        assert_eq!(self.nodes.len() + 1, node.0 as usize, "the head numbers nodes from 1");
        self.nodes.push(Timed::new(Node::new(config)));
        self.tell_node(node, Some(node::Input::HeadChanged { epoch }));
    }

    fn connect_drivers(&mut self) {
        let apart = self.plan.nodes / self.plan.drivers;
        for index in 0..self.plan.drivers {
            let input = node::Input::DriverConnected {
                connection: u64::from(index),
                pid: 1,
                namespace: String::new(),
                prestart: 0,
                launch: Bytes::new(),
            };
            self.tell_node(NodeId(1 + index * apart), Some(input));
        }
        self.settle();
        assert_eq!(self.drivers.len(), self.plan.drivers as usize, "every driver is let in");
    }

    fn resources(&self) -> Resources {
        let mut resources = Resources::default();
        resources.set(Resources::CPU, Quantity(i64::from(self.plan.cpus) * Quantity::ONE.0));
        resources
    }

    fn submit(&mut self, driver: ProcessId) {
        let program = self.programs.get_mut(&driver).expect("a driver has a program");
        if program.left == 0 {
            return;
        }
        program.left -= 1;
        let id = self.owners.get_mut(&driver).expect("a driver is an owner").machine.next_task_id();
        program.under_way.insert(id.object(0));
        let submission = Submission {
            id,
            target: Target::Function(self.definition.clone()),
            arguments: Bytes::new(),
            dependencies: Vec::new(),
            borrows: Vec::new(),
            parent: None,
        };
        self.tell_owner(driver, Some(owner::Input::Submit(Box::new(submission))));
    }

    /// Let everything happen that happens soon.
    fn settle(&mut self) {
        let until = self.now + Span::from_millis(1);
        while self.queue.peek().is_some_and(|Reverse((at, _))| *at <= until) {
            self.step();
        }
        self.now = until;
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((at, self.number)));
        self.events.insert(self.number, event);
    }

    fn send(&mut self, from: ProcessId, to: ProcessId, message: Message) {
        let near = from.node() == to.node() || (from == ProcessId::HEAD && to.node() == NodeId(1));
        let at = self.now + if near { NEAR } else { FAR };
        self.schedule(at, Event::Deliver { from, to, message });
    }

    fn step(&mut self) -> bool {
        let Some(Reverse((at, number))) = self.queue.pop() else { return false };
        self.now = at;
        self.count += 1;
        match self.events.remove(&number).expect("it was scheduled") {
            Event::Deliver { from, to: ProcessId::HEAD, message } => {
                let via = from.node();
                self.tell_head(Some(head::Input::Received { via, from, message }));
            }
            Event::Deliver { from, to, message } if to.is_daemon() => {
                self.tell_node(to.node(), Some(node::Input::Received { from, message }));
            }
            Event::Deliver { from, to, message } => {
                self.tell_owner(to, Some(owner::Input::Received { from, message }));
            }
            Event::Ended { process, task } => {
                let micros = u32::try_from(self.duration(task).0 / 1_000).unwrap_or(u32::MAX);
                let result = Box::new(RunResult { micros, ..super::result(task) });
                self.tell_owner(process, Some(owner::Input::Ran { task, result }));
            }
            Event::Forked { node, operation, process, job } => {
                self.spawn(process, job);
                self.send(process, ProcessId::daemon(node), Message::WorkerReady);
                let result = WorkResult::Forked { pid: 1 };
                self.tell_node(node, Some(node::Input::Finished { operation, result }));
            }
            Event::Due { address } => self.wake(address),
        }
        true
    }

    fn wake(&mut self, address: ProcessId) {
        if address == ProcessId::HEAD {
            if self.head.is_due(self.now) {
                self.tell_head(None);
            }
        } else if address.is_daemon() {
            if self.nodes[address.node().0 as usize - 1].is_due(self.now) {
                self.tell_node(address.node(), None);
            }
        } else if self.owners.get(&address).is_some_and(|owner| owner.is_due(self.now)) {
            self.tell_owner(address, None);
        }
    }

    fn spawn(&mut self, process: ProcessId, job: JobId) {
        let owner = Owner::new(owner::Config::new(process, job, self.plan.cpus));
        self.owners.insert(process, Timed::new(owner));
    }

    fn tell_head(&mut self, input: Option<head::Input>) {
        let mut effects = Effects::new();
        self.spent.head += self.head.run(self.now, input, &mut effects);
        for effect in effects.drain() {
            match effect {
                head::Effect::Send { to, message } => self.send(ProcessId::HEAD, to, message),
                head::Effect::Admit { connection, node, epoch } => {
                    self.joined.push((connection, node, epoch))
                }
                _ => {}
            }
        }
        if let Some(at) = self.head.earlier() {
            self.schedule(at, Event::Due { address: ProcessId::HEAD });
        }
    }

    fn tell_node(&mut self, id: NodeId, input: Option<node::Input>) {
        let mut effects = Effects::new();
        let Some(node) = self.nodes.get_mut(id.0 as usize - 1) else { return };
        self.spent.nodes += node.run(self.now, input, &mut effects);
        let daemon = ProcessId::daemon(id);
        if let Some(at) = node.earlier() {
            self.schedule(at, Event::Due { address: daemon });
        }
        for effect in effects.drain() {
            match effect {
                node::Effect::Send { to, message } => self.send(daemon, to, message),
                node::Effect::AcceptDriver { process, job, .. } => {
                    self.spawn(process, job);
                    self.drivers.push(process);
                }
                node::Effect::Start { operation, work: Work::ForkWorker { process, job, .. } } => {
                    self.schedule(self.now + FORK, Event::Forked { node: id, operation, process, job });
                }
                node::Effect::Start { operation, .. } => {
                    let result = WorkResult::Done;
                    self.tell_node(id, Some(node::Input::Finished { operation, result }));
                }
                node::Effect::Kill { process, death } => {
                    self.owners.remove(&process);
                    let exited = node::Input::ProcessExited { process, death, last_started: None };
                    self.tell_node(id, Some(exited));
                }
                _ => {}
            }
        }
    }

    fn tell_owner(&mut self, process: ProcessId, input: Option<owner::Input>) {
        let mut effects = Effects::new();
        let Some(owner) = self.owners.get_mut(&process) else { return };
        self.spent.owners += owner.run(self.now, input, &mut effects);
        if let Some(at) = owner.earlier() {
            self.schedule(at, Event::Due { address: process });
        }
        for effect in effects.drain() {
            match effect {
                owner::Effect::Send { to, message } => self.send(process, to, message),
                owner::Effect::Run { assignment, .. } => {
                    self.busy[process.node().0 as usize] = true;
                    let at = self.now + self.duration(assignment.task);
                    self.schedule(at, Event::Ended { process, task: assignment.task });
                }
                owner::Effect::Changed { object } => self.changed(process, object),
                _ => {}
            }
        }
    }

    /// From half the average to one and a half of it, the same for the same task.
    fn duration(&self, task: TaskId) -> Span {
        let spread = task.number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54;
        Span(self.plan.task.0 / 2 + self.plan.task.0 * spread / 1024)
    }

    fn changed(&mut self, process: ProcessId, object: ObjectId) {
        let Some(program) = self.programs.get_mut(&process) else { return };
        if !self.owners[&process].machine.has_outcome(object) || !program.under_way.remove(&object) {
            return;
        }
        self.done += 1;
        self.tell_owner(process, Some(owner::Input::RemoveReference { object }));
        self.submit(process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_end_on_all_nodes() {
        let plan = Plan { nodes: 6, cpus: 2, drivers: 2, tasks: 600, task: Span::from_millis(50) };
        let outcome = play(plan);
        assert_eq!(outcome.busy_nodes, 6);
        // Two CPUs on each of six nodes cannot be faster, and idle ones would make it much slower.
        assert!(outcome.makespan >= Span::from_millis(50 * 600 / 12), "{outcome:?}");
        assert!(outcome.makespan <= Span::from_millis(2 * 50 * 600 / 12), "{outcome:?}");
    }
}

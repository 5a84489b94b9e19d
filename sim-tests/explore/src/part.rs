//! The parts of a cluster, and one step of one part.
//!
//! A part is a machine with its own clock; a process has its program, too. What a step leads to depends
//! on nothing else, so each step of each part is computed once, however many states of the cluster it
//! occurs in. That is what makes exploration fast: clusters have far fewer distinct parts than states.

use std::panic::{AssertUnwindSafe, catch_unwind};

use shoal_core::ids::{JobId, NodeId, ObjectId, OperationId, ProcessId, TaskId};
use shoal_core::message::Message;
use shoal_core::owner::{self, Lookup, ObjectView};
use shoal_core::value::{Death, Failure};
use shoal_core::{Effects, Machine, Span, Time};
use shoal_core::{head, node};

use crate::history::Observation;
use crate::process::{Acts, Process};
use crate::scenario::Programs;
use crate::search::{Check, Violation};

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Part {
    /// What its clock says. Clocks of different parts have nothing to do with each other: what one does
    /// early is what the others do late.
    pub now: Time,
    /// What it is.
    pub role: Role,
}

/// What a part is.
#[derive(Clone, Debug)]
pub enum Role {
    /// The head.
    Head(Box<head::Head>),
    /// A node.
    Node(Box<node::Node>),
    /// A driver or worker.
    Process(Box<Process>),
}

/// What happens to a part.
#[derive(Clone, Debug)]
pub enum Event {
    /// An input of the head.
    Head(head::Input),
    /// An input of a node.
    Node(node::Input),
    /// An input of an owner.
    Owner(owner::Input),
    /// Its earliest deadline has come.
    Deadline,
    /// This thread of its program goes on.
    Go(u8),
}

/// What travels on a way.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A message.
    Message {
        /// From whom.
        from: ProcessId,
        /// To whom; whoever reads it passes it on if that is somebody else.
        to: ProcessId,
        /// What.
        message: Message,
    },
    /// The sender's end of the link is closed, and everything was read.
    Closed,
    /// The daemon sees that the process is gone, and everything was read.
    Exited {
        /// How it ended.
        death: Death,
        /// What the process table says that it started last.
        last_started: Option<TaskId>,
    },
}

/// Work that takes time.
#[derive(Clone, Debug)]
pub enum Work {
    /// Fork a worker.
    Fork {
        /// The number it gets.
        process: ProcessId,
        /// Its job.
        job: JobId,
    },
    /// Kill a process.
    Kill {
        /// Which.
        process: ProcessId,
        /// The death to report.
        death: Death,
    },
}

/// What a part does.
#[derive(Clone, Debug)]
pub enum Output {
    /// It sends.
    Send {
        /// To whom.
        to: ProcessId,
        /// What.
        message: Message,
    },
    /// It starts work.
    Start {
        /// Names it in the answer; nothing answers a kill.
        operation: Option<OperationId>,
        /// What.
        work: Work,
    },
    /// A node lets a driver in.
    Accept {
        /// The driver's number in the scenario.
        driver: usize,
        /// The process that it becomes.
        process: ProcessId,
        /// Its job.
        job: JobId,
    },
    /// A program sees something.
    Observe(Observation),
    /// The process ends by itself.
    Exit {
        /// With this code.
        code: i32,
    },
}

/// What the cluster must know of a part in order to know what can happen next.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// How long until its earliest deadline.
    pub deadline: Option<(Span, shoal_core::Wakeup)>,
    /// Threads that can go on.
    pub runnable: Vec<u8>,
    /// Objects that its program refers to.
    pub referred: Vec<ObjectId>,
    /// Objects of its own that it has a record of.
    pub owned: Vec<ObjectId>,
    /// Objects of others that it has, or may have, passed on.
    pub lent: Vec<ObjectId>,
    /// It is the last thing that a node waits for: nothing of a program runs here.
    pub idle: bool,
}

impl Part {
    /// What happens when `event` happens to it. Assertions of machines end in violations.
    pub fn step(&self, event: Event, programs: &Programs) -> Check<(Part, Vec<Output>)> {
        let step = || {
            let mut part = self.clone();
            let mut outputs = Vec::new();
            part.take(event, programs, &mut outputs);
            part.check();
            (part, outputs)
        };
        let (part, outputs) = catch_unwind(AssertUnwindSafe(step)).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Violation::new("assertions", text.unwrap_or_default())
        })?;
        if let Some((due, wakeup)) = part.poll_timeout()
            && due <= part.now
            && part.now > self.now
        {
            let detail = format!("the deadline {wakeup:?} is still due after it fired");
            return Err(Violation::new("deadlines", detail));
        }
        Ok((part, outputs))
    }

    fn take(&mut self, event: Event, programs: &Programs, outputs: &mut Vec<Output>) {
        if let Event::Deadline = event {
            let due = self.poll_timeout().map(|(due, _)| due).expect("it has a deadline");
            self.now = self.now.max(due);
        }
        let now = self.now;
        match (&mut self.role, event) {
            (Role::Head(head), event) => {
                let mut effects = Effects::new();
                match event {
                    Event::Head(input) => head.handle(now, input, &mut effects),
                    Event::Deadline => head.handle_timeout(now, &mut effects),
                    other => unreachable!("a head gets {other:?}"),
                }
                outputs.extend(effects.drain().filter_map(of_head));
            }
            (Role::Node(node), event) => {
                let mut effects = Effects::new();
                match event {
                    Event::Node(input) => node.handle(now, input, &mut effects),
                    Event::Deadline => node.handle_timeout(now, &mut effects),
                    other => unreachable!("a node gets {other:?}"),
                }
                outputs.extend(effects.drain().filter_map(of_node));
            }
            (Role::Process(process), event) => {
                let mut acts = Acts { now, programs, outputs };
                match event {
                    Event::Owner(input) => process.tell(input, &mut acts),
                    Event::Deadline => process.time_out(&mut acts),
                    Event::Go(thread) => process.go(thread, &mut acts),
                    other => unreachable!("a process gets {other:?}"),
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<(Time, shoal_core::Wakeup)> {
        match &self.role {
            Role::Head(head) => head.poll_timeout(),
            Role::Node(node) => node.poll_timeout(),
            Role::Process(process) => process.owner.poll_timeout(),
        }
    }

    /// What a machine can check alone; a violation panics.
    fn check(&self) {
        match &self.role {
            Role::Head(head) => head.check(),
            Role::Node(node) => node.check(),
            Role::Process(_) => {}
        }
    }

    /// What the cluster must know of it.
    pub fn facts(&self) -> Facts {
        let deadline = self.poll_timeout().map(|(due, wakeup)| (due - self.now, wakeup));
        let Role::Process(process) = &self.role else {
            return Facts { deadline, idle: true, ..Facts::default() };
        };
        let me = process.id();
        let objects = process.owner.inspect().objects;
        let is_there = |object| {
            let gone = |failure: &Failure| matches!(failure, Failure::Freed { .. });
            !matches!(process.owner.lookup(object), Lookup::Failed(failure) if gone(failure))
        };
        let owned = objects.iter().map(|view| view.id).filter(|id| id.owner() == me && is_there(*id));
        let passes_on = |view: &&ObjectView| view.uses > 0 || !view.held_for.is_empty();
        let lent = objects.iter().filter(passes_on).map(|view| view.id).filter(|id| id.owner() != me);
        Facts {
            deadline,
            runnable: process.runnable(),
            referred: process.referred(),
            owned: owned.collect(),
            lent: lent.collect(),
            idle: process.is_idle(),
        }
    }

    /// Everything here that is left of work, in words; nothing if all is at rest.
    pub fn left(&self) -> Vec<String> {
        match &self.role {
            Role::Head(_) => Vec::new(),
            Role::Node(node) => left_of_node(node),
            Role::Process(process) => left_of_process(process),
        }
    }
}

fn left_of_node(node: &node::Node) -> Vec<String> {
    let inspection = node.inspect();
    let mut left: Vec<String> = inspection.leases.iter().map(|lease| format!("lease {lease:?}")).collect();
    if inspection.free != inspection.total {
        left.push(format!("{:?} of {:?} is free", inspection.free, inspection.total));
    }
    let busy = inspection.workers.iter().filter(|(_, state)| *state != "idle");
    left.extend(busy.map(|(worker, state)| format!("{worker:?} is {state}")));
    left
}

fn left_of_process(process: &Process) -> Vec<String> {
    let inspection = process.owner.inspect();
    let mut left = process.waiting();
    let tasks = inspection.tasks.iter();
    left.extend(tasks.map(|task| format!("task {:?} attempt {} {}", task.id, task.attempt, task.stage)));
    left.extend(inspection.leases.iter().map(|lease| format!("lease {lease:?}")));
    left.extend(inspection.objects.iter().map(|object| format!("{object:?}")));
    if inspection.lease_requests > 0 {
        left.push(format!("{} requests for leases", inspection.lease_requests));
    }
    left
}

fn of_head(effect: head::Effect) -> Option<Output> {
    match effect {
        head::Effect::Send { to, message } => Some(Output::Send { to, message }),
        head::Effect::Handled { .. } => None,
        other => unreachable!("no scenario leads to {other:?}"),
    }
}

fn of_node(effect: node::Effect) -> Option<Output> {
    match effect {
        node::Effect::Send { to, message } => Some(Output::Send { to, message }),
        node::Effect::AcceptDriver { connection, process, job, .. } => {
            Some(Output::Accept { driver: connection as usize, process, job })
        }
        node::Effect::Start { operation, work: node::Work::ForkWorker { process, job, .. } } => {
            Some(Output::Start { operation: Some(operation), work: Work::Fork { process, job } })
        }
        node::Effect::Kill { process, death } => {
            Some(Output::Start { operation: None, work: Work::Kill { process, death } })
        }
        node::Effect::StopTemplate { .. }
        | node::Effect::RememberJob { .. }
        | node::Effect::ForgetJob { .. } => None,
        other => unreachable!("no scenario leads to {other:?}"),
    }
}

/// The node of an address; the head has none.
pub fn node_of(process: ProcessId) -> Option<NodeId> {
    (process != ProcessId::HEAD).then(|| process.node())
}

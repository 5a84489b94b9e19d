//! The processes of this node, and who wants to know of their deaths.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use bytes::Bytes;

use super::ledger::Holding;
use super::outbox::Outbox;
use super::pools::PoolId;
use crate::ids::{ActorId, JobId, LeaseId, NodeId, ProcessId};
use crate::machine::Time;
use crate::message::Message;
use crate::value::Death;

/// How many deaths are remembered with their causes.
const DEATHS_MAX: usize = 10_000;

/// A live process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// 0 until it is known.
    pub(super) pid: u32,
    /// The job; of a driver, once the head has given it one.
    pub(super) job: Option<JobId>,
    pub(super) role: Role,
    pub(super) watchers: BTreeSet<ProcessId>,
    pub(super) watches: BTreeSet<ProcessId>,
}

/// What a process is for.
#[derive(Clone, Debug)]
pub(super) enum Role {
    Driver {
        /// What it has asked for, until it is let in.
        application: Option<Application>,
        /// Workers to start for it.
        prestart: u32,
    },
    Worker(Worker),
}

/// What a driver that is not let in yet has asked for.
#[derive(Clone, Debug)]
pub(super) struct Application {
    /// The driver's connection.
    pub(super) connection: u64,
    pub(super) namespace: String,
    /// See [`Message::RegisterJob`].
    pub(super) launch: Bytes,
}

/// A worker process.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) pool: PoolId,
    pub(super) state: State,
    /// Resources go with the process: they are free again when it is gone.
    pub(super) holding: Option<Holding>,
    /// It was asked, or made, to end.
    pub(super) exit: Option<Exit>,
    /// It has been of use.
    pub(super) proven: bool,
}

/// What a worker does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// Not up yet.
    Starting {
        /// When it must be.
        deadline: Time,
    },
    /// Up and free.
    Idle {
        /// Since when.
        since: Time,
    },
    /// Serving a lease.
    Leased(LeaseId),
    /// Being an actor, or its constructor.
    Actor(ActorId),
    /// Of no more use; it ends.
    Retired,
}

/// How a process that must end is brought to it.
#[derive(Clone, Debug)]
pub(super) struct Exit {
    /// When to kill it; `None` once that was done.
    pub(super) deadline: Option<Time>,
    /// The death to report, whatever the driver says, if the node killed it.
    pub(super) death: Option<Death>,
}

impl Worker {
    pub(super) fn new(pool: PoolId, deadline: Time) -> Worker {
        Worker { pool, state: State::Starting { deadline }, holding: None, exit: None, proven: false }
    }

    /// The word for it in lists.
    pub(super) fn describe(&self) -> &'static str {
        let blocked = self.holding.as_ref().is_some_and(Holding::is_blocked);
        match self.state {
            _ if self.exit.is_some() => "exiting",
            State::Starting { .. } => "starting",
            State::Idle { .. } => "idle",
            State::Leased(_) | State::Actor(_) if blocked => "blocked",
            State::Leased(_) => "leased",
            State::Actor(_) => "actor",
            State::Retired => "exiting",
        }
    }
}

/// All processes of the node, by id.
#[derive(Clone, Debug)]
pub(super) struct Processes {
    node: NodeId,
    last: u32,
    alive: BTreeMap<ProcessId, Process>,
    deaths: BTreeMap<ProcessId, Death>,
    /// Who wants to know of the deaths of other nodes' processes.
    pub(super) remote: BTreeMap<ProcessId, BTreeSet<ProcessId>>,
}

impl Processes {
    pub(super) fn new(node: NodeId) -> Processes {
        let (alive, deaths, remote) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Processes { node, last: 0, alive, deaths, remote }
    }

    pub(super) fn add(&mut self, pid: u32, job: Option<JobId>, role: Role) -> ProcessId {
        self.last = self.last.checked_add(1).expect("process numbers are used up");
        let id = ProcessId::new(self.node, self.last);
        let (watchers, watches) = (BTreeSet::new(), BTreeSet::new());
        self.alive.insert(id, Process { pid, job, role, watchers, watches });
        id
    }

    pub(super) fn get(&self, id: ProcessId) -> Option<&Process> {
        self.alive.get(&id)
    }
    pub(super) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.alive.get_mut(&id)
    }
    pub(super) fn worker(&self, id: ProcessId) -> Option<&Worker> {
        match &self.alive.get(&id)?.role {
            Role::Worker(worker) => Some(worker),
            Role::Driver { .. } => None,
        }
    }
    pub(super) fn worker_mut(&mut self, id: ProcessId) -> Option<&mut Worker> {
        match &mut self.alive.get_mut(&id)?.role {
            Role::Worker(worker) => Some(worker),
            Role::Driver { .. } => None,
        }
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = (ProcessId, &Process)> {
        self.alive.iter().map(|(id, process)| (*id, process))
    }
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.alive.values_mut()
    }
    pub(super) fn workers(&self) -> impl Iterator<Item = (ProcessId, &Process, &Worker)> {
        self.alive.iter().filter_map(|(id, process)| match &process.role {
            Role::Worker(worker) => Some((*id, process, worker)),
            Role::Driver { .. } => None,
        })
    }

    /// Whether this process of this node has come and gone.
    pub(super) fn is_dead(&self, id: ProcessId) -> bool {
        let ours = id.node() == self.node && (1..=self.last).contains(&id.number());
        ours && !self.alive.contains_key(&id)
    }

    /// How a process of this node ended, if it has.
    pub(super) fn death(&self, id: ProcessId) -> Option<Death> {
        self.is_dead(id).then(|| self.deaths.get(&id).cloned().unwrap_or_else(forgotten))
    }

    /// Record a death and tell those who wait for it.
    pub(super) fn remove(&mut self, id: ProcessId, death: &Death, out: &mut Outbox) -> Option<Process> {
        let process = self.alive.remove(&id)?;
        for watched in &process.watches {
            if let Some(watched) = self.alive.get_mut(watched) {
                watched.watchers.remove(&id);
            } else if let Some(watchers) = self.remote.get_mut(watched) {
                watchers.remove(&id);
                if watchers.is_empty() {
                    self.remote.remove(watched);
                }
            }
        }
        for watcher in &process.watchers {
            out.send(*watcher, Message::ProcessDied { process: id, death: death.clone() });
            if let Some(watcher) = self.alive.get_mut(watcher) {
                watcher.watches.remove(&id);
            }
        }
        self.deaths.insert(id, death.clone());
        if self.deaths.len() > DEATHS_MAX {
            self.deaths.pop_first();
        }
        Some(process)
    }
}

fn forgotten() -> Death {
    Death::Killed { reason: String::from("it ended long ago; how is not on record any more") }
}

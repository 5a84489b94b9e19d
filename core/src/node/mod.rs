//! The `Node` role: leases, the worker pool, the local object table, spilling, memory pressure.
//!
//! Each file holds one subject: its commands as methods of [`Node`], the table they work on as a
//! plain struct, its policy as pure functions, and its tests. Every command ends in
//! `Node::settle`, which hands out what has become free.

mod actors;
mod aside;
mod bundles;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod cluster_soak;
mod drain;
mod drivers;
mod exits;
#[cfg(test)]
mod harness;
mod head_change;
mod inspect;
mod leases;
mod ledger;
mod memory;
mod node_death;
#[cfg(test)]
mod nonsense;
mod outbox;
mod pins;
mod pools;
mod processes;
mod questions;
mod queue;
mod report;
mod roll;
mod routing;
mod schedule;
mod starvation;
mod store;
mod view;
mod watches;
mod wishes;
mod workers;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::actors::Actor;
use self::aside::Aside;
use self::drain::Emptiness;
use self::drivers::Job;
use self::leases::{Leases, Wanted};
use self::ledger::Ledger;
use self::outbox::Outbox;
use self::pools::Pools;
use self::processes::Processes;
use self::queue::Queue;
use self::report::Reporter;
use self::schedule::Shares;
use self::store::{Sealed, Store};
use self::view::View;
use self::wishes::Wishes;
use crate::deadlines::Deadlines;
use crate::ids::{ActorId, JobId, NodeId, ObjectId, OperationId, ProcessId, TaskId};
use crate::machine::{Effects, Machine, Span, Time, Wakeup};
use crate::message::{Drain, Message};
use crate::resources::{Environment, Resources};
use crate::value::{Death, Failure};

pub use self::inspect::{DeviceHolder, HeldDevices, Inspection, NodeDevice};

/// What a node is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Its number.
    pub node: NodeId,
    /// Its incarnation; leases of another one are refused.
    pub epoch: u32,
    /// Its name, for lists; empty: as its host.
    pub name: String,
    /// Host name, for lists.
    pub host: String,
    /// Where other daemons reach it; empty if there can be no others.
    pub address: String,
    /// Everything it has.
    pub resources: Resources,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// First byte of the store's segment that may hold objects.
    pub store_start: u64,
    /// Bytes that objects in memory may take.
    pub store_capacity: u64,
    /// Objects of so many bytes and more go to many nodes as a tree.
    pub large_object: u64,
    /// So many nodes copy one of them from here at a time; others are sent to these. Three take the least
    /// time, however many want it, where the sender's link is what holds them up (n / ln n is least).
    pub copying_max: usize,
    /// How many workers may be starting at once.
    pub starting_max: u32,
    /// How long a worker beyond the number of CPUs stays idle before it is stopped.
    pub idle_worker_keep: Span,
    /// How long a worker may take to come up before it is killed.
    pub start_grace: Span,
    /// How long a process that was asked to exit may take before it is killed.
    pub exit_grace: Span,
    /// How long an actor without handles may take to end its calls and exit.
    pub actor_exit_grace: Span,
    /// How long a demand that this node can never meet waits for the cluster to change.
    pub infeasible_grace: Span,
    /// How long a full store waits for room before it refuses.
    pub store_full_grace: Span,
    /// Seed of the node's random choices.
    pub seed: u64,
}

impl Config {
    /// The usual settings of a node that has nothing yet; a driver fills in what it has.
    pub fn new(node: NodeId) -> Config {
        Config {
            node,
            epoch: 1,
            name: String::new(),
            host: String::new(),
            address: String::new(),
            resources: Resources::default(),
            labels: Vec::new(),
            store_start: 0,
            store_capacity: 0,
            large_object: 1 << 20,
            copying_max: 3,
            starting_max: 4,
            idle_worker_keep: Span::from_secs(1),
            start_grace: Span::from_secs(60),
            exit_grace: Span::from_secs(5),
            actor_exit_grace: Span::from_secs(30),
            infeasible_grace: Span::from_secs(10),
            store_full_grace: Span::from_secs(2),
            seed: 0,
        }
    }
}

/// What can happen to a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// A driver asks to be let in; answered by [`Effect::AcceptDriver`].
    DriverConnected {
        /// The driver's name for its connection.
        connection: u64,
        /// Its pid.
        pid: u32,
        /// The namespace it asked for; empty for one of its own.
        namespace: String,
        /// How many workers to start before they are asked for.
        prestart: u32,
        /// See [`Message::RegisterJob`].
        launch: Bytes,
    },
    /// A message for the node came.
    Received {
        /// From whom.
        from: ProcessId,
        /// What.
        message: Message,
    },
    /// A local process is gone: everything that it had sent was delivered before this.
    ProcessExited {
        /// The process.
        process: ProcessId,
        /// How it ended.
        death: Death,
        /// The task that it started last, if any.
        last_started: Option<TaskId>,
    },
    /// Started work ended.
    Finished {
        /// Which.
        operation: OperationId,
        /// How.
        result: WorkResult,
    },
    /// A head of this epoch acts from now on. What was sent to an earlier one and not acknowledged is
    /// sent again by the session, before anything that the node says now.
    HeadChanged {
        /// Its epoch.
        epoch: u64,
    },
    /// The machine is short of memory: kill the worker whose loss costs least.
    MemoryPressure {
        /// What was seen, for the user.
        detail: String,
        /// Resident bytes of each worker.
        workers: Vec<(ProcessId, u64)>,
    },
}

/// What a node asks of the world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// Send a message.
    Send {
        /// To whom.
        to: ProcessId,
        /// What.
        message: Message,
    },
    /// Let a driver in.
    AcceptDriver {
        /// Its connection.
        connection: u64,
        /// The id it gets.
        process: ProcessId,
        /// Its job.
        job: JobId,
        /// The namespace of its actors' names.
        namespace: String,
    },
    /// Start work that takes time; answered by [`Input::Finished`].
    Start {
        /// Names it in the answer.
        operation: OperationId,
        /// The work.
        work: Work,
    },
    /// Kill a process at once, with everything it started.
    Kill {
        /// The process.
        process: ProcessId,
        /// The death to report, whatever the operating system says.
        death: Death,
    },
    /// There is such a job: remember how its workers are started.
    RememberJob {
        /// The job.
        job: JobId,
        /// Its driver.
        driver: ProcessId,
        /// The namespace of its actors' names.
        namespace: String,
        /// See [`Message::RegisterJob`].
        launch: Bytes,
    },
    /// Let another node read this object, until `Withdraw`.
    Offer {
        /// The node.
        to: NodeId,
        /// The object.
        object: ObjectId,
        /// Where it is in this node's segment.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// The other node does not read it any more.
    Withdraw {
        /// The node.
        to: NodeId,
        /// The object.
        object: ObjectId,
    },
    /// Nobody waits for this work any more; it still ends with [`Input::Finished`].
    Cancel {
        /// The work.
        operation: OperationId,
    },
    /// Nothing of this node is worth hearing any more: drop its session.
    Forget {
        /// The node.
        node: NodeId,
    },
    /// The head has declared this node dead: end all its processes, and the daemon.
    Stop {
        /// Why, for the log.
        reason: String,
    },
    /// The job's driver is gone and none of its processes is left here: its template may be stopped.
    /// How to start it is kept, for a detached actor of the job may be started here again.
    StopTemplate {
        /// The job.
        job: JobId,
    },
    /// Nothing of this job will be started here again: forget how its workers are started.
    ForgetJob {
        /// The job.
        job: JobId,
    },
}

/// Work that a node starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// Start a worker process; it says `WorkerReady` when it is up.
    ForkWorker {
        /// The id it gets.
        process: ProcessId,
        /// Whose template to fork.
        job: JobId,
        /// Its surroundings.
        environment: Environment,
    },
    /// Write objects to disk, fused into one file.
    Spill {
        /// Object, offset, size.
        objects: Vec<(ObjectId, u64, u64)>,
    },
    /// Read an object back.
    Restore {
        /// The object.
        object: ObjectId,
        /// Where it is on disk.
        from: SpillLocation,
        /// Where it goes.
        offset: u64,
    },
    /// Copy an object from another node, which offers it. Fails if that node is gone.
    Fetch {
        /// The object.
        object: ObjectId,
        /// The node that offers it.
        from: NodeId,
        /// Where it goes.
        offset: u64,
        /// Bytes.
        size: u64,
        /// Whether a reader is blocked by it: its bytes go before those that nobody is.
        urgent: bool,
    },
    /// Forget a spilled object.
    DeleteSpilled {
        /// Where it is on disk.
        location: SpillLocation,
    },
    /// Make sure that pages can be had for a range before anybody writes there.
    Reserve {
        /// Where the range starts.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// Give the pages of a free range back to the operating system.
    ReleasePages {
        /// Where the range starts.
        offset: u64,
        /// Bytes.
        size: u64,
    },
}

/// A place in a spill file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SpillLocation {
    /// The file.
    pub file: u64,
    /// Where the object starts in it.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// How started work ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WorkResult {
    /// The process exists; `WorkerReady` follows.
    Forked {
        /// Its pid.
        pid: u32,
    },
    /// The objects are on disk, in the order given.
    Spilled(Vec<SpillLocation>),
    /// Done.
    Done,
    /// It failed.
    Failed(Failure),
}

/// The machine of a node.
///
/// Methods named after a message or an input handle it; `settle` and what it calls hand out what is
/// free; methods named after a wakeup handle that.
#[derive(Clone, Debug)]
pub struct Node {
    config: Config,
    ledger: Ledger,
    processes: Processes,
    jobs: BTreeMap<JobId, Job>,
    /// Jobs of which something has just ended here.
    closing: BTreeSet<JobId>,
    pools: Pools,
    queue: Queue,
    aside: Aside,
    shares: Shares,
    wishes: Wishes,
    leases: Leases,
    actors: BTreeMap<ActorId, Actor>,
    store: Store,
    view: View,
    /// Something is known anew that those may profit from who wait here: nodes, totals, jobs.
    changed: bool,
    /// It was declared dead.
    stopped: bool,
    /// The head has it emptied.
    draining: Option<Drain>,
    emptiness: Emptiness,
    /// Forks under way.
    forks: BTreeMap<OperationId, ProcessId>,
    reporter: Reporter,
    /// The epoch of the newest head that this node has heard of.
    head: u64,
    deadlines: Deadlines,
    next_operation: u64,
}

impl Node {
    /// A node without processes. Its first report to the head is due at once.
    pub fn new(config: Config) -> Node {
        let mut deadlines = Deadlines::default();
        deadlines.arm(Wakeup::Report, Time(0));
        Node {
            ledger: Ledger::new(config.resources.clone()),
            processes: Processes::new(config.node),
            jobs: BTreeMap::new(),
            closing: BTreeSet::new(),
            pools: Pools::default(),
            queue: Queue::default(),
            aside: Aside::default(),
            shares: Shares::default(),
            wishes: Wishes::default(),
            leases: Leases::new(config.node, config.epoch),
            actors: BTreeMap::new(),
            store: Store::new(&config),
            view: View::new(config.node),
            changed: false,
            stopped: false,
            draining: None,
            emptiness: Emptiness::default(),
            forks: BTreeMap::new(),
            reporter: Reporter::default(),
            head: 0,
            deadlines,
            next_operation: 1,
            config,
        }
    }

    /// Where another node's daemon is reached, if this node knows it and counts it alive.
    pub fn address_of(&self, node: NodeId) -> Option<&str> {
        self.view.address_of(node)
    }

    /// Check the node's invariants; a violation panics. The simulator calls it after every event.
    pub fn check(&self) {
        let held = self.processes.workers().filter_map(|(_, _, worker)| worker.holding.as_ref());
        let claimed = self.pools.iter().flat_map(|(_, pool)| pool.waiting.iter().map(|(_, holding)| holding));
        self.ledger.check(held.chain(claimed));
        self.queue.check();
        self.pools.check();
        self.view.check();
        self.check_roles();
        self.store.check();
    }

    fn received(&mut self, from: ProcessId, message: Message, out: &mut Outbox) {
        match message {
            message if from == ProcessId::HEAD => self.received_from_head(message, out),
            // Daemons ask on behalf of people, and looking changes nothing.
            Message::Ask { request, query } if from.is_daemon() || self.may_live(from) => {
                self.answer(from, request, query, out);
            }
            // Whoever is dead, or was never here.
            _ if !self.may_live(from) => {}
            message if self.is_local(from) => self.received_from_process(from, message, out),
            message if from.is_daemon() => self.received_from_node(from, message, out),
            message => self.received_from_afar(from, message, out),
        }
    }

    fn received_from_head(&mut self, message: Message, out: &mut Outbox) {
        match message {
            Message::StartActor { spec, incarnation, order } => {
                self.reporter.ordered(order);
                self.start_actor(spec, incarnation, out);
            }
            Message::StopActor { actor, incarnation, graceful } => {
                self.stop_actor(actor, incarnation, graceful, out);
            }
            Message::JobRegistered { driver, job, namespace } => {
                self.job_registered(driver, job, namespace, out);
            }
            Message::JobStarted { job, driver, namespace, launch } => {
                self.job_started(job, driver, namespace, launch, out);
            }
            Message::JobEnded { job } => self.job_ended(job, out),
            Message::ReserveBundles { group, attempt, bundles, order } => {
                self.reporter.ordered(order);
                self.reserve_bundles(group, attempt, &bundles, out);
            }
            Message::CommitBundles { group, attempt } => self.commit_bundles(group, attempt, out),
            Message::SuspendBundles { group } => self.suspend_bundles(group, out),
            Message::ReleaseBundles { group, attempt } => self.release_bundles(group, attempt),
            Message::ReturnBundles { group, attempt, removed } => {
                self.return_bundles(group, attempt, removed, out);
            }
            Message::JobForgotten { job } => self.job_forgotten(job, out),
            Message::View { nodes } => {
                self.view.update(&nodes);
                self.changed = true;
            }
            Message::NodeDied { node, heir } => self.node_died(node, heir, out),
            Message::Draining { drain } => self.drain(drain, out),
            Message::Fenced => self.fenced(out),
            Message::ClusterEnds => self.cluster_ends(out),
            _ => {}
        }
    }

    /// From the daemon of another node.
    fn received_from_node(&mut self, from: ProcessId, message: Message, out: &mut Outbox) {
        match message {
            Message::WatchProcess { process } => self.watch(from, process, out),
            Message::ProcessDied { process, death } if process.node() == from.node() => {
                self.remote_process_died(process, &death, out);
            }
            message => self.received_of_store(from.node(), message, out),
        }
    }

    /// From a process of another node.
    fn received_from_afar(&mut self, from: ProcessId, message: Message, out: &mut Outbox) {
        match message {
            Message::RequestLease { request, job, demand, route, prefer } => {
                self.request_lease(from, request, Wanted { job, demand, route, prefer }, out);
            }
            Message::CancelLeaseRequest { request } => self.cancel_lease_request(from, request),
            Message::ReturnLease { lease, reusable } => self.return_lease(from, lease, reusable, out),
            Message::FreeObject { object, attempt } => self.store.free_object(from, object, attempt, out),
            Message::CopyMissing { object, attempt } => {
                self.store.copy_missing(from, object, attempt, out.now)
            }
            _ => {}
        }
    }

    fn received_from_process(&mut self, from: ProcessId, message: Message, out: &mut Outbox) {
        let store = &mut self.store;
        match message {
            Message::RequestLease { request, job, demand, route, prefer } => {
                self.request_lease(from, request, Wanted { job, demand, route, prefer }, out);
            }
            Message::CancelLeaseRequest { request } => self.cancel_lease_request(from, request),
            Message::ReturnLease { lease, reusable } => self.return_lease(from, lease, reusable, out),
            Message::WorkerReady => self.worker_ready(from, out),
            Message::Blocked => self.blocked(from),
            Message::Unblocked => self.unblocked(from),
            Message::WatchProcess { process } => self.watch(from, process, out),
            Message::ActorConstructed { actor, incarnation, failed } => {
                self.actor_constructed(from, actor, incarnation, failed, out);
            }
            Message::ActorExits { actor, incarnation } => self.actor_exits(from, actor, incarnation),
            Message::RequestExtent { request, size } => store.request_extent(from, request, size, out),
            Message::ReturnExtent { offset, size } => store.return_extent(from, offset, size),
            Message::Seal { object, attempt, offset, size } => {
                let job = self.processes.get(from).and_then(|process| process.job).unwrap_or_default();
                store.seal(from, Sealed { object, attempt, job, size }, offset, out);
                self.watch_owner(object.owner(), out);
            }
            Message::Pin { object, locations } => self.pin(from, object, &locations, out),
            Message::Mourn { of, heir, .. } if from.is_steward() => self.mourn(from, of, heir, out),
            Message::Unpin { object } => store.unpin(from, object, out),
            Message::FreeObject { object, attempt } => store.free_object(from, object, attempt, out),
            Message::CopyMissing { object, attempt } => store.copy_missing(from, object, attempt, out.now),
            // The rest is for others.
            _ => {}
        }
    }

    fn finished(&mut self, operation: OperationId, result: WorkResult, out: &mut Outbox) {
        match self.forks.remove(&operation) {
            Some(process) => self.fork_finished(process, result, out),
            None => self.store.finished(operation, result, out),
        }
    }

    fn expired(&mut self, wakeup: Wakeup, out: &mut Outbox) {
        match wakeup {
            Wakeup::StopIdleWorkers => self.stop_idle_workers(out),
            Wakeup::KillAfterGrace => {
                self.kill_after_grace(out);
                self.kill_late_starters(out);
            }
            Wakeup::Unschedulable => self.refuse_unschedulable(out),
            Wakeup::RaiseCap => self.raise_cap(),
            Wakeup::NoRoom => self.refuse_the_insistent(out),
            Wakeup::Redirect => {
                self.view.expire(out.now);
                self.changed = true;
            }
            Wakeup::Report => self.reporter.due(),
            Wakeup::MakeRoom | Wakeup::StoreFull => self.store.room_due(),
            // What these wait for is looked at whenever the node settles.
            _ => {}
        }
    }

    /// Hand out what has become free, and report what changed.
    fn settle(&mut self, out: &mut Outbox) {
        while let Some(job) = self.closing.pop_first() {
            self.close_job(job, out);
        }
        let changed = core::mem::take(&mut self.changed);
        if changed {
            self.reconsider_aside(out);
        }
        self.schedule(out);
        if changed {
            self.redirect_waiting(out);
            self.find_successors();
        }
        self.watch_guesses(out.now);
        self.store.settle(out, &mut self.deadlines);
        self.tell_owners(out);
        self.report(out);
        self.tell_if_emptied(out);
    }
}

impl Machine for Node {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, effects: &mut Effects<Effect>) {
        if self.stopped {
            return;
        }
        let mut out = Outbox::new(now, self.next_operation, effects);
        match input {
            Input::DriverConnected { connection, pid, namespace, prestart, launch } => {
                self.driver_connected(connection, pid, namespace, prestart, launch, &mut out);
            }
            Input::Received { from, message } => self.received(from, message, &mut out),
            Input::ProcessExited { process, death, last_started } => {
                self.process_exited(process, death, last_started, &mut out);
            }
            Input::Finished { operation, result } => self.finished(operation, result, &mut out),
            Input::HeadChanged { epoch } => self.head_changed(epoch, &mut out),
            Input::MemoryPressure { detail, workers } => {
                self.memory_pressure(&detail, &workers, &mut out);
            }
        }
        self.settle(&mut out);
        self.next_operation = out.next_operation();
    }

    fn handle_timeout(&mut self, now: Time, effects: &mut Effects<Effect>) {
        let due = self.deadlines.take_due(now);
        if due.is_empty() || self.stopped {
            return;
        }
        let mut out = Outbox::new(now, self.next_operation, effects);
        for wakeup in due {
            self.expired(wakeup, &mut out);
        }
        self.settle(&mut out);
        self.next_operation = out.next_operation();
    }

    fn poll_timeout(&self) -> Option<(Time, Wakeup)> {
        if self.stopped { None } else { self.deadlines.earliest() }
    }
}

//! The `Owner` role: what one driver or worker process knows and decides.
//!
//! It owns the tasks that its process submits and the objects that they return, counts references,
//! keeps leases busy, calls actors in order, rebuilds what is lost, and, in a worker, decides which
//! assigned task runs next. One file per subject; each adds methods to [`Owner`].

mod arguments;
mod borrowing;
mod calls;
mod cancel;
mod check;
mod copies;
mod death;
mod events;
mod executor;
mod groups;
mod heirs;
mod inspect;
mod leases;
mod lineage;
mod mapping;
mod mourning;
mod objects;
mod questions;
mod ready;
mod records;
mod region;
mod requests;
mod steward;
mod streams;
mod tasks;
#[cfg(test)]
mod tests;
mod workers;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::actor::ActorSpec;
use crate::group::{GroupSpec, GroupState};
use crate::ids::{ActorId, GroupId, JobId, NodeId, ObjectId, ProcessId, RequestId, TaskId};
use crate::machine::{Effects, Machine, Span, Time, Wakeup};
use crate::message::{Answer, Message, Query};
use crate::resources::Devices;
use crate::task::{Assignment, Submission};
use crate::value::{ActorDeath, Failure, Outcome, Value};
use crate::{Map, OrderedMap};

use questions::Question;

pub use events::TaskEvent;
pub use inspect::{ActorView, Inspection, LeaseView, ObjectView, TaskView};
pub use objects::Lookup;
pub use streams::NextItem;

/// What an owner is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Its process.
    pub process: ProcessId,
    /// Its job.
    pub job: JobId,
    /// Logical CPUs of the node: how many lease requests of one demand are worth having open.
    pub cpus: u32,
    /// How long a lease without work is kept.
    pub lease_idle: Span,
    /// A worker is given small tasks ahead until this much measured work waits there.
    pub ahead: Span,
    /// Tasks behind one that runs longer than this are taken back.
    pub take_back_after: Span,
    /// How long an object that nobody reads stays pinned for the next reader.
    pub unpin_after: Span,
    /// How long a task waits before it is tried again after its worker ran out of memory.
    pub memory_retry_delay: Span,
    /// Bytes of task descriptions kept for rebuilding lost objects.
    pub lineage_bytes_max: u64,
    /// Every node hosts a steward, which inherits what dead processes owned.
    pub stewards: bool,
}

impl Config {
    /// The usual settings for `process`.
    pub fn new(process: ProcessId, job: JobId, cpus: u32) -> Config {
        Config {
            process,
            job,
            cpus: cpus.max(1),
            lease_idle: Span::from_millis(200),
            ahead: Span::from_millis(2),
            take_back_after: Span::from_millis(10),
            unpin_after: Span::from_millis(50),
            memory_retry_delay: Span::from_secs(1),
            lineage_bytes_max: 1 << 30,
            stewards: false,
        }
    }

    /// The settings for the steward of `node`, which serves all jobs.
    pub fn steward(node: NodeId, cpus: u32) -> Config {
        Config { stewards: true, ..Config::new(ProcessId::steward(node), JobId::default(), cpus) }
    }
}

/// What can happen to an owner.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    // --- from the program in this process
    /// Run this task. Its results get one local reference each.
    Submit(Box<Submission>),
    /// Make this actor. Its handle object gets one local reference.
    CreateActor {
        /// Everything but the dependencies' outcomes.
        spec: Box<ActorSpec>,
        /// Top-level references among the constructor's arguments.
        dependencies: Vec<ObjectId>,
        /// Set when the program waits for the head's answer.
        request: Option<RequestId>,
    },
    /// Keep this value. It gets one local reference.
    Put {
        /// Its id, taken from the owner beforehand.
        object: ObjectId,
        /// The value.
        value: Value,
    },
    /// The program made one more reference to the object.
    AddReference {
        /// The object.
        object: ObjectId,
    },
    /// The program dropped a reference to the object.
    RemoveReference {
        /// The object.
        object: ObjectId,
    },
    /// Somebody in this process waits for the object: see that its bytes come here.
    Need {
        /// The object.
        object: ObjectId,
    },
    /// A reader of a mapped object is gone.
    RemoveReader {
        /// The object.
        object: ObjectId,
    },
    /// A thread that runs a task starts to wait for others.
    Blocked,
    /// It goes on.
    Unblocked,
    /// The program does not want this object's task any more.
    Cancel {
        /// Any result of the task.
        object: ObjectId,
        /// Kill the worker if it runs.
        force: bool,
        /// Cancel what the task submitted, too.
        recursive: bool,
    },
    /// The program kills an actor.
    KillActor {
        /// The actor.
        actor: ActorId,
        /// For good.
        no_restart: bool,
    },
    /// The program got hold of an actor: learn where it is.
    WatchActor {
        /// The actor.
        actor: ActorId,
    },
    /// The program makes a placement group: its id is taken from the owner beforehand.
    CreateGroup {
        /// Everything about it.
        spec: Box<GroupSpec>,
        /// Numbers the question whether the group is possible.
        request: RequestId,
    },
    /// The program removes a placement group.
    RemoveGroup {
        /// The group.
        group: GroupId,
    },
    /// The program got hold of a placement group: learn how it is.
    WatchGroup {
        /// The group.
        group: GroupId,
    },
    /// The program has lost interest in a placement group.
    UnwatchGroup {
        /// The group.
        group: GroupId,
    },
    /// The program does not take further items of a stream.
    CloseStream {
        /// The stream's task.
        task: TaskId,
    },
    /// Ask the head or the node something.
    Ask {
        /// Numbers the question.
        request: RequestId,
        /// Whom.
        to: ProcessId,
        /// What.
        query: Query,
    },
    /// The program needs more room in the store than [`Owner::allocate`] had.
    RequestRoom {
        /// Numbers the request.
        request: RequestId,
        /// Bytes.
        size: u64,
    },
    /// An object was written at a place that [`Owner::allocate`] gave.
    Seal {
        /// The object.
        object: ObjectId,
        /// Where it starts.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// A place that [`Owner::allocate`] gave was not used after all.
    Abandon {
        /// Where it starts.
        offset: u64,
        /// Bytes.
        size: u64,
    },

    // --- from the code that runs assigned tasks here
    /// An attempt that [`Effect::Run`] started has ended.
    Ran {
        /// Its task.
        task: TaskId,
        /// How.
        result: Box<RunResult>,
    },
    /// A generator that [`Effect::Run`] started has yielded.
    Yielded {
        /// Its task.
        task: TaskId,
        /// Which item, from 0.
        index: u32,
        /// The item.
        outcome: Outcome,
    },
    /// The constructor that [`Effect::Construct`] started has ended.
    Constructed {
        /// Why it failed, if it did.
        failed: Option<ActorDeath>,
    },
    /// The actor in this process wants to end after the running calls.
    ExitActor,

    // --- from the world
    /// A message came.
    Received {
        /// From whom.
        from: ProcessId,
        /// What.
        message: Message,
    },
    /// Everything that the peer had sent directly was delivered, and no more will come.
    LinkClosed {
        /// The peer.
        peer: ProcessId,
    },
}

/// How the user's code ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunResult {
    /// One per result; of a stream: one if it broke, else none.
    pub outcomes: Vec<Outcome>,
    /// Of a stream: how many items it yielded.
    pub items: u32,
    /// See [`crate::task::Completion::retryable`].
    pub retryable: bool,
    /// When it started, in microseconds of the program's calendar.
    pub started: u64,
    /// How long it ran.
    pub micros: u32,
    /// The process takes no further task.
    pub exiting: bool,
    /// It ended the process it ran in: nothing is reported, the death says it all.
    pub silent: bool,
}

/// What an owner asks of the world.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Effect {
    /// Send a message.
    Send {
        /// To whom.
        to: ProcessId,
        /// What.
        message: Message,
    },
    /// Whoever waits for this object looks again.
    Changed {
        /// The object.
        object: ObjectId,
    },
    /// Run a task, whose stored arguments are pinned; answered by [`Input::Ran`].
    Run {
        /// What.
        assignment: Box<Assignment>,
        /// Index of the actor's concurrency group.
        group: u32,
    },
    /// Construct the actor, whose stored arguments are pinned; answered by [`Input::Constructed`].
    Construct {
        /// Everything about it.
        spec: Box<ActorSpec>,
        /// Which start.
        incarnation: u32,
        /// Devices that it holds.
        devices: Devices,
    },
    /// The running task was cancelled: interrupt it if that is possible.
    Interrupt {
        /// The task.
        task: TaskId,
    },
    /// The consumer has taken this many items of the generator that runs here.
    Consumed {
        /// The generator's task.
        task: TaskId,
        /// How many, counted from the start.
        consumed: u32,
    },
    /// End this process.
    Exit {
        /// Why, for the log.
        reason: alloc::string::String,
        /// At once, without running exit handlers.
        force: bool,
    },
    /// The answer to a question or to a named actor's creation.
    Answered {
        /// Which question.
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
    /// The state of a placement group changed.
    GroupChanged {
        /// The group.
        group: GroupId,
        /// Its state.
        state: GroupState,
    },
    /// There is room now, or there will not be.
    Room {
        /// Which request.
        request: RequestId,
        /// Why not.
        refused: Option<Failure>,
    },
}

/// The machine. See the module's text.
#[derive(Clone, Debug)]
pub struct Owner {
    config: Config,
    /// The time of the present input.
    now: Time,
    next_number: u64,
    objects: Map<ObjectId, objects::Object>,
    /// Only of stored objects of which there are several.
    copies: OrderedMap<ObjectId, copies::Copies>,
    tasks: Map<TaskId, tasks::Task>,
    leases: leases::Leases,
    actors: OrderedMap<ActorId, calls::Calls>,
    executor: executor::Executor,
    mappings: Map<ObjectId, mapping::Mapping>,
    region: region::Region,
    peers: OrderedMap<ProcessId, death::Peer>,
    /// Set if this owner is the steward of its node.
    steward: Option<Box<steward::Steward>>,
    told: records::Told,
    /// Heirs that wait until a dead peer's link is read: of whom, and who waits.
    mourners: Vec<(ProcessId, ProcessId)>,
    /// Dead nodes, and whose steward owns what their processes owned.
    heirs: BTreeMap<NodeId, NodeId>,
    /// Questions without an answer.
    questions: BTreeMap<RequestId, questions::Question>,
    groups: OrderedMap<GroupId, groups::Watched>,
    /// Those of them that are gone, in the order in which they went.
    removed_groups: VecDeque<GroupId>,
    /// The newest head that this process was told of.
    head_epoch: u64,
    /// Tasks that wait for their next attempt, by the time it is due.
    delayed: BTreeMap<(Time, TaskId), ()>,
    lineage_bytes: u64,
    events: events::Events,
    /// Objects whose last use may have gone; settled at the end of each input.
    dropped: Vec<ObjectId>,
}

type Out<'a> = &'a mut Effects<Effect>;

impl Owner {
    /// An owner that knows nothing yet.
    pub fn new(config: Config) -> Owner {
        let steward = config.process.is_steward().then(Box::default);
        Owner {
            config,
            now: Time::default(),
            next_number: 1,
            objects: Map::default(),
            copies: OrderedMap::default(),
            tasks: Map::default(),
            leases: leases::Leases::default(),
            actors: OrderedMap::default(),
            executor: executor::Executor::default(),
            mappings: Map::default(),
            region: region::Region::default(),
            peers: OrderedMap::default(),
            steward,
            told: records::Told::default(),
            mourners: Vec::new(),
            heirs: BTreeMap::new(),
            questions: BTreeMap::new(),
            groups: OrderedMap::default(),
            removed_groups: VecDeque::new(),
            head_epoch: 0,
            delayed: BTreeMap::new(),
            lineage_bytes: 0,
            events: events::Events::default(),
            dropped: Vec::new(),
        }
    }

    /// A fresh id for a task or a value of this process.
    pub fn next_task_id(&mut self) -> TaskId {
        let number = self.next_number;
        self.next_number += 1;
        TaskId { owner: self.config.process, number }
    }

    /// This process.
    pub fn process(&self) -> ProcessId {
        self.config.process
    }

    fn me(&self) -> ProcessId {
        self.config.process
    }

    fn node(&self) -> NodeId {
        self.config.process.node()
    }

    fn daemon(&self) -> ProcessId {
        ProcessId::daemon(self.node())
    }

    fn send(&self, to: ProcessId, message: Message, out: Out<'_>) {
        out.push(Effect::Send { to, message });
    }

    /// Whether `from` decides such things. Peers are processes of the same job, but one that is wrong
    /// about whom it talks to must not move this process's memory or end its leases.
    fn may_say(&self, from: ProcessId, message: &Message) -> bool {
        match message {
            Message::Pinned { .. }
            | Message::PinFailed { .. }
            | Message::ExtentGranted { .. }
            | Message::ExtentRefused { .. }
            | Message::Freed { .. }
            | Message::ReturnRoom
            | Message::ProcessDied { .. }
            | Message::NodeDied { .. }
            | Message::HeadChanged { .. }
            | Message::BecomeActor { .. }
            | Message::JobEnded { .. }
            | Message::Exit { .. } => from == self.daemon(),
            Message::Mourn { .. } | Message::Settled { .. } => from.is_steward(),
            Message::LeaseGranted { .. }
            | Message::LeaseRedirected { .. }
            | Message::LeaseRejected { .. }
            | Message::LeaseRefused { .. }
            | Message::LeaseEnded { .. }
            | Message::LeaseWanted
            | Message::CopyAdded { .. }
            | Message::Answer { .. } => from.is_daemon(),
            Message::ActorUpdate { .. } | Message::GroupMade { .. } | Message::GroupUpdate { .. } => {
                from == ProcessId::HEAD
            }
            _ => true,
        }
    }

    fn received(&mut self, now: Time, from: ProcessId, message: Message, out: Out<'_>) {
        if !self.may_say(from, &message) {
            return;
        }
        match message {
            Message::TaskFinished(completion) => self.task_finished(now, from, *completion, out),
            Message::PushTask(assignment) => self.push_received(from, assignment, out),
            Message::TasksReturned { tasks } => self.tasks_returned(now, from, tasks, out),
            Message::GeneratorItem { task, attempt, index, outcome } => {
                self.item_received(from, task, attempt, index, outcome, out)
            }
            Message::GeneratorConsumed { task, consumed } => self.consumed(task, consumed, out),
            Message::CancelTask { task, force, recursive } => {
                self.cancel_received(now, task, force, recursive, out)
            }
            Message::TakeBack { tasks } => self.take_back_received(from, &tasks, out),
            Message::LeaseGranted { request, lease, worker, devices } => {
                self.lease_granted(now, from, request, lease, worker, devices, out)
            }
            Message::LeaseRedirected { request, to, route } => {
                self.lease_redirected(from, request, to, route, out)
            }
            Message::LeaseRejected { request } => self.lease_rejected(from, request, out),
            Message::LeaseRefused { request, failure } => {
                self.lease_refused(now, from, request, failure, out)
            }
            Message::LeaseWanted => self.lease_wanted(now, from.node(), out),
            Message::LeaseEnded { lease, death, last_started } => {
                self.lease_ended(now, lease, death, last_started, out)
            }
            Message::ActorUpdate { actor, incarnation, state, restarts_left } => {
                self.actor_update(now, actor, incarnation, state, restarts_left, out)
            }
            Message::BecomeActor { spec, incarnation, devices } => {
                self.become_actor(spec, incarnation, devices, out)
            }
            Message::Borrow { object } => self.borrow_received(from, object, out),
            Message::Borrowed { object } => self.borrowed(from, object, out),
            Message::ReturnGrants { object, grants } => self.grants_returned(from, object, grants),
            Message::FetchObject { object, missing_at } => {
                self.fetch_received(now, from, object, missing_at, out)
            }
            Message::ObjectContent { object, outcome } => {
                self.content_received(now, from, object, outcome, out)
            }
            Message::CopyAdded { object, node, attempt } => self.copy_added(object, node, attempt, out),
            Message::CopyRemoved { object, node, attempt } => self.copy_removed(object, node, attempt),
            Message::KeepRecords { records } => self.records_received(now, from, records, out),
            Message::DropRecords { objects, tasks } => self.records_dropped(from, &objects, &tasks),
            Message::KeepHolder { holder } => self.holder_received(from, holder, out),
            Message::Mourn { of, death, heir } => self.mourn_received(now, from, of, death, heir, out),
            Message::Mourned { of } => self.mourned_received(now, from, of, out),
            Message::Settled { of } => self.settled_received(from, of),
            Message::JobEnded { job } => self.job_ended(now, job, out),
            Message::Pinned { object, offset, size } => self.pinned(now, object, offset, size, out),
            Message::PinFailed { object, failure } => self.pin_failed(now, object, failure, out),
            Message::ExtentGranted { request, offset, size } => {
                self.region.add(offset, size);
                out.push(Effect::Room { request, refused: None });
            }
            Message::ExtentRefused { request, failure } => {
                out.push(Effect::Room { request, refused: Some(failure) });
            }
            Message::Freed { offset, size } => self.region.free(offset, size),
            Message::ReturnRoom => self.return_room(out),
            Message::ProcessDied { process, death } => self.process_died(now, process, death, out),
            Message::NodeDied { node, heir } => self.node_died(now, node, heir, out),
            Message::HeadChanged { epoch } => self.head_changed(epoch, out),
            Message::GroupMade { group, bundles } => self.group_made(group, bundles, out),
            Message::GroupUpdate { group, state } => self.group_update(group, state, out),
            Message::Exit { graceful, reason } => self.exit_requested(graceful, reason, out),
            Message::Answer { request, answer } => self.answered(now, request, answer, out),
            // Nothing else is meant for an owner; a peer that says it is wrong, and harmless.
            _ => {}
        }
    }

    fn return_room(&mut self, out: Out<'_>) {
        let daemon = self.daemon();
        for (offset, size) in self.region.take_free() {
            self.send(daemon, Message::ReturnExtent { offset, size }, out);
        }
    }
}

impl Machine for Owner {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Time, input: Input, out: &mut Effects<Effect>) {
        self.now = now;
        match input {
            Input::Submit(submission) => self.submit(now, *submission, out),
            Input::Received { from, message } => self.received(now, from, message, out),
            Input::Ran { task, result } => self.ran(task, *result, out),
            Input::AddReference { object } => self.add_reference(object),
            Input::RemoveReference { object } => self.remove_reference(object),
            Input::Need { object } => self.need(now, object, out),
            Input::Put { object, value } => self.put(object, value),
            Input::RemoveReader { object } => self.remove_reader(now, object),
            Input::Yielded { task, index, outcome } => self.yielded(task, index, outcome, out),
            Input::Blocked => self.blocked(out),
            Input::Unblocked => self.unblocked(out),
            Input::CreateActor { spec, dependencies, request } => {
                self.create_actor(now, spec, dependencies, request, out)
            }
            Input::Cancel { object, force, recursive } => self.cancel(now, object, force, recursive, out),
            Input::KillActor { actor, no_restart } => self.kill_actor(now, actor, no_restart, out),
            Input::WatchActor { actor } => self.watch_actor(actor, out),
            Input::CloseStream { task } => self.close_stream(task, out),
            Input::CreateGroup { spec, request } => self.create_group(spec, request, out),
            Input::RemoveGroup { group } => self.remove_group(group, out),
            Input::WatchGroup { group } => self.watch_group(group, out),
            Input::UnwatchGroup { group } => self.unwatch_group(group, out),
            Input::Ask { request, to, query } => self.ask(request, Question::Ask { to, query }, out),
            Input::RequestRoom { request, size } => {
                self.send(self.daemon(), Message::RequestExtent { request, size }, out)
            }
            Input::Seal { object, offset, size } => {
                let attempt = self.running_attempt(object.task);
                self.send(self.daemon(), Message::Seal { object, attempt, offset, size }, out)
            }
            Input::Abandon { offset, size } => self.region.free(offset, size),
            Input::Constructed { failed } => self.constructed(failed, out),
            Input::ExitActor => self.exit_actor(out),
            Input::LinkClosed { peer } => self.link_closed(now, peer, out),
        }
        self.settle_dropped(now, out);
        self.settle_starved(out);
    }

    fn handle_timeout(&mut self, now: Time, out: &mut Effects<Effect>) {
        self.now = now;
        self.retry_due(now, out);
        self.leases_due(now, out);
        self.unpin_due(now, out);
        self.settle_dropped(now, out);
    }

    fn poll_timeout(&self) -> Option<(Time, Wakeup)> {
        let retry = self.delayed.keys().next().map(|(due, _)| (*due, Wakeup::Retry));
        [retry, self.leases.deadline(), self.unpin_deadline()].into_iter().flatten().min()
    }
}

//! Everything that one machine says to another.
//!
//! Between two live processes a message arrives once; two messages that took different ways may
//! change places, and whatever was on its way to or from a process that died is lost.

mod actors;
mod leases;
mod nodes;
mod questions;

pub use actors::{ActorEvent, ActorPresence};
pub use leases::Route;
pub use nodes::{Drain, NodeState, NodeSummary};
pub use questions::{Answer, Query, StoreSummary, WorkerSummary};

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::actor::{ActorSpec, ActorState, ActorSummary};
use crate::group::{GroupSpec, GroupState};
use crate::ids::{ActorId, GroupId, JobId, LeaseId, NodeId, ObjectId, ProcessId, RequestId, TaskId};
use crate::record::Record;
use crate::resources::{Demand, Devices, Resources};
use crate::task::{Assignment, Completion};
use crate::value::{ActorDeath, Death, Failure, Outcome};

/// See the module's text. Grouped by subject; the comment of each group says who talks to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    // --- Leases: owner to node -------------------------------------------------------------
    /// Grant me a worker that can run work of this demand. Answered once, maybe much later.
    RequestLease {
        /// Numbers the request for the answer and for cancelling it.
        request: RequestId,
        /// The job that the worker must belong to.
        job: JobId,
        /// What the work needs.
        demand: Arc<Demand>,
        /// How the request came to this node.
        route: Route,
        /// The node with most bytes of the arguments of the work that comes first.
        prefer: Option<NodeId>,
    },
    /// I do not need that lease any more. If it was granted meanwhile it is returned as usual.
    CancelLeaseRequest {
        /// The request.
        request: RequestId,
    },
    /// The lease is over.
    ReturnLease {
        /// The lease.
        lease: LeaseId,
        /// The worker may serve others; otherwise it must be stopped.
        reusable: bool,
    },
    // --- Leases: node to owner -------------------------------------------------------------
    /// Here is your worker.
    LeaseGranted {
        /// Which request this answers.
        request: RequestId,
        /// The lease.
        lease: LeaseId,
        /// The process to push tasks to.
        worker: ProcessId,
        /// Devices that the lease holds.
        devices: Devices,
    },
    /// Ask that node instead, in this way.
    LeaseRedirected {
        /// Which request this answers.
        request: RequestId,
        /// The node that may have room.
        to: NodeId,
        /// What the request to it must say.
        route: Route,
    },
    /// Nothing is free here, though another node believed so: ask your own node again.
    LeaseRejected {
        /// Which request this answers.
        request: RequestId,
    },
    /// There will be no lease.
    LeaseRefused {
        /// Which request this answers.
        request: RequestId,
        /// Why.
        failure: Failure,
    },
    /// Others wait for what you hold: return leases as their running tasks end.
    LeaseWanted,
    /// The worker of your lease died. Tasks that it had not started did not run.
    LeaseEnded {
        /// The lease.
        lease: LeaseId,
        /// How the worker died.
        death: Death,
        /// The task that the worker started last, if it started any.
        last_started: Option<TaskId>,
    },

    // --- Tasks: owner to executing process -------------------------------------------------
    /// Run this.
    PushTask(Box<Assignment>),
    /// Do not run it, or stop it.
    CancelTask {
        /// The task.
        task: TaskId,
        /// Exit the process if it runs.
        force: bool,
        /// Cancel what it submitted, too.
        recursive: bool,
    },
    /// Give back those of these tasks that have not started.
    TakeBack {
        /// The tasks.
        tasks: Vec<TaskId>,
    },
    /// The consumer of this generator has taken this many items.
    GeneratorConsumed {
        /// The generator's task.
        task: TaskId,
        /// How many items, counted from the start.
        consumed: u32,
    },
    // --- Tasks: executing process to owner -------------------------------------------------
    /// An attempt ended.
    TaskFinished(Box<Completion>),
    /// These have not started and will not: push them elsewhere.
    TasksReturned {
        /// The tasks with the attempt that was pushed.
        tasks: Vec<(TaskId, u32)>,
    },
    /// The next item of a generator.
    GeneratorItem {
        /// The generator's task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// Which item, from 0.
        index: u32,
        /// The item.
        outcome: Outcome,
    },

    // --- References: between owners, borrowers and lenders ---------------------------------
    /// Borrower to owner: I hold a reference that somebody else gave me. Acknowledged.
    Borrow {
        /// The object.
        object: ObjectId,
    },
    /// Owner to borrower: you are registered, with one grant.
    Borrowed {
        /// The object.
        object: ObjectId,
    },
    /// To owner or lender: this many of the grants that I have from you are over.
    ReturnGrants {
        /// The object.
        object: ObjectId,
        /// How many.
        grants: u32,
    },
    /// Borrower to owner: tell me the outcome when there is one.
    FetchObject {
        /// The object.
        object: ObjectId,
        /// This node's store does not have the copy that you told me of.
        missing_at: Option<NodeId>,
    },
    /// Owner to borrower: the outcome. References inside come with one grant each.
    ObjectContent {
        /// The object.
        object: ObjectId,
        /// Its outcome.
        outcome: Outcome,
    },

    /// Node to owner: this node has a copy of your object, too. To the steward that inherits it when
    /// its owner has died: this node has a copy; whoever owns nothing of the kind frees it.
    CopyAdded {
        /// The object.
        object: ObjectId,
        /// The node.
        node: NodeId,
        /// Which attempt of its task made it.
        attempt: u32,
    },

    /// Node to owner: a copy of your object is gone that this node had made for its readers.
    CopyRemoved {
        /// The object.
        object: ObjectId,
        /// The node.
        node: NodeId,
        /// Which attempt of its task made it.
        attempt: u32,
    },

    // --- Ownership that survives: owner to stewards (see the module `owner::records`) -----------
    /// Keep these, each instead of an earlier one of the same subject.
    KeepRecords {
        /// The records.
        records: Vec<Record>,
    },
    /// These are not needed any more.
    DropRecords {
        /// Objects.
        objects: Vec<ObjectId>,
        /// Tasks.
        tasks: Vec<TaskId>,
    },
    /// This process may hold references from me, or knows who on its node does.
    KeepHolder {
        /// A process of the steward's node, or the steward of another node.
        holder: ProcessId,
    },
    // --- Ownership that survives: between stewards and holders (see `owner::mourning`) -----------
    /// Heir to holders, also through the stewards of their nodes: this process is dead, or, of a daemon,
    /// its node. Register anew what you hold that it owned, then say so.
    Mourn {
        /// Who died.
        of: ProcessId,
        /// How.
        death: Death,
        /// Whose steward owns what it owned.
        heir: NodeId,
    },
    /// The answer: what the sender holds is registered with the heir.
    Mourned {
        /// Who died.
        of: ProcessId,
    },
    /// Heir to stewards: everybody has registered. Records that the heir has not sent you are void.
    Settled {
        /// Who died.
        of: ProcessId,
    },

    // --- Store: node to node -----------------------------------------------------------------
    /// Keep this object in memory and let me copy it.
    PullObject {
        /// The object.
        object: ObjectId,
    },
    /// It is in memory until you say `PullEnded`.
    PullReady {
        /// The object.
        object: ObjectId,
        /// Which attempt of its task made it.
        attempt: u32,
        /// Bytes.
        size: u64,
        /// The node that keeps it even if its memory is short: other copies are dropped then.
        primary: NodeId,
    },
    /// It cannot be had here.
    PullFailed {
        /// The object.
        object: ObjectId,
        /// Why.
        failure: Failure,
    },
    /// Enough nodes copy it from here. This one does, and will have it soon: ask there.
    PullElsewhere {
        /// The object.
        object: ObjectId,
        /// Who copies it.
        node: NodeId,
    },
    /// I have my copy, or do not want it any more.
    PullEnded {
        /// The object.
        object: ObjectId,
    },
    /// I am being emptied: copy this object from me if you do not have it, and keep it.
    KeepObject {
        /// The object.
        object: ObjectId,
        /// The job of the process that made it.
        job: JobId,
    },
    /// The answer: I keep it, or will not.
    ObjectKept {
        /// The object.
        object: ObjectId,
        /// Which attempt of its task made what is kept.
        attempt: Option<u32>,
    },

    // --- Store: process to its node --------------------------------------------------------
    /// Give me room for at least this many bytes.
    RequestExtent {
        /// Numbers the request for the answer.
        request: RequestId,
        /// Bytes.
        size: u64,
    },
    /// I do not use this room any more.
    ReturnExtent {
        /// Where it starts.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// An object is complete at this place, inside one of my extents.
    Seal {
        /// The object.
        object: ObjectId,
        /// Which attempt of its task made it; 0 if it was put.
        attempt: u32,
        /// Where it starts.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// I am about to read this object: keep it in memory, restoring or fetching it first if need be.
    Pin {
        /// The object.
        object: ObjectId,
        /// Where copies were last known to be.
        locations: Vec<NodeId>,
    },
    /// I do not read it any more.
    Unpin {
        /// The object.
        object: ObjectId,
    },
    /// Owner to every node with a copy: nobody can reach this object any more.
    FreeObject {
        /// The object.
        object: ObjectId,
        /// Only what this attempt of its task or an earlier one made. The way of this message is not
        /// that of the next attempt's `Seal`, so it may be overtaken; `u32::MAX` frees for good.
        attempt: u32,
    },
    /// Owner to a node that was said to have an object: a reader did not find it there. If it is there all
    /// the same, or again, say so with `CopyAdded`; if it is made there later, drop it.
    CopyMissing {
        /// The object.
        object: ObjectId,
        /// The attempt of its task that had made it.
        attempt: u32,
    },
    // --- Store: node to process ------------------------------------------------------------
    /// Room for you.
    ExtentGranted {
        /// Which request this answers.
        request: RequestId,
        /// Where it starts.
        offset: u64,
        /// Bytes, at least as many as you asked for.
        size: u64,
    },
    /// No room.
    ExtentRefused {
        /// Which request this answers.
        request: RequestId,
        /// Why.
        failure: Failure,
    },
    /// An object in your extent is gone: its room is yours again.
    Freed {
        /// Where it starts.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// Room is scarce: return the free parts of your extents.
    ReturnRoom,
    /// The object is in memory at this place until you unpin it.
    Pinned {
        /// The object.
        object: ObjectId,
        /// Where it starts.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// The object cannot be had here.
    PinFailed {
        /// The object.
        object: ObjectId,
        /// Why.
        failure: Failure,
    },

    // --- Processes: process to its node ----------------------------------------------------
    /// A worker is up.
    WorkerReady,
    /// The running task waits: its lease's CPUs can serve others meanwhile.
    Blocked,
    /// The running task goes on.
    Unblocked,
    /// Tell me when this process dies, or now if it is dead.
    WatchProcess {
        /// The process.
        process: ProcessId,
    },
    // --- Processes: node to process --------------------------------------------------------
    /// The authority has recorded this death.
    ProcessDied {
        /// The process.
        process: ProcessId,
        /// How.
        death: Death,
    },
    /// The head has recorded the death of a node, and so of all its processes.
    NodeDied {
        /// The node.
        node: NodeId,
        /// Whose steward owns from now on what its processes owned.
        heir: NodeId,
    },
    /// Another head acts: subscriptions and open questions must be sent again.
    HeadChanged {
        /// Its epoch.
        epoch: u64,
    },
    /// End now, running exit handlers, and finishing what runs if `graceful`.
    Exit {
        /// Let running tasks end first.
        graceful: bool,
        /// Why, for the log.
        reason: String,
    },

    // --- Actors: process to head -----------------------------------------------------------
    /// Make this actor. With a request the answer says whether the name was free.
    CreateActor {
        /// Everything about it.
        spec: Box<ActorSpec>,
        /// Set when the creator waits for an answer.
        request: Option<RequestId>,
    },
    /// Tell me of every change of this actor, and of its present state now.
    SubscribeActor {
        /// The actor.
        actor: ActorId,
    },
    /// Kill it.
    KillActor {
        /// The actor.
        actor: ActorId,
        /// Do not start it again.
        no_restart: bool,
    },
    /// Creator to head: an actor that is not made yet, because the arguments of its constructor are awaited,
    /// or that is dead and never will be.
    ActorUnmade {
        /// What is known of it.
        summary: Box<ActorSummary>,
    },
    /// Creator to head: the last handle went.
    ActorOutOfScope {
        /// The actor.
        actor: ActorId,
    },
    // --- Actors: head to process -----------------------------------------------------------
    /// The actor's state changed.
    ActorUpdate {
        /// The actor.
        actor: ActorId,
        /// Which start of it, from 0.
        incarnation: u32,
        /// Its state.
        state: ActorState,
        /// Restarts that are left, -1 for no limit.
        restarts_left: i32,
    },
    // --- Actors: between head and node -----------------------------------------------------
    /// Head to node: place it, start a process, construct it.
    StartActor {
        /// Everything about it.
        spec: Box<ActorSpec>,
        /// Which start.
        incarnation: u32,
        /// Which of the orders to start something that this head gave this node, from 1.
        order: u64,
    },
    /// Head to node: end its process.
    StopActor {
        /// The actor.
        actor: ActorId,
        /// Which start.
        incarnation: u32,
        /// Let queued and running calls end first.
        graceful: bool,
    },
    /// Node to head: what became of it.
    ActorReport {
        /// The actor.
        actor: ActorId,
        /// Which start.
        incarnation: u32,
        /// What.
        event: ActorEvent,
    },
    // --- Actors: between node and the actor's process --------------------------------------
    /// Node to process: you are this actor.
    BecomeActor {
        /// Everything about it.
        spec: Box<ActorSpec>,
        /// Which start.
        incarnation: u32,
        /// Devices that it holds.
        devices: Devices,
    },
    /// Process to node: the constructor returned, or why not.
    ActorConstructed {
        /// The actor.
        actor: ActorId,
        /// Which start.
        incarnation: u32,
        /// Why not.
        failed: Option<ActorDeath>,
    },
    /// Process to node: it exits by its own will and must not be started again.
    ActorExits {
        /// The actor.
        actor: ActorId,
        /// Which start.
        incarnation: u32,
    },

    // --- Jobs: between node and head -------------------------------------------------------
    /// Node to head: a driver came.
    RegisterJob {
        /// The driver.
        driver: ProcessId,
        /// The default namespace of its actors; empty for one of its own.
        namespace: String,
        /// What a node needs in order to start workers of the job; only drivers read it.
        launch: Bytes,
    },
    /// Head to node: its job.
    JobRegistered {
        /// The driver.
        driver: ProcessId,
        /// The job.
        job: JobId,
        /// The namespace that its actors' names live in.
        namespace: String,
    },
    /// Head to nodes: there is such a job, whose workers may be wanted on you.
    JobStarted {
        /// The job.
        job: JobId,
        /// Its driver.
        driver: ProcessId,
        /// The namespace that its actors' names live in.
        namespace: String,
        /// See [`Message::RegisterJob`].
        launch: Bytes,
    },
    /// Node to head: the process is dead; a driver's death ends its job, a creator's its actors.
    ProcessEnded {
        /// The process.
        process: ProcessId,
        /// How.
        death: Death,
    },
    /// Head to nodes: its driver is gone, stop what is left of this job. Detached actors go on.
    JobEnded {
        /// The job.
        job: JobId,
    },
    /// Head to nodes: its driver is gone and so is its last detached actor. Nothing of it will be
    /// started again: forget how.
    JobForgotten {
        /// The job.
        job: JobId,
    },
    /// Head to node: take no new work, or take it again. A new head says it anew to nodes that drain.
    Draining {
        /// How; nothing when it is over.
        drain: Option<Drain>,
    },
    /// Node to head: I am here, or what I have changed.
    NodeReport {
        /// The node.
        report: Box<NodeSummary>,
        /// The last order to start something that it has taken into account, 0 for none.
        order: u64,
    },
    /// Node to head: I am here, and nothing has changed.
    Heartbeat,
    /// Node to head: I was to be emptied until some time, and nothing is left here. I can go now.
    Emptied {
        /// The last order to start something that this takes into account, 0 for none.
        order: u64,
    },
    /// Node to a head that has just taken over: everything that you cannot know.
    NodeState {
        /// The node.
        state: Box<NodeState>,
    },
    /// Head to nodes: these nodes are new or have changed.
    View {
        /// The nodes. Shared, for the same goes to all.
        nodes: Arc<[Arc<NodeSummary>]>,
    },
    /// Head to node: you were declared dead; end.
    Fenced,
    /// Head to nodes: nobody will be head of this cluster after me; end.
    ClusterEnds,

    // --- Placement groups: process to head -------------------------------------------------
    /// Make this group. Answered with [`Answer::GroupCreated`] or a refusal; its placement is told to
    /// subscribers.
    CreateGroup {
        /// Everything about it.
        spec: Box<GroupSpec>,
        /// Numbers the request for the answer.
        request: RequestId,
    },
    /// Remove it: its work ends.
    RemoveGroup {
        /// The group.
        group: GroupId,
    },
    /// Tell me of every change of this group, and of its present state now.
    SubscribeGroup {
        /// The group.
        group: GroupId,
    },
    /// I am not interested any more.
    UnsubscribeGroup {
        /// The group.
        group: GroupId,
    },
    // --- Placement groups: head to process -------------------------------------------------
    /// There is such a group. Each subscriber is told once, before it hears of the group's state.
    GroupMade {
        /// The group.
        group: GroupId,
        /// What each of its bundles has, by its index.
        bundles: Vec<Resources>,
    },
    /// The group's state.
    GroupUpdate {
        /// The group.
        group: GroupId,
        /// Its state.
        state: GroupState,
    },
    // --- Placement groups: between head and node -------------------------------------------
    /// Head to node: set this aside, all or nothing, and let nobody use it yet.
    ReserveBundles {
        /// The group.
        group: GroupId,
        /// Counts the placements of the group; answers to older ones are ignored.
        attempt: u32,
        /// Index and amounts.
        bundles: Vec<(u32, Resources)>,
        /// As in [`Message::StartActor`].
        order: u64,
    },
    /// Node to head: done.
    BundlesReserved {
        /// The group.
        group: GroupId,
        /// Which placement.
        attempt: u32,
    },
    /// Node to head: there is no room; nothing is set aside.
    BundlesRefused {
        /// The group.
        group: GroupId,
        /// Which placement.
        attempt: u32,
    },
    /// Head to node: the group is whole; its work may use what was set aside.
    CommitBundles {
        /// The group.
        group: GroupId,
        /// Which placement.
        attempt: u32,
    },
    /// Head to node: the group is not whole; admit no new work of it until the next commit.
    SuspendBundles {
        /// The group.
        group: GroupId,
    },
    /// Head to node: this placement came to nothing. Take back what was set aside for it and is not
    /// committed; whatever else the group has here stays.
    ReleaseBundles {
        /// The group.
        group: GroupId,
        /// Which placement.
        attempt: u32,
    },
    /// Head to node: end the group's work here and take back what was set aside for it.
    ReturnBundles {
        /// The group.
        group: GroupId,
        /// Only those of this placement and of older ones.
        attempt: u32,
        /// The group is gone for good: work that waits for it is refused.
        removed: bool,
    },

    // --- Questions -------------------------------------------------------------------------
    /// Process to head or node.
    Ask {
        /// Numbers the question for the answer.
        request: RequestId,
        /// The question.
        query: Query,
    },
    /// The answer.
    Answer {
        /// Which question.
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
}

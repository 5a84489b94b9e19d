//! What the head's log holds: one row for each thing that must survive the head.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::actor::{ActorSpec, ActorState, ActorSummary};
use crate::group::GroupSpec;
use crate::ids::{ActorId, GroupId, JobId, NodeId, ProcessId, RequestId};
use crate::message::{Drain, NodeSummary};

/// Names a row.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Key {
    /// The head's own numbers.
    Meta,
    /// A node.
    Node(NodeId),
    /// A job.
    Job(JobId),
    /// An actor: what changes of it.
    Actor(ActorId),
    /// A placement group.
    Group(GroupId),
    /// An entry of the key-value table.
    Value(String),
    /// What was asked for as an actor that is not dead. It never changes.
    ActorSpec(ActorId),
    /// What was answered to a process that has changed values.
    Answers(ProcessId),
}

/// What is written of a thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Row {
    /// An entry of the key-value table.
    Value(Bytes),
    /// The head's own numbers.
    Meta(Meta),
    /// A node.
    Node(Box<NodeRow>),
    /// A job.
    Job(JobRow),
    /// An actor that is not dead.
    Actor(ActorRow),
    /// What was asked for.
    ActorSpec(Box<ActorSpec>),
    /// A placement group.
    Group(Box<GroupRow>),
    /// A placement group that was removed before its creation came.
    UnmadeGroup,
    /// An actor that is dead.
    DeadActor(Box<DeadActorRow>),
    /// An actor that has not been made yet, and that ends as soon as it is.
    EarlyEnd(EarlyEnd),
    /// To which questions of a process the answer was that they have, or have not, changed a value.
    Answers(Vec<(RequestId, bool)>),
}

/// What came for an actor before its creation did.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum EarlyEnd {
    /// Somebody had it killed, and it may be started again. Then it is as if it had never been started.
    Killed,
    /// Somebody had it killed for good.
    KilledForGood,
    /// Its last handle went.
    OutOfScope,
}

/// The head's own numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// The epoch of the head that wrote this.
    pub epoch: u64,
    /// The last number that was given to a node.
    pub last_node: u32,
    /// The last number that was given to a job.
    pub last_job: u32,
    /// The node that the head lives on, and dies with.
    pub host: Option<NodeId>,
}

/// A node, alive or dead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    /// What it has, as it said when it joined; what is free is not kept.
    pub summary: NodeSummary,
    /// Nothing new is to be placed there.
    pub draining: Option<Drain>,
    /// Set when it is dead: whose steward owns what its processes owned. Nobody's while there is no
    /// other node.
    pub heir: Option<NodeId>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    /// Its driver.
    pub driver: ProcessId,
    /// The namespace that its actors' names live in.
    pub namespace: String,
    /// What a node needs in order to start workers of the job.
    pub launch: Bytes,
    /// Its driver is gone.
    pub ended: bool,
}

/// What changes of an actor that is not dead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActorRow {
    /// Which start of it.
    pub incarnation: u32,
    /// -1 for no limit.
    pub restarts_left: i32,
    /// Where it is in its life.
    pub state: ActorState,
    /// Where this incarnation was sent; `None` while it waits for a node or for its restart.
    pub node: Option<NodeId>,
    /// Somebody had this incarnation killed, to be started again.
    pub killed: bool,
    /// Incarnations in a row that ended soon.
    pub quick_ends: u32,
    /// The pid of its process, 0 while it has none.
    pub pid: u32,
}

/// A placement group that is not removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupRow {
    /// What was asked for.
    pub spec: Box<GroupSpec>,
    /// Counts up with each group that is made: the lower, the older.
    pub order: u64,
    /// Which placement put its bundles where they are.
    pub attempt: u32,
    /// Where its bundles are; `None` is nowhere.
    pub nodes: Vec<Option<NodeId>>,
    /// It was whole once.
    pub was_placed: bool,
}

/// What is remembered of an actor that is dead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadActorRow {
    /// Counts up: who died first is forgotten first.
    pub order: u64,
    /// What is told of it.
    pub summary: ActorSummary,
    /// It was never made, for this actor had its name.
    pub namesake: Option<ActorId>,
}

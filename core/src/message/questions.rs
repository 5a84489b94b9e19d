//! Questions to the head and to nodes, and what answers them.

use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Drain, NodeSummary};
use crate::actor::ActorSummary;
use crate::group::{GroupSpec, GroupState};
use crate::ids::{ActorId, JobId, NodeId, ProcessId};

/// A question to the head or to a node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Query {
    /// Head: the actor of that name.
    ActorByName {
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
    },
    /// Head: all actors that are not dead, or all that are remembered.
    Actors {
        /// Dead ones, too.
        dead: bool,
    },
    /// Head: all nodes.
    Nodes,
    /// Head: the placement group of that name.
    GroupByName {
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
    },
    /// Head: all placement groups.
    Groups,
    /// Head: all keys that start so.
    Keys {
        /// How they start.
        prefix: String,
    },
    /// Head: set a key.
    Put {
        /// Key.
        key: String,
        /// Value.
        value: Bytes,
        /// Replace an existing value.
        overwrite: bool,
    },
    /// Head: get a key.
    Get {
        /// Key.
        key: String,
    },
    /// Head: delete a key.
    Delete {
        /// Key.
        key: String,
    },
    /// Head: empty a node, or place things there again.
    Drain {
        /// The node.
        node: NodeId,
        /// How; nothing to place things there again.
        drain: Option<Drain>,
    },
    /// Head: the nodes that are draining.
    Draining,
    /// Node: its workers.
    Workers,
    /// Node: what the store holds.
    Store,
}

/// An answer to a [`Query`], to [`CreateActor`](super::Message::CreateActor) or to
/// [`CreateGroup`](super::Message::CreateGroup).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The actor was made.
    ActorCreated,
    /// A live actor has that name.
    ActorExists {
        /// That actor.
        actor: ActorId,
    },
    /// The actor of that name: its id, the job that made it, and its handle's description.
    Actor {
        /// Its id.
        actor: ActorId,
        /// See [`handle`](crate::actor::ActorSpec::handle).
        handle: Bytes,
    },
    /// The group was made; it may not be placed yet.
    GroupCreated,
    /// A group of that name exists, or the request cannot be met by any cluster.
    GroupRefused {
        /// Why.
        detail: String,
    },
    /// Placement groups.
    Groups(Vec<(GroupSpec, GroupState)>),
    /// The nodes that are draining.
    Draining(Vec<(NodeId, Drain)>),
    /// The node cannot be drained in this way.
    DrainRefused {
        /// Why.
        detail: String,
    },
    /// Keys.
    Keys(Vec<String>),
    /// There is no such thing.
    NotFound,
    /// All actors.
    Actors(Vec<ActorSummary>),
    /// All nodes.
    Nodes(Vec<NodeSummary>),
    /// The key's value.
    Value(Bytes),
    /// Whether something changed.
    Changed(bool),
    /// A node's workers.
    Workers(Vec<WorkerSummary>),
    /// What the store holds.
    Store(StoreSummary),
}

/// A worker, for lists.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct WorkerSummary {
    /// The process.
    pub process: ProcessId,
    /// Its pid.
    pub pid: u32,
    /// Its job.
    pub job: JobId,
    /// `idle`, `leased`, `blocked`, `actor`, …
    pub state: String,
}

/// The store, for lists.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct StoreSummary {
    /// Bytes it may hold.
    pub capacity: u64,
    /// Bytes of objects in memory.
    pub used: u64,
    /// Bytes of objects that are pinned.
    pub pinned: u64,
    /// Objects in memory.
    pub objects: u64,
    /// Bytes on disk.
    pub spilled: u64,
    /// Objects, in memory or on disk, that no other node keeps.
    pub kept: u64,
    /// Bytes ever written to disk.
    pub spilled_total: u64,
    /// Bytes ever read back.
    pub restored_total: u64,
}

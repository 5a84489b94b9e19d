//! What the head's log holds: one row for each thing that must survive the head.

use alloc::string::String;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{ActorId, GroupId, JobId, NodeId};

/// Names a row.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Key {
    /// The head's own numbers.
    Meta,
    /// A node.
    Node(NodeId),
    /// A job.
    Job(JobId),
    /// An actor.
    Actor(ActorId),
    /// A placement group.
    Group(GroupId),
    /// An entry of the key-value table.
    Value(String),
}

/// What is written of a thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Row {
    /// An entry of the key-value table.
    Value(Bytes),
}

//! What a node says of itself, and how it is told to empty itself.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::ActorPresence;
use crate::ids::{GroupId, JobId, NodeId, ProcessId};
use crate::machine::Span;
use crate::resources::Resources;

/// A node, for lists and for scheduling.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct NodeSummary {
    /// The node.
    pub node: NodeId,
    /// Whether the head counts it alive.
    pub alive: bool,
    /// Its name, for lists; empty: as its host.
    pub name: String,
    /// Its host name, for lists.
    pub host: String,
    /// Where other daemons reach it; empty if there can be no others.
    pub address: String,
    /// Everything it has.
    pub total: Resources,
    /// What is free now.
    pub free: Resources,
    /// Its labels.
    pub labels: Vec<(String, String)>,
}

/// What a node tells a head that has just taken over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    /// The head that is told. What was said to an earlier one, and not dealt with, may come once more.
    pub epoch: u64,
    /// What it is and has.
    pub report: NodeSummary,
    /// The actors that it runs or is about to run.
    pub actors: Vec<ActorPresence>,
    /// What is set aside for groups: group, placement, bundles, whether it was committed.
    pub bundles: Vec<(GroupId, u32, Vec<u32>, bool)>,
    /// Its drivers, and their jobs if they have one already.
    pub drivers: Vec<(ProcessId, Option<JobId>)>,
    /// The jobs that it knows, and whether it knows that they have ended. Those that are over are told
    /// of again: the news may have been lost with the former head.
    pub jobs: Vec<(JobId, bool)>,
    /// The nodes of whose deaths it has heard. Of the others it is told again.
    pub dead: Vec<NodeId>,
    /// Whether it was told that it is to be emptied.
    pub draining: bool,
}

/// A node that is to be emptied.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// How long what runs there may go on; without it for as long as it takes.
    pub grace: Option<Span>,
    /// Why, for people.
    pub reason: String,
}

//! Placement groups: what is asked for and what is known of them.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, JobId, NodeId};
use crate::resources::{LabelSelector, Resources};

/// How the bundles of a group lie to each other.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum GroupStrategy {
    /// On as few nodes as possible.
    #[default]
    Pack,
    /// On as many nodes as possible.
    Spread,
    /// All on one node.
    StrictPack,
    /// Each on a node of its own.
    StrictSpread,
}

/// Amounts that lie on one node.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// How much.
    pub resources: Resources,
    /// Only on nodes with such labels.
    pub labels: Vec<LabelSelector>,
}

/// Everything about a placement group that never changes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Its id.
    pub id: GroupId,
    /// The job it belongs to.
    pub job: JobId,
    /// Its name, unique in `namespace`; empty is none.
    pub name: String,
    /// Where the name counts.
    pub namespace: String,
    /// Outlives its creator.
    pub detached: bool,
    /// What it consists of.
    pub bundles: Vec<Bundle>,
    /// How they lie.
    pub strategy: GroupStrategy,
}

/// Where a group is in its life, as the head records it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum GroupState {
    /// It waits for room.
    Pending {
        /// What is missing, for people; empty while it is being placed.
        detail: String,
    },
    /// All bundles are there; the node of each.
    Placed {
        /// By bundle index.
        nodes: Vec<NodeId>,
    },
    /// A node died, and the bundles that were there wait for room.
    Rescheduling {
        /// What is missing, for people.
        detail: String,
    },
    /// Gone for good.
    Removed,
}

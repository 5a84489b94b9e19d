//! What requests for leases carry.

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// How a request for a lease came to a node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Route {
    /// From a process of that node.
    #[default]
    Fresh,
    /// From a process of that node, which was sent to another node and rejected there.
    Rejected {
        /// The node that rejected it.
        by: NodeId,
        /// How often it was rejected.
        times: u32,
    },
    /// From another node, which believed that there is room: grant or reject.
    IfFree,
    /// From another node, which can never serve it: queue it.
    Queue,
}

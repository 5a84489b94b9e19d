//! The other daemons of the cluster: connections to them, sessions over those, and the head, which
//! lives in this daemon or in another one.
//!
//! Nothing is decided here. Machines say what is sent to whom, sessions say what is sent again, and
//! these files move bytes between them and connections. A node has one session with each node that it
//! talks to, and one with the head, each over connections of its own.
//!
//! | file | does |
//! |---|---|
//! | `word` | what is said before a session goes over a connection |
//! | `entering` | how a daemon becomes a node |
//! | `accepting` | who connects, and what for |
//! | `gate` | frames of sessions come in, unless what they fill is full |
//! | `peers` | sessions with other nodes, and dialling them |
//! | `head` | the head as a node sees it, here or elsewhere |
//! | `transfers` | bytes of objects, offered and fetched |
//! | `hosted` | the head in this daemon: its machine, its log, its sessions with nodes |
//! | `calling` | a head that begins to act tells its nodes |
//! | `standing` | a node that may be the head stands for election |

mod accepting;
mod calling;
mod entering;
#[cfg(feature = "fuzz")]
pub(super) mod fuzz;
mod gate;
mod head;
mod hosted;
mod peers;
mod standing;
mod transfers;
mod word;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use shoal_core::ids::NodeId;
use shoal_state::Etcd;

use crate::transport::Transport;
pub(super) use accepting::listen;
pub use entering::{EnterError, Membership, Network};
pub(super) use entering::{enter, keep_certified};
pub(super) use gate::Gate;
pub(super) use head::{HeadSide, serve};
pub use hosted::HeadError;
pub(super) use hosted::Hosted;
use peers::Peer;
pub(super) use standing::stand;
pub(super) use transfers::{Fetches, Offers, Wanted};

/// See the module's text.
pub(super) struct Cluster {
    /// Reaches other daemons; there is none if this node is to be alone.
    transport: Option<Arc<dyn Transport>>,
    peers: HashMap<NodeId, Peer>,
    /// Nodes whose death is known: nothing is said to them any more.
    dead: HashSet<NodeId>,
    pub(super) head: HeadSide,
    /// Where it stands for election while the head is elsewhere, if it may be the head.
    candidacy: Option<Etcd>,
}

impl Cluster {
    pub(super) fn new(
        transport: Option<Arc<dyn Transport>>,
        head: HeadSide,
        candidacy: Option<Etcd>,
    ) -> Cluster {
        Cluster { transport, peers: HashMap::new(), dead: HashSet::new(), head, candidacy }
    }
}

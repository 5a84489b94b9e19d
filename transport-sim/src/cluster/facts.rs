//! What happens in a cluster, for those who check it.

use shoal_core::Span;
use shoal_core::ids::{ActorId, NodeId, ObjectId, ProcessId, TaskId};
use shoal_core::value::Death;

/// Something that only the cluster as a whole sees.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A process began to run an attempt.
    Started {
        /// Where.
        process: ProcessId,
        /// What.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// Of an actor's method: which start of the actor, and the concurrency group.
        call: Option<(ActorId, u32, u32)>,
    },
    /// A process began to construct an actor.
    Constructing {
        /// Where.
        process: ProcessId,
        /// The actor.
        actor: ActorId,
        /// Which start.
        incarnation: u32,
    },
    /// A process is gone.
    Died {
        /// Which.
        process: ProcessId,
        /// How.
        death: Death,
    },
    /// The bytes of an object that was in memory or on disk became unreadable, or may have.
    Lost {
        /// Why.
        detail: String,
    },
    /// A daemon took part from now on.
    NodeJoined {
        /// Its number.
        node: NodeId,
        /// The machine it runs on.
        host: usize,
    },
    /// A daemon is gone, and its store's memory with it.
    NodeEnded {
        /// Which.
        node: NodeId,
        /// The objects that no other node kept.
        kept: Vec<ObjectId>,
    },
    /// A head has told of a node's death.
    NodeBuried {
        /// Which node.
        node: NodeId,
        /// Its daemon runs.
        lives: bool,
        /// Nothing runs on it, waits there or is kept by it alone.
        empty: bool,
        /// For how long this head had heard nothing of it.
        silent: Span,
        /// For how long this head had known that the connection was gone, if it was.
        cut: Option<Span>,
        /// Each time it was told to be drained and to end: since when, and how long it had.
        drained: Vec<(Span, Span)>,
    },
    /// A head began to act.
    HeadStarted {
        /// Which, as an address.
        head: ProcessId,
        /// Its log holds less than was acknowledged.
        forgetful: bool,
    },
}

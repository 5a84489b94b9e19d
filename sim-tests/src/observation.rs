//! What a run's checks and stories are made of: the facts that only the world sees.

use shoal_core::ids::{ActorId, ObjectId, ProcessId, TaskId};
use shoal_core::value::{Death, Failure};

/// One fact.
#[derive(Clone, Debug)]
pub enum Observation {
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
    /// A program asked for an object's value and got this.
    Got {
        /// Where.
        process: ProcessId,
        /// The object.
        object: ObjectId,
        /// What.
        result: Got,
    },
    /// A process is gone.
    Died {
        /// Which.
        process: ProcessId,
        /// How.
        death: Death,
    },
    /// A program asked for this task to be cancelled.
    Cancelled {
        /// The task.
        task: TaskId,
        /// And what it submitted.
        recursive: bool,
        /// The attempt that its owner was at, if it was its owner that was asked.
        attempt: Option<u32>,
    },
    /// A program asked for this actor to be killed.
    Killed {
        /// The actor.
        actor: ActorId,
    },
    /// The bytes of an object that was in memory or on disk became unreadable, or may have.
    Lost {
        /// Why.
        detail: String,
    },
}

/// What a program got.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Got {
    /// A value that says which object it is and which attempt made it.
    Value {
        /// The object that the bytes say they are.
        object: ObjectId,
        /// The attempt that the bytes say made them.
        attempt: u32,
    },
    /// An exception, raised by that task.
    Exception {
        /// The object that the bytes say they are.
        object: ObjectId,
        /// The attempt that the bytes say raised it.
        attempt: u32,
    },
    /// What an actor's handle or a stream stands for: no bytes.
    Marker,
    /// A failure of the system.
    Failure(Failure),
    /// Bytes that are not what was written.
    Garbage(String),
}

//! What a reference stands for: a value, an exception of the user's code, or a failure of the system.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{ActorId, GroupId, NodeId, ObjectId, ProcessId};

/// Values up to this many bytes travel inside messages and live in their owner's memory.
pub const INLINE_BYTES_MAX: usize = 100 * 1024;

/// Where the bytes of a value are.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Payload {
    /// Here.
    Inline(Bytes),
    /// In the shared store of `node`.
    Stored {
        /// The node whose store has them.
        node: NodeId,
        /// How many bytes.
        size: u64,
    },
}

/// A serialised value and the references inside it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// Its bytes.
    pub payload: Payload,
    /// References inside it; they live as long as the value does.
    pub contains: Vec<ObjectId>,
}

impl Value {
    /// A small value without references.
    pub fn inline(bytes: impl Into<Bytes>) -> Value {
        Value { payload: Payload::Inline(bytes.into()), contains: Vec::new() }
    }
}

/// How a task, or an object, came out.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// A value.
    Value(Value),
    /// The user's code raised; the value is the serialised exception.
    Exception(Value),
    /// The system could not produce it.
    Failure(Box<Failure>),
}

/// Why a process ended, as its node recorded it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Death {
    /// It called exit.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// A signal killed it.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// Its node killed it to relieve memory pressure.
    OutOfMemory {
        /// What the node saw, for the user.
        detail: String,
    },
    /// Its node killed it on request.
    Killed {
        /// Who asked and why.
        reason: String,
    },
    /// It could not be started.
    NotStarted {
        /// What went wrong.
        reason: String,
    },
    /// The head recorded the death of its node.
    NodeDied {
        /// The node.
        node: NodeId,
    },
    /// Its node killed it, for it ran in a placement group that was removed.
    GroupRemoved {
        /// The group.
        group: GroupId,
    },
}

/// A failure of the system, each with its own exception in Python.
///
/// `Cause` is what is known of an actor's death. Where a failure explains the death of another actor
/// it is `()`: causes are told one level deep, for a message that could nest them without end could
/// also overflow the stack of whoever decodes it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Failure<Cause = ActorDeath> {
    /// The worker died while it ran the task, and no retry was left.
    WorkerCrashed {
        /// The worker.
        worker: ProcessId,
        /// How it died.
        death: Death,
    },
    /// The task was cancelled.
    Cancelled,
    /// The actor is dead for good.
    ActorDied {
        /// The actor.
        actor: ActorId,
        /// Why.
        cause: Cause,
    },
    /// The actor cannot be reached now; it may come back.
    ActorUnavailable {
        /// The actor.
        actor: ActorId,
        /// What is known.
        detail: String,
    },
    /// No node can ever run this.
    Unschedulable {
        /// What is missing.
        detail: String,
    },
    /// The object's bytes are gone and cannot be rebuilt.
    ObjectLost {
        /// The object.
        object: ObjectId,
        /// Why it cannot be rebuilt.
        detail: String,
    },
    /// The object's owner died and took the object with it.
    OwnerDied {
        /// The object.
        object: ObjectId,
        /// How the owner died.
        death: Death,
    },
    /// The shared store has no room and nothing can be spilled.
    StoreFull {
        /// Sizes, and what holds the room.
        detail: String,
    },
    /// The disk has no room for spilled objects.
    OutOfDisk {
        /// Path, needed and free bytes.
        detail: String,
    },
    /// The worker's surroundings could not be set up.
    EnvironmentSetup {
        /// What went wrong.
        detail: String,
    },
    /// The placement group that it was to run in is gone for good.
    GroupRemoved {
        /// The group.
        group: GroupId,
    },
    /// The generator ended before this item.
    EndOfStream,
    /// The object was freed while somebody still asked for it.
    Freed {
        /// The object.
        object: ObjectId,
    },
}

impl Failure {
    /// The failure as the cause of another: of an actor that has died it says no more than that.
    pub fn without_cause(self) -> Failure<()> {
        match self {
            Failure::ActorDied { actor, cause: _ } => Failure::ActorDied { actor, cause: () },
            Failure::WorkerCrashed { worker, death } => Failure::WorkerCrashed { worker, death },
            Failure::Cancelled => Failure::Cancelled,
            Failure::ActorUnavailable { actor, detail } => Failure::ActorUnavailable { actor, detail },
            Failure::Unschedulable { detail } => Failure::Unschedulable { detail },
            Failure::ObjectLost { object, detail } => Failure::ObjectLost { object, detail },
            Failure::OwnerDied { object, death } => Failure::OwnerDied { object, death },
            Failure::StoreFull { detail } => Failure::StoreFull { detail },
            Failure::OutOfDisk { detail } => Failure::OutOfDisk { detail },
            Failure::EnvironmentSetup { detail } => Failure::EnvironmentSetup { detail },
            Failure::GroupRemoved { group } => Failure::GroupRemoved { group },
            Failure::EndOfStream => Failure::EndOfStream,
            Failure::Freed { object } => Failure::Freed { object },
        }
    }
}

/// Why an actor is dead for good.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ActorDeath {
    /// Its constructor raised; the value is the serialised exception.
    Constructor(Value),
    /// Its constructor could not be run, for an argument of it has no value.
    ArgumentFailed(Box<Failure<()>>),
    /// Its process died and no restart was left.
    Process(Death),
    /// It exited by its own will.
    Exited,
    /// Somebody killed it.
    Killed,
    /// Its last handle went.
    OutOfScope,
    /// Its creator ended, and it is not detached.
    CreatorDied,
    /// No node can ever run it.
    Unschedulable(String),
    /// Its placement group was removed.
    GroupRemoved,
    /// The head does not know it.
    Unknown,
}

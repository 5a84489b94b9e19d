//! What a run's checks and stories are made of: the facts that only the world sees.

use shoal_core::group::GroupSpec;
use shoal_core::ids::{ActorId, GroupId, ObjectId, ProcessId, TaskId};
use shoal_core::value::Failure;
use shoal_transport_sim::cluster::Fact;

/// What stands for an object's bytes: which object, made by which attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Content {
    /// The object.
    pub object: ObjectId,
    /// The attempt that made it.
    pub attempt: u32,
}

impl shoal_transport_sim::Content for Content {
    fn object(&self) -> ObjectId {
        self.object
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Observation {
    /// In the cluster.
    Fact(Fact),
    /// A program asked for an object's value and got this.
    Got {
        /// Where.
        process: ProcessId,
        /// The object.
        object: ObjectId,
        /// What.
        result: Got,
    },
    /// A task or a constructor begins with these arguments, in this order.
    Given {
        /// Where.
        process: ProcessId,
        /// What begins.
        task: TaskId,
        /// Its arguments that are passed by value.
        arguments: Vec<ObjectId>,
    },
    /// A task or a constructor begins, or reads its arguments, and the bytes of one of them are not mapped.
    Unmapped {
        /// Where.
        process: ProcessId,
        /// What begins.
        task: TaskId,
        /// The argument.
        argument: ObjectId,
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
    /// A program asked for a placement group.
    GroupMade {
        /// Everything about it.
        spec: GroupSpec,
    },
    /// A program asked for a placement group to be removed.
    GroupRemoved {
        /// The group.
        group: GroupId,
        /// Who asked.
        by: ProcessId,
    },
    /// A program asked for this actor to be killed.
    Killed {
        /// The actor.
        actor: ActorId,
        /// By whom.
        by: ProcessId,
        /// It is not to start again.
        for_good: bool,
        /// The number of the last task that this process had submitted.
        after: u64,
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

//! The border between a cluster and what runs in its processes.

use shoal_core::Span;
use shoal_core::actor::ActorSpec;
use shoal_core::group::GroupState;
use shoal_core::ids::{GroupId, JobId, ObjectId, ProcessId, RequestId, TaskId};
use shoal_core::message::Answer;
use shoal_core::resources::Devices;
use shoal_core::task::Assignment;
use shoal_core::value::Failure;

use super::Cluster;
use crate::Content;

/// What runs in the processes of a [`Cluster`]: scripts, or a user's own code.
///
/// The cluster calls; programs answer by [`Cluster::tell`], then or later: what a program does takes time,
/// which [`Cluster::wake_in`] lets pass. Nothing calls in while a program runs.
pub trait Programs {
    /// What stands for the bytes of objects.
    type Content: Content;

    /// Something for the programs of a process.
    fn handle(&mut self, cluster: &mut Cluster<Self::Content>, process: ProcessId, call: Call);
}

/// What a cluster wants of the programs of a process, or has to tell them.
#[derive(Clone, Debug)]
pub enum Call {
    /// The process is there. A driver's program begins; a worker waits for assignments.
    Born {
        /// Its job.
        job: JobId,
        /// Of a driver: what [`Cluster::connect_driver`] was given.
        driver: Option<usize>,
    },
    /// Run a task; answered by [`Ran`](shoal_core::owner::Input::Ran).
    Run {
        /// What.
        assignment: Box<Assignment>,
        /// Index of the actor's concurrency group.
        group: u32,
    },
    /// Become an actor; answered by [`Constructed`](shoal_core::owner::Input::Constructed).
    Construct {
        /// Everything about it.
        spec: Box<ActorSpec>,
        /// Which start.
        incarnation: u32,
        /// Devices that it holds.
        devices: Devices,
    },
    /// The running task was cancelled: interrupt it if that is possible.
    Interrupt {
        /// The task.
        task: TaskId,
    },
    /// The consumer has taken this many items of the generator that runs here.
    Consumed {
        /// The generator's task.
        task: TaskId,
        /// How many, counted from the start.
        consumed: u32,
    },
    /// Whoever waits for this object looks again.
    Changed {
        /// The object.
        object: ObjectId,
    },
    /// The answer to a question.
    Answered {
        /// Which question.
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
    /// There is room in the store now, or there will not be.
    Room {
        /// Which request.
        request: RequestId,
        /// Why not.
        refused: Option<Failure>,
    },
    /// The state of a placement group changed.
    GroupChanged {
        /// The group.
        group: GroupId,
        /// Its state.
        state: GroupState,
    },
    /// Time has passed: what [`Cluster::wake_in`] was given.
    Wake {
        /// That.
        token: u64,
    },
    /// The process is gone, and with it everything in it.
    Gone,
    /// The driver of this number was never let in, because its node died.
    Rejected {
        /// What [`Cluster::connect_driver`] was given.
        driver: usize,
    },
}

/// So many microseconds.
pub(crate) fn micros(count: u64) -> Span {
    Span::from_micros(count)
}

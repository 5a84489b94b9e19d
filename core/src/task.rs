//! Tasks: what is submitted, what a worker is asked to run, and what it reports.

use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{ActorId, FunctionId, LeaseId, ObjectId, TaskId};
use crate::resources::{Demand, Devices};
use crate::value::Outcome;

/// How many results a task has.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Returns {
    /// This many, known at submission.
    Count(u32),
    /// One after the other, while it runs.
    Stream {
        /// The producer pauses when this many items wait for the consumer; 0 is no limit.
        backpressure: u32,
    },
}

/// Which exceptions of the user's code are worth another attempt.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum RetryExceptions {
    /// None.
    #[default]
    Never,
    /// Any.
    Always,
    /// Instances of these classes (serialised; the worker decides).
    Listed(Bytes),
}

/// Everything about a remote function that is the same for each of its calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// Hash of `code`.
    pub function: FunctionId,
    /// The serialised function.
    pub code: Bytes,
    /// For people.
    pub name: Arc<str>,
    /// What a call needs in order to run.
    pub demand: Arc<Demand>,
    /// How many results.
    pub returns: Returns,
    /// Attempts after the first when a worker crashes; -1 is no limit.
    pub retries_max: i32,
    /// Whether exceptions use up retries too.
    pub retry_exceptions: RetryExceptions,
    /// The worker exits after this many calls; 0 is never.
    pub calls_max: u32,
}

/// Everything about a call of an actor's method that is the same each time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// The attribute that is called.
    pub name: Arc<str>,
    /// For people: `Class.method`.
    pub label: Arc<str>,
    /// How many results.
    pub returns: Returns,
    /// Attempts after the first when the actor dies; -1 is no limit.
    pub retries_max: i32,
    /// Whether exceptions use up retries too.
    pub retry_exceptions: RetryExceptions,
    /// The concurrency group; empty is the default one.
    pub group: Arc<str>,
    /// The actor is declared to take calls in any order: one whose arguments are not ready holds up
    /// no other.
    pub any_order: bool,
}

/// What a task calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// A remote function.
    Function(Arc<Definition>),
    /// A method of an actor.
    Method {
        /// The actor.
        actor: ActorId,
        /// The method.
        method: Arc<Method>,
    },
}

/// A task as the program hands it to its owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// Its id, taken from the owner beforehand.
    pub id: TaskId,
    /// What it calls.
    pub target: Target,
    /// Serialised positional and keyword arguments; top-level references are holes in it.
    pub arguments: Bytes,
    /// The top-level references, in the order of the holes: passed by value.
    pub dependencies: Vec<ObjectId>,
    /// References inside `arguments`: passed as references.
    pub borrows: Vec<ObjectId>,
    /// The task that submitted it, if any: cancelling that one cancels this one.
    pub parent: Option<TaskId>,
}

/// A top-level reference with what it stands for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Dependency {
    /// The object.
    pub object: ObjectId,
    /// Its value, or where that is, or why there is none.
    pub outcome: Outcome,
}

/// What the executing process must call.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Callee {
    /// A function under a lease.
    Function {
        /// Which.
        function: FunctionId,
        /// Its code, the first time this owner sends it to this worker.
        code: Option<Bytes>,
        /// What the worker serves when this comes: a lessee pushes only while it holds the lease, and a worker
        /// whose lessee is gone ends.
        lease: LeaseId,
        /// The devices that the lease holds.
        devices: Devices,
        /// What the lease was asked for, with the first push under it.
        demand: Option<Arc<Demand>>,
        /// See [`Definition::calls_max`].
        calls_max: u32,
    },
    /// A method of the actor that lives in this process.
    Method {
        /// The actor.
        actor: ActorId,
        /// The caller believes to talk to this incarnation.
        incarnation: u32,
        /// The attribute.
        name: Arc<str>,
        /// The concurrency group.
        group: Arc<str>,
    },
}

/// One attempt of a task, as its owner pushes it to the process that runs it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The task.
    pub task: TaskId,
    /// Which attempt, from 0.
    pub attempt: u32,
    /// What to call.
    pub callee: Callee,
    /// For people.
    pub label: Arc<str>,
    /// See [`Submission::arguments`].
    pub arguments: Bytes,
    /// See [`Submission::dependencies`].
    pub dependencies: Vec<Dependency>,
    /// See [`Submission::borrows`].
    pub borrows: Vec<ObjectId>,
    /// How many results.
    pub returns: Returns,
    /// Which exceptions the worker marks as worth a retry.
    pub retry_exceptions: RetryExceptions,
}

/// How one attempt ended, as the process that ran it reports.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: u32,
    /// One outcome per result. Of a stream: one, a failure or exception if it broke, else empty.
    pub outcomes: Vec<Outcome>,
    /// Of a stream: how many items there are.
    pub items: u32,
    /// It raised, and the exception is one that is worth a retry.
    pub retryable: bool,
    /// References from the arguments that this process still holds.
    pub kept: Vec<ObjectId>,
    /// When the user's code started, in microseconds of its calendar.
    pub started: u64,
    /// How long the user's code ran, in microseconds.
    pub micros: u32,
    /// The process exits after this task and takes no other.
    pub exiting: bool,
}

//! The `Node` role: leases, the worker pool, the local object table, spilling, memory pressure.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::ids::{JobId, NodeId, ObjectId, OperationId, ProcessId, TaskId};
use crate::machine::Span;
use crate::message::Message;
use crate::resources::{Environment, Resources};
use crate::value::{Death, Failure};

/// What a node is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Its number.
    pub node: NodeId,
    /// Its incarnation; leases of another one are refused.
    pub epoch: u32,
    /// Host name, for lists.
    pub host: String,
    /// Everything it has.
    pub resources: Resources,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// First byte of the store's segment that may hold objects.
    pub store_start: u64,
    /// Bytes that objects in memory may take.
    pub store_capacity: u64,
    /// How many workers may be starting at once.
    pub starting_max: u32,
    /// How long a worker beyond the number of CPUs stays idle before it is stopped.
    pub idle_worker_keep: Span,
    /// How long a process that was asked to exit may take before it is killed.
    pub exit_grace: Span,
    /// How long an actor without handles may take to end its calls and exit.
    pub actor_exit_grace: Span,
    /// How long a demand that this node can never meet waits for the cluster to change.
    pub infeasible_grace: Span,
    /// How long a full store waits for room before it refuses.
    pub store_full_grace: Span,
    /// Seed of the node's random choices.
    pub seed: u64,
}

impl Config {
    /// The usual settings of a node that has nothing yet; a driver fills in what it has.
    pub fn new(node: NodeId) -> Config {
        Config {
            node,
            epoch: 1,
            host: String::new(),
            resources: Resources::default(),
            labels: Vec::new(),
            store_start: 0,
            store_capacity: 0,
            starting_max: 4,
            idle_worker_keep: Span::from_secs(1),
            exit_grace: Span::from_secs(5),
            actor_exit_grace: Span::from_secs(30),
            infeasible_grace: Span::from_secs(10),
            store_full_grace: Span::from_secs(2),
            seed: 0,
        }
    }
}

/// What can happen to a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// A driver asks to be let in; answered by [`Effect::AcceptDriver`].
    DriverConnected {
        /// The driver's name for its connection.
        connection: u64,
        /// Its pid.
        pid: u32,
        /// The namespace it asked for; empty for one of its own.
        namespace: String,
        /// How many workers to start before they are asked for.
        prestart: u32,
    },
    /// A message for the node came.
    Received {
        /// From whom.
        from: ProcessId,
        /// What.
        message: Message,
    },
    /// A local process is gone: everything that it had sent was delivered before this.
    ProcessExited {
        /// The process.
        process: ProcessId,
        /// How it ended.
        death: Death,
        /// The task that it started last, if any.
        last_started: Option<TaskId>,
    },
    /// Started work ended.
    Finished {
        /// Which.
        operation: OperationId,
        /// How.
        result: WorkResult,
    },
    /// The machine is short of memory: kill the worker whose loss costs least.
    MemoryPressure {
        /// What was seen, for the user.
        detail: String,
        /// Resident bytes of each worker.
        workers: Vec<(ProcessId, u64)>,
    },
}

/// What a node asks of the world.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Effect {
    /// Send a message.
    Send {
        /// To whom.
        to: ProcessId,
        /// What.
        message: Message,
    },
    /// Let a driver in.
    AcceptDriver {
        /// Its connection.
        connection: u64,
        /// The id it gets.
        process: ProcessId,
        /// Its job.
        job: JobId,
        /// The namespace of its actors' names.
        namespace: String,
    },
    /// Start work that takes time; answered by [`Input::Finished`].
    Start {
        /// Names it in the answer.
        operation: OperationId,
        /// The work.
        work: Work,
    },
    /// Kill a process at once, with everything it started.
    Kill {
        /// The process.
        process: ProcessId,
        /// The death to report, whatever the operating system says.
        death: Death,
    },
    /// The job's driver is gone and none of its processes is left here: its template may be stopped.
    /// How to start it is kept, for a detached actor of the job may be started here again.
    StopTemplate {
        /// The job.
        job: JobId,
    },
}

/// Work that a node starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Start a worker process; it says `WorkerReady` when it is up.
    ForkWorker {
        /// The id it gets.
        process: ProcessId,
        /// Whose template to fork.
        job: JobId,
        /// Its surroundings.
        environment: Environment,
    },
    /// Write objects to disk, fused into one file.
    Spill {
        /// Object, offset, size.
        objects: Vec<(ObjectId, u64, u64)>,
    },
    /// Read an object back.
    Restore {
        /// The object.
        object: ObjectId,
        /// Where it is on disk.
        from: SpillLocation,
        /// Where it goes.
        offset: u64,
    },
    /// Forget a spilled object.
    DeleteSpilled {
        /// Where it is on disk.
        location: SpillLocation,
    },
    /// Make sure that pages can be had for a range before anybody writes there.
    Reserve {
        /// Where the range starts.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// Give the pages of a free range back to the operating system.
    ReleasePages {
        /// Where the range starts.
        offset: u64,
        /// Bytes.
        size: u64,
    },
}

/// A place in a spill file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SpillLocation {
    /// The file.
    pub file: u64,
    /// Where the object starts in it.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// How started work ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum WorkResult {
    /// The process exists; `WorkerReady` follows.
    Forked {
        /// Its pid.
        pid: u32,
    },
    /// The objects are on disk, in the order given.
    Spilled(Vec<SpillLocation>),
    /// Done.
    Done,
    /// It failed.
    Failed(Failure),
}

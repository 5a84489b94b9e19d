//! Actors: how they are made and what is known of them.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{ActorId, FunctionId, JobId, ObjectId, ProcessId};
use crate::resources::{Demand, Resources};
use crate::task::Dependency;
use crate::value::ActorDeath;

/// A group of methods that share threads, or a share of the event loop.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ConcurrencyGroup {
    /// Its name; empty is the default group.
    pub name: Arc<str>,
    /// How many calls of the group run at once.
    pub limit: u32,
}

/// Everything needed to start an actor, and to start it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActorSpec {
    /// Its id.
    pub id: ActorId,
    /// The job it belongs to.
    pub job: JobId,
    /// Hash of `code`.
    pub class: FunctionId,
    /// The serialised class.
    pub code: Bytes,
    /// The class's name, for people.
    pub label: Arc<str>,
    /// Serialised arguments of the constructor.
    pub arguments: Bytes,
    /// Top-level references among them, resolved by the creator.
    pub dependencies: Vec<Dependency>,
    /// References inside the arguments.
    pub borrows: Vec<ObjectId>,
    /// What a node must have free to place it.
    pub placement: Demand,
    /// What it holds while it lives.
    pub running: Resources,
    /// Restarts after a crash; -1 is no limit.
    pub restarts_max: i32,
    /// Its name, unique in `namespace`; empty is none.
    pub name: String,
    /// Where the name counts.
    pub namespace: String,
    /// Outlives its creator.
    pub detached: bool,
    /// It has `async def` methods and runs them on an event loop.
    pub asynchronous: bool,
    /// The default group first, then the declared ones.
    pub groups: Vec<ConcurrencyGroup>,
    /// Calls may start in another order than they were made.
    pub out_of_order: bool,
    /// Opaque description of methods and defaults, for handles made by name.
    pub handle: Bytes,
}

impl ActorSpec {
    /// An actor of nothing yet: no code, no arguments, no demands, no name, and no restart.
    pub fn new(id: ActorId, job: JobId) -> ActorSpec {
        ActorSpec {
            id,
            job,
            class: FunctionId(0),
            code: Bytes::new(),
            label: Arc::from(""),
            arguments: Bytes::new(),
            dependencies: Vec::new(),
            borrows: Vec::new(),
            placement: Demand::default(),
            running: Resources::default(),
            restarts_max: 0,
            name: String::new(),
            namespace: String::new(),
            detached: false,
            asynchronous: false,
            groups: Vec::new(),
            out_of_order: false,
            handle: Bytes::new(),
        }
    }
}

/// Where an actor is in its life, as the head records it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ActorState {
    /// Being placed and constructed.
    Starting,
    /// Serving calls.
    Alive {
        /// Its process.
        process: ProcessId,
    },
    /// Being started again after a crash.
    Restarting,
    /// Gone for good.
    Dead {
        /// Why.
        cause: ActorDeath,
    },
}

impl ActorSpec {
    /// What is shown of an actor that has no process.
    pub fn summary(&self, incarnation: u32, state: ActorState) -> ActorSummary {
        ActorSummary {
            id: self.id,
            job: self.job,
            label: self.label.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            incarnation,
            state,
            pid: 0,
        }
    }
}

/// What lists of actors show.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ActorSummary {
    /// Its id.
    pub id: ActorId,
    /// Its job.
    pub job: JobId,
    /// Its class.
    pub label: Arc<str>,
    /// Its name, if any.
    pub name: String,
    /// The namespace of the name.
    pub namespace: String,
    /// Which start of it this is, from 0.
    pub incarnation: u32,
    /// Where it is in its life.
    pub state: ActorState,
    /// The pid of its process, 0 while it has none.
    pub pid: u32,
}

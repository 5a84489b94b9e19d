//! What a node says of the actors that it runs.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::ids::{ActorId, ProcessId};
use crate::value::{ActorDeath, Death};

/// What a node reports of an actor's process.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ActorEvent {
    /// Constructed and serving.
    Alive {
        /// Its process.
        process: ProcessId,
        /// For people.
        pid: u32,
    },
    /// The constructor failed: dead for good.
    ConstructorFailed(ActorDeath),
    /// Its process ended.
    Died {
        /// How.
        death: Death,
        /// By its own will or by `StopActor`.
        intended: bool,
    },
    /// It had not started, and what was set aside here for its placement group is returned: it must be
    /// placed anew, as the same incarnation.
    GivenBack,
    /// This node can never place it.
    Unplaceable {
        /// What is missing.
        detail: String,
    },
}

/// An actor that a node runs or is about to run.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ActorPresence {
    /// The actor.
    pub actor: ActorId,
    /// Which start of it.
    pub incarnation: u32,
    /// Its process and pid, once it is alive.
    pub process: Option<(ProcessId, u32)>,
}

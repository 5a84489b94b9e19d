//! The `Head` role: membership, jobs, actors, names, key-value.

use serde::{Deserialize, Serialize};

use crate::ids::ProcessId;
use crate::message::Message;

/// What can happen to the head.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// A message for the head came.
    Received {
        /// From whom.
        from: ProcessId,
        /// What.
        message: Message,
    },
}

/// What the head asks of the world.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Effect {
    /// Send a message.
    Send {
        /// To whom.
        to: ProcessId,
        /// What.
        message: Message,
    },
}

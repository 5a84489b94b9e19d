//! Invariant 2: whatever begins finds the bytes of its stored arguments mapped, and so they stay until it reads
//! them. Nobody waits for arguments but the machine.

use super::{Check, Property};
use crate::observation::Observation;
use crate::world::World;

/// Nothing to remember.
#[derive(Default)]
pub(super) struct Arguments;

impl Property for Arguments {
    fn name(&self) -> &'static str {
        "arguments"
    }

    fn observe(&mut self, _world: &World, observation: &Observation) -> Check {
        match observation {
            Observation::Unmapped { process, task, argument } => Err(format!(
                "{task:?} begins in {process:?}, and its argument {argument:?} is not mapped there"
            )),
            _ => Ok(()),
        }
    }
}

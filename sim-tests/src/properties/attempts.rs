//! Invariant 3: an attempt starts at most once, and attempts only count up.

use std::collections::BTreeMap;

use shoal_core::ids::TaskId;

use super::{Check, Property};
use crate::observation::Observation;
use crate::world::World;

/// The latest attempt of each task that has started.
#[derive(Default)]
pub(super) struct Attempts {
    latest: BTreeMap<TaskId, u32>,
}

impl Property for Attempts {
    fn name(&self) -> &'static str {
        "attempts"
    }

    fn observe(&mut self, _world: &World, observation: &Observation) -> Check {
        let Observation::Started { process, task, attempt, .. } = observation else {
            return Ok(());
        };
        match self.latest.insert(*task, *attempt) {
            Some(earlier) if earlier >= *attempt => {
                Err(format!("{process:?} starts attempt {attempt} of {task:?} after attempt {earlier} had started"))
            }
            _ => Ok(()),
        }
    }
}

//! Invariant 3: an attempt starts at most once, and attempts only count up.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::ids::TaskId;

use shoal_transport_sim::cluster::Fact;

use super::{Check, Property};
use crate::observation::Observation;
use crate::world::World;

/// How far each task is.
#[derive(Default)]
pub(super) struct Attempts {
    started: BTreeSet<(TaskId, u32)>,
    latest: BTreeMap<TaskId, u32>,
    /// The attempt that a cancelled task was at: its last one.
    last: BTreeMap<TaskId, u32>,
}

impl Property for Attempts {
    fn name(&self) -> &'static str {
        "attempts"
    }

    fn observe(&mut self, world: &World, observation: &Observation) -> Check {
        match observation {
            Observation::Cancelled { task, attempt: Some(attempt), .. } => {
                self.last.entry(*task).or_insert(*attempt);
                Ok(())
            }
            Observation::Fact(Fact::Started { process, task, attempt, .. }) => {
                if !self.started.insert((*task, *attempt)) {
                    return Err(format!("{process:?} starts attempt {attempt} of {task:?} once more"));
                }
                if world.cluster.declared_dead.contains(&process.node()) {
                    // A node that does not know yet that it is dead: nobody hears what it does.
                    return Ok(());
                }
                if let Some(last) = self.last.get(task).filter(|last| attempt > last) {
                    return Err(format!(
                        "{task:?} was cancelled in attempt {last}, and {process:?} starts {attempt}"
                    ));
                }
                // What a dead owner had pushed may be slower than what its heir does, as it might have been
                // running still.
                let inherited = world.cluster.deaths.contains_key(&task.owner);
                match self.latest.get(task).copied() {
                    Some(later) if later >= *attempt && inherited => Ok(()),
                    Some(earlier) if earlier >= *attempt => Err(format!(
                        "{process:?} starts attempt {attempt} of {task:?} after attempt {earlier} had started"
                    )),
                    _ => {
                        self.latest.insert(*task, *attempt);
                        Ok(())
                    }
                }
            }
            _ => Ok(()),
        }
    }
}

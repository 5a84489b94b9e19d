//! Invariant 1 and others that a machine can check alone: resources add up, tables agree.

use super::{Check, Property};
use crate::world::World;

/// The checks that node and head have of themselves; they panic, which fails the run.
#[derive(Default)]
pub(super) struct Machines {
    events: u64,
}

impl Property for Machines {
    fn name(&self) -> &'static str {
        "machines"
    }

    fn after_event(&mut self, world: &World) -> Check {
        self.events += 1;
        if self.events.is_multiple_of(8) {
            for daemon in world.cluster.nodes.values() {
                daemon.node.check();
            }
            for head in world.cluster.heads.values() {
                head.head.check();
            }
            world.cluster.processes.values().for_each(|process| process.owner.check());
        }
        world.cluster.broken.clone().map_or(Ok(()), Err)
    }
}

//! Invariant 1 and others that a machine can check alone: resources add up, tables agree.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Check, Property};
use crate::run::said;
use crate::world::World;

/// The checks that machines have of themselves; they panic.
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
            catch_unwind(AssertUnwindSafe(|| check(world))).map_err(|panic| said(&*panic))?;
        }
        world.cluster.broken.clone().map_or(Ok(()), Err)
    }
}

fn check(world: &World) {
    world.cluster.nodes.values().for_each(|daemon| daemon.node.check());
    world.cluster.heads.values().for_each(|head| head.head.check());
    world.cluster.processes.values().for_each(|process| process.owner.check());
}

//! Invariants 1 and 7, seen from outside: leases name live processes, what is free adds up at rest,
//! and the store stays within its limit.

use shoal_core::ids::ProcessId;

use super::{Check, Property};
use crate::world::World;

/// See the module's text.
#[derive(Default)]
pub(super) struct Resources;

impl Property for Resources {
    fn name(&self) -> &'static str {
        "resources"
    }

    fn look_closely(&mut self, world: &World) -> Check {
        let node = world.daemon.node.inspect();
        if node.store.used > node.store.capacity {
            return Err(format!("the store holds {} of {} bytes", node.store.used, node.store.capacity));
        }
        for (index, (lease, _, worker)) in node.leases.iter().enumerate() {
            if node.leases[..index].iter().any(|(_, _, other)| other == worker) {
                return Err(format!("{lease:?} is not the only lease of {worker:?}"));
            }
        }
        for process in world.processes.values() {
            for lease in process.owner.inspect().leases {
                let known = node.leases.iter().any(|(id, _, _)| *id == lease.id);
                // A lease may be on its way back, or its end on its way here.
                if !known && !world.is_busy() {
                    return Err(format!("{:?} is held, and its node does not know it", lease.id));
                }
            }
        }
        Ok(())
    }

    fn at_rest(&mut self, world: &World) -> Check {
        let node = world.daemon.node.inspect();
        if !node.leases.is_empty() {
            return Err(format!("leases are left: {:?}", node.leases));
        }
        let at_work = |(_, state): &&(ProcessId, &str)| !matches!(*state, "idle" | "actor" | "blocked");
        if let Some((worker, state)) = node.workers.iter().find(at_work) {
            return Err(format!("{worker:?} is still {state}"));
        }
        let actors = node.workers.iter().any(|(_, state)| *state != "idle");
        if !actors && node.free != node.total {
            return Err(format!("{:?} of {:?} is free, and nobody holds anything", node.free, node.total));
        }
        if node.store.pinned > 0 {
            return Err(format!("{} bytes are pinned, and nobody reads", node.store.pinned));
        }
        Ok(())
    }

    fn at_end(&mut self, world: &World) -> Check {
        let node = world.daemon.node.inspect();
        let actors = world.processes.values().any(|process| process.actor().is_some());
        if !actors && (node.store.objects > 0 || node.store.spilled > 0) {
            return Err(format!("objects are left in the store: {:?}", node.store));
        }
        Ok(())
    }
}

//! Invariants 1 and 7, seen from outside: leases name live processes, what is free adds up at rest,
//! and the store stays within its limit.

use std::collections::BTreeSet;

use shoal_core::ids::{NodeId, ProcessId};
use shoal_core::node::Inspection;
use shoal_core::value::Death;

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
        let mut known = BTreeSet::new();
        for (id, daemon) in &world.cluster.nodes {
            let node = daemon.node.inspect();
            if node.store.used > node.store.capacity {
                let store = &node.store;
                return Err(format!("{id:?}: the store holds {} of {} bytes", store.used, store.capacity));
            }
            let mut workers = BTreeSet::new();
            for (lease, _, worker) in node.leases {
                if !workers.insert(worker) {
                    return Err(format!("{lease:?} is not the only lease of {worker:?}"));
                }
                known.insert(lease);
            }
        }
        for process in world.cluster.processes.values() {
            for lease in process.owner.inspect().leases {
                // A lease may be on its way back, or its end on its way here.
                if !known.contains(&lease.id) && !world.cluster.is_busy() {
                    return Err(format!("{:?} is held, and its node does not know it", lease.id));
                }
            }
        }
        Ok(())
    }

    fn at_rest(&mut self, world: &World) -> Check {
        each_node(world, |node, _| {
            if !node.leases.is_empty() {
                return Err(format!("leases are left: {:?}", node.leases));
            }
            let at_work = |(_, state): &&(ProcessId, &str)| !matches!(*state, "idle" | "actor" | "blocked");
            if let Some((worker, state)) = node.workers.iter().find(at_work) {
                return Err(format!("{worker:?} is still {state}"));
            }
            let actors = node.workers.iter().any(|(_, state)| *state != "idle");
            // What bundles hold is in the books of `groups`.
            if !actors && node.bundles.is_empty() && node.free != node.total {
                let Inspection { free, total, .. } = node;
                return Err(format!("{free:?} of {total:?} is free, and nobody holds anything"));
            }
            if node.store.pinned > 0 {
                return Err(format!("{} bytes are pinned, and nobody reads", node.store.pinned));
            }
            Ok(())
        })?;
        // When jobs end, nodes free all that they had. Until then, each object must be freed by itself.
        if seals_may_be_unheard_of(world) { Ok(()) } else { stores_are_empty(world) }
    }

    fn at_end(&mut self, world: &World) -> Check {
        stores_are_empty(world)
    }
}

/// What a worker had sealed when it crashed, and its task's owner has not heard of, stays until the job ends.
fn seals_may_be_unheard_of(world: &World) -> bool {
    let crashed = |death: &Death| {
        !matches!(
            death,
            Death::Exited { code: 0 }
                | Death::Killed { .. }
                | Death::NotStarted { .. }
                | Death::NodeDied { .. }
        )
    };
    world.users.cut_short || world.cluster.deaths.values().any(crashed)
}

/// Nothing is stored that no program refers to; what actors keep is reachable.
fn stores_are_empty(world: &World) -> Check {
    if world.cluster.processes.values().any(|process| process.actor.is_some()) {
        return Ok(());
    }
    each_node(world, |node, _| {
        if node.store.objects > 0 || node.store.spilled > 0 {
            return Err(format!("objects are left in the store: {:?}", node.store));
        }
        Ok(())
    })
}

fn each_node(world: &World, check: impl Fn(&Inspection, NodeId) -> Check) -> Check {
    for (id, daemon) in &world.cluster.nodes {
        check(&daemon.node.inspect(), *id).map_err(|wrong| format!("{id:?}: {wrong}"))?;
    }
    Ok(())
}

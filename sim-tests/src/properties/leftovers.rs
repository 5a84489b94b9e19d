//! Invariants 1 and 2 at rest: nothing that nobody can reach is left anywhere.

use shoal_core::ids::ActorId;
use shoal_transport_sim::cluster::Fact;

use super::{Check, Property};
use crate::observation::Observation;
use crate::world::World;

/// See the module's text.
#[derive(Default)]
pub(super) struct Leftovers {
    /// A head has begun without all of its log: it may start an actor again of which the creator had
    /// told another head that nobody has a handle. That actor goes on until its creator ends.
    forgetful: bool,
}

impl Property for Leftovers {
    fn name(&self) -> &'static str {
        "leftovers"
    }

    fn observe(&mut self, _: &World, observation: &Observation) -> Check {
        self.forgetful |= matches!(observation, Observation::Fact(Fact::HeadStarted { forgetful: true, .. }));
        Ok(())
    }

    fn at_rest(&mut self, world: &World) -> Check {
        let mut left = Vec::new();
        let actors = world.cluster.processes.values().any(|process| process.actor.is_some());
        for (id, process) in &world.cluster.processes {
            let unneeded = |actor: ActorId| !self.forgetful && is_out_of_scope(world, actor);
            if let Some((actor, _)) = process.actor.filter(|(actor, _)| unneeded(*actor)) {
                left.push(format!("{id:?}: {actor:?}, and nobody has a handle"));
            }
        }
        for (id, process) in &world.cluster.processes {
            let inspection = process.owner.inspect();
            for task in inspection.tasks {
                left.push(format!("{id:?}: task {:?} {}", task.id, task.stage));
            }
            for lease in inspection.leases {
                left.push(format!("{id:?}: {:?} of {:?}", lease.id, lease.worker));
            }
            // What an actor that still lives keeps in its state is reachable.
            if !actors {
                for object in inspection.objects {
                    left.push(format!("{id:?}: {object:?}"));
                }
            }
        }
        none(left)
    }

    fn at_end(&mut self, world: &World) -> Check {
        let detached = world.cluster.processes.values().any(|process| process.actor.is_some());
        if detached {
            return Ok(());
        }
        let mut left: Vec<String> =
            world.cluster.processes.keys().map(|id| format!("process {id:?}")).collect();
        for (id, daemon) in &world.cluster.nodes {
            left.extend(daemon.operations().map(|work| format!("{id:?}: work {work:?}")));
            if daemon.disk.used() > 0 {
                left.push(format!("{id:?}: {} bytes on disk", daemon.disk.used()));
            }
        }
        none(left)
    }
}

/// Whether whoever made an actor counts no handle of it any more.
fn is_out_of_scope(world: &World, actor: ActorId) -> bool {
    let Some(creator) = world.cluster.processes.get(&actor.creator()) else { return false };
    let handle = actor.handle_object();
    let counted = creator.owner.inspect().objects.iter().any(|view| view.id == handle);
    !counted && !world.users.detached.contains(&actor)
}

fn none(left: Vec<String>) -> Check {
    if left.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = left.iter().take(12).cloned().collect();
    Err(format!("{} things are left:\n  {}", left.len(), shown.join("\n  ")))
}

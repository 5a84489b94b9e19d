//! A node that is to be emptied hands over what it keeps: taken away in time, it takes nothing along. And when
//! a drain was called off, everybody knows.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::ids::{NodeId, ObjectId};
use shoal_core::node::Inspection;
use shoal_core::value::Failure;
use shoal_core::{Span, Time};
use shoal_transport_sim::Fault;
use shoal_transport_sim::cluster::Fact;

use super::groups::acting;
use super::{Check, Property};
use crate::observation::{Got, Observation};
use crate::world::World;

/// Looks are so far apart.
const EVERY: Span = Span::from_secs(1);
/// What a draining node has kept for so long it does not hand over.
const TOO_LONG: Span = Span::from_secs(10);
/// A disk of so many bytes holds all that programs make, and a store of so many what is on its way. In a smaller
/// one, what is read keeps a draining node from reading back what it has on disk.
const AMPLE: (u64, u64) = (64 << 20, 16 << 20);

/// See the module's text.
#[derive(Default)]
pub(super) struct Drains {
    next: Time,
    /// What draining nodes keep, and since when as far as was seen.
    kept: BTreeMap<(NodeId, ObjectId), Time>,
    /// Objects that were seen in a store.
    seen: BTreeSet<ObjectId>,
    /// Objects that ended with the only node that kept them.
    gone: BTreeSet<ObjectId>,
}

impl Property for Drains {
    fn name(&self) -> &'static str {
        "drains"
    }

    fn observe(&mut self, world: &World, observation: &Observation) -> Check {
        match observation {
            Observation::Fact(Fact::NodeEnded { kept, .. }) => self.gone.extend(kept),
            // A task's value may have been made again, and lost before it was in a store.
            Observation::Got { process, object, result: Got::Failure(Failure::ObjectLost { .. }) }
                if is_calm(world)
                    && world.users.is_put(*object)
                    && self.seen.contains(object)
                    && !self.is_gone(world, *object) =>
            {
                return Err(format!("{process:?} does not find {object:?}, which no node took along"));
            }
            _ => {}
        }
        Ok(())
    }

    fn after_event(&mut self, world: &World) -> Check {
        let now = world.cluster.now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + EVERY;
        if drains(world) { self.look(world, now) } else { Ok(()) }
    }

    fn at_rest(&mut self, world: &World) -> Check {
        let Some(head) = acting(world).filter(|_| drains(world)) else { return Ok(()) };
        for view in head.inspect().nodes {
            let Some(daemon) = world.cluster.nodes.get(&view.node) else { continue };
            let told = daemon.node.inspect().draining;
            if told != view.draining {
                return Err(format!(
                    "{:?} is draining: {told}; the head believes: {}",
                    view.node, view.draining
                ));
            }
        }
        Ok(())
    }
}

impl Drains {
    /// Whether it ended with the only node that kept it, or is about to: that node has not heard yet that it is dead.
    fn is_gone(&self, world: &World, object: ObjectId) -> bool {
        let mut ending = world.cluster.declared_dead.iter().filter_map(|node| world.cluster.nodes.get(node));
        let kept = (object, None);
        self.gone.contains(&object) || ending.any(|daemon| daemon.node.inspect().objects.contains(&kept))
    }

    fn look(&mut self, world: &World, now: Time) -> Check {
        let nodes: Vec<(NodeId, Inspection)> =
            world.cluster.nodes.iter().map(|(id, daemon)| (*id, daemon.node.inspect())).collect();
        let stored = nodes.iter().flat_map(|(_, node)| node.objects.iter().map(|(object, _)| *object));
        self.seen.extend(stored);
        let takes = |(id, node): &&(NodeId, Inspection)| !node.draining && has_room(world, *id);
        if !world.cluster.is_undisturbed() || !is_calm(world) || nodes.iter().find(takes).is_none() {
            self.kept.clear();
            return Ok(());
        }
        let mut kept = BTreeMap::new();
        for (id, node) in nodes.iter().filter(|(_, node)| node.draining) {
            for (object, _) in node.objects.iter().filter(|(_, primary)| primary.is_none()) {
                let since = *self.kept.get(&(*id, *object)).unwrap_or(&now);
                if since + TOO_LONG <= now {
                    return Err(format!("{id:?} is draining and has kept {object:?} for {TOO_LONG:?}"));
                }
                kept.insert((*id, *object), since);
            }
        }
        self.kept = kept;
        Ok(())
    }
}

/// Whether nodes are drained in this run at all.
fn drains(world: &World) -> bool {
    world.cluster.faults.iter().any(Fault::is_drain)
}

/// Whether nothing else goes wrong in this run, so that what is lost was lost by a drain.
fn is_calm(world: &World) -> bool {
    world.cluster.faults.iter().all(Fault::is_drain) && world.cluster.settings.loss.is_none()
}

/// Whether a node can take what others made, if need be by spilling.
fn has_room(world: &World, node: NodeId) -> bool {
    let Some(daemon) = world.cluster.nodes.get(&node) else { return false };
    let settings = &world.cluster.hosts[daemon.host].settings;
    let (disk, store) = AMPLE;
    let ample = settings.disk_bytes >= disk && settings.store_bytes >= store;
    ample && daemon.disk.used() * 2 <= settings.disk_bytes
}

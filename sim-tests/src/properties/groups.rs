//! Invariant 4 at rest: a placement group has all of its bundles, or none, or it has lost some with a node
//! and waits for others; nodes hold nothing for a group that is gone; and a group is gone once its removal
//! was asked for, or whoever made it has ended.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::group::{GroupSpec, GroupState};
use shoal_core::head::{GroupView, Head};
use shoal_core::ids::{GroupId, NodeId, ProcessId};
use shoal_core::resources::Resources;
use shoal_transport_sim::cluster::Fact;

use super::{Check, Property};
use crate::observation::Observation;
use crate::world::World;

/// What was asked for.
#[derive(Default)]
pub(super) struct Groups {
    made: BTreeMap<GroupId, GroupSpec>,
    removed: BTreeMap<GroupId, Vec<ProcessId>>,
    /// A head has begun without all of its log: what another one had been told to remove may be there again.
    forgetful: bool,
}

impl Property for Groups {
    fn name(&self) -> &'static str {
        "groups"
    }

    fn observe(&mut self, _: &World, observation: &Observation) -> Check {
        match observation {
            Observation::GroupMade { spec } => drop(self.made.insert(spec.id, spec.clone())),
            Observation::GroupRemoved { group, by } => self.removed.entry(*group).or_default().push(*by),
            Observation::Fact(Fact::HeadStarted { forgetful: true, .. }) => self.forgetful = true,
            _ => {}
        }
        Ok(())
    }

    fn at_rest(&mut self, world: &World) -> Check {
        let Some(head) = acting(world) else { return Ok(()) };
        let groups: BTreeMap<GroupId, GroupView> =
            head.inspect().groups.into_iter().map(|view| (view.group, view)).collect();
        let held = held(world)?;
        for view in groups.values() {
            self.is_there_for_a_reason(world, view.group)?;
            is_whole_or_waits(view, &held)?;
        }
        match held.keys().find(|(group, _)| !groups.contains_key(group)) {
            Some((group, bundle)) => {
                Err(format!("bundle {bundle} of {group:?} is held, and the group is gone"))
            }
            None => self.amounts_are_held(world, &groups),
        }
    }

    fn at_end(&mut self, world: &World) -> Check {
        self.at_rest(world)
    }
}

impl Groups {
    fn is_there_for_a_reason(&self, world: &World, group: GroupId) -> Check {
        let lives = |process: &ProcessId| world.cluster.processes.contains_key(process);
        let remover = self.removed.get(&group).and_then(|list| list.iter().find(|by| lives(by)));
        if let Some(by) = remover.filter(|_| !self.forgetful) {
            return Err(format!("{group:?} is there, and {by:?} has removed it"));
        }
        let Some(spec) = self.made.get(&group) else {
            return Err(format!("{group:?} is there, and nobody made it"));
        };
        let maker = match spec.creator {
            Some(actor) => {
                world.cluster.processes.values().any(|p| p.actor.is_some_and(|(id, _)| id == actor))
            }
            None => world.cluster.processes.values().any(|process| process.job == spec.job),
        };
        if spec.detached || maker {
            return Ok(());
        }
        Err(format!("{group:?} is there, and whoever made it is gone"))
    }

    /// What is free on a node is all but what its bundles have, if nobody else holds anything.
    fn amounts_are_held(&self, world: &World, groups: &BTreeMap<GroupId, GroupView>) -> Check {
        for (id, daemon) in &world.cluster.nodes {
            let node = daemon.node.inspect();
            if node.workers.iter().any(|(_, state)| *state != "idle") {
                continue;
            }
            let mut free: Resources = node.total.clone();
            for (group, _, bundles, _) in &node.bundles {
                let Some(spec) = self.made.get(group) else { continue };
                for index in bundles {
                    let bundle = &spec.bundles[*index as usize].resources;
                    free.subtract(bundle);
                    if !matches!(groups[group].state, GroupState::Placed { .. }) {
                        free.subtract(&shoal_core::group::offered(bundle, *group, *index));
                    }
                }
            }
            if free != node.free {
                return Err(format!("{id:?}: {:?} is free, and not {free:?}", node.free));
            }
        }
        Ok(())
    }
}

/// Where each bundle is that nodes have set aside.
fn held(world: &World) -> Result<BTreeMap<(GroupId, u32), NodeId>, String> {
    let mut held = BTreeMap::new();
    for (id, daemon) in &world.cluster.nodes {
        for (group, attempt, bundles, committed) in daemon.node.inspect().bundles {
            if !committed {
                return Err(format!("{id:?} has set bundles of {group:?} aside in vain ({attempt})"));
            }
            for bundle in bundles {
                if let Some(other) = held.insert((group, bundle), *id) {
                    return Err(format!("bundle {bundle} of {group:?} is on {id:?} and on {other:?}"));
                }
            }
        }
    }
    Ok(held)
}

fn is_whole_or_waits(view: &GroupView, held: &BTreeMap<(GroupId, u32), NodeId>) -> Check {
    let group = view.group;
    for (index, node) in (0..).zip(&view.nodes) {
        let at = held.get(&(group, index));
        if at != node.as_ref() {
            return Err(format!("bundle {index} of {group:?} is on {at:?}, and the head believes {node:?}"));
        }
    }
    let there: BTreeSet<bool> = view.nodes.iter().map(Option::is_some).collect();
    let holds = match view.state {
        GroupState::Placed { .. } => !there.contains(&false),
        GroupState::Rescheduling { .. } => there.contains(&false),
        GroupState::Pending { .. } | GroupState::Removed => !there.contains(&true),
    };
    if holds { Ok(()) } else { Err(format!("{group:?} is {:?} and has {:?}", view.state, view.nodes)) }
}

/// The head that acts, if there is one.
pub(super) fn acting(world: &World) -> Option<&Head> {
    let heads = world.cluster.heads.values().map(|process| &process.head);
    heads.filter(|head| !head.inspect().fenced).max_by_key(|head| head.epoch())
}

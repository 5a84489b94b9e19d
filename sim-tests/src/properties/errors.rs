//! Invariant 5: an error says only what is true.

use std::collections::{BTreeMap, BTreeSet};

use shoal_core::group::GroupSpec;
use shoal_core::ids::{ActorId, GroupId, ObjectId, ProcessId, TaskId};
use shoal_core::resources::Strategy;
use shoal_core::value::{ActorDeath, Death, Failure};

use shoal_transport_sim::cluster::Fact;

use super::{Check, Property};
use crate::observation::{Got, Observation};
use crate::world::{Within, World};

/// What was done that an error may speak of.
#[derive(Default)]
pub(super) struct Errors {
    cancelled: BTreeSet<TaskId>,
    recursively: bool,
    killed: BTreeSet<ActorId>,
    homes: BTreeMap<ActorId, Vec<ProcessId>>,
    started: BTreeSet<(TaskId, ProcessId)>,
    groups: BTreeMap<GroupId, GroupSpec>,
    removed: BTreeSet<GroupId>,
    lost: bool,
    /// A head acted whose log held less than had been acknowledged, or will when the right log is back.
    forgetful: bool,
}

impl Property for Errors {
    fn name(&self) -> &'static str {
        "errors"
    }

    fn observe(&mut self, world: &World, observation: &Observation) -> Check {
        match observation {
            Observation::Cancelled { task, recursive, .. } => {
                self.cancelled.insert(*task);
                self.recursively |= recursive;
            }
            Observation::Killed { actor, .. } => {
                self.killed.insert(*actor);
            }
            Observation::GroupMade { spec } => drop(self.groups.insert(spec.id, spec.clone())),
            Observation::GroupRemoved { group, .. } => drop(self.removed.insert(*group)),
            Observation::Fact(Fact::Constructing { process, actor, .. }) => {
                self.homes.entry(*actor).or_default().push(*process);
            }
            Observation::Fact(Fact::Started { process, task, .. }) => {
                self.started.insert((*task, *process));
            }
            Observation::Fact(Fact::HeadStarted { forgetful: true, .. }) => self.forgetful = true,
            Observation::Fact(Fact::Lost { .. } | Fact::NodeEnded { .. }) => self.lost = true,
            // What a driver lent is freed with it; that ends what is left of its job.
            Observation::Got { process, result: Got::Failure(Failure::Freed { .. }), .. }
                if !has_driver(world, *process) => {}
            Observation::Got { process, object, result: Got::Failure(failure) } => {
                return self
                    .explain(world, object.task, failure)
                    .map_err(|why| format!("{process:?} got {failure:?} for {object:?}, but {why}"));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Errors {
    fn explain(&self, world: &World, task: TaskId, failure: &Failure) -> Check {
        let died = |process: &ProcessId, death: &Death| match world.cluster.deaths.get(process) {
            Some(_) if is_nodes_word(death) => Ok(()),
            Some(real) if real == death => Ok(()),
            Some(real) => Err(format!("it died differently: {real:?}")),
            // It may not know yet: its node cannot hear the head, which has recorded its death.
            None if is_declared(world, death) => Ok(()),
            None => Err(format!("{process:?} never died")),
        };
        match failure {
            // The failure may be that of an argument, if there are arguments.
            // When a node died nobody knows what had started there.
            Failure::WorkerCrashed { worker, death }
                if !matches!(death, Death::NodeDied { .. })
                    && world.users.submitted.get(&task) == Some(&false)
                    && !self.started.contains(&(task, *worker)) =>
            {
                Err(String::from("it was never started there"))
            }
            Failure::WorkerCrashed { worker, death } => died(worker, death),
            Failure::OwnerDied { object, .. } if died_alone(world, *object) => {
                Err(String::from("its owner is the only process that has died, and it had been put"))
            }
            Failure::OwnerDied { object, death } => died(&object.owner(), death),
            Failure::ActorDied { actor, cause } => self.explain_actor(world, *actor, cause),
            Failure::ActorUnavailable { actor, .. } => match self.homes.get(actor) {
                Some(homes) if homes.iter().any(|home| is_dead(world, *home)) => Ok(()),
                _ => Err(String::from("no process of the actor has died")),
            },
            Failure::Cancelled if self.cancelled.is_empty() => Err(String::from("nothing was cancelled")),
            Failure::ObjectLost { .. }
                if !self.lost && world.cluster.declared_dead.is_empty() && !self.may_evaporate(world) =>
            {
                Err(String::from("nothing was lost"))
            }
            Failure::ObjectLost { object, .. } => explain_loss(world, *object),
            Failure::Freed { object } if !is_dead(world, object.owner()) => {
                Err(String::from("somebody still referred to it"))
            }
            Failure::GroupRemoved { group } => self.explain_removal(world, *group),
            Failure::Unschedulable { .. } => self.explain_misfit(world, task),
            Failure::EndOfStream => Err(String::from("no program asks beyond the end")),
            _ => Ok(()),
        }
    }

    /// A process that dies between writing an object and telling its node loses the object.
    fn may_evaporate(&self, world: &World) -> bool {
        world.cluster.deaths.values().any(|death| *death != Death::Exited { code: 0 })
    }

    /// A group is gone when somebody has asked for that, or when whoever made it has ended.
    fn explain_removal(&self, world: &World, group: GroupId) -> Check {
        let maker = match self.groups.get(&group) {
            Some(GroupSpec { detached: true, .. }) => false,
            Some(GroupSpec { creator: Some(actor), .. }) => {
                let homes = self.homes.get(actor).into_iter().flatten();
                // With the driver ends all of its job.
                let orphaned = is_dead(world, actor.creator());
                orphaned || homes.clone().any(|home| is_dead(world, *home)) || self.killed.contains(actor)
            }
            _ => is_dead(world, group.creator()),
        };
        if maker || self.removed.contains(&group) {
            return Ok(());
        }
        Err(format!("{group:?} was not removed, and its maker lives"))
    }

    /// What fits into a bundle of its group, and may run on any node, runs sooner or later.
    fn explain_misfit(&self, world: &World, task: TaskId) -> Check {
        let Some(Within { group, bundle, demand }) = world.users.within.get(&task) else { return Ok(()) };
        let Some(spec) = self.groups.get(group) else { return Ok(()) };
        let mut candidates =
            (0..).zip(&spec.bundles).filter(|(index, _)| bundle.is_none_or(|named| named == *index));
        let placed_by_others = !demand.labels.is_empty() || matches!(demand.strategy, Strategy::Node { .. });
        if placed_by_others || !candidates.any(|(_, bundle)| bundle.resources.covers(&demand.resources)) {
            return Ok(());
        }
        Err(format!("{group:?} has room for {}", demand.resources))
    }

    fn explain_actor(&self, world: &World, actor: ActorId, cause: &ActorDeath) -> Check {
        match cause {
            ActorDeath::Process(Death::NotStarted { .. }) => Ok(()),
            ActorDeath::Process(_) => match self.homes.get(&actor) {
                Some(homes) if homes.iter().any(|home| !is_dead(world, *home)) => {
                    Err(String::from("its process lives"))
                }
                _ if matches!(cause, ActorDeath::Process(death) if is_declared(world, death)) => Ok(()),
                // Without a home, a process died before it became the actor.
                _ if world.cluster.deaths.is_empty() => Err(String::from("nobody has died")),
                _ => Ok(()),
            },
            ActorDeath::Killed if !self.killed.contains(&actor) => Err(String::from("nobody killed it")),
            ActorDeath::CreatorDied if !is_dead(world, actor.creator()) => {
                Err(String::from("its creator lives"))
            }
            ActorDeath::GroupRemoved => match world.users.within.get(&actor.0) {
                Some(within) => self.explain_removal(world, within.group),
                None => Err(String::from("it is in no placement group")),
            },
            ActorDeath::Unschedulable(_) => self.explain_misfit(world, actor.0),
            ActorDeath::ArgumentFailed(failure) => match **failure {
                Failure::ObjectLost { object, .. } => explain_loss(world, object),
                _ => Ok(()),
            },
            ActorDeath::Unknown if !self.forgetful => Err(String::from("it was made before it was called")),
            _ => Ok(()),
        }
    }
}

/// Whether the driver of a process's job lives.
fn has_driver(world: &World, process: ProcessId) -> bool {
    let Some(job) = world.cluster.processes.get(&process).map(|process| process.job) else { return false };
    world.cluster.processes.values().any(|process| process.driver.is_some() && process.job == job)
}

/// No node of the cluster has the bytes.
fn explain_loss(world: &World, object: ObjectId) -> Check {
    let living = world.cluster.nodes.iter().filter(|(id, _)| !world.cluster.declared_dead.contains(id));
    for (node, daemon) in living {
        if daemon.node.inspect().objects.iter().any(|(stored, _)| *stored == object) {
            return Err(format!("{node:?} has it"));
        }
    }
    Ok(())
}

/// Whether nothing but the death of its owner concerns what a program had put. Its steward has a record of
/// it then, if anybody else has a reference. If others have died, too, one of them may have lent the
/// reference to somebody whom the owner had not heard of.
fn died_alone(world: &World, object: ObjectId) -> bool {
    let put = world.users.is_put(object);
    let handle = world.users.is_actor(object);
    let one = world.cluster.deaths.len() == 1 && world.cluster.declared_dead.is_empty();
    put && !handle && one && world.cluster.nodes.contains_key(&object.owner().node())
}

/// Whether a process has died, or the head has told of the death of its node.
fn is_dead(world: &World, process: ProcessId) -> bool {
    world.cluster.deaths.contains_key(&process) || world.cluster.declared_dead.contains(&process.node())
}

/// Whether this is the death of a node that the head has told of.
fn is_declared(world: &World, death: &Death) -> bool {
    matches!(death, Death::NodeDied { node } if world.cluster.declared_dead.contains(node))
}

/// Deaths that a node declares are told as it declares them.
fn is_nodes_word(death: &Death) -> bool {
    matches!(
        death,
        Death::Killed { .. }
            | Death::OutOfMemory { .. }
            | Death::NotStarted { .. }
            | Death::NodeDied { .. }
            | Death::GroupRemoved { .. }
    )
}

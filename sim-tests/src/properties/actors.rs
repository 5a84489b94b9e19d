//! Invariant 8: one live incarnation of an actor at a time, calls of one caller in order, and none of
//! those that were made after their caller had killed the actor for good; what is dead stays dead.

use std::collections::BTreeMap;

use shoal_core::ids::{ActorId, ProcessId};

use shoal_core::value::Failure;
use shoal_transport_sim::cluster::Fact;

use super::{Check, Property};
use crate::observation::{Got, Observation};
use crate::world::World;

/// Who is which actor, and what it was called last.
#[derive(Default)]
pub(super) struct Actors {
    processes: BTreeMap<ActorId, (ProcessId, u32)>,
    /// By actor, incarnation, group and caller: the number of the latest first attempt.
    latest: BTreeMap<(ActorId, u32, u32, ProcessId), u64>,
    /// Who has killed which actor for good, after which of its tasks.
    killed: BTreeMap<(ActorId, ProcessId), u64>,
    /// Of which somebody was told that they are dead, and how often they have started since: the last
    /// order to start one may still be on its way.
    dead: BTreeMap<ActorId, u32>,
}

impl Property for Actors {
    fn name(&self) -> &'static str {
        "actors"
    }

    fn observe(&mut self, world: &World, observation: &Observation) -> Check {
        match observation {
            Observation::Fact(Fact::Constructing { process, actor, incarnation }) => {
                if !lives(world, *process) {
                    return Ok(());
                }
                if let Some(starts) = self.dead.get_mut(actor) {
                    *starts += 1;
                    if *starts > 1 {
                        return Err(format!("{actor:?} starts in {process:?}, and was said to be dead"));
                    }
                }
                match self.processes.insert(*actor, (*process, *incarnation)) {
                    Some((other, _)) if lives(world, other) => {
                        Err(format!("{actor:?} is constructed in {process:?} and still lives in {other:?}"))
                    }
                    Some((_, earlier)) if earlier >= *incarnation => {
                        Err(format!("{actor:?} starts as {incarnation} after it had started as {earlier}"))
                    }
                    _ => Ok(()),
                }
            }
            Observation::Fact(Fact::Started {
                process,
                task,
                attempt,
                call: Some((actor, incarnation, group)),
            }) => {
                if !lives(world, *process) {
                    return Ok(());
                }
                let home = self.processes.get(actor);
                if home != Some(&(*process, *incarnation)) {
                    return Err(format!("{task:?} runs on {process:?}, and {actor:?} is at {home:?}"));
                }
                if self.killed.get(&(*actor, task.owner)).is_some_and(|last| task.number > *last) {
                    return Err(format!("{actor:?} starts {task:?}, whose caller had killed it before"));
                }
                if *attempt > 0 {
                    return Ok(());
                }
                let key = (*actor, *incarnation, *group, task.owner);
                match self.latest.insert(key, task.number) {
                    Some(later) if later > task.number => {
                        Err(format!("{actor:?} starts {task:?} after {later}, which was called later"))
                    }
                    _ => Ok(()),
                }
            }
            Observation::Killed { actor, by, for_good: true, after } => {
                self.killed.entry((*actor, *by)).or_insert(*after);
                Ok(())
            }
            Observation::Got { result: Got::Failure(Failure::ActorDied { actor, .. }), .. } => {
                self.dead.entry(*actor).or_default();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Whether what a process says counts: on a node that was declared dead it may go on for a while, and
/// nobody hears it.
fn lives(world: &World, process: ProcessId) -> bool {
    let cluster = &world.cluster;
    cluster.processes.contains_key(&process) && !cluster.declared_dead.contains(&process.node())
}

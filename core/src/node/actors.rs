//! Actors on this node: the head places and stops them, the node gives them a process.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;

use super::Node;
use super::drivers::Job;
use super::ledger::Holding;
use super::outbox::Outbox;
use super::processes::State;
use super::queue::{Claim, Claimant};
use crate::actor::ActorSpec;
use crate::ids::{ActorId, JobId, ProcessId};
use crate::message::{ActorEvent, Message};
use crate::resources::Resources;
use crate::value::{ActorDeath, Death};

/// An actor that the head placed here and whose end was not reported.
#[derive(Debug)]
pub(super) struct Actor {
    pub(super) job: JobId,
    pub(super) incarnation: u32,
    /// It ends because the head, or itself, wants it to.
    pub(super) intended: bool,
    /// It may be started again.
    pub(super) restartable: bool,
    /// What it holds once it is constructed.
    running: Resources,
    phase: Phase,
    /// The head has been told how it ends; the process is on its way out.
    reported: bool,
}

#[derive(Debug)]
enum Phase {
    /// Waiting for resources and a worker.
    Waiting(Box<ActorSpec>),
    /// Its constructor runs.
    Constructing(ProcessId),
    /// It serves.
    Alive(ProcessId),
}

impl Actor {
    fn process(&self) -> Option<ProcessId> {
        match self.phase {
            Phase::Waiting(_) => None,
            Phase::Constructing(process) | Phase::Alive(process) => Some(process),
        }
    }
}

impl Node {
    pub(super) fn start_actor(&mut self, spec: Box<ActorSpec>, incarnation: u32, out: &mut Outbox) {
        let actor = spec.id;
        if self.actors.contains_key(&actor) {
            // Told twice; the head starts an incarnation only after the end of the one before.
            return;
        }
        let job = spec.job;
        self.jobs.entry(job).or_insert_with(Job::default).present = true;
        let pool = self.pools.find(job, &spec.placement.environment);
        let mut demand = spec.placement.clone();
        for (name, amount) in &spec.running.0 {
            let placed = demand.resources.get(name);
            demand.resources.set(name, placed.max(*amount));
        }
        let entry = Actor {
            job,
            incarnation,
            intended: false,
            restartable: spec.restarts_max != 0,
            running: spec.running.clone(),
            phase: Phase::Waiting(spec),
            reported: false,
        };
        self.actors.insert(actor, entry);
        let claimant = Claimant::Actor { actor, incarnation };
        self.enqueue(Claim { claimant, pool, demand: Arc::new(demand) }, out);
    }

    /// The actor gets its resources and its process.
    pub(super) fn become_actor(
        &mut self,
        id: ActorId,
        holding: Holding,
        worker: ProcessId,
        out: &mut Outbox,
    ) {
        let actor = self.actors.get_mut(&id).expect("claims of actors end with them");
        let incarnation = actor.incarnation;
        let phase = core::mem::replace(&mut actor.phase, Phase::Constructing(worker));
        let Phase::Waiting(spec) = phase else { unreachable!("{id:?} got two workers") };
        let devices = holding.devices().clone();
        self.worker_state(worker, State::Actor(id));
        self.processes.worker_mut(worker).expect("granted workers live").holding = Some(holding);
        out.send(worker, Message::BecomeActor { spec, incarnation, devices });
    }

    pub(super) fn actor_constructed(
        &mut self,
        from: ProcessId,
        id: ActorId,
        incarnation: u32,
        failed: Option<ActorDeath>,
        out: &mut Outbox,
    ) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        let constructing = matches!(actor.phase, Phase::Constructing(process) if process == from);
        if !constructing || actor.incarnation != incarnation || actor.reported {
            return;
        }
        actor.phase = Phase::Alive(from);
        let process = self.processes.get(from).expect("the sender lives");
        let event = match failed {
            None => ActorEvent::Alive { process: from, pid: process.pid },
            Some(cause) => {
                actor.reported = true;
                ActorEvent::ConstructorFailed(cause)
            }
        };
        let (constructed, running) = (!actor.reported, actor.running.clone());
        self.prove(from);
        out.send(ProcessId::HEAD, Message::ActorReport { actor: id, incarnation, event });
        if constructed {
            let worker = self.processes.worker_mut(from).expect("actors live in workers");
            let holding = worker.holding.as_mut().expect("actors hold what they need");
            self.ledger.shrink(holding, &running);
        } else {
            self.retire(from, "its constructor failed", out);
        }
    }

    pub(super) fn actor_exits(&mut self, from: ProcessId, id: ActorId, incarnation: u32) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        if actor.process() == Some(from) && actor.incarnation == incarnation {
            actor.intended = true;
        }
    }

    pub(super) fn stop_actor(&mut self, id: ActorId, incarnation: u32, graceful: bool, out: &mut Outbox) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        if actor.incarnation != incarnation {
            return;
        }
        actor.intended = true;
        let reason = format!("the head stopped {id:?}");
        match actor.process() {
            None => {
                let death = Death::Killed { reason };
                self.drop_claims(ProcessId::HEAD, |claimant| {
                    *claimant == Claimant::Actor { actor: id, incarnation }
                });
                self.end_actor(id, ActorEvent::Died { death, intended: true }, out);
            }
            Some(process) if graceful => {
                let grace = self.config.actor_exit_grace;
                self.stop_process(process, true, grace, &reason, out);
            }
            Some(process) => self.kill_process(process, Death::Killed { reason }, out),
        }
    }

    /// Forget an actor, and tell the head how it ended unless it knows.
    pub(super) fn end_actor(&mut self, id: ActorId, event: ActorEvent, out: &mut Outbox) {
        let Some(actor) = self.actors.remove(&id) else { return };
        if !actor.reported {
            let incarnation = actor.incarnation;
            out.send(ProcessId::HEAD, Message::ActorReport { actor: id, incarnation, event });
        }
        self.closing.insert(actor.job);
    }
}

//! Actors on this node: the head places and stops them, the node gives them a process.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;

use super::Node;
use super::ledger::Holding;
use super::outbox::Outbox;
use super::processes::State;
use super::queue::{Claim, Claimant};
use crate::actor::ActorSpec;
use crate::ids::{ActorId, JobId, ProcessId};
use crate::message::{ActorEvent, ActorPresence, Message};
use crate::resources::Resources;
use crate::value::{ActorDeath, Death};

/// An actor that the head placed here and whose end was not reported.
#[derive(Clone, Debug)]
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

#[derive(Clone, Debug)]
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
        let known = self.jobs.entry(job).or_default();
        (known.present, known.known) = (true, true);
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
        self.enqueue_actor(Claim { claimant, pool, demand: Arc::new(demand) }, out);
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

    /// What a new head must know of an actor, unless it is on its way out and that was reported.
    pub(super) fn presence(&self, id: ActorId, actor: &Actor) -> Option<ActorPresence> {
        let process = match actor.phase {
            Phase::Alive(process) => Some((process, self.processes.get(process).map_or(0, |p| p.pid))),
            Phase::Waiting(_) | Phase::Constructing(_) => None,
        };
        (!actor.reported).then_some(ActorPresence { actor: id, incarnation: actor.incarnation, process })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Span;
    use crate::node::Effect;
    use crate::node::harness::*;
    use alloc::vec;

    fn report(id: ActorId, event: ActorEvent) -> Message {
        Message::ActorReport { actor: id, incarnation: 0, event }
    }

    fn constructed(id: ActorId) -> Message {
        Message::ActorConstructed { actor: id, incarnation: 0, failed: None }
    }

    /// A node with one CPU and an actor that serves; its process.
    fn alive(running: &[(&str, f64)]) -> (Harness, ProcessId) {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        assert_eq!(node.start_actor(&spec(actor(1), running)), []);
        let process = node.fork_next().0;
        node.receive(process, constructed(actor(1)));
        (node, process)
    }

    #[test]
    fn an_actor_gets_a_process_and_keeps_what_it_needs_while_it_runs() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let small = spec(actor(1), &[]);
        node.start_actor(&small);
        assert_eq!(node.start_actor(&small), [], "told twice");
        let (process, effects) = node.fork_next();
        let devices = crate::resources::Devices::default();
        let become_actor = Message::BecomeActor { spec: Box::new(small.clone()), incarnation: 0, devices };
        assert_eq!(effects, [send(process, become_actor)]);
        // Its constructor has the CPU.
        node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert!(node.forks.is_empty());
        let effects = node.receive(process, constructed(actor(1)));
        let alive = ActorEvent::Alive { process, pid: 1_000 + process.number() };
        assert_eq!(effects, [send(ProcessId::HEAD, report(actor(1), alive))]);
        assert_eq!(node.forks.len(), 1, "now the task can have it");
        assert_eq!(node.receive(process, constructed(actor(1))), [], "said twice");
    }

    #[test]
    fn an_actor_that_holds_a_cpu_lends_it_while_it_waits() {
        let (mut node, process) = alive(&[("CPU", 1.0)]);
        node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert!(node.forks.is_empty());
        node.receive(process, Message::Blocked);
        assert_eq!(node.forks.len(), 1);
        node.receive(process, Message::Unblocked);
        node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(node.forks.len(), 1);
    }

    #[test]
    fn the_process_of_an_actor_dies_with_it_and_never_serves_others() {
        let (mut node, process) = alive(&[]);
        let effects = node.receive(
            ProcessId::HEAD,
            Message::StopActor { actor: actor(1), incarnation: 0, graceful: false },
        );
        let [Effect::Kill { process: killed, death }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(*killed, process);
        let effects = node.exited(process, KILLED);
        let died = ActorEvent::Died { death: death.clone(), intended: true };
        let ended = Message::ProcessEnded { process, death: death.clone() };
        assert_eq!(sent_to(ProcessId::HEAD, &effects), [report(actor(1), died), ended]);
        node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(node.forks.len(), 1);
    }

    #[test]
    fn a_graceful_stop_has_time_to_end_calls() {
        let (mut node, process) = alive(&[]);
        let stop = |graceful| Message::StopActor { actor: actor(1), incarnation: 0, graceful };
        let effects = node.receive(ProcessId::HEAD, stop(true));
        let [Effect::Send { to, message: Message::Exit { graceful: true, .. } }] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(*to, process);
        assert_eq!(node.pass(Span::from_secs(29)), []);
        assert!(matches!(node.pass(Span::from_secs(1))[..], [Effect::Kill { .. }]));
        assert_eq!(node.receive(ProcessId::HEAD, stop(false)), [], "it is being killed already");
    }

    #[test]
    fn a_crash_is_not_intended_but_exit_actor_is() {
        for (says_so, intended) in [(false, false), (true, true)] {
            let (mut node, process) = alive(&[]);
            if says_so {
                let exits = Message::ActorExits { actor: actor(1), incarnation: 0 };
                node.receive(driver(), exits.clone());
                node.receive(process, exits);
            }
            let death = Death::Exited { code: 0 };
            let effects = node.exited(process, death.clone());
            let died = report(actor(1), ActorEvent::Died { death, intended });
            assert_eq!(sent_to(ProcessId::HEAD, &effects)[0], died);
        }
    }

    #[test]
    fn a_failed_constructor_is_reported_once_and_ends_the_process() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        node.start_actor(&spec(actor(1), &[]));
        let process = node.fork_next().0;
        let cause = ActorDeath::Exited;
        let failed =
            Message::ActorConstructed { actor: actor(1), incarnation: 0, failed: Some(cause.clone()) };
        let effects = node.receive(process, failed);
        let told = report(actor(1), ActorEvent::ConstructorFailed(cause));
        assert_eq!(sent_to(ProcessId::HEAD, &effects), [told]);
        assert_eq!(asked_to_exit(&effects), [process]);
        let death = Death::Exited { code: 1 };
        let effects = node.exited(process, death.clone());
        let ended = Message::ProcessEnded { process, death };
        assert_eq!(sent_to(ProcessId::HEAD, &effects), [ended]);
    }

    #[test]
    fn an_actor_that_waits_can_be_stopped_and_one_that_cannot_be_placed_says_so() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let (lease, _) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        node.start_actor(&spec(actor(1), &[]));
        let stop = Message::StopActor { actor: actor(1), incarnation: 0, graceful: true };
        let effects = node.receive(ProcessId::HEAD, stop);
        let [Message::ActorReport { event: ActorEvent::Died { intended: true, .. }, .. }] =
            &sent_to(ProcessId::HEAD, &effects)[..]
        else {
            panic!("{effects:?}")
        };
        node.give_back(driver(), lease);
        assert!(node.forks.is_empty());

        node.start_actor(&spec(actor(2), &[("GPU", 1.0)]));
        let effects = node.pass(Span::from_secs(10));
        let [Message::ActorReport { actor: unplaced, event: ActorEvent::Unplaceable { detail }, .. }] =
            &sent_to(ProcessId::HEAD, &effects)[..]
        else {
            panic!("{effects:?}")
        };
        assert_eq!(*unplaced, actor(2));
        assert!(detail.contains("1 of GPU"), "{detail}");
    }

    #[test]
    fn many_actors_start_a_few_at_a_time() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        for number in 0..50 {
            let mut free = spec(actor(number), &[]);
            free.placement = crate::resources::Demand::default();
            node.start_actor(&free);
        }
        let mut processes = vec![];
        while !node.forks.is_empty() {
            assert!(node.forks.len() <= 4, "no more than `starting_max` at once");
            processes.push(node.fork_next().0);
        }
        assert_eq!(processes.len(), 50, "actors without resources are not capped");
    }

    #[test]
    fn only_the_head_places_and_stops_actors() {
        let (mut node, process) = alive(&[]);
        let stop = Message::StopActor { actor: actor(1), incarnation: 0, graceful: false };
        assert_eq!(node.receive(driver(), stop), []);
        let start = Message::StartActor { spec: Box::new(spec(actor(2), &[])), incarnation: 0, order: 1 };
        assert_eq!(node.receive(process, start), []);
        assert!(node.forks.is_empty());
    }
}

//! An actor's life: created, placed, alive, restarted, dead.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use super::actors::{Actor, Awaited};
use super::nodes::choose_node;
use super::{Head, Outbox};
use crate::actor::{ActorSpec, ActorState, ActorSummary};
use crate::ids::{ActorId, NodeId, ProcessId, RequestId};
use crate::machine::{Span, Time, Wakeup};
use crate::message::{ActorEvent, Answer, Message};
use crate::mutants::Mutant;
use crate::value::ActorDeath;

/// An incarnation that serves for less than this ended soon.
const SOON: Span = Span::from_secs(10);
/// How long an actor that somebody asks for may stay unknown.
const UNKNOWN_GRACE: Span = Span::from_secs(10);

/// How long a restart waits after so many incarnations in a row that ended soon.
fn restart_delay(quick_ends: u32) -> Span {
    match quick_ends {
        0..=2 => Span(0),
        more => Span::from_millis((50_u64 << (more - 3).min(8)).min(10_000)),
    }
}

impl Head {
    pub(super) fn create_actor(
        &mut self,
        from: ProcessId,
        spec: Box<ActorSpec>,
        request: Option<RequestId>,
        out: &mut Outbox,
    ) {
        let id = spec.id;
        if id.creator() != from {
            return;
        }
        let answer = |answer, out: &mut Outbox| {
            if let Some(request) = request {
                out.send(from, Message::Answer { request, answer });
            }
        };
        if self.actors.is_known(id) {
            return answer(Answer::ActorCreated, out);
        }
        let namesake = self.actors.by_name(&spec.namespace, &spec.name).map(|actor| actor.spec.id);
        if let Some(namesake) = namesake.filter(|_| !spec.name.is_empty()) {
            answer(Answer::ActorExists { actor: namesake }, out);
            return self.refuse_name(&spec, out);
        }
        answer(Answer::ActorCreated, out);
        self.actors.add(Actor::new(spec));
        let kill = self.actors.awaited.remove(&id).and_then(|awaited| awaited.kill);
        self.actors.announce(id, out);
        match kill {
            Some(true) => self.actors.bury(id, ActorDeath::Killed, out),
            Some(false) | None => self.place(id, out),
        }
    }

    /// Whoever holds a handle of an actor whose name was taken must learn that it was never made.
    fn refuse_name(&mut self, spec: &ActorSpec, out: &mut Outbox) {
        let detail = format!("the name {:?} is taken in namespace {:?}", spec.name, spec.namespace);
        let dead = ActorState::Dead { cause: ActorDeath::Unschedulable(detail) };
        self.actors.remember_dead(ActorSummary {
            id: spec.id,
            job: spec.job,
            label: spec.label.clone(),
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            incarnation: 0,
            state: dead,
            pid: 0,
        });
        self.actors.give_up(spec.id, out);
    }

    /// Send the present incarnation to a node, if there is one.
    fn place(&mut self, id: ActorId, out: &mut Outbox) {
        let Some(actor) = self.actors.get_mut(id) else { return };
        let Some(node) = choose_node(self.nodes.values(), &actor.spec.placement) else { return };
        actor.node = Some(node);
        let start =
            Message::StartActor { spec: actor.spec.clone(), incarnation: actor.incarnation };
        out.send(ProcessId::daemon(node), start);
    }

    /// A node has something to offer: actors that found none may find one now.
    pub(super) fn place_unplaced(&mut self, out: &mut Outbox) {
        let unplaced = |(id, actor): (ActorId, &Actor)| {
            let delayed = self.actors.restarts.iter().any(|(_, restarting)| *restarting == id);
            (actor.node.is_none() && !delayed).then_some(id)
        };
        let unplaced: Vec<ActorId> = self.actors.iter().filter_map(unplaced).collect();
        for id in unplaced {
            self.place(id, out);
        }
    }

    pub(super) fn subscribe_actor(&mut self, from: ProcessId, id: ActorId, out: &mut Outbox) {
        if self.actors.get(id).is_some() {
            self.actors.subscribe(from, id);
            self.actors.tell(from, id, out);
        } else if self.actors.is_known(id) {
            self.actors.tell(from, id, out);
        } else {
            self.actors.subscribe(from, id);
            self.expect(id, out.now);
        }
    }

    /// The handle came here on a shorter way than the creation: give that some time.
    fn expect(&mut self, id: ActorId, now: Time) -> &mut Awaited {
        let deadline = now + UNKNOWN_GRACE;
        self.deadlines.arm(Wakeup::UnknownActor, deadline);
        self.actors.awaited.entry(id).or_insert(Awaited { deadline, kill: None })
    }

    pub(super) fn awaited_due(&mut self, out: &mut Outbox) {
        let mut late = Vec::new();
        for (id, awaited) in &self.actors.awaited {
            if awaited.deadline <= out.now {
                late.push(*id);
            } else {
                self.deadlines.arm(Wakeup::UnknownActor, awaited.deadline);
            }
        }
        for id in late {
            self.actors.give_up(id, out);
        }
    }

    pub(super) fn kill_actor(&mut self, id: ActorId, no_restart: bool, out: &mut Outbox) {
        if !self.actors.is_known(id) {
            let kill = &mut self.expect(id, out.now).kill;
            *kill = Some(no_restart || *kill == Some(true));
            return;
        }
        let Some(actor) = self.actors.get_mut(id) else { return };
        if no_restart || actor.restarts_left == 0 {
            self.stop(id, false, out);
            self.actors.bury(id, ActorDeath::Killed, out);
        } else if actor.node.is_some() && !actor.killed {
            actor.killed = true;
            self.stop(id, false, out);
            self.actors.change(id, ActorState::Restarting, out);
        }
    }

    pub(super) fn actor_out_of_scope(&mut self, from: ProcessId, id: ActorId, out: &mut Outbox) {
        let mortal = self.actors.get(id).is_some_and(|actor| !actor.spec.detached);
        if mortal && id.creator() == from {
            self.stop(id, true, out);
            self.actors.bury(id, ActorDeath::OutOfScope, out);
        }
    }

    /// Have the present incarnation ended where it is.
    pub(super) fn stop(&mut self, id: ActorId, graceful: bool, out: &mut Outbox) {
        let Some(actor) = self.actors.get(id) else { return };
        let Some(node) = actor.node else { return };
        let stop = Message::StopActor { actor: id, incarnation: actor.incarnation, graceful };
        out.send(ProcessId::daemon(node), stop);
    }

    pub(super) fn actor_report(
        &mut self,
        node: NodeId,
        id: ActorId,
        incarnation: u32,
        event: ActorEvent,
        out: &mut Outbox,
    ) {
        let Some(actor) = self.actors.get_mut(id) else { return };
        if actor.incarnation != incarnation || actor.node != Some(node) {
            return;
        }
        match event {
            ActorEvent::Alive { process, pid } => {
                if actor.state == ActorState::Starting || actor.state == ActorState::Restarting {
                    actor.pid = pid;
                    actor.alive_since = Some(out.now);
                    if !actor.killed {
                        self.actors.change(id, ActorState::Alive { process }, out);
                    }
                }
            }
            ActorEvent::ConstructorFailed(cause) => self.actors.bury(id, cause, out),
            ActorEvent::Unplaceable { detail } => {
                self.actors.bury(id, ActorDeath::Unschedulable(detail), out);
            }
            ActorEvent::Died { intended: true, .. } if !actor.killed => {
                self.actors.bury(id, ActorDeath::Exited, out);
            }
            ActorEvent::Died { death, .. } => {
                if actor.restarts_left != 0 {
                    self.restart(id, out);
                } else if actor.killed {
                    self.actors.bury(id, ActorDeath::Killed, out);
                } else {
                    self.actors.bury(id, ActorDeath::Process(death), out);
                }
            }
        }
    }

    /// Start the next incarnation: at once, or later if the last ones ended soon.
    fn restart(&mut self, id: ActorId, out: &mut Outbox) {
        let Some(actor) = self.actors.get_mut(id) else { return };
        let served = actor.alive_since.take().is_some_and(|since| since + SOON <= out.now);
        actor.quick_ends = if served { 0 } else { actor.quick_ends.saturating_add(1) };
        let due = out.now + restart_delay(actor.quick_ends);
        if actor.restarts_left > 0 {
            actor.restarts_left -= 1;
        }
        actor.incarnation += u32::from(!Mutant::SameIncarnation.is_active());
        actor.killed = false;
        actor.node = None;
        actor.pid = 0;
        self.actors.change(id, ActorState::Restarting, out);
        if due <= out.now {
            self.place(id, out);
        } else {
            self.actors.restarts.insert((due, id));
            self.deadlines.arm(Wakeup::RestartActor, due);
        }
    }

    pub(super) fn restart_due(&mut self, out: &mut Outbox) {
        while let Some((due, id)) = self.actors.restarts.first().copied() {
            if due > out.now {
                self.deadlines.arm(Wakeup::RestartActor, due);
                return;
            }
            self.actors.restarts.pop_first();
            self.place(id, out);
        }
    }
}

//! An actor's life: created, placed, alive, restarted, dead.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use super::actors::{Actor, Awaited};
use super::rows::EarlyEnd;
use super::{Head, Key, Outbox};
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
pub(super) fn restart_delay(quick_ends: u32) -> Span {
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
            let refused = self.actors.namesake(id).map(|actor| Answer::ActorExists { actor });
            return answer(refused.unwrap_or(Answer::ActorCreated), out);
        }
        let namesake = self.actors.by_name(&spec.namespace, &spec.name).map(|actor| actor.spec.id);
        if let Some(namesake) = namesake.filter(|_| !spec.name.is_empty()) {
            answer(Answer::ActorExists { actor: namesake }, out);
            return self.refuse_name(&spec, namesake, out);
        }
        answer(Answer::ActorCreated, out);
        self.actors.add(Actor::new(spec), out);
        let end = self.actors.no_longer_await(id, out);
        self.actors.announce(id, out);
        match end {
            Some(EarlyEnd::KilledForGood) => self.actors.bury(id, ActorDeath::Killed, out),
            Some(EarlyEnd::OutOfScope) => self.actors.bury(id, ActorDeath::OutOfScope, out),
            Some(EarlyEnd::Killed) | None => self.place(id, out),
        }
    }

    /// Whoever holds a handle of an actor whose name was taken must learn that it was never made.
    fn refuse_name(&mut self, spec: &ActorSpec, namesake: ActorId, out: &mut Outbox) {
        let detail = format!("the name {:?} is taken in namespace {:?}", spec.name, spec.namespace);
        let dead = ActorState::Dead { cause: ActorDeath::Unschedulable(detail) };
        self.actors.never_made(spec.summary(0, dead), Some(namesake), out);
    }

    /// Its creator says that it will be made, or why it never will.
    pub(super) fn actor_unmade(&mut self, from: ProcessId, summary: Box<ActorSummary>, out: &mut Outbox) {
        let id = summary.id;
        if id.creator() != from || self.actors.is_known(id) {
            return;
        }
        if matches!(summary.state, ActorState::Dead { .. }) {
            self.actors.never_made(*summary, None, out);
        } else {
            self.expect(id, out.now).announced = Some(summary);
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
        self.actors.awaited.entry(id).or_insert(Awaited { deadline, announced: None, end: None })
    }

    pub(super) fn awaited_due(&mut self, out: &mut Outbox) {
        let mut late = Vec::new();
        for (id, awaited) in self.actors.awaited.iter().filter(|(_, awaited)| awaited.announced.is_none()) {
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
            let end = if no_restart { EarlyEnd::KilledForGood } else { EarlyEnd::Killed };
            return self.end_early(id, end, out);
        }
        let Some(actor) = self.actors.get(id) else { return };
        if no_restart || actor.restarts_left == 0 {
            self.stop(id, false, out);
            self.actors.bury(id, ActorDeath::Killed, out);
        } else if actor.node.is_some() && !actor.killed {
            self.actors.edit(id, out).expect("it lives").killed = true;
            self.stop(id, false, out);
            self.actors.change(id, ActorState::Restarting, out);
        }
    }

    /// What ends an actor came before it was made. A kill for good and the end of the last handle hold
    /// against a kill that lets it start again.
    fn end_early(&mut self, id: ActorId, end: EarlyEnd, out: &mut Outbox) {
        let awaited = self.expect(id, out.now);
        if awaited.end.is_none_or(|before| before == EarlyEnd::Killed) {
            awaited.end = Some(end);
            out.touch(Key::Actor(id));
        }
    }

    /// A new head gives those who are awaited their time again.
    pub(super) fn await_again(&mut self, now: Time) {
        for awaited in self.actors.awaited.values_mut() {
            awaited.deadline = now + UNKNOWN_GRACE;
            self.deadlines.arm(Wakeup::UnknownActor, awaited.deadline);
        }
    }

    pub(super) fn actor_out_of_scope(&mut self, from: ProcessId, id: ActorId, out: &mut Outbox) {
        if !self.actors.is_known(id) && id.creator() == from {
            return self.end_early(id, EarlyEnd::OutOfScope, out);
        }
        let mortal = self.actors.get(id).is_some_and(|actor| !actor.spec.detached);
        if mortal && id.creator() == from {
            self.stop(id, true, out);
            self.actors.bury(id, ActorDeath::OutOfScope, out);
        }
    }

    /// Have the present incarnation ended where it is.
    pub(super) fn stop(&mut self, id: ActorId, graceful: bool, out: &mut Outbox) {
        let Some(actor) = self.actors.get(id) else { return };
        // A node that is still awaited is told what has ended when it comes.
        let Some(node) = actor.node.filter(|node| self.nodes.is_within_reach(*node)) else { return };
        let stop = Message::StopActor { actor: id, incarnation: actor.incarnation, graceful };
        out.send_to_node(node, stop);
    }

    pub(super) fn actor_report(
        &mut self,
        node: NodeId,
        id: ActorId,
        incarnation: u32,
        event: ActorEvent,
        out: &mut Outbox,
    ) {
        let Some(actor) = self.actors.get(id) else { return };
        if actor.incarnation != incarnation || actor.node != Some(node) {
            return;
        }
        match event {
            ActorEvent::Alive { process, pid } => {
                if actor.state == ActorState::Starting || actor.state == ActorState::Restarting {
                    let killed = actor.killed;
                    let actor = self.actors.edit(id, out).expect("it lives");
                    actor.pid = pid;
                    actor.alive_since = Some(out.now);
                    if !killed {
                        self.actors.change(id, ActorState::Alive { process }, out);
                    }
                }
            }
            ActorEvent::ConstructorFailed(cause) => self.actors.bury(id, cause, out),
            ActorEvent::GivenBack if actor.killed => self.restart(id, out),
            ActorEvent::GivenBack => {
                self.actors.edit(id, out).expect("it lives").node = None;
                self.place(id, out);
            }
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
        let now = out.now;
        let Some(actor) = self.actors.edit(id, out) else { return };
        let served = actor.alive_since.take().is_some_and(|since| since + SOON <= now);
        actor.quick_ends = if served { 0 } else { actor.quick_ends.saturating_add(1) };
        let due = now + restart_delay(actor.quick_ends);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::harness::*;
    use crate::value::Death;
    use alloc::string::String;

    const CRASH: Death = Death::Signalled { signal: 11 };

    fn start(spec: &ActorSpec, incarnation: u32) -> (ProcessId, Message) {
        (DAEMON, Message::StartActor { spec: Box::new(spec.clone()), incarnation, order: 1 })
    }

    fn stop(actor: ActorId, incarnation: u32, graceful: bool) -> (ProcessId, Message) {
        (DAEMON, Message::StopActor { actor, incarnation, graceful })
    }

    fn update(to: u32, id: ActorId, incarnation: u32, state: ActorState, left: i32) -> (ProcessId, Message) {
        (process(to), Message::ActorUpdate { actor: id, incarnation, state, restarts_left: left })
    }

    fn dead(cause: ActorDeath) -> ActorState {
        ActorState::Dead { cause }
    }

    fn died(intended: bool) -> ActorEvent {
        ActorEvent::Died { death: CRASH, intended }
    }

    const ALIVE: ActorEvent = ActorEvent::Alive { process: process(50), pid: 500 };

    /// A head with an actor that serves, and a subscriber, process 9.
    fn alive(restarts_max: i32) -> (Harness, ActorId) {
        let mut head = Harness::with_node();
        let id = actor(1, 1);
        let spec = ActorSpec { restarts_max, ..spec(id) };
        assert_eq!(head.create(&spec), [start(&spec, 0)]);
        let effects = head.receive(process(9), Message::SubscribeActor { actor: id });
        assert_eq!(effects, [update(9, id, 0, ActorState::Starting, restarts_max)]);
        let state = ActorState::Alive { process: process(50) };
        assert_eq!(head.report(id, 0, ALIVE), [update(9, id, 0, state, restarts_max)]);
        (head, id)
    }

    #[test]
    fn restarts_wait_longer_when_they_do_not_help() {
        let delays: Vec<u64> = (0..13).map(|ends| restart_delay(ends).0 / 1_000_000).collect();
        assert_eq!(delays, [0, 0, 0, 50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }

    #[test]
    fn an_actor_without_a_node_waits_for_one() {
        let mut head = Harness::new();
        let spec = spec_of(actor(1, 1), &[("CPU", 1)]);
        assert_eq!(head.create(&spec), []);
        assert_eq!(head.report_node(), [start(&spec, 0)]);
        assert_eq!(head.report_node(), [], "once");
        assert_eq!(head.create(&spec), [], "told twice");
    }

    #[test]
    fn a_crashed_actor_restarts_as_often_as_it_may() {
        let (mut head, id) = alive(1);
        let effects = head.report(id, 0, died(false));
        assert_eq!(effects[0], update(9, id, 1, ActorState::Restarting, 0));
        assert!(matches!(effects[1].1, Message::StartActor { incarnation: 1, .. }));
        assert_eq!(head.report(id, 0, died(false)), [], "of an incarnation that is over");
        head.report(id, 1, ALIVE);
        let effects = head.report(id, 1, died(false));
        assert_eq!(effects, [update(9, id, 1, dead(ActorDeath::Process(CRASH)), 0)]);
        assert_eq!(head.report(id, 1, died(false)), []);
        let effects = head.receive(process(8), Message::SubscribeActor { actor: id });
        assert_eq!(effects, [update(8, id, 1, dead(ActorDeath::Process(CRASH)), 0)]);
    }

    #[test]
    fn a_crash_loop_slows_down_and_a_long_life_ends_it() {
        let (mut head, id) = alive(-1);
        let mut starts = 0;
        for incarnation in 0..1_000 {
            let mut effects = head.report(id, incarnation, died(false));
            while !effects.iter().any(|(_, message)| matches!(message, Message::StartActor { .. })) {
                effects = head.pass(Span::from_millis(10));
            }
            starts += 1;
            head.report(id, incarnation + 1, ALIVE);
            if head.now > Time(0) + Span::from_secs(60) {
                break;
            }
        }
        assert!((10..30).contains(&starts), "{starts} starts in a minute");
        head.pass(SOON);
        let effects = head.report(id, starts, died(false));
        assert!(matches!(effects[1].1, Message::StartActor { .. }), "at once: {effects:?}");
    }

    #[test]
    fn an_actor_that_exits_or_cannot_be_constructed_is_not_restarted() {
        let (mut head, id) = alive(-1);
        let effects = head.report(id, 0, died(true));
        assert_eq!(effects, [update(9, id, 0, dead(ActorDeath::Exited), 0)]);

        let mut head = Harness::with_node();
        let spec = ActorSpec { restarts_max: -1, ..spec(id) };
        head.create(&spec);
        head.receive(process(9), Message::SubscribeActor { actor: id });
        let unplaceable = ActorEvent::Unplaceable { detail: String::from("no GPU") };
        let cause = ActorDeath::Unschedulable(String::from("no GPU"));
        assert_eq!(head.report(id, 0, unplaceable), [update(9, id, 0, dead(cause), 0)]);
    }

    #[test]
    fn a_kill_is_for_good_or_counts_as_a_crash() {
        let kill = |actor, no_restart| Message::KillActor { actor, no_restart };
        let (mut head, id) = alive(1);
        let effects = head.receive(process(9), kill(id, false));
        assert_eq!(effects, [stop(id, 0, false), update(9, id, 0, ActorState::Restarting, 1)]);
        assert_eq!(head.receive(process(9), kill(id, false)), [], "it is being killed");
        let effects = head.report(id, 0, died(true));
        assert_eq!(effects[0], update(9, id, 1, ActorState::Restarting, 0));
        head.report(id, 1, ALIVE);
        let effects = head.receive(process(9), kill(id, false));
        let killed = update(9, id, 1, dead(ActorDeath::Killed), 0);
        assert_eq!(effects, [stop(id, 1, false), killed], "no restart is left");

        let (mut head, id) = alive(-1);
        let effects = head.receive(process(9), kill(id, true));
        assert_eq!(effects, [stop(id, 0, false), update(9, id, 0, dead(ActorDeath::Killed), 0)]);
        assert_eq!(head.report(id, 0, died(true)), []);
    }

    #[test]
    fn a_kill_while_a_restart_is_put_off_is_final() {
        let (mut head, id) = alive(-1);
        for incarnation in 0..3 {
            head.report(id, incarnation, died(false));
        }
        let kill = Message::KillActor { actor: id, no_restart: true };
        assert_eq!(head.receive(process(9), kill), [update(9, id, 3, dead(ActorDeath::Killed), 0)]);
        assert_eq!(head.pass(Span::from_secs(60)), []);
    }

    #[test]
    fn names_are_unique_among_the_living_of_a_namespace() {
        let mut head = Harness::with_node();
        let named = |number, namespace: &str| ActorSpec {
            name: String::from("counter"),
            namespace: String::from(namespace),
            ..spec(actor(1, number))
        };
        let create = |head: &mut Harness, spec: &ActorSpec| {
            let request = Some(RequestId(4));
            let message = Message::CreateActor { spec: Box::new(spec.clone()), request };
            match head.receive(process(1), message).remove(0) {
                (to, Message::Answer { answer, .. }) if to == process(1) => answer,
                other => panic!("{other:?}"),
            }
        };
        let (first, second, other) = (named(1, "a"), named(2, "a"), named(3, "b"));
        assert_eq!(create(&mut head, &first), Answer::ActorCreated);
        assert_eq!(create(&mut head, &first), Answer::ActorCreated, "told twice");
        assert_eq!(create(&mut head, &second), Answer::ActorExists { actor: first.id });
        assert_eq!(create(&mut head, &other), Answer::ActorCreated);
        // A handle of the one that was not made is of no use.
        let effects = head.receive(process(9), Message::SubscribeActor { actor: second.id });
        assert!(matches!(
            effects[0].1,
            Message::ActorUpdate { state: ActorState::Dead { cause: ActorDeath::Unschedulable(_) }, .. }
        ));
        head.receive(process(1), Message::KillActor { actor: first.id, no_restart: true });
        assert_eq!(create(&mut head, &named(5, "a")), Answer::ActorCreated);
    }

    #[test]
    fn the_last_handle_takes_the_actor_along_unless_it_is_detached() {
        let (mut head, id) = alive(-1);
        let gone = Message::ActorOutOfScope { actor: id };
        assert_eq!(head.receive(process(9), gone.clone()), [], "only its creator knows");
        let effects = head.receive(process(1), gone);
        assert_eq!(effects, [stop(id, 0, true), update(9, id, 0, dead(ActorDeath::OutOfScope), 0)]);

        let mut head = Harness::with_node();
        head.create(&ActorSpec { detached: true, ..spec(id) });
        assert_eq!(head.receive(process(1), Message::ActorOutOfScope { actor: id }), []);
    }

    #[test]
    fn a_handle_may_be_faster_than_the_creation() {
        let mut head = Harness::with_node();
        let id = actor(1, 1);
        let subscribe = Message::SubscribeActor { actor: id };
        assert_eq!(head.receive(process(9), subscribe.clone()), []);
        let effects = head.create(&spec(id));
        assert_eq!(effects[0], update(9, id, 0, ActorState::Starting, 0));

        // Killed before it is made.
        let other = actor(1, 2);
        head.receive(process(9), Message::SubscribeActor { actor: other });
        head.receive(process(9), Message::KillActor { actor: other, no_restart: true });
        let effects = head.create(&spec(other));
        assert_eq!(effects[1..], [update(9, other, 0, dead(ActorDeath::Killed), 0)]);

        // Never made.
        let never = actor(1, 3);
        head.receive(process(9), Message::SubscribeActor { actor: never });
        assert_eq!(head.pass(Span::from_secs(9)), []);
        let unknown = update(9, never, 0, dead(ActorDeath::Unknown), 0);
        assert_eq!(head.pass(Span::from_secs(2)), core::slice::from_ref(&unknown));
        head.receive(process(9), Message::SubscribeActor { actor: never });
        let ended = Message::ProcessEnded { process: process(1), death: CRASH };
        let effects = head.receive(DAEMON, ended);
        assert!(effects.contains(&unknown), "its creator is gone: {effects:?}");
    }

    #[test]
    fn an_actor_whose_arguments_are_awaited_is_waited_for_as_long_as_its_creator_lives() {
        let mut head = Harness::with_node();
        let [made, broken, orphan] = [1, 2, 3].map(|number| actor(1, number));
        let unmade = |id: ActorId, state: ActorState| {
            let summary = Box::new(spec(id).summary(0, state));
            Message::ActorUnmade { summary }
        };
        for id in [made, broken, orphan] {
            head.receive(process(9), Message::SubscribeActor { actor: id });
            assert_eq!(head.receive(process(1), unmade(id, ActorState::Starting)), []);
            assert_eq!(head.receive(process(2), unmade(id, dead(ActorDeath::Killed))), [], "not its word");
        }
        assert_eq!(head.pass(Span::from_secs(600)), []);
        assert_eq!(head.create(&spec(made))[0], update(9, made, 0, ActorState::Starting, 0));
        let cause = ActorDeath::Unschedulable("its argument failed".into());
        let told = update(9, broken, 0, dead(cause.clone()), 0);
        assert_eq!(head.receive(process(1), unmade(broken, dead(cause))), core::slice::from_ref(&told));
        assert_eq!(head.receive(process(9), Message::SubscribeActor { actor: broken }), [told], "kept");
        let ended = Message::ProcessEnded { process: process(1), death: CRASH };
        let effects = head.receive(DAEMON, ended);
        assert!(effects.contains(&update(9, orphan, 0, dead(ActorDeath::CreatorDied), 0)), "{effects:?}");
    }

    #[test]
    fn nobody_creates_for_others_and_only_its_node_reports() {
        let (mut head, id) = alive(0);
        let foreign = Message::CreateActor { spec: Box::new(spec(actor(2, 1))), request: None };
        assert_eq!(head.receive(process(1), foreign), []);
        let report = Message::ActorReport { actor: id, incarnation: 0, event: died(false) };
        let other = ProcessId::daemon(head.join());
        assert_eq!(head.receive(other, report.clone()), []);
        assert_eq!(head.receive(process(9), report), []);
    }
}

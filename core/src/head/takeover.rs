//! What a new head learns from the nodes of its predecessor.
//!
//! The log says what was decided; whether the nodes have heard of it is not known. What a node had sent
//! and the old head had not dealt with comes first, by itself; then the node says what is on it, and
//! this settles the rest. Nothing is placed on a node before.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::{Head, Outbox};
use crate::actor::ActorState;
use crate::ids::{ActorId, JobId, NodeId, ProcessId};
use crate::message::{ActorEvent, ActorPresence, Message, NodeState};
use crate::mutants::Mutant;
use crate::value::{ActorDeath, Death};

impl Head {
    pub(super) fn node_state(&mut self, id: NodeId, state: NodeState, out: &mut Outbox) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if state.epoch != self.meta.epoch {
            // The present one follows.
            return;
        }
        if core::mem::replace(&mut node.known, true) {
            // It is in the picture: this one may be older than what it was told meanwhile.
            return;
        }
        let NodeState { epoch: _, report, actors, bundles, drivers, jobs, dead, draining } = state;
        node.report(report, 0);
        self.view_changed(id);
        self.settle_news(id, &jobs, &dead, out);
        self.settle_bundles(id, bundles, out);
        self.settle_drivers(id, drivers, out);
        self.settle_actors(id, actors, out);
        self.settle_drain(id, draining, out);
        self.place_unplaced(out);
    }

    /// Jobs and nodes that are gone, as far as it has not heard so. One that came to the last head may have been told
    /// of nothing at all before that was gone itself.
    fn settle_news(&self, id: NodeId, jobs: &[(JobId, bool)], dead: &[NodeId], out: &mut Outbox) {
        let heard: BTreeSet<NodeId> = dead.iter().copied().collect();
        for (node, heir) in self.nodes.dead().filter(|(node, _)| !heard.contains(node)) {
            out.send_to_node(id, Message::NodeDied { node, heir });
        }
        let heard: BTreeSet<JobId> = jobs.iter().filter(|(_, knows)| *knows).map(|(job, _)| *job).collect();
        for (job, _) in self.jobs.iter().filter(|(job, row)| row.ended && !heard.contains(job)) {
            out.send_to_node(id, Message::JobEnded { job });
        }
        for job in jobs.iter().map(|(job, _)| *job).filter(|job| !self.jobs.is_known(*job)) {
            if !heard.contains(&job) {
                out.send_to_node(id, Message::JobEnded { job });
            }
            out.send_to_node(id, Message::JobForgotten { job });
        }
    }

    /// Drivers that do not know their job yet are told again. Those that have gone ended their job.
    fn settle_drivers(&mut self, id: NodeId, drivers: Vec<(ProcessId, Option<JobId>)>, out: &mut Outbox) {
        let drivers: BTreeMap<ProcessId, Option<JobId>> = drivers.into_iter().collect();
        for driver in self.jobs.drivers_in(ProcessId::new(id, 0)..=ProcessId::new(id, u32::MAX)) {
            match drivers.get(&driver) {
                None => self.process_ended(driver, out),
                Some(None) => self.tell_registered(driver, out),
                Some(Some(_)) => {}
            }
        }
    }

    /// What runs there must be what the log says, and the other way round.
    fn settle_actors(&mut self, node: NodeId, present: Vec<ActorPresence>, out: &mut Outbox) {
        let mut missing: BTreeMap<ActorId, u32> = self.actors.placed_on(node).into_iter().collect();
        for ActorPresence { actor, incarnation, process } in present {
            if missing.get(&actor) != Some(&incarnation) {
                // Its end was decided, and the node has not heard of it.
                let graceful = self.actors.ended_for(actor) == Some(&ActorDeath::OutOfScope);
                let stop = Message::StopActor { actor, incarnation, graceful };
                out.send_to_node(node, stop);
                continue;
            }
            missing.remove(&actor);
            if let Some((process, pid)) = process {
                let alive = ActorEvent::Alive { process, pid };
                self.actor_report(node, actor, incarnation, alive, out);
            }
            if self.actors.get(actor).is_some_and(|actor| actor.killed) {
                self.stop(actor, false, out);
            }
        }
        for (id, incarnation) in missing {
            self.missing_actor(node, id, incarnation, out);
        }
    }

    /// The log has it on a node that does not know of it.
    fn missing_actor(&mut self, node: NodeId, id: ActorId, incarnation: u32, out: &mut Outbox) {
        let Some(actor) = self.actors.get(id) else { return };
        let started = matches!(actor.state, ActorState::Alive { .. }) || actor.killed;
        if started {
            let reason = "its node does not know of it any more".into();
            let event = ActorEvent::Died { death: Death::Killed { reason }, intended: false };
            self.actor_report(node, id, incarnation, event, out);
        } else if !Mutant::ForgetStart.is_active() {
            // The node never heard that it was to start it: had it ended, that would have been told.
            self.start(id, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::ActorSpec;
    use crate::head::harness::*;
    use crate::head::{Effect, Input};
    use crate::machine::Span;
    use alloc::boxed::Box;
    use alloc::string::String;
    use alloc::vec;
    use bytes::Bytes;

    /// A head with two nodes and the actors `1..=count`, all on the first, that a process of the second
    /// has made.
    fn with_actors(count: u64) -> Harness {
        let mut head = Harness::durable();
        let nodes = [head.join(), head.join()];
        head.returns(nodes[0], Vec::new());
        for number in 1..=count {
            head.create(&ActorSpec { restarts_max: 1, ..on_first(number) });
        }
        head.write_all();
        head
    }

    fn id(number: u64) -> ActorId {
        ActorId(crate::ids::TaskId { owner: ProcessId::new(NodeId(2), 1), number })
    }

    fn on_first(number: u64) -> ActorSpec {
        let strategy = crate::resources::Strategy::bound(NODE, true);
        let placement = crate::resources::Demand { strategy, ..Default::default() };
        ActorSpec { placement, ..spec(id(number)) }
    }

    fn presence(number: u64, incarnation: u32, alive: bool) -> ActorPresence {
        let process = alive.then_some((process(50), 500));
        ActorPresence { actor: id(number), incarnation, process }
    }

    /// The node comes to a new head; what it and the other node are told, but for views.
    fn taken_over(head: &Harness, actors: Vec<ActorPresence>) -> (Harness, Vec<(ProcessId, Message)>) {
        let mut second = head.restart();
        second.returns(NODE, actors);
        second.write_all();
        let sent = second.sent();
        (second, sent)
    }

    fn stop(number: u64, incarnation: u32, graceful: bool) -> (ProcessId, Message) {
        (DAEMON, Message::StopActor { actor: id(number), incarnation, graceful })
    }

    #[test]
    fn a_start_that_did_not_come_through_is_sent_again() {
        let head = with_actors(2);
        let (_, sent) = taken_over(&head, vec![presence(2, 0, false)]);
        let expected = Box::new(ActorSpec { restarts_max: 1, ..on_first(1) });
        assert_eq!(sent, [(DAEMON, Message::StartActor { spec: expected, incarnation: 0, order: 1 })]);
    }

    #[test]
    fn what_the_log_does_not_know_is_stopped() {
        let mut head = with_actors(3);
        head.receive(process(1), Message::KillActor { actor: id(1), no_restart: true });
        head.receive(id(2).creator(), Message::ActorOutOfScope { actor: id(2) });
        head.write_all();
        let present =
            vec![presence(1, 0, true), presence(2, 0, false), presence(3, 7, true), presence(9, 0, true)];
        let (_, sent) = taken_over(&head, present);
        let stops = [stop(1, 0, false), stop(2, 0, true), stop(3, 7, false), stop(9, 0, false)];
        assert_eq!(sent[..4], stops);
        assert!(matches!(sent[4..], [(DAEMON, Message::StartActor { incarnation: 0, .. })]), "{sent:?}");
    }

    #[test]
    fn who_served_and_is_not_there_has_died() {
        let mut head = with_actors(1);
        head.report(id(1), 0, ActorEvent::Alive { process: process(50), pid: 500 });
        head.write_all();
        let (mut second, sent) = taken_over(&head, Vec::new());
        assert!(matches!(&sent[..], [(DAEMON, Message::StartActor { incarnation: 1, .. })]), "{sent:?}");
        let effects = second.receive(process(9), Message::SubscribeActor { actor: id(1) });
        assert!(matches!(&effects[0].1, Message::ActorUpdate { restarts_left: 0, incarnation: 1, .. }));
    }

    #[test]
    fn a_kill_that_did_not_come_through_is_sent_again() {
        let mut head = with_actors(1);
        head.report(id(1), 0, ActorEvent::Alive { process: process(50), pid: 500 });
        head.receive(process(9), Message::KillActor { actor: id(1), no_restart: false });
        head.write_all();
        let (mut second, sent) = taken_over(&head, vec![presence(1, 0, true)]);
        assert_eq!(sent, [stop(1, 0, false)]);
        let effects = second.returns(NODE, Vec::new());
        let resumed = Effect::Resume { connection: 2, node: NODE, epoch: 2 };
        assert_eq!(effects, [resumed], "what it said before counts, not an older state");
    }

    #[test]
    fn a_restart_that_was_put_off_takes_place() {
        let mut head = with_actors(1);
        let crash = ActorEvent::Died { death: Death::Signalled { signal: 11 }, intended: false };
        // No node is there that could take it.
        head.tell(Input::NodeLost { node: NodeId(2) });
        head.tell(Input::NodeLost { node: NODE });
        let (node, state) = (NODE, head.head.nodes.get_mut(NODE).expect("it lives"));
        state.draining = Some(crate::message::Drain { grace: None, reason: String::new() });
        head.daemon_says(node, Message::ActorReport { actor: id(1), incarnation: 0, event: crash });
        head.write_all();
        head.log.retain(|key, _| *key != crate::head::Key::Node(NODE));
        let mut second = head.restart();
        second.pass(Span::from_millis(1));
        second.returns(NodeId(2), Vec::new());
        second.write_all();
        let sent = second.sent();
        assert!(
            matches!(&sent[..], [(to, Message::StartActor { incarnation: 1, .. })] if to.node() == NodeId(2)),
            "{sent:?}"
        );
    }

    #[test]
    fn a_driver_without_a_job_is_told_and_one_that_has_gone_ends_its_job() {
        let mut head = with_actors(0);
        for number in [1, 2, 3] {
            let driver = process(number);
            let register =
                Message::RegisterJob { driver, namespace: String::from("n"), launch: Bytes::new() };
            head.daemon_says(NODE, register);
        }
        head.write_all();
        let mut second = head.restart();
        second.tell(Input::NodeReturns { connection: 2, node: NODE });
        second.write_all();
        second.let_out.clear();
        let drivers = vec![(process(1), None), (process(2), Some(JobId(2)))];
        let state = NodeState { drivers, ..state(NODE) };
        second.daemon_says(NODE, Message::NodeState { state: Box::new(state) });
        second.write_all();
        let (driver, namespace) = (process(1), String::from("n"));
        let registered = Message::JobRegistered { driver, job: JobId(1), namespace };
        let over = Message::JobEnded { job: JobId(3) };
        let forgotten = Message::JobForgotten { job: JobId(3) };
        assert_eq!(second.sent(), [(DAEMON, registered), (DAEMON, over), (DAEMON, forgotten)]);
    }

    #[test]
    fn news_of_the_dead_that_was_lost_is_told_again() {
        let mut head = with_actors(0);
        let register = |number| {
            let (driver, namespace) = (process(number), String::from("n"));
            Message::RegisterJob { driver, namespace, launch: Bytes::new() }
        };
        head.daemon_says(NODE, register(1));
        head.daemon_says(NODE, register(2));
        let death = Death::Exited { code: 0 };
        head.daemon_says(NODE, Message::ProcessEnded { process: process(1), death });
        let dead = [head.join(), head.join()];
        for node in dead {
            head.tell(Input::NodeLost { node });
        }
        head.pass(Span::from_secs(2));
        // This one is let in, and what it is told then is lost with the head.
        let late = head.join();
        head.write_all();
        let mut second = head.restart();
        second.tell(Input::NodeReturns { connection: 2, node: NODE });
        second.tell(Input::NodeReturns { connection: 3, node: late });
        second.write_all();
        let jobs = vec![(JobId(1), false), (JobId(2), false)];
        let drivers = vec![(process(2), Some(JobId(2)))];
        let some = NodeState { drivers, jobs, dead: vec![dead[0]], ..state(NODE) };
        let told = second.daemon_says(NODE, Message::NodeState { state: Box::new(some) });
        let died = |node| (DAEMON, Message::NodeDied { node, heir: NODE });
        let job = JobId(1);
        let over =
            [Message::JobEnded { job }, Message::JobForgotten { job }].map(|message| (DAEMON, message));
        assert_eq!(told, [died(dead[1]), over[0].clone(), over[1].clone()]);
        let told = second.daemon_says(late, Message::NodeState { state: Box::new(state(late)) });
        let to = ProcessId::daemon(late);
        assert_eq!(told, dead.map(|node| (to, Message::NodeDied { node, heir: NODE })));
    }

    #[test]
    fn a_node_that_is_elected_goes_on_and_calls_the_others() {
        let mut head = with_actors(0);
        head.join();
        head.tell(Input::Hosted { node: NODE });
        head.write_all();
        let calls = |effects: &[Effect]| -> Vec<(u32, String)> {
            let calls = effects.iter().filter_map(|effect| match effect {
                Effect::Call { node, address } => Some((node.0, address.clone())),
                _ => None,
            });
            calls.collect()
        };
        // The node of the last head is elected again, and another one.
        for (home, called) in [(1, [2, 3]), (2, [1, 3])] {
            let mut next = head.elected(NodeId(home));
            assert_eq!(next.tell(Input::NodeReturns { connection: 0, node: NodeId(home) }), []);
            next.write_all();
            let resumed = Effect::Resume { connection: 0, node: NodeId(home), epoch: 2 };
            assert!(next.let_out.contains(&resumed), "{:?}", next.let_out);
            assert!(!next.let_out.contains(&Effect::Forget { node: NODE }), "{:?}", next.let_out);
            let expected: Vec<_> =
                called.iter().map(|node| (*node, summary(NodeId(*node)).address)).collect();
            assert_eq!(calls(&next.let_out), expected);
        }
    }

    /// It has lost its office, and perhaps its daemon.
    #[test]
    fn the_node_of_the_last_elected_head_is_dead_soon_unless_it_comes() {
        let mut head = with_actors(0);
        head.tell(Input::Hosted { node: NODE });
        head.write_all();
        let is_buried = |head: &Harness| head.let_out.contains(&Effect::Forget { node: NODE });
        for comes in [true, false] {
            let mut next = head.elected(NodeId(2));
            next.tell(Input::NodeReturns { connection: 0, node: NodeId(2) });
            next.tell(Input::Hosted { node: NodeId(2) });
            next.write_all();
            next.pass(Span::from_millis(1900));
            next.write_all();
            assert!(!is_buried(&next), "{:?}", next.let_out);
            if comes {
                next.returns(NODE, Vec::new());
            }
            next.pass(Span::from_millis(200));
            next.write_all();
            assert_eq!(is_buried(&next), !comes, "{:?}", next.let_out);
        }
    }

    #[test]
    fn who_does_not_come_is_dead_after_a_while_and_the_host_of_the_last_head_at_once() {
        let mut head = with_actors(1);
        head.tell(Input::Hosted { node: NODE });
        head.write_all();
        let mut second = head.restart();
        second.pass(Span::from_millis(1));
        second.write_all();
        assert!(second.let_out.contains(&Effect::Forget { node: NODE }), "{:?}", second.let_out);
        second.pass(Span::from_secs(9));
        second.let_out.clear();
        second.pass(Span::from_secs(1));
        second.write_all();
        assert!(second.let_out.contains(&Effect::Forget { node: NodeId(2) }), "{:?}", second.let_out);
    }
}

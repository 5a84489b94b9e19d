//! Nodes that are to be emptied: nothing new is placed there. One that was given a time is dead when it is up, or
//! when nothing is left there.

use alloc::format;
use alloc::vec::Vec;

use super::{Head, Key, Outbox};
use crate::ids::NodeId;
use crate::machine::{Time, Wakeup};
use crate::message::{Answer, Drain, Message};

impl Head {
    /// Empty a node, or place things there again.
    pub(super) fn drain(&mut self, id: NodeId, drain: Option<Drain>, out: &mut Outbox) -> Answer {
        let is_host = self.meta.host == Some(id);
        let Some(node) = self.nodes.get_mut(id) else {
            let detail = format!("node {} is not in the cluster, or not any more", id.0);
            return Answer::DrainRefused { detail };
        };
        if is_host && drain.as_ref().is_some_and(|drain| drain.grace.is_some()) {
            let detail = format!("the head lives on node {} and would end with it: give no deadline", id.0);
            return Answer::DrainRefused { detail };
        }
        let changed = node.draining != drain;
        node.draining = drain;
        out.touch(Key::Node(id));
        self.leave_in_time(id, out.now);
        self.tell_drain(id, out);
        self.view_changed(id);
        self.place_unplaced(out);
        Answer::Changed(changed)
    }

    /// Tell a node whether it is to be emptied. One that has not come to this head yet is told then.
    fn tell_drain(&self, id: NodeId, out: &mut Outbox) {
        if let Some(node) = self.nodes.get(id).filter(|_| self.nodes.is_within_reach(id)) {
            out.send_to_node(id, Message::Draining { drain: node.draining.clone() });
        }
    }

    /// A node has come to this head, and drains or not as the one before had told it. That head may have ended
    /// before it could say that the drain was over, or have had an older log.
    pub(super) fn settle_drain(&self, id: NodeId, drains: bool, out: &mut Outbox) {
        if drains || self.nodes.get(id).is_some_and(|node| node.draining.is_some()) {
            self.tell_drain(id, out);
        }
    }

    fn leave_in_time(&mut self, id: NodeId, now: Time) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let grace = node.draining.as_ref().and_then(|drain| drain.grace);
        node.leaves = grace.map(|grace| now + grace);
        if let Some(due) = node.leaves {
            self.deadlines.arm(Wakeup::DrainOver, due);
        }
    }

    /// A new head counts the time of draining nodes from its own beginning: the log holds no clock.
    pub(super) fn drain_again(&mut self, now: Time) {
        let alive: Vec<NodeId> = self.nodes.alive().map(|(id, _)| id).collect();
        for id in alive {
            self.leave_in_time(id, now);
        }
    }

    /// Nodes whose time is up are dead.
    pub(super) fn drain_due(&mut self, out: &mut Outbox) {
        let mut late = Vec::new();
        let homes = self.homes();
        for (id, node) in self.nodes.alive().filter(|(id, _)| !homes.contains(&Some(*id))) {
            match node.leaves {
                Some(due) if due <= out.now => late.push(id),
                Some(due) => self.deadlines.arm(Wakeup::DrainOver, due),
                None => {}
            }
        }
        for id in late {
            self.drained_node_dies(id, out);
        }
    }

    /// Nothing is left on a node, so it need not wait for its time. What one says that has not told this head
    /// everything was meant for the head before, which may have placed something there since.
    pub(super) fn node_emptied(&mut self, id: NodeId, order: u64, out: &mut Outbox) {
        let Some(node) = self.nodes.get(id) else { return };
        if node.leaves.is_some() && node.known && node.has_heard(order) && !self.homes().contains(&Some(id)) {
            self.drained_node_dies(id, out);
        }
    }

    /// The nodes with which this head would end. One that was elected may live on a node that was to go: that stays
    /// for as long as it does.
    fn homes(&self) -> [Option<NodeId>; 2] {
        [self.meta.host, self.config.home]
    }

    fn drained_node_dies(&mut self, id: NodeId, out: &mut Outbox) {
        self.spare_restarts(id, out);
        self.node_dies(id, out);
    }

    /// Actors that may restart at all go on elsewhere, and that this node goes is not counted against
    /// them.
    fn spare_restarts(&mut self, id: NodeId, out: &mut Outbox) {
        for (actor, _) in self.actors.placed_on(id) {
            let Some(actor) = self.actors.edit(actor, out) else { continue };
            if actor.spec.restarts_max > 0 && !actor.killed {
                actor.restarts_left += 1;
            }
        }
    }

    /// The nodes that are draining.
    pub(super) fn list_draining(&self) -> Vec<(NodeId, Drain)> {
        let draining = self.nodes.alive().filter_map(|(id, node)| Some((id, node.draining.clone()?)));
        draining.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::{ActorSpec, ActorState};
    use crate::head::harness::*;
    use crate::head::{Effect, Input};
    use crate::ids::{ActorId, ProcessId, RequestId, TaskId};
    use crate::machine::Span;
    use crate::message::{ActorEvent, NodeState, Query};
    use crate::resources::{Demand, Strategy};
    use crate::value::{ActorDeath, Death};
    use alloc::boxed::Box;
    use alloc::string::String;

    const ASKER: ProcessId = ProcessId::new(NodeId(3), 9);

    fn drain(seconds: Option<u64>) -> Option<Drain> {
        Some(Drain { grace: seconds.map(Span::from_secs), reason: String::from("repairs") })
    }

    fn ask(head: &mut Harness, node: u32, drain: Option<Drain>) -> Vec<(ProcessId, Message)> {
        let query = Query::Drain { node: NodeId(node), drain };
        head.receive(ASKER, Message::Ask { request: RequestId(1), query })
    }

    fn answer(answer: Answer) -> (ProcessId, Message) {
        (ASKER, Message::Answer { request: RequestId(1), answer })
    }

    fn told(node: u32, drain: Option<Drain>) -> (ProcessId, Message) {
        (ProcessId::daemon(NodeId(node)), Message::Draining { drain })
    }

    fn three() -> Harness {
        let mut head = Harness::new();
        assert_eq!([head.join(), head.join(), head.join()].map(|node| node.0), [1, 2, 3]);
        head
    }

    fn on_second(number: u64, restarts_max: i32) -> ActorSpec {
        let id = ActorId(TaskId { owner: ASKER, number });
        let strategy = Strategy::bound(NodeId(2), true);
        ActorSpec { restarts_max, placement: Demand { strategy, ..Demand::default() }, ..spec(id) }
    }

    #[test]
    fn the_node_and_who_asks_are_told() {
        let mut head = three();
        assert_eq!(ask(&mut head, 2, drain(None)), [told(2, drain(None)), answer(Answer::Changed(true))]);
        assert_eq!(ask(&mut head, 2, drain(None)).last(), Some(&answer(Answer::Changed(false))));
        let query = Query::Draining;
        let listed = head.receive(ASKER, Message::Ask { request: RequestId(1), query });
        let expected = alloc::vec![(NodeId(2), drain(None).expect("there is one"))];
        assert_eq!(listed, [answer(Answer::Draining(expected))]);
        assert_eq!(ask(&mut head, 2, None), [told(2, None), answer(Answer::Changed(true))]);
        head.tell(Input::Hosted { node: NodeId(1) });
        for (node, text) in [(4, "not in the cluster"), (1, "the head lives on node 1")] {
            let refused = ask(&mut head, node, drain(Some(5)));
            let [(_, Message::Answer { answer: Answer::DrainRefused { detail }, .. })] = &refused[..] else {
                panic!("{refused:?}")
            };
            assert!(detail.contains(text), "{detail}");
        }
    }

    #[test]
    fn when_the_time_is_up_the_node_is_dead_and_its_actors_restart_elsewhere_for_nothing() {
        let mut head = three();
        let (mortal, restarts, last) = (on_second(1, 0), on_second(2, 1), on_second(3, 1));
        for spec in [&mortal, &restarts, &last] {
            head.create(spec);
            head.receive(ASKER, Message::SubscribeActor { actor: spec.id });
        }
        // This one has used up its restart.
        let crash = Death::Signalled { signal: 11 };
        let event = ActorEvent::Died { death: crash, intended: false };
        let report = Message::ActorReport { actor: last.id, incarnation: 0, event };
        head.daemon_says(NodeId(2), report);
        ask(&mut head, 2, drain(Some(5)));
        let quiet = head.pass_for_all(Span::from_secs(4));
        assert!(!quiet.iter().any(|effect| matches!(effect, Effect::Forget { .. })), "{quiet:?}");
        let effects = head.pass_for_all(Span::from_secs(1));
        assert!(effects.contains(&Effect::Forget { node: NodeId(2) }), "{effects:?}");
        let state = |id: ActorId| {
            let updates = effects.iter().filter_map(|effect| match effect {
                Effect::Send {
                    message: Message::ActorUpdate { actor, state, restarts_left, .. }, ..
                } => (*actor == id).then(|| (state.clone(), *restarts_left)),
                _ => None,
            });
            updates.last().expect("its subscriber is told")
        };
        assert_eq!(state(restarts.id), (ActorState::Restarting, 1));
        assert_eq!(state(last.id), (ActorState::Restarting, 0));
        let cause = ActorDeath::Process(Death::NodeDied { node: NodeId(2) });
        assert_eq!(state(mortal.id).0, ActorState::Dead { cause });
    }

    #[test]
    fn a_node_that_was_given_a_time_goes_when_it_is_empty() {
        let buried = |effects: &[Effect]| effects.contains(&Effect::Forget { node: NodeId(2) });
        let says = |head: &mut Harness, order| {
            let from = ProcessId::daemon(NodeId(2));
            head.tell(Input::Received { via: NodeId(2), from, message: Message::Emptied { order } })
        };
        let mut head = three();
        let actor = on_second(1, 0);
        head.create(&actor);
        assert!(!buried(&says(&mut head, 1)), "nobody wants it to go");
        ask(&mut head, 2, drain(None));
        assert!(!buried(&says(&mut head, 1)), "it is to stay");
        ask(&mut head, 2, drain(Some(600)));
        assert!(!buried(&says(&mut head, 0)), "an actor is on its way there");
        assert!(buried(&says(&mut head, 1)));
    }

    #[test]
    fn a_head_that_was_elected_on_a_draining_node_stays_there() {
        let mut head = Harness::durable();
        let nodes = [head.join(), head.join(), head.join()];
        ask(&mut head, 2, drain(Some(3)));
        head.write_all();
        let mut second = head.elected(nodes[1]);
        for node in nodes {
            second.returns(node, Vec::new());
        }
        second.tell(Input::Hosted { node: nodes[1] });
        second.write_all();
        second.daemon_says(nodes[1], Message::Emptied { order: 0 });
        second.pass(Span::from_secs(5));
        second.write_all();
        assert!(!second.let_out.contains(&Effect::Forget { node: nodes[1] }), "{:?}", second.let_out);
    }

    #[test]
    fn what_was_said_to_the_former_head_is_not_enough() {
        let mut head = Harness::durable();
        let nodes = [head.join(), head.join(), head.join()];
        ask(&mut head, 2, drain(Some(600)));
        head.write_all();
        let mut second = head.restart();
        let node = nodes[1];
        second.tell(Input::NodeReturns { connection: 2, node });
        second.daemon_says(node, Message::Emptied { order: 0 });
        second.write_all();
        assert!(!second.let_out.contains(&Effect::Forget { node }), "{:?}", second.let_out);
        second.daemon_says(node, Message::NodeState { state: Box::new(state(node)) });
        second.daemon_says(node, Message::Emptied { order: 0 });
        second.write_all();
        assert!(second.let_out.contains(&Effect::Forget { node }), "{:?}", second.let_out);
    }

    #[test]
    fn a_drain_that_was_called_off_kills_nobody() {
        let mut head = three();
        ask(&mut head, 2, drain(Some(5)));
        ask(&mut head, 2, None);
        let effects = head.pass_for_all(Span::from_secs(6));
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Forget { .. })), "{effects:?}");
    }

    #[test]
    fn the_next_head_goes_on_draining() {
        let mut head = Harness::durable();
        let nodes = [head.join(), head.join(), head.join()];
        ask(&mut head, 2, drain(Some(3)));
        head.write_all();
        let mut second = head.restart();
        for node in nodes {
            second.returns(node, Vec::new());
        }
        second.write_all();
        let drained: Vec<_> =
            second.sent().into_iter().filter(|sent| *sent == told(2, drain(Some(3)))).collect();
        assert_eq!(drained.len(), 1);
        second.pass_for_all(Span::from_secs(3));
        let effects = second.write(crate::head::WriteResult::Done);
        assert!(effects.contains(&Effect::Forget { node: NodeId(2) }), "{effects:?}");
    }

    #[test]
    fn the_next_head_tells_that_a_drain_is_over_if_its_predecessor_could_not() {
        let mut head = Harness::durable();
        let nodes = [head.join(), head.join(), head.join()];
        ask(&mut head, 2, drain(None));
        head.write_all();
        // The end is in the log, and that head does not come to say so.
        ask(&mut head, 2, None);
        head.write(crate::head::WriteResult::Done);
        let mut second = head.restart();
        for node in nodes {
            second.tell(Input::NodeReturns { connection: 2, node });
            let state = NodeState { draining: node == NodeId(2), ..state(node) };
            second.daemon_says(node, Message::NodeState { state: Box::new(state) });
        }
        second.write_all();
        let told_drain = |(_, message): &(_, Message)| matches!(message, Message::Draining { .. });
        let sent: Vec<_> = second.sent().into_iter().filter(told_drain).collect();
        assert_eq!(sent, [told(2, None)]);
    }
}

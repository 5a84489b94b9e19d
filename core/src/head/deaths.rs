//! The death of a node, which is the death of everything on it.

use alloc::collections::BTreeSet;

use super::nodes::Node;
use super::{Effect, Head, Key, Outbox};
use crate::ids::{NodeId, ProcessId};
use crate::message::{ActorEvent, Message};
use crate::resources::{Quantity, Resources};
use crate::value::Death;

impl Head {
    /// Record that a node is dead and tell everybody; what ran there ends, or goes on elsewhere.
    pub(super) fn node_dies(&mut self, id: NodeId, out: &mut Outbox) {
        let reachable = self.nodes.is_within_reach(id);
        let heir = choose_heir(self.nodes.alive().filter(|(other, _)| *other != id));
        self.nodes.bury(id, heir, out);
        self.view.forget(id);
        self.group_node_died(id, out);
        if self.meta.host == Some(id) {
            self.meta.host = None;
            out.touch(Key::Meta);
        }
        if let Some(heir) = heir {
            self.nodes.tell_all(&Message::NodeDied { node: id, heir }, out);
        }
        for process in self.processes_on(id) {
            self.process_ended(process, out);
        }
        let event = ActorEvent::Died { death: Death::NodeDied { node: id }, intended: false };
        for (actor, incarnation) in self.actors.placed_on(id) {
            self.actor_report(id, actor, incarnation, event.clone(), out);
        }
        if reachable {
            out.send_to_node(id, Message::Fenced);
        }
        out.push(Effect::Forget { node: id });
    }

    /// The processes of a node that somebody here counts on.
    fn processes_on(&self, node: NodeId) -> BTreeSet<ProcessId> {
        let of_node = ProcessId::new(node, 0)..=ProcessId::new(node, u32::MAX);
        let mut processes = self.actors.processes_in(of_node.clone());
        processes.extend(self.jobs.drivers_in(of_node));
        processes.extend(self.values.askers_on(node));
        processes
    }
}

/// Who inherits from a node: the one with most room, for what it gets must be kept somewhere. Nodes that
/// answer come first.
fn choose_heir<'a>(others: impl Iterator<Item = (NodeId, &'a Node)>) -> Option<NodeId> {
    let room = |node: &Node, name: &str| node.summary.free.get(name).max(Quantity(0));
    let rank = |(id, node): &(NodeId, &Node)| {
        let free = (room(node, Resources::MEMORY), room(node, Resources::CPU));
        (node.is_available(), free, core::cmp::Reverse(*id))
    };
    others.max_by_key(rank).map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::{ActorSpec, ActorState};
    use crate::head::Input;
    use crate::head::harness::*;
    use crate::ids::{ActorId, JobId, TaskId};
    use crate::machine::Span;
    use crate::message::NodeSummary;
    use crate::value::ActorDeath;
    use alloc::boxed::Box;
    use alloc::string::String;
    use alloc::vec::Vec;
    use bytes::Bytes;

    fn on(node: u32, number: u32) -> ProcessId {
        ProcessId::new(NodeId(node), number)
    }

    fn dies(head: &mut Harness, node: u32) -> Vec<Effect> {
        head.tell(Input::NodeLost { node: NodeId(node) });
        head.pass_for_all(Span::from_secs(2))
    }

    fn told_of(effects: &[Effect], node: u32) -> Vec<(u32, u32)> {
        let told = effects.iter().filter_map(|effect| match effect {
            Effect::Send { to, message: Message::NodeDied { node: dead, heir } } if dead.0 == node => {
                Some((to.node().0, heir.0))
            }
            _ => None,
        });
        told.collect()
    }

    fn report(head: &mut Harness, node: u32, cpus: i64) {
        let free = resources(&[("CPU", cpus)]);
        let report = Box::new(NodeSummary { free, ..summary(NodeId(node)) });
        head.daemon_says(NodeId(node), Message::NodeReport { report, order: 0 });
    }

    #[test]
    fn who_has_most_room_inherits_and_late_comers_learn_who_has_it_in_the_end() {
        let mut head = Harness::new();
        for _ in 0..4 {
            head.join();
        }
        report(&mut head, 1, 1);
        report(&mut head, 2, 3);
        report(&mut head, 4, 2);
        let effects = dies(&mut head, 3);
        assert_eq!(told_of(&effects, 3), [(1, 2), (2, 2), (4, 2)]);
        assert_eq!(effects.last(), Some(&Effect::Forget { node: NodeId(3) }));
        let effects = dies(&mut head, 2);
        assert_eq!(told_of(&effects, 2), [(1, 4), (4, 4)]);
        head.let_out.clear();
        head.join();
        let told = |head: &Harness, node| told_of(&head.let_out, node);
        assert_eq!((told(&head, 3), told(&head, 2)), (alloc::vec![(5, 4)], alloc::vec![(5, 4)]));
    }

    #[test]
    fn the_last_node_has_no_heir_until_another_comes() {
        let mut head = Harness::new();
        head.join();
        assert_eq!(told_of(&dies(&mut head, 1), 1), []);
        head.let_out.clear();
        head.join();
        assert_eq!(told_of(&head.let_out, 1), [(2, 2)]);
        dies(&mut head, 2);
        head.let_out.clear();
        head.join();
        assert_eq!(told_of(&head.let_out, 1), [(3, 3)], "what the second had the third has");
    }

    #[test]
    fn actors_go_on_elsewhere_and_what_its_processes_made_ends() {
        let mut head = Harness::new();
        for _ in 0..2 {
            head.join();
        }
        let register =
            Message::RegisterJob { driver: on(1, 1), namespace: String::new(), launch: Bytes::new() };
        head.daemon_says(NodeId(1), register);
        let id = |creator: ProcessId, number| ActorId(TaskId { owner: creator, number });
        // Made on node 2, one on each node; the one on node 1 may restart.
        let (restarts, dies_with_node) = (id(on(2, 1), 1), id(on(2, 1), 2));
        let (made_on_1, detached) = (id(on(1, 1), 1), id(on(1, 1), 2));
        let place = |head: &mut Harness, spec: ActorSpec, node: u32| {
            let strategy = crate::resources::Strategy::bound(NodeId(node), true);
            let spec =
                ActorSpec { placement: crate::resources::Demand { strategy, ..spec.placement }, ..spec };
            head.create(&spec);
            head.receive(on(2, 9), Message::SubscribeActor { actor: spec.id });
        };
        place(&mut head, ActorSpec { restarts_max: 1, ..spec(restarts) }, 1);
        place(&mut head, spec(dies_with_node), 1);
        place(&mut head, spec(made_on_1), 2);
        place(&mut head, ActorSpec { detached: true, ..spec(detached) }, 2);
        let effects = dies(&mut head, 1);
        let updates: Vec<(ActorId, ActorState)> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Send { message: Message::ActorUpdate { actor, state, .. }, .. } => {
                    Some((*actor, state.clone()))
                }
                _ => None,
            })
            .collect();
        let dead = |cause| ActorState::Dead { cause };
        let died = ActorDeath::Process(Death::NodeDied { node: NodeId(1) });
        let expected = [
            (made_on_1, dead(ActorDeath::CreatorDied)),
            (restarts, ActorState::Restarting),
            (dies_with_node, dead(died)),
        ];
        assert_eq!(updates, expected);
        let sent = |wanted: &Message| {
            let to = |effect: &Effect| match effect {
                Effect::Send { to, message } if message == wanted => Some(to.node().0),
                _ => None,
            };
            effects.iter().filter_map(to).collect::<Vec<u32>>()
        };
        assert_eq!(sent(&Message::JobEnded { job: JobId(1) }), [2]);
        assert_eq!(sent(&Message::StopActor { actor: made_on_1, incarnation: 0, graceful: false }), [2]);
        assert_eq!(sent(&Message::Fenced), [1]);
        let starts = effects.iter().any(|effect| {
            matches!(effect, Effect::Send { to, message: Message::StartActor { incarnation: 1, spec, .. } }
                if *to == ProcessId::daemon(NodeId(2)) && spec.id == restarts)
        });
        assert!(starts, "{effects:?}");
    }

    #[test]
    fn the_row_of_a_death_comes_before_the_news() {
        let mut head = Harness::durable();
        let nodes = [head.join(), head.join()];
        head.tell(Input::NodeLost { node: nodes[0] });
        assert_eq!(head.pass_for_all(Span::from_secs(2)), []);
        let effects = head.write(crate::head::WriteResult::Done);
        assert_eq!(told_of(&effects, 1), [(2, 2)]);
        let mut second = head.restart();
        let effects = second.tell(Input::NodeReturns { connection: 7, node: nodes[0] });
        assert_eq!(effects, []);
        let effects = second.write(crate::head::WriteResult::Done);
        let others = effects.iter().filter(|effect| !matches!(effect, Effect::Call { .. }));
        let others: Vec<&Effect> = others.collect();
        assert!(matches!(others[..], [Effect::Refuse { connection: 7, .. }]), "{effects:?}");
    }
}

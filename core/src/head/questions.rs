//! Answers to questions about the cluster, and the key-value table.

use super::{Head, Outbox};
use crate::ids::{ProcessId, RequestId};
use crate::message::{Answer, Message, Query};

impl Head {
    pub(super) fn answer(&mut self, from: ProcessId, request: RequestId, query: Query, out: &mut Outbox) {
        let answer = match query {
            Query::ActorByName { name, namespace } => {
                self.actors.by_name(&namespace, &name).map_or(Answer::NotFound, |actor| Answer::Actor {
                    actor: actor.spec.id,
                    handle: actor.spec.handle.clone(),
                })
            }
            Query::Actors { dead } => Answer::Actors(self.actors.list(dead)),
            Query::Nodes => Answer::Nodes(self.nodes.list()),
            Query::Put { key, value, overwrite } => {
                Answer::Changed(self.values.set((from, request), key, Some(value), overwrite, out))
            }
            Query::Get { key } => {
                self.values.get(&key).map_or(Answer::NotFound, |value| Answer::Value(value.clone()))
            }
            Query::Delete { key } => Answer::Changed(self.values.set((from, request), key, None, true, out)),
            Query::Keys { prefix } => Answer::Keys(self.values.keys(&prefix)),
            Query::GroupByName { name, namespace } => self.group_named(&name, &namespace),
            Query::Groups => self.list_groups(),
            Query::Drain { node, drain } => self.drain(node, drain, out),
            Query::Draining => Answer::Draining(self.list_draining()),
            // Asked of the wrong machine.
            Query::Workers | Query::Store => Answer::NotFound,
        };
        out.send(from, Message::Answer { request, answer });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::{ActorSpec, ActorState};
    use crate::head::harness::*;
    use alloc::string::String;
    use bytes::Bytes;

    fn ask(head: &mut Harness, query: Query) -> Answer {
        let request = RequestId(7);
        match head.receive(process(1), Message::Ask { request, query }).remove(0) {
            (to, Message::Answer { request: answered, answer }) => {
                assert_eq!((to, answered), (process(1), request));
                answer
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_are_set_read_and_deleted() {
        let mut head = Harness::new();
        let put = |value: &'static [u8], overwrite| Query::Put {
            key: String::from("k"),
            value: Bytes::from_static(value),
            overwrite,
        };
        let get = || Query::Get { key: String::from("k") };
        let delete = || Query::Delete { key: String::from("k") };
        assert_eq!(ask(&mut head, get()), Answer::NotFound);
        assert_eq!(ask(&mut head, put(b"1", false)), Answer::Changed(true));
        assert_eq!(ask(&mut head, put(b"2", false)), Answer::Changed(false));
        assert_eq!(ask(&mut head, get()), Answer::Value(Bytes::from_static(b"1")));
        assert_eq!(ask(&mut head, put(b"2", true)), Answer::Changed(true));
        assert_eq!(ask(&mut head, get()), Answer::Value(Bytes::from_static(b"2")));
        assert_eq!(ask(&mut head, delete()), Answer::Changed(true));
        assert_eq!(ask(&mut head, delete()), Answer::Changed(false));
    }

    #[test]
    fn a_question_that_comes_again_to_the_next_head_changes_nothing_more() {
        let mut head = Harness::durable();
        head.join();
        let key = || String::from("k");
        let put = Query::Put { key: key(), value: Bytes::from_static(b"1"), overwrite: false };
        let say = |head: &mut Harness, number, request, query| {
            let request = RequestId(request);
            head.receive(process(number), Message::Ask { request, query });
            head.write_all();
            let sent = head.sent();
            sent.into_iter().find_map(|(to, message)| match message {
                Message::Answer { request: answered, answer } => {
                    assert_eq!((to, answered), (process(number), request));
                    Some(answer)
                }
                _ => None,
            })
        };
        let changes = |head: &mut Harness, number, request, query| {
            assert_eq!(say(head, number, request, query), Some(Answer::Changed(true)));
        };
        changes(&mut head, 1, 5, put.clone());
        changes(&mut head, 2, 5, Query::Delete { key: key() });
        let mut second = head.restart();
        second.returns(NODE, alloc::vec::Vec::new());
        second.write_all();
        second.let_out.clear();
        let ask = |head: &mut Harness, number, query| {
            let request = RequestId(5);
            head.receive(process(number), Message::Ask { request, query })
        };
        let answer = |answer| Message::Answer { request: RequestId(5), answer };
        let (yes, nothing) = (answer(Answer::Changed(true)), answer(Answer::NotFound));
        assert_eq!(ask(&mut second, 1, put), [(process(1), yes.clone())]);
        assert_eq!(ask(&mut second, 3, Query::Get { key: key() }), [(process(3), nothing)]);
        assert_eq!(ask(&mut second, 2, Query::Delete { key: key() }), [(process(2), yes)]);
        let death = crate::value::Death::Exited { code: 0 };
        second.daemon_says(NODE, Message::ProcessEnded { process: process(1), death });
        second.write_all();
        assert!(!second.log.contains_key(&crate::head::Key::Answers(process(1))));
    }

    #[test]
    fn actors_are_found_by_name_and_listed() {
        let mut head = Harness::with_node();
        let (first, second) = (actor(1, 1), actor(1, 2));
        head.create(&ActorSpec { name: String::from("n"), ..spec(first) });
        head.create(&spec(second));
        let by_name = |namespace: &str| Query::ActorByName {
            name: String::from("n"),
            namespace: String::from(namespace),
        };
        let found = Answer::Actor { actor: first, handle: Bytes::from_static(b"handle") };
        assert_eq!(ask(&mut head, by_name("tests")), found);
        assert_eq!(ask(&mut head, by_name("other")), Answer::NotFound);
        let unnamed = Query::ActorByName { name: String::new(), namespace: String::from("tests") };
        assert_eq!(ask(&mut head, unnamed), Answer::NotFound);

        head.receive(process(1), Message::KillActor { actor: first, no_restart: true });
        let listed = |head: &mut Harness, dead| match ask(head, Query::Actors { dead }) {
            Answer::Actors(list) => list,
            other => panic!("{other:?}"),
        };
        let live = listed(&mut head, false);
        assert_eq!(live.iter().map(|summary| summary.id).collect::<alloc::vec::Vec<_>>(), [second]);
        let all = listed(&mut head, true);
        assert!(all.iter().any(|s| s.id == first && matches!(s.state, ActorState::Dead { .. })));
        assert_eq!(ask(&mut head, by_name("tests")), Answer::NotFound);
    }

    #[test]
    fn nodes_are_listed_and_questions_for_nodes_find_nothing() {
        let mut head = Harness::with_node();
        let Answer::Nodes(nodes) = ask(&mut head, Query::Nodes) else { panic!("no nodes") };
        assert_eq!(nodes.len(), 1);
        assert!(nodes[0].alive);
        assert_eq!(ask(&mut head, Query::Store), Answer::NotFound);
    }
}

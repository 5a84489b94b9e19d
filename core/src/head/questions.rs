//! Answers to questions about the cluster, and the key-value table.

use super::{Head, Key, Outbox};
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
                let free = overwrite || !self.values.contains_key(&key);
                if free {
                    out.touch(Key::Value(key.clone()));
                    self.values.insert(key, value);
                }
                Answer::Changed(free)
            }
            Query::Get { key } => {
                self.values.get(&key).map_or(Answer::NotFound, |value| Answer::Value(value.clone()))
            }
            Query::Delete { key } => {
                let found = self.values.remove(&key).is_some();
                if found {
                    out.touch(Key::Value(key));
                }
                Answer::Changed(found)
            }
            Query::Keys { prefix } => {
                let keys = self.values.range(prefix.clone()..).map(|(key, _)| key);
                Answer::Keys(keys.take_while(|key| key.starts_with(&prefix)).cloned().collect())
            }
            Query::GroupByName { name, namespace } => self.group_named(&name, &namespace),
            Query::Groups => self.list_groups(),
            Query::Drain { node, draining } => Answer::Changed(self.drain(node, draining, out)),
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

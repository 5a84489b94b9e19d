//! Answers to questions about the cluster, and the key-value table.

use alloc::collections::btree_map::Entry;

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
            Query::Nodes => Answer::Nodes(self.nodes.values().cloned().collect()),
            Query::Put { key, value, overwrite } => Answer::Changed(match self.values.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                    true
                }
                Entry::Occupied(mut entry) if overwrite => {
                    entry.insert(value);
                    true
                }
                Entry::Occupied(_) => false,
            }),
            Query::Get { key } => {
                self.values.get(&key).map_or(Answer::NotFound, |value| Answer::Value(value.clone()))
            }
            Query::Delete { key } => Answer::Changed(self.values.remove(&key).is_some()),
            // Asked of the wrong machine.
            Query::Workers | Query::Store => Answer::NotFound,
        };
        out.send(from, Message::Answer { request, answer });
    }
}

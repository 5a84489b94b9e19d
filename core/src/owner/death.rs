//! Deaths of other processes and of nodes: what they held is released, what they owned is lost.
//!
//! Between processes of one node there are direct links, and news of a death may overtake what the dead
//! one had sent directly; [`super::Input::LinkClosed`] says that there is no more of that. Everything else
//! comes through the daemons in order, so there the news of the death itself closes the link.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::objects::State;
use super::{Out, Owner};
use crate::ids::{NodeId, ObjectId, ProcessId};
use crate::machine::Time;
use crate::message::Message;
use crate::mutants::Mutant;
use crate::value::{Death, Failure, Outcome};

/// What is known of another process.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    dead: Option<Death>,
}

impl Owner {
    /// See that this process hears of that one's death.
    pub(super) fn watch(&mut self, process: ProcessId, out: Out<'_>) {
        let known = process == self.me() || self.peers.contains_key(&process) || self.is_dead(process);
        if process.is_daemon() || known {
            return;
        }
        self.peers.insert(process, Peer::default());
        self.send(self.daemon(), Message::WatchProcess { process }, out);
    }

    /// Whether what that process says may come on a link of its own.
    pub(super) fn has_link(&self, process: ProcessId) -> bool {
        process.node() == self.node()
    }

    pub(super) fn is_dead(&self, process: ProcessId) -> bool {
        self.peers.get(&process).is_some_and(|peer| peer.dead.is_some())
            || self.heirs.contains_key(&process.node())
    }

    pub(super) fn death_of(&self, process: ProcessId) -> Option<Death> {
        let node = process.node();
        let with_node = || self.heirs.contains_key(&node).then_some(Death::NodeDied { node });
        self.peers.get(&process).and_then(|peer| peer.dead.clone()).or_else(with_node)
    }

    /// The node has recorded a death.
    pub(super) fn process_died(&mut self, now: Time, process: ProcessId, death: Death, out: Out<'_>) {
        let peer = self.peers.entry(process).or_default();
        if peer.dead.is_some() {
            return;
        }
        peer.dead = Some(death.clone());
        self.bury(now, &|dead| dead == process, &death, out);
        if !self.has_link(process) {
            self.link_closed(now, process, out);
        }
        self.forget_assigned(&|from| from == process, out);
    }

    /// The head has recorded the death of a node, and so of all its processes.
    pub(super) fn node_died(&mut self, now: Time, node: NodeId, heir: NodeId, out: Out<'_>) {
        if node == self.node() || self.heirs.contains_key(&node) {
            return;
        }
        self.heirs.insert(node, heir);
        let gone = |process: ProcessId| process.node() == node;
        self.bury(now, &gone, &Death::NodeDied { node }, out);
        self.peers.retain(|process, _| !gone(*process));
        self.copies_of_dead_node(now, node, out);
        self.actors_of_dead_node(now, node, out);
        self.workers_of_dead_node(now, node, out);
        self.requests_of_dead_node(node, out);
        self.questions_of_dead_node(node, out);
        self.forget_assigned(&gone, out);
    }

    /// Forget what the dead held, and settle what they owned.
    fn bury(&mut self, now: Time, gone: &dyn Fn(ProcessId) -> bool, death: &Death, out: Out<'_>) {
        let mut touched: Vec<ObjectId> = self
            .objects
            .iter()
            .filter(|(object, record)| gone(object.owner()) || record.sharing.is_some())
            .map(|(object, _)| *object)
            .collect();
        touched.sort_unstable();
        for object in touched {
            self.forget_holder(object, gone);
            if gone(object.owner()) {
                self.owner_died(now, object, death, out);
            }
            self.dropped.push(object);
        }
    }

    fn forget_holder(&mut self, object: ObjectId, gone: &dyn Fn(ProcessId) -> bool) {
        let Some(sharing) = self.objects.get_mut(&object).and_then(|r| r.sharing.as_mut()) else {
            return;
        };
        sharing.held_for.retain(|(holder, _)| !gone(*holder));
        sharing.grants.retain(|(lender, _)| !gone(*lender));
        sharing.fetchers.retain(|fetcher| !gone(*fetcher));
        if gone(object.owner()) && !Mutant::CountForTheDead.is_active() {
            sharing.registering = false;
            sharing.held_for.clear();
            sharing.grants.clear();
        }
    }

    pub(super) fn owner_died(&mut self, now: Time, object: ObjectId, death: &Death, out: Out<'_>) {
        let unresolved =
            self.objects.get(&object).is_some_and(|r| matches!(r.state, State::Unknown | State::Fetching));
        if unresolved {
            let failure = Failure::OwnerDied { object, death: death.clone() };
            self.resolve(now, object, Outcome::Failure(Box::new(failure)), out);
        }
    }

    /// The direct link to a process is closed and everything on it was read.
    pub(super) fn link_closed(&mut self, now: Time, peer: ProcessId, out: Out<'_>) {
        self.worker_closed(now, peer, out);
        self.actor_closed(now, peer, out);
    }
}

//! Deaths of other processes and of nodes: what they held is released, what they owned is lost.
//!
//! Between processes of one node there are direct links, and news of a death may overtake what the dead
//! one had sent directly; [`super::Input::LinkClosed`] says that there is no more of that. Everything else
//! comes through the daemons in order, so there the news of the death itself closes the link.

use alloc::vec::Vec;

use super::objects::{Object, State};
use super::{Out, Owner};
use crate::ids::{NodeId, ObjectId, ProcessId};
use crate::machine::Time;
use crate::message::Message;
use crate::mutants::Mutant;
use crate::value::Death;

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
        process.node() == self.node() && self.steward.is_none() && !process.is_steward()
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
        if self.peers.get(&process).is_some_and(|peer| peer.dead.is_some()) {
            return;
        }
        let gone = |dead: ProcessId| dead == process;
        let touched = self.touched_by(&gone);
        self.peers.entry(process).or_default().dead = Some(death.clone());
        // Who died with a node is mourned with it: only then all other nodes are asked.
        if self.present(process) == Some(self.me()) && !self.is_dead_node(process.node()) {
            self.mourn(process, death, out);
        }
        self.bury(now, &gone, touched, out);
        if !self.has_link(process) {
            self.link_closed(now, process, out);
        }
        self.forget_assigned(&gone, out);
        self.inherit(now, process, out);
    }

    /// The head has recorded the death of a node, and so of all its processes.
    pub(super) fn node_died(&mut self, now: Time, node: NodeId, heir: NodeId, out: Out<'_>) {
        if node == self.node() || self.heirs.contains_key(&node) {
            return;
        }
        let gone = |process: ProcessId| process.node() == node;
        let touched = self.touched_by(&gone);
        self.heirs.insert(node, heir);
        let daemon = ProcessId::daemon(node);
        if self.present(daemon) == Some(self.me()) {
            self.mourn(daemon, Death::NodeDied { node }, out);
        }
        self.records_of_dead_node(node);
        self.bury(now, &gone, touched, out);
        self.peers.retain(|process, _| !gone(*process));
        self.copies_of_dead_node(now, node, out);
        self.actors_of_dead_node(now, node, out);
        self.workers_of_dead_node(now, node, out);
        self.requests_of_dead_node(node, out);
        self.questions_of_dead_node(node, out);
        self.forget_assigned(&gone, out);
        self.inherit(now, daemon, out);
    }

    /// What the death means for what a steward keeps.
    fn inherit(&mut self, now: Time, of: ProcessId, out: Out<'_>) {
        if self.steward.is_some() {
            self.pass_on(now, of, out);
            self.answer_early(now, out);
            self.mourners_died(now, out);
        }
    }

    /// The objects that the death concerns, and whether each gets another owner by it.
    fn touched_by(&self, gone: &dyn Fn(ProcessId) -> bool) -> Vec<(ObjectId, bool)> {
        let concern = |(object, record): (&ObjectId, &Object)| {
            let orphaned = self.owner_of(*object).is_some_and(gone);
            (orphaned || record.sharing.is_some()).then_some((*object, orphaned))
        };
        let mut touched: Vec<(ObjectId, bool)> = self.objects.iter().filter_map(concern).collect();
        touched.sort_unstable();
        touched
    }

    /// Forget what the dead held, and turn to the heirs of what they owned.
    fn bury(
        &mut self,
        now: Time,
        gone: &dyn Fn(ProcessId) -> bool,
        touched: Vec<(ObjectId, bool)>,
        out: Out<'_>,
    ) {
        for (object, orphaned) in touched {
            self.forget_holder(object, gone, orphaned);
            if orphaned {
                self.owner_changed(now, object, out);
            }
            self.dropped.push(object);
        }
    }

    fn forget_holder(&mut self, object: ObjectId, gone: &dyn Fn(ProcessId) -> bool, orphaned: bool) {
        let alone = orphaned && self.owner_of(object).is_none();
        let Some(sharing) = self.objects.get_mut(&object).and_then(|r| r.sharing.as_mut()) else {
            return;
        };
        sharing.held_for.retain(|(holder, _)| !gone(*holder));
        sharing.grants.retain(|(lender, _)| !gone(*lender));
        sharing.fetchers.retain(|fetcher| !gone(*fetcher));
        if orphaned && !Mutant::CountForTheDead.is_active() {
            sharing.registering = false;
        }
        if alone && !Mutant::CountForTheDead.is_active() {
            sharing.held_for.clear();
            sharing.grants.clear();
        }
    }

    /// The owner of an object that has a record here died.
    fn owner_changed(&mut self, now: Time, object: ObjectId, out: Out<'_>) {
        let heir = self.owner_of(object);
        let Some(record) = self.objects.get_mut(&object) else { return };
        let asked = matches!(record.state, State::Fetching);
        let unknown = asked || matches!(record.state, State::Unknown);
        if asked {
            record.state = State::Unknown;
        }
        let needed = record.is_wanted() || record.lineage > 0;
        match heir {
            None if unknown => {
                let gone = self.gone(object);
                self.resolve(now, object, gone, out);
            }
            Some(heir) if heir != self.me() && needed => {
                self.ask_to_register(object, out);
                if asked {
                    self.fetch(now, object, None, out);
                }
            }
            Some(heir) if heir == self.me() => self.return_grants(object, out),
            _ => {}
        }
    }

    /// The object is this process's own now: nobody has to keep it alive for it any more.
    fn return_grants(&mut self, object: ObjectId, out: Out<'_>) {
        let Some(sharing) = self.objects.get_mut(&object).and_then(|record| record.sharing.as_mut()) else {
            return;
        };
        for (lender, grants) in core::mem::take(&mut sharing.grants) {
            self.send(lender, Message::ReturnGrants { object, grants }, out);
        }
    }

    /// The direct link to a process is closed and everything on it was read.
    pub(super) fn link_closed(&mut self, now: Time, peer: ProcessId, out: Out<'_>) {
        self.worker_closed(now, peer, out);
        self.actor_closed(now, peer, out);
        self.mourn_after_link(peer, out);
    }
}

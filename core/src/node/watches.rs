//! Who wants to know of whose death.
//!
//! A process asks its own node, whatever node the other process is on. Nodes ask each other, once for
//! each process, and pass the answer on; the node itself asks for those that lease its workers. Of a
//! dead node's processes the head's word is the answer.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::Node;
use super::outbox::Outbox;
use super::processes::Processes;
use crate::ids::{JobId, NodeId, ProcessId};
use crate::message::Message;
use crate::mutants::Mutant;
use crate::value::Death;

impl Node {
    /// Tell `watcher` when `watched` dies, or now if it is dead.
    pub(super) fn watch(&mut self, watcher: ProcessId, watched: ProcessId, out: &mut Outbox) {
        let node = watched.node();
        if node == self.config.node {
            match self.processes.death(watched) {
                Some(death) => out.send(watcher, Message::ProcessDied { process: watched, death }),
                None => self.processes.watch_local(watcher, watched),
            }
        } else if self.view.is_dead(node) && watcher == ProcessId::daemon(self.config.node) {
            self.remote_process_died(watched, &Death::NodeDied { node }, out);
        } else if self.view.is_dead(node) {
            // A process that came after its death may not know who the heir is.
            if let Some(heir) = self.view.heir(node) {
                out.send(watcher, Message::NodeDied { node, heir });
            }
            out.send(watcher, Message::ProcessDied { process: watched, death: Death::NodeDied { node } });
        } else if node != ProcessId::HEAD.node() && self.is_local(watcher) {
            self.processes.watch_remote(watcher, watched, out);
        }
    }

    /// Another node says that a process of it has died.
    pub(super) fn remote_process_died(&mut self, process: ProcessId, death: &Death, out: &mut Outbox) {
        self.watched_died(process, death, out);
        self.owners_died(|owner| owner == process, process.node(), out);
    }

    /// A process of another node is dead: tell those who want to know, and take back what it leases.
    pub(super) fn watched_died(&mut self, process: ProcessId, death: &Death, out: &mut Outbox) {
        for watcher in self.processes.remote.remove(&process).unwrap_or_default() {
            if let Some(watcher) = self.processes.get_mut(watcher) {
                watcher.watches.remove(&process);
            }
            if !watcher.is_daemon() {
                out.send(watcher, Message::ProcessDied { process, death: death.clone() });
            }
        }
        self.lessee_gone(process, out);
    }

    /// Processes are dead that may own objects here. Their heir learns of these: if it does not own
    /// them, nobody does, and it frees them.
    pub(super) fn owners_died(&mut self, dead: impl Fn(ProcessId) -> bool, heir: NodeId, out: &mut Outbox) {
        let node = self.config.node;
        let jobs = &self.jobs;
        let ended = |job: JobId| jobs.get(&job).is_none_or(|job| job.ended);
        for (object, attempt) in self.store.orphaned(dead, &ended, out) {
            if Mutant::ForgetOrphanedCopy.is_active() {
                continue;
            }
            out.send(ProcessId::steward(heir), Message::CopyAdded { object, node, attempt });
        }
    }

    /// The same for all processes of a node, and for those that its steward had inherited from.
    pub(super) fn owners_of_dead_node(&mut self, node: NodeId, heir: NodeId, out: &mut Outbox) {
        let born: BTreeSet<NodeId> = self.store.owners().map(ProcessId::node).collect();
        let inherited = |born: &NodeId| self.view.line_of(*born).any(|in_line| in_line == node);
        let concerned: BTreeSet<NodeId> = born.into_iter().filter(inherited).collect();
        self.owners_died(|owner| concerned.contains(&owner.node()), heir, out);
    }

    /// An heir, through the steward here, waits until it knows of all copies here. It may have heard of
    /// the death before this node did, by a head that this node cannot reach at the moment.
    pub(super) fn mourn(&mut self, from: ProcessId, of: ProcessId, heir: NodeId, out: &mut Outbox) {
        let node = of.node();
        if of.is_daemon() && self.view.heir(node).is_none() {
            self.owners_of_dead_node(node, heir, out);
        } else if !of.is_daemon() {
            self.owners_died(|owner| owner == of, heir, out);
        }
        out.send(from, Message::Mourned { of });
    }

    /// See that this node learns of the death of who owns something here.
    pub(super) fn watch_owner(&mut self, owner: ProcessId, out: &mut Outbox) {
        if !self.is_local(owner) {
            self.watch(ProcessId::daemon(self.config.node), owner, out);
        }
    }

    /// Whether a process may be alive, as far as this node knows: it is so until somebody who must
    /// know has said otherwise.
    pub(super) fn may_live(&self, process: ProcessId) -> bool {
        if self.is_local(process) {
            process.is_steward() || self.processes.get(process).is_some()
        } else {
            !self.view.is_dead(process.node())
        }
    }
}

impl Processes {
    fn watch_local(&mut self, watcher: ProcessId, watched: ProcessId) {
        let Some(process) = self.get_mut(watched) else { return };
        process.watchers.insert(watcher);
        if let Some(process) = self.get_mut(watcher) {
            process.watches.insert(watched);
        }
    }

    fn watch_remote(&mut self, watcher: ProcessId, watched: ProcessId, out: &mut Outbox) {
        let watchers = self.remote.entry(watched).or_insert_with(|| {
            // Daemons and stewards die with their nodes, of which the head tells.
            if !watched.is_daemon() && !watched.is_steward() {
                out.send(ProcessId::daemon(watched.node()), Message::WatchProcess { process: watched });
            }
            BTreeSet::new()
        });
        watchers.insert(watcher);
        if let Some(process) = self.get_mut(watcher) {
            process.watches.insert(watched);
        }
    }

    /// The watched processes of a node.
    pub(super) fn watched_of(&self, node: NodeId) -> Vec<ProcessId> {
        self.remote.keys().filter(|process| process.node() == node).copied().collect()
    }

    /// Nobody of that node wants to know anything any more.
    pub(super) fn forget_watchers(&mut self, node: NodeId) {
        for process in self.iter_mut() {
            process.watchers.retain(|watcher| watcher.node() != node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ObjectId, TaskId};
    use crate::node::harness::*;
    use crate::node::{Effect, WorkResult};
    use alloc::vec;

    fn watch(process: ProcessId) -> Message {
        Message::WatchProcess { process }
    }

    #[test]
    fn another_nodes_process_is_watched_once_for_all_and_its_death_told_to_all() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        node.view(&[summary(2, &[])]);
        let daemon = ProcessId::daemon(NodeId(2));
        let (_, worker) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        let (_, other) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        let watched = afar(2, 9);
        assert_eq!(node.receive(driver(), watch(watched)), [send(daemon, watch(watched))]);
        assert_eq!(node.receive(worker, watch(watched)), []);
        assert_eq!(node.receive(other, watch(watched)), []);
        node.exited(other, KILLED);
        let died = Message::ProcessDied { process: watched, death: KILLED };
        let effects = node.receive(daemon, died.clone());
        assert_eq!(effects, [send(driver(), died.clone()), send(worker, died.clone())]);
        assert_eq!(node.receive(daemon, died), [], "said twice");
        // A steward dies with its node, of which the head tells.
        assert_eq!(node.receive(driver(), watch(ProcessId::steward(NodeId(2)))), []);
        let effects = node.node_died(2);
        let death = Death::NodeDied { node: NodeId(2) };
        let died = Message::ProcessDied { process: ProcessId::steward(NodeId(2)), death };
        assert_eq!(sent_to(driver(), &effects)[1..], [died]);
    }

    #[test]
    fn the_dead_are_told_of_at_once_however_long_they_are_dead() {
        let mut node = Harness::with_driver_and(crate::node::Config { node: NodeId(5), ..config(&[]) });
        let driver = afar(5, 1);
        node.view(&[summary(2, &[]), summary(5, &[])]);
        let died = |process: ProcessId| Message::ProcessDied {
            process,
            death: Death::NodeDied { node: process.node() },
        };
        // It died before this node came, or while it was there; then a late comer must learn of the heir.
        assert_eq!(node.receive(driver, watch(afar(4, 1))), [send(driver, died(afar(4, 1)))]);
        node.node_died(2);
        let effects = node.receive(driver, watch(afar(2, 1)));
        let buried = Message::NodeDied { node: NodeId(2), heir: NODE };
        assert_eq!(effects, [send(driver, buried), send(driver, died(afar(2, 1)))]);
        // Of one that comes later the news may be on its way.
        assert_eq!(node.receive(driver, watch(afar(6, 1))).len(), 1);
    }

    /// The driver reads an object of another node, which is copied for it.
    fn copy(node: &mut Harness, object: ObjectId, from: NodeId) {
        node.receive(driver(), Message::Pin { object, locations: vec![from] });
        let ready = Message::PullReady { object, attempt: 0, size: 1 << 20, primary: from };
        let mut effects = node.receive(ProcessId::daemon(from), ready);
        while let Some(operation) = effects.iter().find_map(|effect| match effect {
            Effect::Start { operation, .. } => Some(*operation),
            _ => None,
        }) {
            effects = node.finished(operation, WorkResult::Done);
        }
        assert!(matches!(sent_to(driver(), &effects)[..], [Message::Pinned { .. }]), "{effects:?}");
    }

    #[test]
    fn an_heir_hears_of_copies_here_before_the_head_has_told_of_the_death() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        node.view(&[summary(2, &[]), summary(3, &[]), summary(4, &[])]);
        let x = TaskId { owner: afar(2, 9), number: 1 }.object(0);
        copy(&mut node, x, NodeId(2));
        let steward = ProcessId::steward(NODE);
        let of = ProcessId::daemon(NodeId(2));
        let mourn =
            |heir| Message::Mourn { of, death: Death::NodeDied { node: NodeId(2) }, heir: NodeId(heir) };
        let added = Message::CopyAdded { object: x, node: NODE, attempt: 0 };
        let told = send(ProcessId::steward(NodeId(3)), added.clone());
        let mourned = send(steward, Message::Mourned { of });
        assert_eq!(node.receive(steward, mourn(3)), [told.clone(), mourned.clone()]);
        let dies = |node: &mut Harness, dead, heir| {
            let (dead, heir) = (NodeId(dead), NodeId(heir));
            node.receive(ProcessId::HEAD, Message::NodeDied { node: dead, heir })
        };
        assert!(dies(&mut node, 2, 3).contains(&told));
        assert_eq!(node.receive(steward, mourn(3)), [mourned], "it was told already");
        // The heir's heir must know it, too.
        assert!(dies(&mut node, 3, 4).contains(&send(ProcessId::steward(NodeId(4)), added)));
    }

    #[test]
    fn other_nodes_are_told_of_the_deaths_here() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let daemon = ProcessId::daemon(NodeId(2));
        let (_, worker) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        node.receive(daemon, watch(worker));
        let died = Message::ProcessDied { process: worker, death: KILLED };
        let effects = node.exited(worker, KILLED);
        assert_eq!(sent_to(daemon, &effects), core::slice::from_ref(&died));
        assert_eq!(node.receive(daemon, watch(worker)), [send(daemon, died)]);
    }
}

//! The death of another node, as the head has recorded it: the death of every process of it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::outbox::Outbox;
use super::processes::{Role, State};
use super::{Effect, Node};
use crate::ids::{NodeId, ProcessId};
use crate::message::Message;
use crate::value::Death;

impl Node {
    pub(super) fn node_died(&mut self, node: NodeId, heir: NodeId, out: &mut Outbox) {
        if node == self.config.node {
            return self.fenced(out);
        }
        if !self.view.bury(node, heir) {
            return;
        }
        out.push(Effect::Forget { node });
        for process in self.told_of_changes() {
            out.send(process, Message::NodeDied { node, heir });
        }
        // Those that lease workers here, or want to, are among the watched.
        let death = Death::NodeDied { node };
        for process in self.processes.watched_of(node) {
            self.watched_died(process, &death, out);
        }
        self.owners_of_dead_node(node, heir, out);
        self.store.node_gone(node, out);
        self.processes.forget_watchers(node);
        self.changed = true;
    }

    /// The head has declared this node dead: whatever it does now counts for nothing.
    pub(super) fn fenced(&mut self, out: &mut Outbox) {
        let drained = self.draining.as_ref().is_some_and(|drain| drain.grace.is_some());
        let why = if drained { "was drained" } else { "was declared dead" };
        self.stop(format!("node {} {why}", self.config.node.0), out);
    }

    /// The head was stopped in order, and nothing of the cluster is kept for another one.
    pub(super) fn cluster_ends(&mut self, out: &mut Outbox) {
        self.stop(String::from("the cluster has been stopped"), out);
    }

    fn stop(&mut self, reason: String, out: &mut Outbox) {
        self.stopped = true;
        out.push(Effect::Stop { reason });
    }

    /// Who must hear of nodes and heads: the steward, and all processes that are up.
    pub(super) fn told_of_changes(&self) -> Vec<ProcessId> {
        let up = self.processes.iter().filter(|(_, process)| match &process.role {
            Role::Driver { application, .. } => application.is_none(),
            Role::Worker(worker) => !matches!(worker.state, State::Starting { .. }),
        });
        let steward = ProcessId::steward(self.config.node);
        up.map(|(id, _)| id).chain([steward]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Span;
    use crate::message::Route;
    use crate::node::harness::*;

    /// A node with two CPUs; a process of node 2 leases one of its workers and waits for more.
    fn with_remote_lessee() -> (Harness, ProcessId, ProcessId) {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        node.view(&[summary(2, &[("CPU", 1.0)]), summary(3, &[("CPU", 1.0)])]);
        let lessee = afar(2, 7);
        let cpu = demand(&[("CPU", 1.0)]);
        let (_, effects) = node.request_by(lessee, &cpu, Route::IfFree, None);
        let watch = Message::WatchProcess { process: lessee };
        assert_eq!(effects, [send(ProcessId::daemon(NodeId(2)), watch)]);
        let worker = node.fork_next().0;
        let (_, effects) = node.request_by(lessee, &demand(&[("CPU", 2.0)]), Route::Queue, None);
        assert_eq!(effects, [], "it is watched already");
        (node, lessee, worker)
    }

    #[test]
    fn leases_and_claims_of_remote_lessees_end_with_them_or_with_their_node() {
        for by_node in [false, true] {
            let (mut node, lessee, worker) = with_remote_lessee();
            let effects = if by_node {
                node.node_died(2)
            } else {
                let death = KILLED;
                let died = Message::ProcessDied { process: lessee, death };
                assert_eq!(node.receive(ProcessId::daemon(NodeId(3)), died.clone()), [], "not its word");
                node.receive(ProcessId::daemon(NodeId(2)), died)
            };
            assert_eq!(asked_to_exit(&effects), [worker], "{effects:?}");
            assert_eq!(effects.contains(&Effect::Forget { node: NodeId(2) }), by_node);
            node.exited(worker, KILLED);
            node.pass(Span::from_secs(1));
            assert!(node.forks.is_empty(), "nobody waits for what is free");
            assert_eq!(node.reports.last(), Some(&resources(&[("CPU", 2.0)])));
        }
    }

    #[test]
    fn a_dead_node_is_told_of_once_and_not_heard_any_more() {
        let (mut node, lessee, _) = with_remote_lessee();
        let effects = node.node_died(2);
        let told = Message::NodeDied { node: NodeId(2), heir: NODE };
        assert_eq!(sent_to(driver(), &effects), core::slice::from_ref(&told));
        assert_eq!(sent_to(ProcessId::steward(NODE), &effects), core::slice::from_ref(&told));
        assert_eq!(node.node_died(2), [], "told twice");
        let (_, effects) = node.request_by(lessee, &demand(&[]), Route::Queue, None);
        assert_eq!(effects, []);
        let watch = Message::WatchProcess { process: driver() };
        assert_eq!(node.receive(ProcessId::daemon(NodeId(2)), watch), []);
        assert_eq!(sent_to(ProcessId::daemon(NodeId(2)), &node.exited(driver(), KILLED)), []);
    }

    #[test]
    fn work_is_never_sent_to_a_dead_node() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        node.view(&[summary(2, &[("CPU", 1.0), ("slot", 1.0)])]);
        node.node_died(2);
        node.view(&[summary(2, &[("CPU", 1.0), ("slot", 1.0)])]);
        let cpu = demand(&[("CPU", 1.0)]);
        node.lease(driver(), &cpu);
        for demand in [&cpu, &demand(&[("slot", 1.0)])] {
            assert_eq!(node.request_by(driver(), demand, Route::Fresh, Some(2)).1, []);
        }
    }

    #[test]
    fn who_is_told_to_end_stops_and_says_nothing_more() {
        for message in [Message::Fenced, Message::ClusterEnds] {
            let mut node = Harness::with_driver(&[("CPU", 1.0)]);
            let effects = node.receive(ProcessId::HEAD, message);
            assert!(matches!(effects[..], [Effect::Stop { .. }]), "{effects:?}");
            assert_eq!(node.request(driver(), &demand(&[])).1, []);
            assert_eq!(node.exited(driver(), KILLED), []);
            assert_eq!(node.pass(Span::from_secs(60)), []);
        }
    }
}

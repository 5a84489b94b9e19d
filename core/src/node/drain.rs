//! A node that is to be emptied takes no new work; what runs there goes on. Its objects go to other nodes.
//!
//! Work of placement groups that have bundles here is not new: it can run nowhere else until the head
//! moves the group. What the head has ordered to start here before is not refused either.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::Node;
use super::outbox::Outbox;
use super::queue::Claimant;
use super::schedule::TIME_SLICE;
use crate::ids::ProcessId;
use crate::machine::Time;
use crate::message::{ActorEvent, Drain};
use crate::resources::Demand;

impl Node {
    /// The head has this node emptied, or not any more.
    pub(super) fn drain(&mut self, drain: Option<Drain>, out: &mut Outbox) {
        self.draining = drain;
        self.changed = true;
        if self.draining.is_none() {
            return;
        }
        let leaving = self.queue.take_all(|_, demand| demand.group.is_none());
        for claim in leaving {
            if let Claimant::Actor { actor, .. } = claim.claimant {
                self.end_actor(actor, ActorEvent::GivenBack, out);
            } else if let Some(claim) = self.try_place(claim, out) {
                self.put_aside(claim, out);
            }
        }
    }

    /// Whether a lessee's work may run here, once enough is free.
    pub(super) fn takes(&self, demand: &Demand) -> bool {
        (self.draining.is_none() || demand.group.is_some()) && self.can_ever_run(demand)
    }

    /// Why work that this node could run is refused, if that is so.
    pub(super) fn refusal_while_draining(&self, demand: &Demand) -> Option<String> {
        let drain = self.draining.as_ref().filter(|_| self.can_ever_run(demand))?;
        let why = if drain.reason.is_empty() { String::new() } else { format!(" ({})", drain.reason) };
        Some(format!("node {} is draining{why}, and no other node can run it", self.config.node.0))
    }

    /// While this node is to be emptied, others take the objects that it keeps.
    pub(super) fn find_successors(&mut self) {
        let successors = if self.draining.is_some() { self.view.takers() } else { Vec::new() };
        self.store.hand_over_to(successors);
    }

    /// Have leases given back, one after the other of each lessee, when what runs there has ended.
    pub(super) fn reclaim_leases(&mut self, out: &mut Outbox) {
        let due = self.leases.lessees().filter_map(|(lessee, leased)| {
            let mut leases = leased.leases.iter().filter_map(|id| self.leases.get(*id));
            let leaves = leases.any(|lease| lease.demand.group.is_none());
            leased.tellable(TIME_SLICE).filter(|_| leaves).map(|due| (lessee, due))
        });
        let due: Vec<(ProcessId, Time)> = due.collect();
        self.want_leases(due, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Span;
    use crate::message::{Message, Route};
    use crate::node::Effect;
    use crate::node::harness::*;

    fn from_head(node: &mut Harness, message: Message) -> Vec<Effect> {
        node.receive(ProcessId::HEAD, message)
    }

    #[test]
    fn what_waits_goes_elsewhere_and_what_runs_is_asked_back() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let cpu = demand(&[("CPU", 1.0)]);
        let (lease, _) = node.lease(driver(), &cpu);
        node.request(driver(), &cpu);
        node.view(&[summary(2, &[("CPU", 1.0)])]);
        // The second one went to the other node as soon as that was seen; the third waits.
        node.request(driver(), &cpu);
        let effects = from_head(&mut node, draining(true));
        assert_eq!(redirected(&effects), [(2, Route::Queue)]);
        assert!(sent_to(driver(), &effects).contains(&Message::LeaseWanted), "{effects:?}");
        assert_eq!(redirected(&node.request(driver(), &cpu).1), [(2, Route::Queue)]);
        node.give_back(driver(), lease);
        assert_eq!(redirected(&node.request(driver(), &cpu).1), [(2, Route::Queue)], "it stays empty");
        let lessee = afar(2, 7);
        let (_, effects) = node.request_by(lessee, &cpu, Route::IfFree, None);
        assert!(matches!(sent_to(lessee, &effects)[..], [Message::LeaseRejected { .. }]), "{effects:?}");
        from_head(&mut node, draining(false));
        let (_, effects) = node.request(driver(), &cpu);
        assert_eq!(granted(&effects).len(), 1, "{effects:?}");
    }

    #[test]
    fn work_that_only_this_node_could_run_is_refused_with_the_reason() {
        let mut node = Harness::with_driver(&[("CPU", 1.0), ("slot", 1.0)]);
        node.view(&[summary(2, &[("CPU", 1.0)])]);
        from_head(&mut node, draining(true));
        let (_, effects) = node.request(driver(), &demand(&[("slot", 1.0)]));
        assert_eq!(effects, []);
        let effects = node.pass(Span::from_secs(10));
        let told = format!("{effects:?}");
        assert!(told.contains("node 1 is draining (repairs), and no other node can run it"), "{told}");
    }

    #[test]
    fn work_that_waits_when_the_drain_is_called_off_runs_here() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        from_head(&mut node, draining(true));
        assert_eq!(node.request(driver(), &demand(&[("CPU", 1.0)])).1, []);
        from_head(&mut node, draining(false));
        assert_eq!(granted(&node.fork_next().1).len(), 1);
    }
}

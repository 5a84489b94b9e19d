//! A node that is to be emptied takes no new work; what runs there goes on. Its objects go to other nodes.
//!
//! Work of placement groups that have bundles here is not new: it can run nowhere else until the head
//! moves the group. What the head has ordered to start here before is not refused either.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::Node;
use super::outbox::Outbox;
use super::processes::{Process, Role};
use super::queue::Claimant;
use super::schedule::TIME_SLICE;
use crate::ids::ProcessId;
use crate::machine::{Span, Time, Wakeup};
use crate::message::{ActorEvent, Drain, Message};
use crate::resources::Demand;

/// So long a draining node has nothing left before it says so: others hear sooner from whoever keeps its objects
/// now than that it is gone.
const EMPTY_FOR: Span = Span::from_secs(2);

/// Since when a draining node has nothing left, and what it has told the head of that.
#[derive(Clone, Debug, Default)]
pub(super) struct Emptiness {
    since: Option<Time>,
    /// The last order of the head that it had heard when it said so.
    told: Option<u64>,
}

impl Node {
    /// The head has this node emptied, or not any more.
    pub(super) fn drain(&mut self, drain: Option<Drain>, out: &mut Outbox) {
        self.draining = drain;
        self.emptiness = Emptiness::default();
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

    /// A node that ends in some time anyway, and has nothing left, tells the head that it can go now.
    pub(super) fn tell_if_emptied(&mut self, out: &mut Outbox) {
        let order = self.reporter.order();
        let ends = self.draining.as_ref().is_some_and(|drain| drain.grace.is_some());
        if !ends || self.emptiness.told == Some(order) {
            return;
        }
        if !self.is_empty() {
            self.emptiness.since = None;
            return;
        }
        let due = *self.emptiness.since.get_or_insert(out.now) + EMPTY_FOR;
        if out.now < due {
            return self.deadlines.arm(Wakeup::Emptied, due);
        }
        self.emptiness.told = Some(order);
        out.send(ProcessId::HEAD, Message::Emptied { order });
    }

    /// Whether this node could go and nobody would miss anything. Workers that wait for work count for nothing.
    fn is_empty(&self) -> bool {
        let serves = |process: &Process| match &process.role {
            Role::Driver { .. } => true,
            Role::Worker(worker) => worker.holding.is_some(),
        };
        self.claims().next().is_none()
            && self.leases.iter().next().is_none()
            && self.actors.is_empty()
            && self.ledger.set_aside().is_empty()
            && !self.processes.iter().any(|(_, process)| serves(process))
            && self.store.is_emptied()
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
    use crate::message::Route;
    use crate::node::harness::*;
    use crate::node::{Effect, Input};
    use crate::value::Death;
    use alloc::boxed::Box;

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

    /// The orders up to which a node has said that nothing is left there.
    fn emptied(effects: &[Effect]) -> Vec<u64> {
        let said = sent_to(ProcessId::HEAD, effects).into_iter().filter_map(|message| match message {
            Message::Emptied { order } => Some(order),
            _ => None,
        });
        said.collect()
    }

    fn until(seconds: u64) -> Message {
        let drain = Drain { grace: Some(Span::from_secs(seconds)), reason: String::new() };
        Message::Draining { drain: Some(drain) }
    }

    #[test]
    fn a_node_with_a_deadline_says_when_nothing_is_left() {
        let mut node = Harness::new(config(&[("CPU", 2.0)]));
        let lessee = afar(2, 7);
        node.job_started(lessee);
        let cpu = demand(&[("CPU", 1.0)]);
        node.request_by(lessee, &cpu, Route::IfFree, None);
        let (lease, worker) = granted(&node.fork_next().1)[0];
        node.start_actor(&spec(actor(1), &[]));
        let process = node.fork_next().0;
        from_head(&mut node, until(600));
        assert_eq!(emptied(&node.pass(Span::from_secs(10))), [0; 0], "a lease and an actor are left");
        node.give_back(lessee, lease);
        assert_eq!(emptied(&node.pass(Span::from_secs(10))), [0; 0], "an actor is left");
        node.exited(process, Death::Exited { code: 0 });
        assert_eq!(emptied(&node.pass(Span::from_millis(1_900))), [0; 0]);
        assert_eq!(emptied(&node.pass(Span::from_millis(100))), [1]);
        assert_eq!(emptied(&node.pass(Span::from_secs(60))), [0; 0], "once");
        // What the head ordered before it heard of it runs here, and is over again.
        let last = Message::StartActor { spec: Box::new(spec(actor(2), &[])), incarnation: 0, order: 2 };
        from_head(&mut node, last);
        node.exited(worker, Death::Exited { code: 0 });
        assert_eq!(emptied(&node.pass(Span::from_secs(2))), [2]);
        // Another head must hear it, too.
        node.input(Input::HeadChanged { epoch: 2 });
        assert_eq!(
            emptied(&node.pass(Span::from_secs(10))),
            [0; 0],
            "it has not said that the drain goes on"
        );
        from_head(&mut node, until(600));
        assert_eq!(emptied(&node.pass(Span::from_secs(2))), [0]);
        from_head(&mut node, draining(true));
        assert_eq!(emptied(&node.pass(Span::from_secs(10))), [0; 0], "without a time it stays");
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

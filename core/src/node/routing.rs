//! Which node serves a request for a lease: this one if it can, another one by what is known of it.

use alloc::vec::Vec;

use super::Node;
use super::ledger::{Feasibility, is_light};
use super::outbox::Outbox;
use super::queue::{Claim, Claimant, Waiter};
use crate::ids::{NodeId, ProcessId};
use crate::machine::{Span, Time, Wakeup};
use crate::message::{Message, Route};
use crate::placement;
use crate::resources::{Demand, Strategy};

/// A request that was rejected so often waits at home until more is known of the others: in a large cluster
/// that is full it would go round all nodes, and those of everybody else with it.
const REJECTIONS_MAX: u32 = 8;

/// It does not wait longer if there are guesses: they may be wrong.
const LOOK_AGAIN: Span = Span::from_secs(1);

/// Work that is not to wait for room waits so long all the same: for leases that their lessees keep for a moment
/// after their last task.
const AT_ONCE: Span = Span::from_millis(500);

/// Where a claim goes.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Decision {
    /// It waits here, or is served at once.
    Here,
    /// To another node, in this way.
    To(NodeId, Route),
    /// No known node can ever meet it.
    Nowhere,
}

impl Node {
    /// A request has come; `prefer` has most of what its work reads.
    pub(super) fn route(&mut self, claim: Claim, route: Route, prefer: Option<NodeId>, out: &mut Outbox) {
        let Claimant::Lessee { process, request } = claim.claimant else {
            unreachable!("actors are placed by the head")
        };
        let demand = &*claim.demand;
        if let Feasibility::Never(detail) = self.feasibility(demand) {
            return self.refuse_claim(&claim, detail, out);
        }
        let local = self.is_local(process);
        let decision = match route {
            Route::Fresh if local => self.decide(demand, prefer, out),
            Route::Rejected { by, times } if local => {
                self.view.rejected(by, demand, out.now);
                // Nothing is ever short of what needs nothing: the caps on light work are what rejects it.
                let hopeless = demand.resources.is_empty() || times >= REJECTIONS_MAX;
                if hopeless && self.takes(demand) { Decision::Here } else { self.decide(demand, None, out) }
            }
            Route::IfFree => {
                if !self.is_known(claim.pool) || !self.takes(demand) || !self.can_run_now(demand) {
                    return out.send(process, Message::LeaseRejected { request });
                }
                Decision::Here
            }
            // What others sent here stays until the view changes: it must not go round in circles.
            Route::Queue | Route::Fresh | Route::Rejected { .. } if self.takes(demand) => Decision::Here,
            // Whoever sent it did not know yet that this node drains.
            Route::Queue | Route::Fresh | Route::Rejected { .. } if self.draining.is_some() => {
                self.decide(demand, None, out)
            }
            Route::Queue | Route::Fresh | Route::Rejected { .. } => Decision::Nowhere,
        };
        match decision {
            Decision::Here if self.is_known(claim.pool) => self.enqueue(claim, out),
            Decision::To(node, route) => self.redirect(&claim, node, route, out),
            Decision::Here | Decision::Nowhere => self.put_aside(claim, out),
        }
    }

    /// A claim waits for its turn.
    fn enqueue(&mut self, claim: Claim, out: &Outbox) {
        if claim.demand.strategy.insists() {
            self.deadlines.arm(Wakeup::NoRoom, out.now + AT_ONCE);
        }
        self.queue.push(claim, out.now);
    }

    /// Refuse those who were not to wait for room, and for whom there was none.
    pub(super) fn refuse_the_insistent(&mut self, out: &mut Outbox) {
        let mut late = Vec::new();
        for Waiter { demand, since } in self.queue.waiters().filter(|waiter| waiter.demand.strategy.insists())
        {
            let due = since + AT_ONCE;
            if due > out.now {
                self.deadlines.arm(Wakeup::NoRoom, due);
            } else if !self.ledger.lacking(demand).is_empty() {
                late.push(demand.clone());
            }
        }
        for claim in self.queue.take_all(|_, demand| late.iter().any(|late| **late == *demand)) {
            let detail = placement::no_room_at_once(&self.summary(), &claim.demand.resources);
            self.refuse_claim(&claim, detail, out);
        }
    }

    /// Put a claim where it can be met; give it back if there is no such place.
    pub(super) fn try_place(&mut self, claim: Claim, out: &mut Outbox) -> Option<Claim> {
        let decision = match claim.claimant {
            Claimant::Lessee { .. } => self.decide(&claim.demand, None, out),
            Claimant::Actor { .. } if self.can_ever_run(&claim.demand) => Decision::Here,
            Claimant::Actor { .. } => Decision::Nowhere,
        };
        match decision {
            Decision::Here if self.is_known(claim.pool) => self.enqueue(claim, out),
            Decision::To(node, route) => self.redirect(&claim, node, route, out),
            Decision::Here | Decision::Nowhere => return Some(claim),
        }
        None
    }

    fn decide(&mut self, demand: &Demand, prefer: Option<NodeId>, out: &Outbox) -> Decision {
        let own = self.config.node;
        let here = self.takes(demand);
        if let Some(node) = demand.strategy.wants() {
            if node == own && here {
                return Decision::Here;
            }
            if self.view.get(node).is_some_and(|seen| placement::is_feasible(seen, demand)) {
                return Decision::To(node, Route::Queue);
            }
        }
        self.changed |= self.view.expire(out.now);
        let now = here && self.can_run_now(demand);
        if demand.strategy == Strategy::Spread {
            match self.view.take_turn(demand, now) {
                Some(node) if node == own => return Decision::Here,
                Some(node) => return self.to(node, here),
                None => {}
            }
        }
        let holds = |node: &NodeId| {
            *node != own && self.view.get(*node).is_some_and(|seen| placement::fits_now(seen, demand))
        };
        if let Some(node) = demand.strategy.prefers().or(prefer).filter(holds) {
            return self.to(node, here);
        }
        // What only the cap on light work holds up here is not sent away: resources tell nothing of
        // how many run elsewhere.
        if now || here && self.ledger.lacking(demand).is_empty() {
            return Decision::Here;
        }
        match self.view.best_free(demand) {
            Some(node) => self.to(node, here),
            None if here => Decision::Here,
            None => self
                .view
                .best_feasible(demand)
                .map_or(Decision::Nowhere, |node| Decision::To(node, Route::Queue)),
        }
    }

    /// To a node that seems to have room. Where it cannot come back, it stays there.
    fn to(&self, node: NodeId, here: bool) -> Decision {
        Decision::To(node, if here { Route::IfFree } else { Route::Queue })
    }

    fn redirect(&mut self, claim: &Claim, to: NodeId, route: Route, out: &mut Outbox) {
        let Claimant::Lessee { process, request } = claim.claimant else {
            unreachable!("actors are placed by the head")
        };
        self.view.promise(to, &claim.demand, out.now);
        out.send(process, Message::LeaseRedirected { request, to, route });
    }

    /// Look again at those who wait when guesses about other nodes are given up, and before that where that takes
    /// long: who was rejected too often waits, and there may be nodes that were not asked yet.
    pub(super) fn watch_guesses(&mut self, now: Time) {
        if !self.queue.is_empty()
            && let Some(due) = self.view.guesses_due()
        {
            self.deadlines.arm(Wakeup::Redirect, due.min(now + LOOK_AGAIN));
        }
    }

    /// Something is known anew of other nodes: some of those who wait may do better there.
    pub(super) fn redirect_waiting(&mut self, out: &mut Outbox) {
        let (view, ledger, now) = (&mut self.view, &self.ledger, out.now);
        let mut targets = alloc::vec::Vec::new();
        let claims = self.queue.take_all(|claimant, demand| {
            let bound = demand.strategy.wants().is_some();
            let lessee = matches!(claimant, Claimant::Lessee { .. });
            if bound || !lessee || ledger.lacking(demand).is_empty() {
                return false;
            }
            let Some(node) = view.best_free(demand) else { return false };
            // It counts at once, so that the next one goes elsewhere.
            view.promise(node, demand, now);
            targets.push(node);
            true
        });
        for (claim, to) in claims.into_iter().zip(targets) {
            let Claimant::Lessee { process, request } = claim.claimant else {
                unreachable!("only lessees were picked")
            };
            out.send(process, Message::LeaseRedirected { request, to, route: Route::IfFree });
        }
    }

    /// Whether a process runs on this node, or is its steward.
    pub(super) fn is_local(&self, process: ProcessId) -> bool {
        process.node() == self.config.node
    }

    pub(super) fn feasibility(&self, demand: &Demand) -> Feasibility {
        self.ledger.feasibility(demand, self.config.node)
    }

    /// Whether this node can ever meet a demand.
    pub(super) fn can_ever_run(&self, demand: &Demand) -> bool {
        self.feasibility(demand) == Feasibility::Here
            && demand.labels.iter().all(|selector| selector.matches(self.config.node, &self.config.labels))
    }

    /// Whether a lessee's claim would get what it needs now.
    fn can_run_now(&self, demand: &Demand) -> bool {
        let capped = is_light(demand) && self.ledger.light_running() >= self.light_cap();
        let held = Node::is_held_back(self.shares.held_for.as_ref(), &self.ledger, demand);
        !capped && !held && self.ledger.lacking(demand).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::ActorSpec;
    use crate::machine::Span;
    use crate::message::{ActorEvent, NodeSummary};
    use crate::node::Effect;
    use crate::node::harness::*;
    use crate::resources::LabelSelector;
    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;

    fn refused(effects: &[Effect]) -> usize {
        let refusal =
            |effect: &&Effect| matches!(effect, Effect::Send { message: Message::LeaseRefused { .. }, .. });
        effects.iter().filter(refusal).count()
    }

    /// A node with a driver and one CPU that is taken, which sees two others with two CPUs each.
    fn full() -> Harness {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        node.view(&[summary(2, &[("CPU", 2.0)]), summary(3, &[("CPU", 2.0), ("slot", 1.0)])]);
        node.lease(driver(), &demand(&[("CPU", 1.0)]));
        node
    }

    #[test]
    fn what_does_not_fit_here_goes_where_there_is_room_until_none_is_left() {
        let mut node = full();
        let cpu = demand(&[("CPU", 1.0)]);
        let sent: Vec<(u32, Route)> =
            (0..5).flat_map(|_| redirected(&node.request(driver(), &cpu).1)).collect();
        let free = Route::IfFree;
        assert_eq!(sent, [(2, free), (3, free), (2, free), (3, free)], "and the fifth waits here");
        // A report of one of them, and it goes there.
        let effects = node.view(&[summary(3, &[("CPU", 2.0)])]);
        assert_eq!(redirected(&effects), [(3, free)]);
        assert_eq!(node.pass(Span::from_secs(60)), [], "nobody waits");
    }

    #[test]
    fn guesses_that_nothing_confirms_are_given_up() {
        let mut node = full();
        let large = demand(&[("CPU", 2.0)]);
        // This node can never run it, so it goes to stay.
        assert_eq!(redirected(&node.request(driver(), &large).1), [(2, Route::Queue)]);
        let cpu = demand(&[("CPU", 1.0)]);
        for _ in 0..2 {
            assert_eq!(redirected(&node.request(driver(), &cpu).1), [(3, Route::IfFree)]);
        }
        assert_eq!(node.request(driver(), &cpu).1, []);
        assert_eq!(redirected(&node.pass(Span::from_secs(1))), [(2, Route::IfFree)]);
    }

    #[test]
    fn who_rejected_is_not_asked_again_before_it_has_said_something_new() {
        let mut node = full();
        let cpu = demand(&[("CPU", 1.0)]);
        node.request(driver(), &cpu);
        let again = |node: &mut Harness, by| {
            let route = Route::Rejected { by: NodeId(by), times: 1 };
            redirected(&node.request_by(driver(), &cpu, route, Some(by)).1)
        };
        assert_eq!(again(&mut node, 2), [(3, Route::IfFree)]);
        assert_eq!(again(&mut node, 3), []);
        assert_eq!(redirected(&node.view(&[summary(2, &[("CPU", 2.0)])])), [(2, Route::IfFree)]);
        // Light work that was rejected stays: nothing would tell when to try again.
        let route = Route::Rejected { by: NodeId(2), times: 1 };
        let (_, effects) = node.request_by(driver(), &demand(&[]), route, Some(2));
        assert_eq!((redirected(&effects), node.forks.len()), (vec![], 1));
    }

    #[test]
    fn requests_follow_their_data_their_labels_and_their_strategy() {
        let mut node = Harness::with_driver(&[("CPU", 4.0)]);
        let zone = vec![(String::from("zone"), String::from("b"))];
        let labelled = NodeSummary { labels: zone, ..summary(3, &[("CPU", 2.0), ("slot", 1.0)]) };
        let view = [summary(2, &[("CPU", 2.0)]), labelled];
        let cpu = || demand(&[("CPU", 1.0)]);
        let selector =
            LabelSelector { key: String::from("zone"), values: vec![String::from("b")], excludes: false };
        let on = |number, soft| Demand { strategy: Strategy::bound(NodeId(number), soft), ..cpu() };
        let fits_nowhere = Demand { labels: vec![selector.clone()], ..demand(&[("CPU", 3.0)]) };
        // What is asked for, the preferred node, where it goes; nothing: it stays here.
        let cases = [
            (cpu(), None, vec![]),
            (cpu(), Some(3), vec![(3, Route::IfFree)]),
            (cpu(), Some(9), vec![]),
            (demand(&[("CPU", 3.0)]), Some(3), vec![]),
            (demand(&[("slot", 1.0)]), None, vec![(3, Route::Queue)]),
            (Demand { labels: vec![selector], ..cpu() }, None, vec![(3, Route::Queue)]),
            (on(2, false), Some(3), vec![(2, Route::Queue)]),
            (on(2, true), None, vec![(2, Route::Queue)]),
            (on(9, true), None, vec![]),
            (on(9, false), None, vec![]),
            (fits_nowhere, None, vec![]),
        ];
        for (demand, prefer, expected) in cases {
            node.view(&view);
            let (request, effects) = node.request_by(driver(), &demand, Route::Fresh, prefer);
            assert_eq!((redirected(&effects), refused(&effects)), (expected, 0), "{demand:?}");
            node.receive(driver(), Message::CancelLeaseRequest { request });
        }
    }

    #[test]
    fn work_that_is_not_to_wait_for_its_node_goes_elsewhere_or_fails() {
        let mut node = full();
        let on = |number, soft| {
            let strategy = Strategy::Node { node: NodeId(number), soft, at_once: true };
            Demand { strategy, ..demand(&[("CPU", 1.0)]) }
        };
        let request = |node: &mut Harness, demand: &Demand| {
            let effects = node.request(driver(), demand).1;
            (redirected(&effects), refused(&effects))
        };
        assert_eq!(request(&mut node, &on(1, true)), (vec![(2, Route::IfFree)], 0), "this node is full");
        assert_eq!(request(&mut node, &on(3, true)), (vec![(3, Route::IfFree)], 0));
        assert_eq!(request(&mut node, &on(1, false)), (vec![], 0), "leases may be given back in a moment");
        let effects = node.pass(AT_ONCE);
        assert_eq!(refused(&effects), 1, "{effects:?}");
        // Node 3 knows best, and says so itself.
        assert_eq!(request(&mut node, &on(3, false)), (vec![(3, Route::Queue)], 0));
        let lessee = afar(2, 7);
        node.job_started(lessee);
        node.request_by(lessee, &on(1, false), Route::Queue, None);
        let effects = node.pass(AT_ONCE);
        let [Message::LeaseRefused { failure, .. }] = &sent_to(lessee, &effects)[..] else {
            panic!("{effects:?}")
        };
        assert!(alloc::format!("{failure:?}").contains("it is not to wait"), "{failure:?}");
        let full_actor = ActorSpec { placement: on(1, false), ..spec(actor(1), &[("CPU", 1.0)]) };
        node.start_actor(&full_actor);
        let effects = node.pass(AT_ONCE);
        let [Message::ActorReport { event, .. }] = &sent_to(ProcessId::HEAD, &effects)[..] else {
            panic!("{effects:?}")
        };
        assert!(matches!(event, ActorEvent::Unplaceable { .. }), "{event:?}");
    }

    #[test]
    fn spread_work_goes_to_one_node_after_the_other() {
        let mut node = Harness::with_driver(&[("CPU", 4.0)]);
        node.view(&[summary(2, &[("CPU", 4.0)]), summary(3, &[("CPU", 1.0)])]);
        let spread = Demand { strategy: Strategy::Spread, ..demand(&[("CPU", 1.0)]) };
        let turns: Vec<u32> = (0..7)
            .map(|_| redirected(&node.request(driver(), &spread).1).first().map_or(1, |(to, _)| *to))
            .collect();
        assert_eq!(turns, [2, 3, 1, 2, 1, 2, 1]);
    }

    #[test]
    fn others_get_what_is_free_or_a_quick_no() {
        let mut node = Harness::new(config(&[("CPU", 1.0)]));
        let cpu = demand(&[("CPU", 1.0)]);
        let lessee = afar(2, 7);
        let rejected =
            |effects: &[Effect]| matches!(sent_to(lessee, effects)[..], [Message::LeaseRejected { .. }]);
        let if_free =
            |node: &mut Harness, demand: &Demand| node.request_by(lessee, demand, Route::IfFree, None).1;
        assert!(rejected(&if_free(&mut node, &cpu)), "it does not know the job");
        let effects = node.job_started(afar(2, 1));
        assert!(matches!(effects[..], [Effect::RememberJob { .. }]), "{effects:?}");
        assert_eq!(node.job_started(afar(2, 1)), [], "told twice");
        if_free(&mut node, &cpu);
        let (worker, effects) = node.fork_next();
        let (lease, _) = granted(&effects)[0];
        assert_eq!(sent_to(lessee, &effects).len(), 1);
        assert!(rejected(&if_free(&mut node, &cpu)));
        assert!(rejected(&if_free(&mut node, &demand(&[("CPU", 2.0)]))), "it never can");
        // One that is to stay waits, and does not come back by itself.
        let (_, effects) = node.request_by(lessee, &cpu, Route::Queue, None);
        assert_eq!(effects, []);
        assert_eq!(node.give_back(afar(2, 8), lease), [], "it is another's lease");
        let effects = node.give_back(lessee, lease);
        assert_eq!(granted(&effects)[0].1, worker);
    }

    #[test]
    fn work_of_a_job_that_is_not_known_yet_waits_for_the_news() {
        let mut node = Harness::new(config(&[("CPU", 1.0)]));
        let lessee = afar(2, 7);
        let cpu = demand(&[("CPU", 1.0)]);
        node.request_by(lessee, &cpu, Route::Queue, None);
        assert!(node.forks.is_empty());
        node.job_started(afar(2, 1));
        assert_eq!(granted(&node.fork_next().1).len(), 1);
        // The news may never come.
        let mut node = Harness::new(config(&[("CPU", 1.0)]));
        node.request_by(lessee, &cpu, Route::Queue, None);
        assert_eq!(refused(&node.pass(Span::from_secs(10))), 1);
        node.request_by(lessee, &cpu, Route::IfFree, None);
        assert_eq!(node.node.inspect().jobs, [], "nothing is kept of it");
    }

    #[test]
    fn the_steward_gets_workers_of_any_job_even_of_one_that_has_ended() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let steward = ProcessId::steward(NODE);
        node.exited(driver(), KILLED);
        node.receive(ProcessId::HEAD, Message::JobEnded { job: JOB });
        node.request(steward, &demand(&[("CPU", 1.0)]));
        let (worker, effects) = node.fork_next();
        let (lease, _) = granted(&effects)[0];
        assert_eq!(asked_to_exit(&node.give_back(steward, lease)), [worker]);
    }

    #[test]
    fn who_waits_for_what_only_others_had_goes_to_who_comes() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        node.request(driver(), &demand(&[("slot", 1.0)]));
        assert_eq!(node.view(&[summary(2, &[("CPU", 1.0)])]), []);
        let effects = node.view(&[summary(3, &[("slot", 1.0)])]);
        assert_eq!(redirected(&effects), [(3, Route::Queue)]);
        assert_eq!(node.pass(Span::from_secs(60)), []);
        // An actor stays where the head has placed it.
        node.start_actor(&spec(actor(1), &[("slot", 1.0)]));
        node.view(&[summary(3, &[("slot", 1.0)])]);
        assert_eq!(node.pass(Span::from_secs(60)).len(), 1, "it says that it cannot be placed");
    }
}

//! Bundles of placement groups on this node: the head has them set aside, all or none of a group's, and
//! opens them once the whole group is placed.

use alloc::string::String;
use alloc::vec::Vec;

use super::Node;
use super::outbox::Outbox;
use super::queue::{Claim, Claimant};
use crate::ids::{GroupId, ProcessId};
use crate::message::{ActorEvent, Message};
use crate::resources::Resources;
use crate::value::{Death, Failure};

impl Node {
    pub(super) fn reserve_bundles(
        &mut self,
        group: GroupId,
        attempt: u32,
        bundles: &[(u32, Resources)],
        out: &mut Outbox,
    ) {
        let mut reserved = self.ledger.has_reserved(group, attempt, bundles);
        if !reserved {
            self.ledger.displace(group, bundles);
            self.end_returned(None, out);
            self.place_again(group, out);
            reserved = self.ledger.reserve(group, attempt, bundles);
        }
        let answer = if reserved {
            self.wishes.end(group);
            Message::BundlesReserved { group, attempt }
        } else {
            self.wish(group, bundles, out.now);
            // The head believed that there is room.
            self.reporter.repeat();
            Message::BundlesRefused { group, attempt }
        };
        out.send(ProcessId::HEAD, answer);
    }

    pub(super) fn commit_bundles(&mut self, group: GroupId, attempt: u32, out: &mut Outbox) {
        self.ledger.commit(group, attempt);
        self.place_again(group, out);
    }

    /// What runs goes on; nothing new starts.
    pub(super) fn suspend_bundles(&mut self, group: GroupId, out: &mut Outbox) {
        self.ledger.suspend(group);
        for (claim, holding) in self.pools.remove_waiting(|claim, _| claim.demand.group == Some(group)) {
            self.ledger.give_back(holding);
            self.queue.push(claim, out.now);
        }
        self.place_again(group, out);
    }

    pub(super) fn release_bundles(&mut self, group: GroupId, attempt: u32) {
        self.ledger.release(group, attempt);
    }

    pub(super) fn return_bundles(&mut self, group: GroupId, attempt: u32, removed: bool, out: &mut Outbox) {
        self.ledger.return_bundles(group, attempt);
        self.end_returned(removed.then_some(group), out);
        if removed {
            for claim in self.take_claims(group) {
                self.refuse_removed(&claim, group, out);
            }
        } else {
            self.give_back_actors(group, out);
            self.place_again(group, out);
        }
    }

    /// The head places actors: those that wait for a bundle that was here go somewhere else.
    fn give_back_actors(&mut self, group: GroupId, out: &mut Outbox) {
        let waiting = self.take_claims(group);
        for claim in waiting {
            match claim.claimant {
                Claimant::Actor { actor, .. } if !self.can_ever_run(&claim.demand) => {
                    self.end_actor(actor, ActorEvent::GivenBack, out);
                }
                _ => self.queue.push(claim, out.now),
            }
        }
    }

    /// End what runs in bundles that go back to the node; `removed` is a group that is gone for good.
    fn end_returned(&mut self, removed: Option<GroupId>, out: &mut Outbox) {
        let ledger = &self.ledger;
        for (claim, holding) in self.pools.remove_waiting(|_, holding| ledger.returning(holding).is_some()) {
            self.ledger.give_back(holding);
            self.queue.push(claim, out.now);
        }
        let workers = self.processes.workers();
        let returning = workers
            .filter_map(|(id, _, worker)| Some((id, self.ledger.returning(worker.holding.as_ref()?)?)));
        let ended: Vec<(ProcessId, GroupId)> = returning.collect();
        for (process, group) in ended {
            let death = if removed == Some(group) {
                Death::GroupRemoved { group }
            } else {
                let reason = String::from("its placement group has given up its bundle, to be placed anew");
                Death::Killed { reason }
            };
            self.kill_process(process, death, out);
        }
    }

    /// What can be had of the group here has changed.
    fn place_again(&mut self, group: GroupId, out: &mut Outbox) {
        for claim in self.take_claims(group) {
            if let Some(claim) = self.try_place(claim, out) {
                self.put_aside(claim, out);
            }
        }
    }

    /// All claims of the group that have nothing yet.
    fn take_claims(&mut self, group: GroupId) -> Vec<Claim> {
        let mut claims = self.queue.drain(|_, demand| demand.group == Some(group));
        claims.extend(self.aside.take(|claim| claim.demand.group == Some(group)));
        claims
    }

    fn refuse_removed(&mut self, claim: &Claim, group: GroupId, out: &mut Outbox) {
        match claim.claimant {
            Claimant::Lessee { process, request } => {
                let failure = Failure::GroupRemoved { group };
                out.send(process, Message::LeaseRefused { request, failure });
            }
            Claimant::Actor { actor, .. } => {
                let death = Death::GroupRemoved { group };
                self.end_actor(actor, ActorEvent::Died { death, intended: false }, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::ActorSpec;
    use crate::group;
    use crate::ids::TaskId;
    use crate::machine::Span;
    use crate::node::Effect;
    use crate::node::harness::*;
    use crate::resources::{Demand, LabelSelector};

    const GROUP: GroupId = GroupId(TaskId { owner: ProcessId::new(NODE, 1), number: 40 });

    fn in_group(bundle: Option<u32>, amounts: &[(&str, f64)]) -> Demand {
        let resources = group::demanded(&resources(amounts), GROUP, bundle);
        Demand { resources, group: Some(GROUP), ..Demand::default() }
    }

    fn from_head(node: &mut Harness, message: Message) -> Vec<Effect> {
        node.receive(ProcessId::HEAD, message)
    }

    /// Bundles 0, 1, … of so many CPUs; the answer.
    fn reserve(node: &mut Harness, attempt: u32, cpus: &[f64]) -> Message {
        let bundles = (0..).zip(cpus).map(|(index, cpus)| (index, resources(&[("CPU", *cpus)]))).collect();
        let reserve = Message::ReserveBundles { group: GROUP, attempt, bundles, order: 1 };
        let effects = from_head(node, reserve);
        let [Effect::Send { to: ProcessId::HEAD, message }] = &effects[..] else { panic!("{effects:?}") };
        message.clone()
    }

    fn commit(node: &mut Harness, attempt: u32) -> Vec<Effect> {
        from_head(node, Message::CommitBundles { group: GROUP, attempt })
    }

    fn end(node: &mut Harness, attempt: u32, removed: bool) -> Vec<Effect> {
        from_head(node, Message::ReturnBundles { group: GROUP, attempt, removed })
    }

    fn killed(effects: &[Effect]) -> Vec<(ProcessId, Death)> {
        let kills = effects.iter().filter_map(|effect| match effect {
            Effect::Kill { process, death } => Some((*process, death.clone())),
            _ => None,
        });
        kills.collect()
    }

    #[test]
    fn what_is_reserved_is_kept_from_others_and_open_once_it_is_committed() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        let (early, effects) = node.request(driver(), &in_group(None, &[("CPU", 1.0)]));
        assert_eq!(effects, []);
        assert_eq!(reserve(&mut node, 1, &[1.0, 1.0]), Message::BundlesReserved { group: GROUP, attempt: 1 });
        let again = Message::BundlesReserved { group: GROUP, attempt: 1 };
        assert_eq!(reserve(&mut node, 1, &[1.0, 1.0]), again, "told twice, set aside once");
        node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert!(node.forks.is_empty(), "not for others, and not for the group yet");
        assert_eq!(node.pass(Span::from_secs(60)), [], "work of a group waits");
        commit(&mut node, 1);
        let (_, effects) = node.fork_next();
        let [Effect::Send { message: Message::LeaseGranted { request, .. }, .. }] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(*request, early);
        assert!(node.forks.is_empty());
        let offer = group::offered(&resources(&[("CPU", 1.0)]), GROUP, 1);
        assert!(node.reports.last().is_some_and(|free| free.covers(&offer)));
    }

    #[test]
    fn where_there_is_no_room_the_head_hears_it_with_what_is_free() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        node.pass(Span::from_secs(1));
        let reports = node.reports.len();
        assert_eq!(reserve(&mut node, 1, &[1.0, 2.0]), Message::BundlesRefused { group: GROUP, attempt: 1 });
        assert_eq!(node.reports[reports..], [resources(&[("CPU", 2.0)])]);
        assert_eq!(reserve(&mut node, 2, &[-1.0]), Message::BundlesRefused { group: GROUP, attempt: 2 });
        assert_eq!(reserve(&mut node, 3, &[2.0]), Message::BundlesReserved { group: GROUP, attempt: 3 });
        assert_eq!(end(&mut node, 3, false), []);
        node.lease(driver(), &demand(&[("CPU", 2.0)]));
    }

    #[test]
    fn the_end_of_a_group_ends_its_work_and_refuses_what_waits() {
        for removed in [false, true] {
            let mut node = Harness::with_driver(&[("CPU", 2.0)]);
            reserve(&mut node, 1, &[1.0, 1.0]);
            commit(&mut node, 1);
            let wanted = in_group(None, &[("CPU", 1.0)]);
            let (lease, worker) = node.lease(driver(), &wanted);
            let placement = in_group(Some(1), &[("CPU", 1.0)]);
            let running = placement.resources.clone();
            node.start_actor(&ActorSpec { placement, running, ..spec(actor(1), &[]) });
            let (home, _) = node.fork_next();
            let (request, _) = node.request(driver(), &wanted);

            let effects = end(&mut node, 1, removed);
            let ends: Vec<ProcessId> = killed(&effects).into_iter().map(|(process, _)| process).collect();
            assert_eq!(ends, [worker, home]);
            let refusal = Message::LeaseRefused { request, failure: Failure::GroupRemoved { group: GROUP } };
            assert_eq!(sent_to(driver(), &effects), if removed { alloc::vec![refusal] } else { Vec::new() });
            let death = killed(&effects).remove(0).1;
            assert_eq!(death == Death::GroupRemoved { group: GROUP }, removed);
            // Its resources are free when its processes are gone.
            node.request(driver(), &demand(&[("CPU", 2.0)]));
            assert!(node.forks.is_empty());
            let effects = node.exited(worker, KILLED);
            let ended = Message::LeaseEnded { lease, death, last_started: None };
            assert_eq!(sent_to(driver(), &effects), [ended]);
            let effects = node.exited(home, KILLED);
            assert!(matches!(
                sent_to(ProcessId::HEAD, &effects)[0],
                Message::ActorReport { event: ActorEvent::Died { intended: false, .. }, .. }
            ));
            assert_eq!(node.forks.len(), 1);
        }
    }

    #[test]
    fn a_suspended_group_keeps_what_runs_and_starts_nothing() {
        let mut node = Harness::with_driver(&[("CPU", 3.0)]);
        reserve(&mut node, 1, &[1.0, 1.0]);
        commit(&mut node, 1);
        let wanted = in_group(None, &[("CPU", 1.0)]);
        let (lease, _) = node.lease(driver(), &wanted);
        // This one has its resources and waits for its worker.
        node.request(driver(), &wanted);
        assert_eq!(from_head(&mut node, Message::SuspendBundles { group: GROUP }), []);
        assert_eq!(granted(&node.fork_next().1), []);
        assert_eq!(granted(&node.give_back(driver(), lease)), []);
        node.request(driver(), &wanted);
        node.lease(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(node.pass(Span::from_secs(60)), [], "however long the repair takes, nothing is refused");
        let effects = commit(&mut node, 2);
        assert_eq!((granted(&effects).len(), node.forks.len()), (1, 1));
        assert_eq!(granted(&node.fork_next().1).len(), 1, "both that waited");
    }

    #[test]
    fn work_waits_for_its_bundle_and_is_refused_where_its_labels_forbid_that_bundle() {
        let mut node = Harness::with_driver(&[("CPU", 2.0)]);
        let zone = LabelSelector {
            key: String::from("zone"),
            values: Vec::from([String::from("a")]),
            excludes: false,
        };
        let labelled = Demand { labels: Vec::from([zone]), ..in_group(Some(0), &[("CPU", 1.0)]) };
        let (request, _) = node.request(driver(), &labelled);
        assert_eq!(node.pass(Span::from_secs(60)), [], "its bundle may come to a node with that label");
        reserve(&mut node, 1, &[1.0]);
        commit(&mut node, 1);
        node.request(driver(), &in_group(Some(1), &[("CPU", 1.0)]));
        let effects = node.pass(Span::from_secs(11));
        let [Message::LeaseRefused { request: refused, failure: Failure::Unschedulable { detail } }] =
            &sent_to(driver(), &effects)[..]
        else {
            panic!("{effects:?}")
        };
        assert!(*refused == request && detail.contains("zone"), "{detail}");
        assert_eq!(node.pass(Span::from_secs(60)), [], "the other bundle is nowhere yet");
    }

    #[test]
    fn only_the_head_places_groups_and_older_placements_do_not_end_newer_ones() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let bundles = alloc::vec![(0, resources(&[("CPU", 1.0)]))];
        let reserve_one = Message::ReserveBundles { group: GROUP, attempt: 1, bundles, order: 1 };
        assert_eq!(node.receive(driver(), reserve_one), []);
        reserve(&mut node, 3, &[1.0]);
        commit(&mut node, 3);
        end(&mut node, 2, false);
        node.lease(driver(), &in_group(Some(0), &[("CPU", 1.0)]));
    }
}

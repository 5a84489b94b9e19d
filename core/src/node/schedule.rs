//! Who gets what is free: claims in turns, workers for claims, and a fair share for those who wait.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Node;
use super::leases::Leased;
use super::ledger::{is_light, light_running_max};
use super::outbox::Outbox;
use super::processes::State;
use super::queue::Claimant;
use crate::ids::ProcessId;
use crate::machine::{Span, Time, Wakeup};
use crate::message::Message;
use crate::resources::Demand;

/// A lease is not asked back for others before it was held for so long.
pub(super) const TIME_SLICE: Span = Span::from_millis(20);
/// While light claims wait, the cap rises by one each time this has passed: those that run may be
/// waiting for those that cannot start.
const CAP_RISES_AFTER: Span = Span::from_secs(1);

/// What scheduling remembers besides the queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    /// How far the cap of light leases was raised.
    raised: u32,
    /// For whom CPUs are held back.
    pub(super) held_for: Option<Arc<Demand>>,
}

/// A group of claims that wait, and what its party has already of what they lack.
struct Waiting {
    party: ProcessId,
    demand: Arc<Demand>,
    /// What there is too little of.
    lacking: Vec<Arc<str>>,
    /// It only waits for the cap of light leases.
    capped: bool,
    /// Leases of this demand.
    of_demand: usize,
    /// Leases of any demand.
    in_all: usize,
}

impl Waiting {
    /// Whether a lease of that demand holds some of what is lacking.
    fn is_helped_by(&self, held: &Demand) -> bool {
        let lacking = self.lacking.iter().any(|name| held.resources.get(name).0 > 0);
        lacking || self.capped && is_light(held)
    }
}

/// Whether who has `has` leases must give one to who has `others` and waits. Who has one more than
/// the other keeps it: passing it to and fro would help nobody.
fn is_over_share(has: usize, others: usize) -> bool {
    others == 0 || has > others + 1
}

impl Node {
    pub(super) fn schedule(&mut self, out: &mut Outbox) {
        self.admit(out.now);
        while let Some((claim, holding, worker)) = self.pools.next_match() {
            match claim.claimant {
                Claimant::Lessee { .. } => self.grant(claim, holding, worker, out),
                Claimant::Actor { actor, .. } => self.become_actor(actor, holding, worker, out),
            }
        }
        self.start_workers(out);
        self.watch_idle_workers(out.now);
        if self.draining.is_some() {
            self.reclaim_leases(out);
        } else {
            self.share_leases(out);
        }
        self.watch_cap(out.now);
    }

    /// How many light leases may run at once now.
    pub(super) fn light_cap(&self) -> u32 {
        light_running_max(self.ledger.cpus()).saturating_add(self.shares.raised)
    }

    /// Give free resources to claims, in turns.
    fn admit(&mut self, now: Time) {
        self.watch_starvation(now);
        let cap = self.light_cap();
        while !self.queue.is_empty() {
            let ledger = &mut self.ledger;
            let mut holding = None;
            let has = |party| self.leases.count(party);
            let held_for = self.shares.held_for.as_ref();
            let claim = self.queue.take(now, has, |claimant, demand| {
                let counted = claimant.is_counted();
                if Node::is_held_back(held_for, ledger, demand) {
                    return false;
                }
                if counted && is_light(demand) && ledger.light_running() >= cap {
                    return false;
                }
                holding = ledger.take(demand, counted);
                holding.is_some()
            });
            let (Some(claim), Some(holding)) = (claim, holding) else { return };
            self.pools.wait(claim, holding);
        }
    }

    /// Tell those who hold more than their share of what others wait for, once their leases have had
    /// a time slice.
    fn share_leases(&mut self, out: &mut Outbox) {
        if self.queue.is_empty() && self.wishes.is_empty() {
            return self.leases.nobody_waits();
        }
        let wishes = self.wishes.iter().map(|(_, wish)| (ProcessId::HEAD, &wish.demand));
        let waiting: Vec<Waiting> =
            self.queue.demands().chain(wishes).map(|(party, demand)| self.waiting(party, demand)).collect();
        let due = self.leases.lessees().filter_map(|(lessee, leased)| {
            let tellable = leased.tellable(TIME_SLICE)?;
            let conflict = self.earliest_conflict(lessee, leased, &waiting)?;
            Some((lessee, conflict.max(tellable)))
        });
        let due: Vec<(ProcessId, Time)> = due.collect();
        self.want_leases(due, out);
    }

    /// Tell these lessees that leases are wanted back, now or when it is time for that.
    pub(super) fn want_leases(&mut self, lessees: Vec<(ProcessId, Time)>, out: &mut Outbox) {
        for (lessee, due) in lessees {
            if due <= out.now {
                out.send(lessee, Message::LeaseWanted);
                self.leases.told(lessee, out.now);
            } else {
                self.deadlines.arm(Wakeup::ShareLeases, due);
            }
        }
    }

    /// When the first of these leases that keeps somebody from a share has had its time slice.
    fn earliest_conflict(&self, lessee: ProcessId, leased: &Leased, waiting: &[Waiting]) -> Option<Time> {
        let leases = leased.leases.iter().filter_map(|id| self.leases.get(*id));
        let conflicts = leases.filter(|lease| {
            waiting.iter().any(|claim| {
                let (has, others) = if claim.party != lessee {
                    (self.count_helping(lessee, None, claim), claim.in_all)
                } else if claim.demand != lease.demand {
                    (self.count_helping(lessee, Some(&lease.demand), claim), claim.of_demand)
                } else {
                    return false;
                };
                claim.is_helped_by(&lease.demand) && is_over_share(has, others)
            })
        });
        conflicts.map(|lease| lease.granted + TIME_SLICE).min()
    }

    fn waiting(&self, party: ProcessId, demand: &Arc<Demand>) -> Waiting {
        let lacking = self.ledger.lacking(demand);
        let capped = lacking.is_empty() && is_light(demand);
        let demand = demand.clone();
        let mut waiting = Waiting { party, demand, lacking, capped, of_demand: 0, in_all: 0 };
        waiting.of_demand = self.count_helping(party, Some(&waiting.demand), &waiting);
        waiting.in_all = self.count_helping(party, None, &waiting);
        waiting
    }

    /// How many leases of a process, of one demand or any, hold what a claim waits for.
    fn count_helping(&self, lessee: ProcessId, demand: Option<&Demand>, claim: &Waiting) -> usize {
        let leases =
            self.leases.of(lessee).filter(|lease| demand.is_none_or(|demand| *lease.demand == *demand));
        leases.filter(|lease| claim.is_helped_by(&lease.demand)).count()
    }

    /// Raise the cap in time if light claims wait for nothing but it.
    fn watch_cap(&mut self, now: Time) {
        let capped = self
            .queue
            .demands()
            .any(|(_, demand)| is_light(demand) && self.ledger.lacking(demand).is_empty());
        if !capped {
            self.deadlines.disarm(Wakeup::RaiseCap);
            if self.queue.is_empty() {
                self.shares.raised = 0;
            }
        } else if !self.deadlines.is_armed(Wakeup::RaiseCap) {
            self.deadlines.arm(Wakeup::RaiseCap, now + CAP_RISES_AFTER);
        }
    }

    pub(super) fn raise_cap(&mut self) {
        self.shares.raised = self.shares.raised.saturating_add(1);
    }

    /// Leases, workers, actors and pools must tell the same story.
    pub(super) fn check_roles(&self) {
        for (id, lease) in self.leases.iter() {
            let worker = self.processes.worker(lease.worker).expect("leased workers live");
            assert_eq!(worker.state, State::Leased(id));
            assert!(self.may_live(lease.lessee), "lessees live");
        }
        let mut starting = BTreeMap::new();
        for (id, _, worker) in self.processes.workers() {
            let pool = self.pools.get(worker.pool);
            *starting.entry(worker.pool).or_default() +=
                u32::from(matches!(worker.state, State::Starting { .. }));
            match &worker.state {
                State::Idle { .. } => assert!(pool.idle.contains(&id) && worker.exit.is_none()),
                State::Leased(lease) => assert!(self.leases.get(*lease).is_some()),
                State::Actor(actor) => assert!(self.actors.contains_key(actor)),
                State::Starting { .. } | State::Retired => {}
            }
            if matches!(worker.state, State::Leased(_) | State::Actor(_)) {
                assert!(worker.holding.is_some(), "{id:?} holds what it was given");
            }
        }
        for (id, pool) in self.pools.iter() {
            assert_eq!(pool.starting, starting.get(&id).copied().unwrap_or(0), "starting workers of {id:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaseId;
    use crate::node::Effect;
    use crate::node::harness::*;
    use proptest::prelude::{prop, proptest};

    fn wanted(effects: &[Effect]) -> Vec<ProcessId> {
        let wanted = effects.iter().filter_map(|effect| match effect {
            Effect::Send { to, message: Message::LeaseWanted } => Some(*to),
            _ => None,
        });
        wanted.collect()
    }

    #[test]
    fn who_holds_what_others_wait_for_is_asked_once_it_had_its_time_slice() {
        let mut node = Harness::with_driver(&[("CPU", 2.0), ("slot", 1.0)]);
        let cpu = demand(&[("CPU", 1.0)]);
        let (lease, other) = node.lease(driver(), &cpu);
        node.lease(driver(), &cpu);
        node.request(driver(), &cpu);
        assert_eq!(node.pass(Span::from_secs(1)), [], "its own queue is its own affair");
        let (_, effects) = node.request(other, &cpu);
        assert_eq!(wanted(&effects), [driver()]);
        node.request(other, &cpu);
        assert_eq!(node.pass(Span::from_secs(1)), [], "it knows");
        // What it gives goes to who has less, though its own request came first.
        let effects = node.give_back(driver(), lease);
        assert_eq!((granted(&effects).len(), sent_to(other, &effects).len()), (1, 1));
        assert_eq!(node.pass(Span::from_secs(1)), [], "one each, though both want more");
        // Nobody is asked for what would not help.
        let mut node = Harness::with_driver(&[("CPU", 2.0), ("slot", 1.0)]);
        let (_, other) = node.lease(driver(), &cpu);
        node.lease(other, &demand(&[("slot", 1.0)]));
        node.request(driver(), &demand(&[("slot", 1.0)]));
        assert_eq!(wanted(&node.pass(Span::from_secs(1))), [other]);
    }

    #[test]
    fn small_tasks_do_not_fork_without_bound_and_blocked_ones_do_not_count() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        let nothing = demand(&[]);
        for _ in 0..100 {
            node.request(driver(), &nothing);
        }
        let mut workers = Vec::new();
        while !node.forks.is_empty() {
            workers.push(node.fork_next().0);
        }
        assert_eq!(workers.len(), 8);
        node.receive(workers[0], Message::Blocked);
        assert_eq!(node.forks.len(), 1);
        node.fork_next();
        // They may all wait for those that cannot start: little by little, more are let in.
        node.pass(Span::from_millis(2_500));
        assert_eq!(node.forks.len(), 2);
    }

    #[test]
    fn shares_are_even_and_nobody_is_left_without() {
        let cases = [((1, 0), true), ((9, 0), true), ((1, 1), false), ((2, 1), false), ((3, 1), true)];
        for ((has, others), expected) in cases {
            assert_eq!(is_over_share(has, others), expected, "{has} against {others}");
        }
    }

    #[test]
    fn the_cap_of_light_leases_follows_the_cpus() {
        let caps = [0, 1, 2, 3, 64].map(light_running_max);
        assert_eq!(caps, [8, 8, 8, 12, 256]);
        let light = [
            (demand(&[]), true),
            (demand(&[("CPU", 0.2)]), true),
            (demand(&[("CPU", 0.25)]), false),
            (demand(&[("GPU", 0.01)]), false),
            (demand(&[("slot", 1.0)]), true),
        ];
        for (demand, expected) in light {
            assert_eq!(is_light(&demand), expected, "{demand:?}");
        }
    }

    #[test]
    fn what_is_free_is_reported_at_once_and_then_at_intervals() {
        let mut node = Harness::with_driver(&[("CPU", 1.0)]);
        assert_eq!(node.reports, [resources(&[("CPU", 1.0)])]);
        node.pass(Span::from_secs(1));
        let (lease, _) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(node.reports.len(), 2);
        node.give_back(driver(), lease);
        let (lease, _) = node.lease(driver(), &demand(&[("CPU", 1.0)]));
        node.give_back(driver(), lease);
        assert_eq!(node.reports.len(), 2);
        node.pass(Span::from_millis(50));
        assert_eq!(node.reports.len(), 3);
        assert_eq!(node.reports[2], resources(&[("CPU", 1.0)]));
        node.pass(Span::from_secs(10));
        assert_eq!(node.reports.len(), 3, "nothing changed");
    }

    proptest! {
        /// Whatever is asked for, returned, blocked and killed in whatever order: free + held = total
        /// (the harness checks it after each step), and once everybody has returned everything, all
        /// of it is free and nobody waits.
        #[test]
        fn leases_come_and_go_and_nothing_is_lost(
            steps in prop::collection::vec((0u8..8, 0usize..64, 0usize..64), 1..120),
        ) {
            let mut node = Harness::with_driver(&[("CPU", 2.0), ("GPU", 2.0)]);
            let demands = [
                demand(&[("CPU", 1.0)]),
                demand(&[("CPU", 2.0)]),
                demand(&[("CPU", 0.5), ("GPU", 0.5)]),
                demand(&[("GPU", 2.0)]),
                demand(&[]),
            ];
            let mut world = World::default();
            for (kind, pick, other) in steps {
                let lessee = *world.workers.get(pick % (world.workers.len() + 1)).unwrap_or(&driver());
                let effects = match kind {
                    0 | 1 => node.request(lessee, &demands[other % demands.len()]).1,
                    2 if !node.forks.is_empty() => {
                        let (worker, effects) = node.fork_next();
                        world.workers.push(worker);
                        effects
                    }
                    3 | 4 if !world.leases.is_empty() => {
                        let (lessee, lease) = world.leases.swap_remove(pick % world.leases.len());
                        node.receive(lessee, Message::ReturnLease { lease, reusable: other % 4 > 0 })
                    }
                    5 => node.receive(lessee, Message::Blocked),
                    6 => node.receive(lessee, Message::Unblocked),
                    7 if !world.workers.is_empty() => {
                        let worker = world.workers.swap_remove(pick % world.workers.len());
                        world.leases.retain(|(lessee, _)| *lessee != worker);
                        node.exited(worker, KILLED)
                    }
                    _ => node.pass(Span::from_millis(30 * other as u64)),
                };
                world.learn(&effects);
            }
            world.wind_up(&mut node);
            assert!(node.node.queue.is_empty());
            assert_eq!(node.reports.last(), Some(&resources(&[("CPU", 2.0), ("GPU", 2.0)])));
        }
    }

    /// What lessees and workers know.
    #[derive(Default)]
    struct World {
        workers: Vec<ProcessId>,
        leases: Vec<(ProcessId, LeaseId)>,
        /// Asked to exit, or killed.
        leaving: Vec<ProcessId>,
    }

    impl World {
        fn learn(&mut self, effects: &[Effect]) {
            for effect in effects {
                match effect {
                    Effect::Send { to, message: Message::LeaseGranted { lease, .. } } => {
                        self.leases.push((*to, *lease));
                    }
                    Effect::Send { message: Message::LeaseEnded { lease, .. }, .. } => {
                        self.leases.retain(|(_, other)| other != lease);
                    }
                    Effect::Send { to, message: Message::Exit { .. } } | Effect::Kill { process: to, .. } => {
                        self.leaving.push(*to);
                    }
                    _ => {}
                }
            }
        }

        /// Nobody waits inside a task any more, and all leases are returned until none is granted.
        fn wind_up(&mut self, node: &mut Harness) {
            for _ in 0..10_000 {
                let mut effects = node.pass(Span::from_secs(1));
                if let Some(process) = self.leaving.pop() {
                    effects.extend(node.exited(process, KILLED));
                } else if !node.forks.is_empty() {
                    effects.extend(node.fork_next().1);
                } else if let Some((lessee, lease)) = self.leases.pop() {
                    effects.extend(node.give_back(lessee, lease));
                } else if effects.is_empty() && node.node.queue.is_empty() {
                    return;
                }
                self.learn(&effects);
            }
            panic!("requests are never served: {:?}", node.node.queue);
        }
    }

    proptest! {
        /// Whoever gives a lease to somebody who waits does not get it back from them at once, and in
        /// the end nobody has two more than another.
        #[test]
        fn leases_are_not_passed_to_and_fro(mut has in 0usize..50, mut others in 1usize..50) {
            assert!(!(is_over_share(has, others) && is_over_share(others, has)));
            while is_over_share(has, others) {
                (has, others) = (has - 1, others + 1);
                assert!(!is_over_share(others, has), "{others} of {has}");
            }
            assert!(has <= others + 1);
        }
    }
}

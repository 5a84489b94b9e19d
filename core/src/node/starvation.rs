//! Work that needs many CPUs at once would wait for ever behind work that needs few: whenever one is
//! free, something small takes it. So for some of the time that it has waited, what it lacks is held
//! back from others.

use alloc::sync::Arc;

use super::Node;
use super::ledger::Ledger;
use crate::machine::{Span, Time, Wakeup};
use crate::resources::{Demand, Resources};

/// Nothing is held back for a claim that waits for less.
const PATIENCE: Span = Span::from_secs(1);

/// Whether CPUs are held back for who has waited so long: in the first half of each doubling. So tasks
/// of any length get the time to end, and no more than half of the time is lost if they do not.
fn holds_back(waited: Span) -> bool {
    waited.0 >= PATIENCE.0 && waited.0 < doubled(waited) / 2 * 3
}

/// The largest doubling of the patience that has passed.
fn doubled(waited: Span) -> u64 {
    let doublings = (waited.0 / PATIENCE.0).checked_ilog2().unwrap_or(0);
    PATIENCE.0 << doublings
}

/// When that changes.
fn next_change(waited: Span) -> Span {
    if waited.0 < PATIENCE.0 {
        PATIENCE
    } else if holds_back(waited) {
        Span(doubled(waited) / 2 * 3)
    } else {
        Span(doubled(waited).saturating_mul(2))
    }
}

impl Node {
    /// Look whether CPUs must be held back for somebody.
    pub(super) fn watch_starvation(&mut self, now: Time) {
        self.shares.held_for = None;
        self.expire_wishes(now);
        let wishes = self.wishes.iter().map(|(_, wish)| wish.since);
        let Some(oldest) = self.queue.waiters().map(|waiter| waiter.since).chain(wishes).min() else {
            return;
        };
        if oldest + PATIENCE > now {
            return self.deadlines.arm(Wakeup::HoldBack, oldest + PATIENCE);
        }
        // Who waits for others lends them its CPUs and nothing else. Were anything else held back, they
        // could wait for each other.
        let lacks_cpus = |demand: &Demand| {
            demand.group.is_none()
                && matches!(&self.ledger.lacking(demand)[..], [only] if **only == *Resources::CPU)
        };
        let waiters = self.queue.waiters().filter(|waiter| lacks_cpus(waiter.demand));
        let waiter =
            waiters.min_by_key(|waiter| waiter.since).map(|waiter| (waiter.since, waiter.demand.clone()));
        // Bundles are wanted by nobody in the queue, whatever that one asks for, and what is there for them
        // must stay until the head has heard of it.
        let is_near = |demand: &Demand| lacks_cpus(demand) || self.ledger.lacking(demand).is_empty();
        let wishes = self.wishes.iter().filter(|(_, wish)| is_near(&wish.demand));
        let wish = wishes.min_by_key(|(_, wish)| wish.since).map(|(group, wish)| {
            (wish.since, Arc::new(Demand { group: Some(group), ..(*wish.demand).clone() }))
        });
        let Some((since, demand)) = waiter.into_iter().chain(wish).min_by_key(|(since, _)| *since) else {
            return;
        };
        let waited = now - since;
        self.deadlines.arm(Wakeup::HoldBack, since + next_change(waited));
        self.shares.held_for = holds_back(waited).then_some(demand);
    }

    /// Whether what a claim needs is held back for another one.
    pub(super) fn is_held_back(held_for: Option<&Arc<Demand>>, ledger: &Ledger, demand: &Demand) -> bool {
        let cpus = |resources: &Resources| resources.get(Resources::CPU).0;
        let needed = cpus(&demand.resources);
        needed > 0
            && held_for.is_some_and(|starving| {
                **starving != *demand
                    && cpus(ledger.free()) < cpus(&starving.resources).saturating_add(needed)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{GroupId, LeaseId, ProcessId, TaskId};
    use crate::message::Message;
    use crate::node::harness::*;
    use alloc::collections::VecDeque;

    #[test]
    fn half_of_each_doubling_is_held_back() {
        let held: alloc::vec::Vec<u64> =
            (0..17).filter(|half| holds_back(Span::from_millis(half * 500))).collect();
        assert_eq!(held, [2, 4, 5, 8, 9, 10, 11, 16], "halves of seconds");
        let mut changes = alloc::vec![];
        let mut waited = Span(0);
        for _ in 0..7 {
            waited = next_change(waited);
            changes.push(waited.0 / 500_000_000);
        }
        assert_eq!(changes, [2, 3, 4, 6, 8, 12, 16]);
    }

    #[test]
    fn who_needs_many_cpus_gets_them_though_others_come_and_go() {
        let mut node = Harness::with_driver(&[("CPU", 4.0)]);
        let (small, large) = (demand(&[("CPU", 1.0)]), demand(&[("CPU", 4.0)]));
        // Four small tasks run at a time, each for 400 ms; more of them always wait.
        let mut running: VecDeque<LeaseId> = (0..4).map(|_| node.lease(driver(), &small).0).collect();
        for _ in 0..8 {
            node.request(driver(), &small);
        }
        let (wanted, _) = node.request(driver(), &large);
        for _ in 0..100 {
            let mut effects = node.pass(Span::from_millis(100));
            if let Some(lease) = running.pop_front() {
                effects.extend(node.give_back(driver(), lease));
                node.request(driver(), &small);
            }
            for message in sent_to(driver(), &effects) {
                match message {
                    Message::LeaseGranted { request, .. } if request == wanted => return,
                    Message::LeaseGranted { lease, .. } => running.push_back(lease),
                    _ => {}
                }
            }
        }
        panic!("the large one starves");
    }

    #[test]
    fn bundles_that_were_refused_get_their_turn_though_others_come_and_go() {
        let mut node = Harness::with_driver(&[("CPU", 4.0)]);
        let small = demand(&[("CPU", 1.0)]);
        let mut running: VecDeque<LeaseId> = (0..4).map(|_| node.lease(driver(), &small).0).collect();
        for _ in 0..8 {
            node.request(driver(), &small);
        }
        let group = GroupId(TaskId { owner: driver(), number: 1 });
        let (mut called_back, mut granted) = (0, 0);
        for attempt in 1..200 {
            let bundles = alloc::vec![(0, resources(&[("CPU", 2.0)]))];
            let order = u64::from(attempt);
            let reserve = Message::ReserveBundles { group, attempt, bundles, order };
            let mut effects = node.receive(ProcessId::HEAD, reserve);
            if effects.contains(&send(ProcessId::HEAD, Message::BundlesReserved { group, attempt })) {
                assert!(called_back > 0, "the lessee was asked");
                assert!(granted > 4, "small tasks went on meanwhile");
                return;
            }
            effects.extend(node.pass(Span::from_millis(100)));
            if let Some(lease) = running.pop_front() {
                effects.extend(node.give_back(driver(), lease));
                node.request(driver(), &small);
            }
            for message in sent_to(driver(), &effects) {
                match message {
                    Message::LeaseGranted { lease, .. } => {
                        granted += 1;
                        running.push_back(lease);
                    }
                    Message::LeaseWanted => called_back += 1,
                    _ => {}
                }
            }
        }
        panic!("the group starves");
    }

    #[test]
    fn a_wish_that_is_not_repeated_ends() {
        let mut node = Harness::with_driver(&[("CPU", 4.0)]);
        let small = demand(&[("CPU", 1.0)]);
        let leases: alloc::vec::Vec<LeaseId> = (0..4).map(|_| node.lease(driver(), &small).0).collect();
        let group = GroupId(TaskId { owner: driver(), number: 1 });
        let bundles = alloc::vec![(0, resources(&[("CPU", 4.0)]))];
        node.receive(ProcessId::HEAD, Message::ReserveBundles { group, attempt: 1, bundles, order: 1 });
        node.pass(Span::from_millis(1_100));
        node.give_back(driver(), leases[0]);
        let (_, effects) = node.request(driver(), &small);
        assert_eq!(granted(&effects), [], "held back");
        let effects = node.pass(Span::from_millis(2_000));
        assert_eq!(granted(&effects).len(), 1);
    }

    #[test]
    fn nothing_but_cpus_is_held_back() {
        let mut node = Harness::with_driver(&[("CPU", 2.0), ("slot", 1.0)]);
        node.lease(driver(), &demand(&[("slot", 1.0)]));
        node.request(driver(), &demand(&[("CPU", 2.0), ("slot", 1.0)]));
        node.pass(Span::from_millis(2_100));
        node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(node.forks.len(), 1);
    }
}

//! Work that needs many CPUs at once would wait for ever behind work that needs few: whenever one is
//! free, something small takes it. So for some of the time that it has waited, what it lacks is held
//! back from others.

use alloc::sync::Arc;

use super::Node;
use super::queue::Waiter;
use crate::machine::{Span, Time, Wakeup};
use crate::resources::{Demand, Quantity, Resources};

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
        let Some(oldest) = self.queue.waiters().map(|waiter| waiter.since).min() else { return };
        if oldest + PATIENCE > now {
            return self.deadlines.arm(Wakeup::HoldBack, oldest + PATIENCE);
        }
        // Who waits for others lends them its CPUs and nothing else. Were anything else held back, they
        // could wait for each other.
        let lacks_cpus = |waiter: &Waiter| {
            waiter.demand.group.is_none()
                && matches!(&self.ledger.lacking(waiter.demand)[..], [only] if **only == *Resources::CPU)
        };
        let Some(starving) = self.queue.waiters().filter(lacks_cpus).min_by_key(|waiter| waiter.since) else {
            return;
        };
        let waited = now - starving.since;
        self.deadlines.arm(Wakeup::HoldBack, starving.since + next_change(waited));
        self.shares.held_for = holds_back(waited).then(|| starving.demand.clone());
    }

    /// Whether what a claim needs is held back for another one.
    pub(super) fn is_held_back(held_for: Option<&Arc<Demand>>, demand: &Demand) -> bool {
        let needs_cpu = demand.resources.get(Resources::CPU) > Quantity(0);
        needs_cpu && held_for.is_some_and(|starving| **starving != *demand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaseId;
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
    fn nothing_but_cpus_is_held_back() {
        let mut node = Harness::with_driver(&[("CPU", 2.0), ("slot", 1.0)]);
        node.lease(driver(), &demand(&[("slot", 1.0)]));
        node.request(driver(), &demand(&[("CPU", 2.0), ("slot", 1.0)]));
        node.pass(Span::from_millis(2_100));
        node.request(driver(), &demand(&[("CPU", 1.0)]));
        assert_eq!(node.forks.len(), 1);
    }
}

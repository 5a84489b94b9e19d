//! When a machine wants to be woken: at most one deadline for each reason.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::machine::{Time, Wakeup};

/// The earliest deadline of each kind. Whoever handles a kind looks for what is due and arms it
/// again for what is not, so a deadline that has become pointless costs one spurious wakeup.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadlines {
    at: BTreeMap<Wakeup, Time>,
}

impl Deadlines {
    /// Wake at `at`, or earlier if an earlier deadline of this kind is armed.
    pub(crate) fn arm(&mut self, wakeup: Wakeup, at: Time) {
        let earliest = self.at.entry(wakeup).or_insert(at);
        *earliest = at.min(*earliest);
    }

    /// Do not wake for this any more.
    pub(crate) fn disarm(&mut self, wakeup: Wakeup) {
        self.at.remove(&wakeup);
    }

    /// Whether a deadline of this kind is armed.
    pub(crate) fn is_armed(&self, wakeup: Wakeup) -> bool {
        self.at.contains_key(&wakeup)
    }

    /// The earliest deadline of all.
    pub(crate) fn earliest(&self) -> Option<(Time, Wakeup)> {
        self.at.iter().map(|(wakeup, at)| (*at, *wakeup)).min()
    }

    /// Take out every deadline at or before `now`, earliest first.
    pub(crate) fn take_due(&mut self, now: Time) -> Vec<Wakeup> {
        let mut due: Vec<(Time, Wakeup)> = Vec::new();
        self.at.retain(|wakeup, at| {
            let keep = *at > now;
            if !keep {
                due.push((*at, *wakeup));
            }
            keep
        });
        due.sort_unstable();
        due.into_iter().map(|(_, wakeup)| wakeup).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_deadline_of_a_kind_wins_and_due_ones_come_in_order() {
        let mut deadlines = Deadlines::default();
        deadlines.arm(Wakeup::Retry, Time(30));
        deadlines.arm(Wakeup::Retry, Time(20));
        deadlines.arm(Wakeup::Retry, Time(25));
        deadlines.arm(Wakeup::StoreFull, Time(10));
        deadlines.arm(Wakeup::Report, Time(40));
        assert_eq!(deadlines.earliest(), Some((Time(10), Wakeup::StoreFull)));
        assert_eq!(deadlines.take_due(Time(20)), [Wakeup::StoreFull, Wakeup::Retry]);
        assert!(deadlines.is_armed(Wakeup::Report));
        deadlines.disarm(Wakeup::Report);
        assert_eq!(deadlines.earliest(), None);
    }
}

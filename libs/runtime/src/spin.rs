//! How long a thread looks for input before it sleeps.
//!
//! Waking a sleeping thread costs more than a whole call, so a waiting thread looks again and again
//! for a bounded time. The bound follows success: it grows while looking pays, and shrinks to next to
//! nothing while it does not, as when cores are few and busy.

use std::time::{Duration, Instant};

const LOOKS_MIN: u32 = 4;
/// After so many looks the thread offers its core to others.
const YIELD_EVERY: u32 = 8;

/// Every so many waits the whole budget is tried, or a shrunk one would never see that times changed.
const EXPLORE_EVERY: u32 = 16;

/// A thread that others wait for gives up when it gets its core back only after this time.
const YIELD_MAX: Duration = Duration::from_micros(200);

/// One thread role's budget.
#[derive(Debug)]
pub(crate) struct Spin {
    /// The most looks in a row; one takes about a third of a microsecond.
    most: u32,
    looks: u32,
    failures: u32,
    /// Others wait for this thread while it looks.
    serves: bool,
}

impl Spin {
    pub(crate) fn new(most: u32) -> Spin {
        Spin { most, looks: most, failures: 0, serves: false }
    }

    /// For a thread that others wait for. It tries the whole budget without offering its core, and stops when
    /// whoever takes the core keeps it: how long others compute must not become their delay.
    #[cfg_attr(madsim, allow(dead_code, reason = "the daemon is left out there"))]
    pub(crate) fn serving(most: u32) -> Spin {
        Spin { serves: true, ..Spin::new(most) }
    }

    /// Look until `look` finds something or the budget is spent.
    pub(crate) fn run(&mut self, mut look: impl FnMut() -> bool) -> bool {
        let explore = self.failures % EXPLORE_EVERY == EXPLORE_EVERY - 1;
        let looks = if explore { self.most } else { self.looks };
        let yields = !(explore && self.serves);
        let mut last = looks;
        for turn in 1..=looks {
            if look() {
                self.looks = (looks * 2).min(self.most);
                self.failures = 0;
                return true;
            }
            if turn >= last {
                break;
            }
            if !yields || turn % YIELD_EVERY != 0 {
                std::hint::spin_loop();
            } else if self.give_way() {
                last = turn + 1;
            }
        }
        self.failures = self.failures.wrapping_add(1);
        self.looks = (self.looks / 2).max(LOOKS_MIN);
        false
    }

    /// Offer the core to others. Whether they need it more.
    fn give_way(&self) -> bool {
        let before = self.serves.then(Instant::now);
        rustix::thread::sched_yield();
        before.is_some_and(|before| before.elapsed() > YIELD_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_success() {
        let mut spin = Spin::new(256);
        for _ in 0..20 {
            assert!(!spin.run(|| false));
        }
        assert_eq!(spin.looks, LOOKS_MIN);
        for _ in 0..20 {
            assert!(spin.run(|| true));
        }
        assert_eq!(spin.looks, 256);
    }

    #[test]
    fn in_vain_it_looks_little_and_tries_the_whole_budget_at_times() {
        let mut spin = Spin::serving(64);
        let mut looks = Vec::new();
        for _ in 0..2 * EXPLORE_EVERY {
            let mut count = 0;
            spin.run(|| {
                count += 1;
                false
            });
            looks.push(count);
        }
        // Busy cores may end a try early.
        assert!(looks[5..15].iter().all(|count| *count == LOOKS_MIN), "{looks:?}");
        assert_eq!((looks[15], looks[31]), (64, 64), "{looks:?}");
    }
}

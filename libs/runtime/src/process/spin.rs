//! How long a thread looks for input before it sleeps.
//!
//! Waking a sleeping thread costs more than a whole call, so a waiting thread looks again and again
//! for a bounded time. The bound follows success: it grows while looking pays, and shrinks to next to
//! nothing while it does not, as when cores are few and busy.

/// The most looks in a row; one takes about a third of a microsecond.
const LOOKS_MAX: u32 = 256;
const LOOKS_MIN: u32 = 4;
/// After so many looks the thread offers its core to others.
const YIELD_EVERY: u32 = 8;

/// Every so many waits the whole budget is tried, or a shrunk one would never see that times changed.
const EXPLORE_EVERY: u32 = 16;

/// One thread role's budget.
#[derive(Debug)]
pub(super) struct Spin {
    looks: u32,
    failures: u32,
}

impl Spin {
    pub(super) fn new() -> Spin {
        Spin { looks: LOOKS_MAX, failures: 0 }
    }

    /// Look until `look` finds something or the budget is spent.
    pub(super) fn run(&mut self, mut look: impl FnMut() -> bool) -> bool {
        let explore = self.failures % EXPLORE_EVERY == EXPLORE_EVERY - 1;
        let looks = if explore { LOOKS_MAX } else { self.looks };
        for turn in 1..=looks {
            if look() {
                self.looks = (looks * 2).min(LOOKS_MAX);
                self.failures = 0;
                return true;
            }
            if turn % YIELD_EVERY == 0 {
                rustix::thread::sched_yield();
            } else {
                std::hint::spin_loop();
            }
        }
        self.failures = self.failures.wrapping_add(1);
        self.looks = (self.looks / 2).max(LOOKS_MIN);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_success() {
        let mut spin = Spin::new();
        for _ in 0..20 {
            assert!(!spin.run(|| false));
        }
        assert_eq!(spin.looks, LOOKS_MIN);
        for _ in 0..20 {
            assert!(spin.run(|| true));
        }
        assert_eq!(spin.looks, LOOKS_MAX);
    }
}

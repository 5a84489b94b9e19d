//! Memory that nobody has needed for a while goes back to the operating system.

use alloc::vec::Vec;

use super::Store;
use super::outbox::Outbox;
use super::ranges::{PAGE, round_down, round_up};
use super::room::Operation;
use crate::deadlines::Deadlines;
use crate::machine::{Span, Time, Wakeup};
use crate::node::{Work, WorkResult};

/// How long memory must have been free.
const FREE_FOR: Span = Span::from_secs(10);
/// At most so much is released in one piece of work, for it cannot be used meanwhile.
const RELEASED_AT_ONCE: u64 = 256 << 20;

/// The least that was free, of what has pages, since a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Floor {
    since: Option<Time>,
    bytes: u64,
}

/// Bytes to keep backed though nobody needs them now: pages are dear to get.
fn warm_reserve(capacity: u64) -> u64 {
    (capacity / 8).min(256 << 20)
}

impl Store {
    /// Free memory with pages behind it. Everything that is not free has pages, or is about to.
    fn free_backed(&self) -> u64 {
        self.backed.total().saturating_sub(self.capacity - self.free.total())
    }

    /// Release what has stayed free for long enough, beyond a reserve.
    pub(super) fn release_idle(&mut self, out: &mut Outbox, deadlines: &mut Deadlines) {
        let free = self.free_backed();
        let reserve = warm_reserve(self.capacity);
        if free <= reserve {
            self.floor = Floor::default();
            return deadlines.disarm(Wakeup::ReleasePages);
        }
        let Floor { since: Some(since), bytes } = self.floor else {
            self.floor = Floor { since: Some(out.now), bytes: free };
            return deadlines.arm(Wakeup::ReleasePages, out.now + FREE_FOR);
        };
        let bytes = bytes.min(free);
        if since + FREE_FOR > out.now {
            self.floor.bytes = bytes;
            return deadlines.arm(Wakeup::ReleasePages, since + FREE_FOR);
        }
        self.release(bytes.saturating_sub(reserve), out);
        self.floor = Floor::default();
        if self.free_backed() > reserve {
            self.floor = Floor { since: Some(out.now), bytes: self.free_backed() };
            deadlines.arm(Wakeup::ReleasePages, out.now + FREE_FOR);
        }
    }

    /// Release so many bytes, from the end of the segment, so that the beginning stays warm.
    fn release(&mut self, mut surplus: u64, out: &mut Outbox) {
        let mut chosen: Vec<(u64, u64)> = Vec::new();
        for (offset, size) in self.free.ranges().iter().rev() {
            let start = round_up(offset, PAGE);
            let end = round_down(offset + size, PAGE);
            if start >= end {
                continue;
            }
            for (offset, size) in self.backed.parts(start, end - start, true).into_iter().rev() {
                let released = size.min(surplus).min(RELEASED_AT_ONCE) & !(PAGE - 1);
                if released > 0 {
                    chosen.push((offset + size - released, released));
                    surplus -= released;
                }
            }
        }
        for (offset, size) in chosen {
            self.free.take_at(offset, size);
            self.transit.insert(offset, size);
            let operation = out.start(Work::ReleasePages { offset, size });
            self.operations.insert(operation, Operation::Release { offset, size });
        }
    }

    pub(super) fn released(&mut self, offset: u64, size: u64, result: &WorkResult) {
        if *result == WorkResult::Done {
            self.backed.remove(offset, size);
        }
        self.transit.remove(offset, size);
        self.set_free(offset, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::node::Effect;
    use crate::node::harness::driver;
    use crate::node::store::harness::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_stays_free_is_released_but_for_a_reserve() {
        let mut store = StoreHarness::new(64 * MIB);
        let (offset, size) = store.extent(driver(), 40 * MIB);
        store.node.receive(driver(), Message::ReturnExtent { offset, size });
        assert_eq!(store.node.pass(Span::from_secs(9)), []);
        // A part is used for a moment within the ten seconds: it was needed.
        let (offset, size) = store.extent(driver(), 20 * MIB);
        store.node.receive(driver(), Message::ReturnExtent { offset, size });
        let effects = store.node.pass(Span::from_secs(1));
        let [Effect::Start { operation, work: Work::ReleasePages { offset, size } }] = effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(size, 12 * MIB, "40 - 20 - reserve of 8");
        assert_eq!(offset, 4_096 + 28 * MIB);
        store.node.finished(operation, WorkResult::Done);
        let effects = store.node.pass(Span::from_secs(10));
        let [Effect::Start { operation, work: Work::ReleasePages { size, .. } }] = effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(size, 20 * MIB);
        // What is being released is not granted meanwhile.
        let effects = store.ask(driver(), 60 * MIB);
        assert_eq!(effects, []);
        let effects = store.node.finished(operation, WorkResult::Done);
        let [Effect::Start { work: Work::Reserve { offset, .. }, .. }] = effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(offset, 4_096 + 8 * MIB);
        assert!(!store.node.node.deadlines.is_armed(Wakeup::ReleasePages), "nothing is left to release");
    }
}

//! Virtual time: what happens next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use shoal_core::Time;

/// Events by time; those of one instant in the order in which they were scheduled.
#[derive(Debug)]
pub struct Heap<E> {
    heap: BinaryHeap<Entry<E>>,
    scheduled: u64,
    now: Time,
}

#[derive(Debug)]
struct Entry<E> {
    key: Reverse<(Time, u64)>,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
impl<E> Eq for Entry<E> {}
impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl<E> Default for Heap<E> {
    fn default() -> Self {
        Heap { heap: BinaryHeap::new(), scheduled: 0, now: Time::default() }
    }
}

impl<E> Heap<E> {
    /// The present.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Let `event` happen at `at`, or now if that is past.
    pub fn schedule(&mut self, at: Time, event: E) {
        self.scheduled += 1;
        let key = Reverse((at.max(self.now), self.scheduled));
        self.heap.push(Entry { key, event });
    }

    /// When the next event happens.
    pub fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|entry| entry.key.0.0)
    }

    /// Everything that is to happen, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Time, &E)> {
        self.heap.iter().map(|entry| (entry.key.0.0, &entry.event))
    }

    /// Go to the next event.
    pub fn pop(&mut self) -> Option<E> {
        let entry = self.heap.pop()?;
        self.now = entry.key.0.0;
        Some(entry.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_orders_and_ties_keep_their_order() {
        let mut heap = Heap::default();
        heap.schedule(Time(5), 'b');
        heap.schedule(Time(1), 'a');
        heap.schedule(Time(5), 'c');
        assert_eq!(heap.pop(), Some('a'));
        heap.schedule(Time(0), 'x');
        let rest: Vec<char> = std::iter::from_fn(|| heap.pop()).collect();
        assert_eq!(rest, ['x', 'b', 'c']);
        assert_eq!(heap.now(), Time(5));
    }
}

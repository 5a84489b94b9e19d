//! The shared store's memory: what was written where.

use std::collections::BTreeMap;
use std::fmt::Debug;

use shoal_core::ids::ObjectId;

/// What stands for an object's bytes. A copy of it is a copy of them.
pub trait Content: Clone + Debug {
    /// The object whose bytes these are.
    fn object(&self) -> ObjectId;
}

/// One node's segment.
#[derive(Debug)]
pub struct Segment<C> {
    written: BTreeMap<u64, (u64, C)>,
}

impl<C> Default for Segment<C> {
    fn default() -> Self {
        Segment { written: BTreeMap::new() }
    }
}

impl<C: Content> Segment<C> {
    /// Write an object; whatever it overlaps is gone.
    pub fn write(&mut self, offset: u64, size: u64, content: C) {
        self.clear(offset, offset + size.max(1));
        self.written.insert(offset, (size, content));
    }

    /// The object that lies exactly there, if nothing was written over it.
    pub fn read(&self, offset: u64, size: u64) -> Option<&C> {
        let (length, content) = self.written.get(&offset)?;
        (*length == size).then_some(content)
    }

    /// The pages of a range were given back: whatever was there is gone.
    pub fn release(&mut self, offset: u64, size: u64) {
        self.clear(offset, offset + size);
    }

    fn clear(&mut self, start: u64, end: u64) {
        // What is written does not overlap, so only the last one before the range can reach into it.
        let reaches = |(at, (length, _)): (&u64, &(u64, C))| (at + (*length).max(1) > start).then_some(*at);
        let before = self.written.range(..start).next_back().and_then(reaches);
        let inside: Vec<u64> = self.written.range(start..end).map(|(at, _)| *at).collect();
        for at in before.into_iter().chain(inside) {
            self.written.remove(&at);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use shoal_core::ids::{ProcessId, TaskId};

    impl Content for u64 {
        fn object(&self) -> ObjectId {
            TaskId { owner: ProcessId(1), number: *self }.object(0)
        }
    }

    #[test]
    fn overlapping_writes_destroy() {
        let mut segment = Segment::default();
        segment.write(0, 100, 1);
        segment.write(100, 100, 2);
        assert_eq!(segment.read(0, 100), Some(&1));
        segment.write(64, 64, 3);
        assert_eq!(segment.read(0, 100), None);
        assert_eq!(segment.read(100, 100), None);
        assert_eq!(segment.read(64, 64), Some(&3));
        segment.release(100, 1);
        assert_eq!(segment.read(64, 64), None);
    }
}

//! The shared store's memory: what was written where.

use std::collections::BTreeMap;

use shoal_core::ids::ObjectId;

/// What stands for an object's bytes: which object, made by which attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Content {
    /// The object.
    pub object: ObjectId,
    /// The attempt that made it.
    pub attempt: u32,
}

/// One node's segment.
#[derive(Debug, Default)]
pub struct Segment {
    written: BTreeMap<u64, (u64, Content)>,
}

impl Segment {
    /// Write an object; whatever it overlaps is gone.
    pub fn write(&mut self, offset: u64, size: u64, content: Content) {
        let end = offset + size.max(1);
        let overlaps = |(&start, &(length, _)): (&u64, &(u64, Content))| {
            (start < end && start + length.max(1) > offset).then_some(start)
        };
        let gone: Vec<u64> = self.written.iter().filter_map(overlaps).collect();
        for start in gone {
            self.written.remove(&start);
        }
        self.written.insert(offset, (size, content));
    }

    /// The object that lies exactly there, if nothing was written over it.
    pub fn read(&self, offset: u64, size: u64) -> Option<Content> {
        let (length, content) = self.written.get(&offset)?;
        (*length == size).then_some(*content)
    }

    /// The pages of a range were given back: whatever was there is gone.
    pub fn release(&mut self, offset: u64, size: u64) {
        let end = offset + size;
        self.written.retain(|start, (length, _)| *start >= end || *start + (*length).max(1) <= offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::ids::{ProcessId, TaskId};

    fn content(number: u64) -> Content {
        let owner = ProcessId(1);
        Content { object: TaskId { owner, number }.object(0), attempt: 0 }
    }

    #[test]
    fn overlapping_writes_destroy() {
        let mut segment = Segment::default();
        segment.write(0, 100, content(1));
        segment.write(100, 100, content(2));
        assert_eq!(segment.read(0, 100), Some(content(1)));
        segment.write(64, 64, content(3));
        assert_eq!(segment.read(0, 100), None);
        assert_eq!(segment.read(100, 100), None);
        assert_eq!(segment.read(64, 64), Some(content(3)));
        segment.release(100, 1);
        assert_eq!(segment.read(64, 64), None);
    }
}

//! The room in the shared store that the node gave this process.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::room::object_room;

/// Free ranges, never overlapping and never touching: touching ones are merged.
#[derive(Clone, Debug, Default)]
pub(super) struct Region {
    free: BTreeMap<u64, u64>,
}

impl Region {
    /// The node granted a range.
    pub(super) fn add(&mut self, offset: u64, size: u64) {
        self.insert(offset, size);
    }

    /// The object at `offset` is gone.
    pub(super) fn free(&mut self, offset: u64, size: u64) {
        if let Some(room) = object_room(size) {
            self.insert(offset, room);
        }
    }

    /// Room for `size` bytes, from the smallest range that has it.
    pub(super) fn allocate(&mut self, size: u64) -> Option<u64> {
        let size = object_room(size)?;
        let (&offset, &length) =
            self.free.iter().filter(|(_, length)| **length >= size).min_by_key(|(_, length)| **length)?;
        self.free.remove(&offset);
        if length > size {
            self.free.insert(offset + size, length - size);
        }
        Some(offset)
    }

    /// Give up everything that is free.
    pub(super) fn take_free(&mut self) -> Vec<(u64, u64)> {
        core::mem::take(&mut self.free).into_iter().collect()
    }

    /// For [`super::Owner::check`].
    pub(super) fn check(&self) {
        let mut end = 0;
        for (offset, size) in &self.free {
            assert!(*size > 0 && (*offset > end || end == 0), "free ranges touch at {offset}");
            end = offset + size;
        }
    }

    fn insert(&mut self, mut offset: u64, mut size: u64) {
        if let Some((&before, &length)) = self.free.range(..offset).next_back()
            && before + length == offset
        {
            self.free.remove(&before);
            offset = before;
            size += length;
        }
        if let Some(length) = self.free.remove(&(offset + size)) {
            size += length;
        }
        self.free.insert(offset, size);
    }
}

impl super::Owner {
    /// Room for `size` bytes in the store, if this process has it; else [`super::Input::RequestRoom`].
    pub fn allocate(&mut self, size: u64) -> Option<u64> {
        self.region.allocate(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn neighbours_merge_and_the_smallest_fit_wins() {
        let mut region = Region::default();
        region.add(0, 4096);
        region.add(8192, 1024);
        assert_eq!(region.allocate(1000), Some(8192));
        assert_eq!(region.allocate(4096), Some(0));
        assert_eq!(region.allocate(1), None);
        region.free(0, 4096);
        region.free(8192, 1000);
        region.add(4096, 4096);
        assert_eq!(region.take_free(), vec![(0, 9216)]);
    }
}

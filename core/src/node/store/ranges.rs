//! Sets of byte ranges, and the allocator over the free ones.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// A page of memory: what is backed, and what is given to a process, is made of whole pages.
pub(super) const PAGE: u64 = 4_096;
/// Objects start at multiples of this.
pub(super) use crate::room::OBJECT_ALIGNMENT;

/// The next multiple of `alignment`, a power of two.
pub(super) const fn round_up(value: u64, alignment: u64) -> u64 {
    (value + alignment - 1) & !(alignment - 1)
}
/// The multiple of `alignment`, a power of two, at or below `value`.
pub(super) const fn round_down(value: u64, alignment: u64) -> u64 {
    value & !(alignment - 1)
}

/// Disjoint ranges of bytes; neighbours are merged.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Ranges {
    /// Sizes by offset.
    sizes: BTreeMap<u64, u64>,
    total: u64,
}

impl Ranges {
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// (offset, size), in the order of offsets.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.sizes.iter().map(|(offset, size)| (*offset, *size))
    }

    /// The range that begins at or before `offset` and reaches beyond it.
    fn around(&self, offset: u64) -> Option<(u64, u64)> {
        let (start, size) = self.sizes.range(..=offset).next_back()?;
        (start + size > offset).then_some((*start, *size))
    }

    /// Whether all of a range is in the set.
    pub(super) fn contains(&self, offset: u64, size: u64) -> bool {
        let Some(end) = offset.checked_add(size) else { return false };
        self.around(offset).is_some_and(|(start, size)| start + size >= end)
    }

    /// Add a range of which nothing is in the set. Returns what was merged: the range that is there
    /// now, and the neighbours that it took in.
    pub(super) fn insert(&mut self, offset: u64, size: u64) -> Merged {
        assert!(size > 0, "ranges are not empty");
        assert!(self.around(offset).is_none(), "{offset}+{size} is in the set already");
        let next = self.sizes.range(offset..).next().map(|(start, size)| (*start, *size));
        assert!(next.is_none_or(|(start, _)| offset + size <= start), "{offset}+{size} overlaps");
        let mut merged = Merged { range: (offset, size), taken: [None, None] };
        if let Some((start, before)) = self.sizes.range(..offset).next_back()
            && start + before == offset
        {
            merged.taken[0] = Some((*start, *before));
            merged.range = (*start, before + size);
        }
        if let Some((start, after)) = next
            && offset + size == start
        {
            merged.taken[1] = Some((start, after));
            merged.range.1 += after;
            self.sizes.remove(&start);
        }
        self.sizes.insert(merged.range.0, merged.range.1);
        self.total += size;
        merged
    }

    /// Take away a range of which everything is in the set. Returns the range that it was part of.
    pub(super) fn remove(&mut self, offset: u64, size: u64) -> (u64, u64) {
        assert!(size > 0, "ranges are not empty");
        assert!(self.contains(offset, size), "{offset}+{size} is not in the set");
        let (start, whole) = self.around(offset).expect("it contains the range");
        self.sizes.remove(&start);
        if start < offset {
            self.sizes.insert(start, offset - start);
        }
        if offset + size < start + whole {
            self.sizes.insert(offset + size, start + whole - offset - size);
        }
        self.total -= size;
        (start, whole)
    }

    /// How many bytes from `offset` on are in the set without a gap.
    pub(super) fn reach(&self, offset: u64) -> u64 {
        self.around(offset).map_or(0, |(start, size)| start + size - offset)
    }

    /// The parts of a range that are, or are not, in the set.
    pub(super) fn parts(&self, offset: u64, size: u64, inside: bool) -> Vec<(u64, u64)> {
        let end = offset + size;
        let first = self.around(offset).map_or(offset, |(start, _)| start);
        let mut parts = Vec::new();
        let mut at = offset;
        for (start, size) in self.sizes.range(first..end) {
            let (from, to) = ((*start).max(offset), (start + size).min(end));
            if inside {
                parts.push((from, to - from));
            } else if at < from {
                parts.push((at, from - at));
            }
            at = to;
        }
        if !inside && at < end {
            parts.push((at, end - at));
        }
        parts
    }

    /// Add the ranges of another set; nothing of them is in this one.
    pub(super) fn add_all(&mut self, other: &Ranges) {
        for (offset, size) in other.iter() {
            self.insert(offset, size);
        }
    }

    /// Add whatever of a range is not in the set.
    pub(super) fn cover(&mut self, offset: u64, size: u64) {
        for (offset, size) in self.parts(offset, size, false) {
            self.insert(offset, size);
        }
    }
}

/// What an insertion did.
pub(super) struct Merged {
    range: (u64, u64),
    taken: [Option<(u64, u64)>; 2],
}

/// So many free pieces of each kind are looked at for one that is better than others.
const LOOKS_MAX: usize = 16;

/// Free memory: best fit, lowest offset first among equals.
#[derive(Clone, Debug)]
pub(super) struct FreeSpace {
    ranges: Ranges,
    by_size: BTreeSet<(u64, u64)>,
}

impl FreeSpace {
    pub(super) fn new(offset: u64, size: u64) -> FreeSpace {
        let mut free = FreeSpace { ranges: Ranges::default(), by_size: BTreeSet::new() };
        if size > 0 {
            free.release(offset, size);
        }
        free
    }

    pub(super) fn total(&self) -> u64 {
        self.ranges.total()
    }
    pub(super) fn ranges(&self) -> &Ranges {
        &self.ranges
    }
    /// The size of the largest piece.
    pub(super) fn largest(&self) -> u64 {
        self.by_size.last().map_or(0, |(size, _)| *size)
    }

    /// Take `size` bytes that start at a multiple of `alignment`.
    pub(super) fn take(&mut self, size: u64, alignment: u64) -> Option<u64> {
        let fits = |(whole, start): &(u64, u64)| {
            let offset = round_up(*start, alignment);
            (offset + size <= start + whole).then_some(offset)
        };
        let offset = self.by_size.range((size, 0)..).find_map(fits)?;
        self.take_at(offset, size);
        Some(offset)
    }

    /// Pieces (offset, size) of at least `least` bytes: first those of `most` bytes and more, the smallest
    /// first, then the others, the largest first.
    pub(super) fn pieces(&self, least: u64, most: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let larger = self.by_size.range((most, 0)..);
        let smaller = self.by_size.range((least, 0)..(most.max(least), 0)).rev();
        larger.take(LOOKS_MAX).chain(smaller.take(LOOKS_MAX)).map(|(size, offset)| (*offset, *size))
    }

    /// Take exactly this range, which must be free.
    pub(super) fn take_at(&mut self, offset: u64, size: u64) {
        let (start, whole) = self.ranges.remove(offset, size);
        self.by_size.remove(&(whole, start));
        if start < offset {
            self.by_size.insert((offset - start, start));
        }
        let (end, whole_end) = (offset + size, start + whole);
        if end < whole_end {
            self.by_size.insert((whole_end - end, end));
        }
    }

    /// Give a range back.
    pub(super) fn release(&mut self, offset: u64, size: u64) {
        let merged = self.ranges.insert(offset, size);
        for (offset, size) in merged.taken.into_iter().flatten() {
            self.by_size.remove(&(size, offset));
        }
        self.by_size.insert((merged.range.1, merged.range.0));
    }

    /// Both indices must say the same.
    pub(super) fn check(&self) {
        let by_offset: BTreeSet<(u64, u64)> =
            self.ranges.iter().map(|(offset, size)| (size, offset)).collect();
        assert_eq!(self.by_size, by_offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::{prop, proptest};

    #[test]
    fn neighbours_merge_and_split() {
        let mut ranges = Ranges::default();
        ranges.insert(100, 50);
        ranges.insert(200, 50);
        ranges.insert(150, 50);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(100, 150)]);
        assert!(ranges.contains(120, 130) && !ranges.contains(120, 131) && !ranges.contains(99, 1));
        assert!(!ranges.contains(u64::MAX, 2));
        ranges.remove(150, 10);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(100, 50), (160, 90)]);
        assert_eq!(ranges.total(), 140);
        assert_eq!(ranges.parts(90, 100, false), [(90, 10), (150, 10)]);
        assert_eq!(ranges.parts(90, 100, true), [(100, 50), (160, 30)]);
        ranges.cover(90, 100);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(90, 160)]);
    }

    #[test]
    fn the_smallest_piece_that_fits_is_taken() {
        let mut free = FreeSpace::new(0, 10_000);
        free.take_at(1_000, 1_000);
        free.take_at(2_500, 500);
        // Pieces: 0+1000, 2000+500, 3000+7000.
        assert_eq!(free.take(400, 1), Some(2_000));
        assert_eq!(free.take(400, 1), Some(0));
        assert_eq!(free.take(1_000, 4_096), Some(4_096));
        assert_eq!(free.take(5_000, 1), None);
        assert_eq!(free.largest(), 10_000 - 5_096);
        free.check();
    }

    proptest! {
        /// Whatever is taken and given back in whatever order: nothing overlaps, nothing is lost,
        /// and all of it merges into one piece in the end.
        #[test]
        fn taken_ranges_are_disjoint_and_all_come_back(
            steps in prop::collection::vec((prop::bool::ANY, 1u64..5_000, 0u32..4, 0usize..64), 1..200),
        ) {
            let (start, capacity) = (4_096, 100_000);
            let mut free = FreeSpace::new(start, capacity);
            let mut taken: Vec<(u64, u64)> = vec![];
            for (take, size, alignment, pick) in steps {
                if take {
                    let alignment = 1 << (alignment * 4);
                    match free.take(size, alignment) {
                        Some(offset) => {
                            assert_eq!(offset % alignment, 0);
                            assert!(offset >= start && offset + size <= start + capacity);
                            assert!(taken.iter().all(|(o, s)| offset + size <= *o || o + s <= offset));
                            taken.push((offset, size));
                        }
                        None => assert!(free.largest() < size + alignment),
                    }
                } else if !taken.is_empty() {
                    let (offset, size) = taken.swap_remove(pick % taken.len());
                    free.release(offset, size);
                }
                free.check();
                assert_eq!(free.total() + taken.iter().map(|(_, size)| size).sum::<u64>(), capacity);
            }
            for (offset, size) in taken {
                free.release(offset, size);
            }
            assert_eq!(free.largest(), capacity);
        }
    }
}

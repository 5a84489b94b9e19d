//! Which objects leave memory when room is needed.
//!
//! Room must be in one piece, so the choice is a stretch of memory rather than a list of objects:
//! of all stretches that could be emptied, one whose most recently used object was used longest ago,
//! and of those, one that needs the fewest bytes to be written.

use alloc::vec::Vec;

use super::ranges::round_up;
use crate::ids::ObjectId;

/// A piece of memory that is free, or that can be made so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) size: u64,
    /// The object to evict; without one, the piece is free.
    pub(super) object: Option<Evictable>,
}

/// An object that nobody has pinned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evictable {
    pub(super) object: ObjectId,
    /// Rises with each use of any object.
    pub(super) used: u64,
    /// Bytes to write; 0 if it is on disk already.
    pub(super) writes: u64,
}

/// The objects to evict so that `size` bytes at a multiple of `alignment` become free, if that can
/// be. `pieces` are in the order of their offsets.
pub(super) fn choose_victims(pieces: &[Piece], size: u64, alignment: u64) -> Option<Vec<ObjectId>> {
    let mut uses: Vec<u64> =
        pieces.iter().filter_map(|piece| piece.object).map(|object| object.used).collect();
    uses.push(0);
    uses.sort_unstable();
    cheapest_stretch(pieces, size, alignment, u64::MAX)?;
    // The smallest limit on recency for which there is a stretch.
    let (mut low, mut high) = (0, uses.len() - 1);
    while low < high {
        let middle = usize::midpoint(low, high);
        if cheapest_stretch(pieces, size, alignment, uses[middle]).is_some() {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let (first, last) = cheapest_stretch(pieces, size, alignment, uses[high])?;
    let objects = pieces[first..=last].iter().filter_map(|piece| piece.object);
    Some(objects.map(|evictable| evictable.object).collect())
}

/// The first and last piece of the stretch that needs the fewest writes, of those whose objects were
/// not used after `used_max`.
fn cheapest_stretch(pieces: &[Piece], size: u64, alignment: u64, used_max: u64) -> Option<(usize, usize)> {
    let writes = |piece: &Piece| piece.object.map_or(0, |object| object.writes);
    let mut best: Option<(u64, usize, usize)> = None;
    let mut first = 0;
    let mut cost = 0;
    for (last, piece) in pieces.iter().enumerate() {
        let usable = piece.object.is_none_or(|object| object.used <= used_max);
        let adjoins = last > 0 && pieces[last - 1].offset + pieces[last - 1].size == piece.offset;
        if !usable || !adjoins {
            first = if usable { last } else { last + 1 };
            cost = 0;
        }
        if !usable {
            continue;
        }
        cost += writes(piece);
        let end = piece.offset + piece.size;
        while round_up(pieces[first].offset, alignment) + size <= end {
            if best.is_none_or(|(least, ..)| cost < least) {
                best = Some((cost, first, last));
            }
            cost -= writes(&pieces[first]);
            first += 1;
            if first > last {
                break;
            }
        }
    }
    best.map(|(_, first, last)| (first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ProcessId, TaskId};

    fn object(number: u64) -> ObjectId {
        TaskId { owner: ProcessId(1), number }.object(0)
    }

    /// `(size, used, writes)` one after the other; used 0 is free, size 0 is something in between
    /// that cannot be moved.
    fn pieces(list: &[(u64, u64, u64)]) -> Vec<Piece> {
        let mut offset = 0;
        let mut pieces = Vec::new();
        for (index, (size, used, writes)) in list.iter().enumerate() {
            if *size == 0 {
                offset += 64;
                continue;
            }
            let evictable = Evictable { object: object(index as u64), used: *used, writes: *writes };
            pieces.push(Piece { offset, size: *size, object: (*used > 0).then_some(evictable) });
            offset += size;
        }
        pieces
    }

    #[test]
    fn the_stretch_that_was_used_longest_ago_goes_and_among_equals_the_cheapest() {
        type Case<'a> = (&'a [(u64, u64, u64)], u64, Option<&'a [u64]>);
        let cases: [Case; 10] = [
            (&[], 64, None),
            // Nothing has to go.
            (&[(128, 0, 0)], 128, Some(&[])),
            // The least recently used one that is large enough.
            (&[(64, 9, 64), (64, 3, 64), (64, 5, 64)], 64, Some(&[1])),
            // Two neighbours; not the oldest two, which are apart.
            (&[(64, 1, 64), (64, 9, 64), (64, 2, 64), (64, 3, 64)], 128, Some(&[2, 3])),
            // Free room next to an object helps.
            (&[(64, 1, 64), (64, 2, 64), (64, 0, 0)], 128, Some(&[1])),
            // What cannot be moved divides.
            (&[(64, 1, 64), (0, 0, 0), (64, 2, 64)], 128, None),
            // On disk already: nothing to write.
            (&[(64, 4, 64), (0, 0, 0), (64, 4, 0)], 64, Some(&[2])),
            // A large object beside a small one: only as much as is needed.
            (&[(64, 1, 64), (256, 1, 256)], 64, Some(&[0])),
            // A stretch that was used later but needs less does not win.
            (&[(64, 7, 1), (0, 0, 0), (64, 6, 64)], 64, Some(&[2])),
            (&[(64, 1, 64), (64, 2, 64)], 192, None),
        ];
        for (index, (list, size, expected)) in cases.into_iter().enumerate() {
            let chosen = choose_victims(&pieces(list), size, 64);
            let expected: Option<Vec<ObjectId>> =
                expected.map(|numbers| numbers.iter().map(|number| object(*number)).collect());
            assert_eq!(chosen, expected, "case {index}");
        }
    }

    #[test]
    fn alignment_is_part_of_the_room() {
        let list = pieces(&[(0, 0, 0), (8_192, 1, 8_192)]);
        assert_eq!(choose_victims(&list, 8_192, 4_096), None);
        assert_eq!(choose_victims(&list, 4_096, 4_096), Some(alloc::vec![object(1)]));
    }

    proptest::proptest! {
        /// Compared with all stretches that there are.
        #[test]
        fn no_stretch_is_better(
            list in proptest::collection::vec((0u64..4, 0u64..4, 0u64..3), 0..12),
            size in 1u64..6,
            pages in proptest::bool::ANY,
        ) {
            let list: Vec<(u64, u64, u64)> =
                list.into_iter().map(|(size, used, writes)| (size * 64, used, writes * 64)).collect();
            let (pieces, size) = (pieces(&list), size * 64);
            let alignment = if pages { 256 } else { 64 };
            let key = |stretch: &[Piece]| {
                let objects = || stretch.iter().filter_map(|piece| piece.object);
                (objects().map(|o| o.used).max().unwrap_or(0), objects().map(|o| o.writes).sum::<u64>())
            };
            let mut best = None;
            for first in 0..pieces.len() {
                for last in first..pieces.len() {
                    let stretch = &pieces[first..=last];
                    let whole = stretch.windows(2).all(|pair| pair[0].offset + pair[0].size == pair[1].offset);
                    let end = stretch.last().map_or(0, |piece| piece.offset + piece.size);
                    if whole && round_up(stretch[0].offset, alignment) + size <= end {
                        best = best.into_iter().chain([key(stretch)]).min();
                    }
                }
            }
            let chosen = choose_victims(&pieces, size, alignment);
            let chosen = chosen.map(|victims| {
                let is_victim = |piece: &&Piece| piece.object.is_some_and(|o| victims.contains(&o.object));
                key(&pieces.iter().filter(is_victim).copied().collect::<Vec<_>>())
            });
            assert_eq!(chosen, best);
        }
    }
}

//! Where things lie in a segment.
//!
//! ```text
//! 0        header: magic, version, capacity
//! 512 KiB  one bit per 2 MiB chunk: is it backed by memory?
//! 1 MiB    process table, 64 bytes per slot
//! 2 MiB    objects, up to the capacity
//! ```
//!
//! Every process of a node maps the same build of this crate, so the layout needs no compatibility;
//! the version only turns a mix of builds into an error.

use crate::StoreError;

/// Granularity in which the segment is backed by memory and given back: the size of a huge page, in
/// bytes.
pub const CHUNK: u64 = 2 << 20;

/// First byte of the object area. What lies before it belongs to the store itself.
pub const FIRST_OFFSET: u64 = CHUNK;

pub(crate) const BACKED_OFFSET: usize = 512 << 10;
pub(crate) const BACKED_BYTES: usize = 512 << 10;
pub(crate) const PROCESS_TABLE_OFFSET: usize = 1 << 20;
pub(crate) const PROCESS_TABLE_BYTES: usize = 1 << 20;

/// The header and one chunk of objects.
pub(crate) const MINIMUM_CAPACITY: u64 = 2 * CHUNK;
/// As many chunks as there are bits to describe them: 8 TiB.
pub(crate) const MAXIMUM_CAPACITY: u64 = BACKED_BYTES as u64 * 8 * CHUNK;

const MAGIC: [u8; 8] = *b"shoalseg";
const VERSION: u64 = 1;
pub(crate) const HEADER_BYTES: usize = 24;

pub(crate) fn encode_header(capacity: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&VERSION.to_ne_bytes());
    header[16..].copy_from_slice(&capacity.to_ne_bytes());
    header
}

/// Rounds a capacity up to whole chunks, or refuses it.
pub(crate) fn round_capacity(requested: u64) -> Result<u64, StoreError> {
    if !(MINIMUM_CAPACITY..=MAXIMUM_CAPACITY).contains(&requested) {
        return Err(StoreError::InvalidCapacity {
            requested,
            minimum: MINIMUM_CAPACITY,
            maximum: MAXIMUM_CAPACITY,
        });
    }
    Ok(requested.next_multiple_of(CHUNK))
}

/// Checks that a range lies in the object area.
pub(crate) fn check_bounds(offset: u64, length: u64, capacity: u64) -> Result<(), StoreError> {
    match offset.checked_add(length) {
        Some(end) if offset >= FIRST_OFFSET && end <= capacity => Ok(()),
        _ => Err(StoreError::OutOfBounds { offset, length, start: FIRST_OFFSET, end: capacity }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_rounded_up_to_chunks_and_bounded() {
        assert_eq!(round_capacity(MINIMUM_CAPACITY).unwrap(), MINIMUM_CAPACITY);
        assert_eq!(round_capacity(MINIMUM_CAPACITY + 1).unwrap(), MINIMUM_CAPACITY + CHUNK);
        assert_eq!(round_capacity(MAXIMUM_CAPACITY).unwrap(), MAXIMUM_CAPACITY);
        for bad in [0, MINIMUM_CAPACITY - 1, MAXIMUM_CAPACITY + 1, u64::MAX] {
            assert!(
                matches!(round_capacity(bad), Err(StoreError::InvalidCapacity { requested, .. }) if requested == bad)
            );
        }
    }

    #[test]
    fn ranges_stay_in_the_object_area() {
        let capacity = 4 * CHUNK;
        for (offset, length) in
            [(FIRST_OFFSET, 0), (FIRST_OFFSET, 3 * CHUNK), (capacity, 0), (capacity - 1, 1)]
        {
            assert!(check_bounds(offset, length, capacity).is_ok(), "{offset} {length}");
        }
        for (offset, length) in
            [(0, 1), (FIRST_OFFSET - 1, 2), (capacity, 1), (FIRST_OFFSET, u64::MAX), (u64::MAX, 1)]
        {
            assert!(check_bounds(offset, length, capacity).is_err(), "{offset} {length}");
        }
    }
}

//! How much room an object takes in the shared store; nodes and processes must agree on it.

/// Objects start at multiples of this many bytes, so that buffers in them stay aligned.
pub const OBJECT_ALIGNMENT: u64 = 64;

/// From this size on, objects take whole pages, and their room goes back to the node when they are
/// freed: the next one of that size, of whichever process, finds pages that are already there.
pub const LARGE_OBJECT: u64 = 1 << 20;

const PAGE: u64 = 4096;

/// The room of an object of `size` bytes; an empty object takes some, too. None: no store is so large.
pub fn object_room(size: u64) -> Option<u64> {
    let unit = if size >= LARGE_OBJECT { PAGE } else { OBJECT_ALIGNMENT };
    size.max(1).checked_next_multiple_of(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_objects_are_aligned_and_large_ones_take_pages() {
        assert_eq!(object_room(0), Some(64));
        assert_eq!(object_room(65), Some(128));
        assert_eq!(object_room(LARGE_OBJECT - 1), Some(LARGE_OBJECT));
        assert_eq!(object_room(LARGE_OBJECT + 1), Some(LARGE_OBJECT + PAGE));
        assert_eq!(object_room(u64::MAX), None);
    }
}

//! Copying large buffers into shared memory.
//!
//! Up to [`STREAMING_THRESHOLD`] the platform's `memcpy` is at the limit of the machine, and what
//! it leaves in the caches serves the reader that follows. Beyond, the destination does not fit the
//! caches: `memcpy` then first reads every line that it is about to overwrite. Non-temporal stores
//! do not, and move 1.4 to 1.9 times the bytes per second (`examples/bandwidth.rs` measures it). A
//! second thread was tried too and gained less than it took from the rest of the node.

/// Copies of at least this many bytes bypass the caches.
///
/// Below, a freed and reused destination is often still in a cache, where `memcpy` is up to twice
/// as fast.
pub const STREAMING_THRESHOLD: usize = 8 << 20;

/// Copies `buffers` one after another to `destination` and returns the number of bytes.
///
/// # Safety
///
/// `destination` must be valid for writing the sum of the buffers' lengths, and must not overlap
/// them.
pub unsafe fn gather(destination: *mut u8, buffers: &[&[u8]]) -> usize {
    let total: usize = buffers.iter().map(|buffer| buffer.len()).sum();
    let streaming = total >= STREAMING_THRESHOLD;
    let mut written = 0;
    for buffer in buffers {
        // SAFETY: the sum of the lengths up to here is within what the caller vouches for.
        let target = unsafe { destination.add(written) };
        // SAFETY: as above, for the length of this buffer.
        unsafe {
            if streaming {
                copy_streaming(target, buffer);
            } else {
                copy_cached(target, buffer);
            }
        }
        written += buffer.len();
    }
    written
}

/// Copies with the platform's `memcpy`.
///
/// # Safety
///
/// `destination` must be valid for writing `source.len()` bytes, and must not overlap `source`.
pub unsafe fn copy_cached(destination: *mut u8, source: &[u8]) {
    // SAFETY: the caller vouches for the destination.
    unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), destination, source.len()) }
}

/// Copies with stores that bypass the caches, where the processor has them.
///
/// # Safety
///
/// `destination` must be valid for writing `source.len()` bytes, and must not overlap `source`.
#[cfg(target_arch = "x86_64")]
pub unsafe fn copy_streaming(destination: *mut u8, source: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    const LINE: usize = 64;
    let head = destination.align_offset(LINE).min(source.len());
    let (head, rest) = source.split_at(head);
    let (lines, tail) = rest.split_at(rest.len() / LINE * LINE);
    // SAFETY: the three parts are as long as the source together, which the caller vouches for. The
    // stores of the middle part are aligned, because the first part ends at a multiple of the line.
    // SSE2 is part of every x86-64 processor. The fence orders the non-temporal stores before
    // whatever tells a reader of them.
    unsafe {
        copy_cached(destination, head);
        let mut target = destination.add(head.len());
        for line in lines.chunks_exact(LINE) {
            let from = line.as_ptr().cast::<__m128i>();
            let to = target.cast::<__m128i>();
            let (a, b) = (_mm_loadu_si128(from), _mm_loadu_si128(from.add(1)));
            let (c, d) = (_mm_loadu_si128(from.add(2)), _mm_loadu_si128(from.add(3)));
            _mm_stream_si128(to, a);
            _mm_stream_si128(to.add(1), b);
            _mm_stream_si128(to.add(2), c);
            _mm_stream_si128(to.add(3), d);
            target = target.add(LINE);
        }
        _mm_sfence();
        copy_cached(target, tail);
    }
}

/// Copies with the platform's `memcpy`: on this processor nothing faster is known.
///
/// # Safety
///
/// `destination` must be valid for writing `source.len()` bytes, and must not overlap `source`.
#[cfg(not(target_arch = "x86_64"))]
pub unsafe fn copy_streaming(destination: *mut u8, source: &[u8]) {
    // SAFETY: the caller vouches for the destination.
    unsafe { copy_cached(destination, source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without a short period, so that a shifted copy cannot pass.
    fn pattern(length: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn streaming_copies_every_alignment_and_length_and_nothing_else() {
        let source = pattern(512);
        for offset in 0..66 {
            for length in [0, 1, 15, 63, 64, 65, 127, 128, 200, 300] {
                for skip in [0, 1, 7] {
                    let mut target = vec![0xEE; 512];
                    let expected = &source[skip..skip + length];
                    // SAFETY: offset + length is at most 365 of the target's 512 bytes.
                    unsafe { copy_streaming(target.as_mut_ptr().add(offset), expected) };
                    assert_eq!(&target[offset..offset + length], expected);
                    assert!(
                        target[..offset].iter().chain(&target[offset + length..]).all(|&byte| byte == 0xEE)
                    );
                }
            }
        }
    }

    #[test]
    fn gather_joins_buffers_on_both_sides_of_the_threshold() {
        for total in [0, 1000, STREAMING_THRESHOLD - 1, STREAMING_THRESHOLD + 12345] {
            let source = pattern(total);
            let (first, second) = source.split_at(total / 3);
            let (middle, last) = second.split_at(second.len() / 2 + total % 2);
            let mut target = vec![0; total];
            // SAFETY: the parts together are as long as the target.
            let written = unsafe { gather(target.as_mut_ptr(), &[first, &[], middle, last]) };
            assert_eq!(written, total);
            assert!(target == source, "{total} bytes differ");
        }
    }
}

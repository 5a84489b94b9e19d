use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// One bit per chunk of the segment, shared by all processes: set while the chunk is backed by
/// memory.
///
/// It only saves the system call that would find out the same. A bit is set after the memory is
/// there and cleared before it goes, so that a process that dies in between leaves a chunk marked
/// as not backed, which costs one needless call later.
pub(crate) struct BackedChunks<'a> {
    words: &'a [AtomicU64],
}

impl<'a> BackedChunks<'a> {
    pub(crate) fn new(words: &'a [AtomicU64]) -> Self {
        BackedChunks { words }
    }

    pub(crate) fn contains(&self, chunks: Range<u64>) -> bool {
        masks(chunks).all(|(word, mask)| self.words[word].load(Ordering::Acquire) & mask == mask)
    }

    pub(crate) fn insert(&self, chunks: Range<u64>) {
        for (word, mask) in masks(chunks) {
            self.words[word].fetch_or(mask, Ordering::Release);
        }
    }

    pub(crate) fn remove(&self, chunks: Range<u64>) {
        for (word, mask) in masks(chunks) {
            self.words[word].fetch_and(!mask, Ordering::Release);
        }
    }
}

/// The words that a range of bits touches, with the bits of the range in each.
fn masks(bits: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let words = if bits.is_empty() { 0..0 } else { bits.start / 64..bits.end.div_ceil(64) };
    words.map(move |word| {
        let low = bits.start.saturating_sub(word * 64);
        let high = (bits.end - word * 64).min(64);
        (word as usize, (u64::MAX >> (64 - (high - low))) << low)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_across_words_touch_exactly_their_bits() {
        for range in [0..1, 63..64, 63..65, 0..64, 5..200, 64..192, 100..100, 190..192] {
            let words = [const { AtomicU64::new(0) }; 4];
            let chunks = BackedChunks::new(&words);
            chunks.insert(range.clone());
            for bit in 0..256 {
                assert_eq!(chunks.contains(bit..bit + 1), range.contains(&bit), "{range:?} bit {bit}");
            }
            assert!(chunks.contains(range.clone()));
            assert!(!chunks.contains(range.start..range.end + 1));
            chunks.insert(0..256);
            chunks.remove(range.clone());
            for bit in 0..256 {
                assert_eq!(chunks.contains(bit..bit + 1), !range.contains(&bit), "{range:?} bit {bit}");
            }
        }
    }
}

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::WriteMapping;
use crate::layout::PROCESS_TABLE_BYTES;

const SLOT_BYTES: usize = 64;
const WORDS: usize = SLOT_BYTES / size_of::<AtomicU64>();

/// Which task each process of the node started last: shared memory that outlives the process.
///
/// A worker stores the id of a task before it runs it. When the worker dies, the node daemon reads
/// here what it was doing, though the worker sent no message about it. The slot of a process is its
/// number modulo [`ProcessTable::SLOTS`]; that no two live processes of a node have the same slot
/// is up to who hands out the numbers, and so is clearing a slot before its next process starts.
///
/// ```
/// use shoal_store::{Backing, ProcessTable, Segment, WriteMapping};
///
/// let segment = Segment::create(16 << 20, Backing::Memfd)?;
/// let mapping = WriteMapping::new(&segment)?;
/// let slot = ProcessTable::new(&mapping).slot(7);
/// assert_eq!(slot.load(), None);
/// slot.store(1, 42);
/// assert_eq!(slot.load(), Some((1, 42)));
/// # Ok::<(), shoal_store::StoreError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ProcessTable<'a> {
    words: &'a [AtomicU64],
}

impl<'a> ProcessTable<'a> {
    /// Number of slots: so many processes of a node can be told apart at a time.
    pub const SLOTS: u64 = (PROCESS_TABLE_BYTES / SLOT_BYTES) as u64;

    /// The table of the segment. Costs nothing: make one whenever it is needed.
    pub fn new(mapping: &'a WriteMapping) -> Self {
        ProcessTable { words: mapping.process_table() }
    }

    /// The slot of the process with this number.
    pub fn slot(self, process_number: u64) -> ProcessSlot<'a> {
        let start = (process_number % Self::SLOTS) as usize * WORDS;
        match &self.words[start..start + WORDS] {
            [version, a, b, c, d, ..] => ProcessSlot { version, entries: [[a, b], [c, d]] },
            _ => unreachable!("a slot has {WORDS} words"),
        }
    }
}

/// The slot of one process.
///
/// It has two entries, of which the parity of the version names the valid one. A store fills the
/// other one and then raises the version, so that a process that is killed at any instruction
/// leaves the old or the new id, never a mixture.
#[derive(Clone, Copy, Debug)]
pub struct ProcessSlot<'a> {
    version: &'a AtomicU64,
    entries: [[&'a AtomicU64; 2]; 2],
}

impl ProcessSlot<'_> {
    /// Records that the process starts the task with this id. Only the process of the slot calls
    /// this, and from one thread at a time.
    pub fn store(&self, owner: u64, number: u64) {
        let version = self.version.load(Ordering::Relaxed) + 1;
        // Pairs with the fence in `load`: who sees a word of this entry sees that the version has
        // moved on since the entry was valid last.
        fence(Ordering::Release);
        let [owner_word, number_word] = self.entries[(version % 2) as usize];
        owner_word.store(owner, Ordering::Relaxed);
        number_word.store(number, Ordering::Relaxed);
        self.version.store(version, Ordering::Release);
    }

    /// The owner and number of the task that the process started last; `None` if it started none.
    /// The process may be alive.
    pub fn load(&self) -> Option<(u64, u64)> {
        loop {
            let version = self.version.load(Ordering::Acquire);
            if version == 0 {
                return None;
            }
            let [owner_word, number_word] = self.entries[(version % 2) as usize];
            let id = (owner_word.load(Ordering::Relaxed), number_word.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == version {
                return Some(id);
            }
        }
    }

    /// Forgets the task. Call it while no process owns the slot.
    pub fn clear(&self) {
        self.version.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, Segment};

    #[test]
    fn slots_are_separate_and_wrap_around() {
        let mapping = WriteMapping::new(&Segment::create(16 << 20, Backing::Memfd).unwrap()).unwrap();
        let table = ProcessTable::new(&mapping);
        let last = ProcessTable::SLOTS - 1;
        table.slot(0).store(1, 2);
        table.slot(1).store(3, u64::MAX);
        table.slot(last).store(u64::MAX, 5);
        assert_eq!(table.slot(0).load(), Some((1, 2)));
        assert_eq!(table.slot(1).load(), Some((3, u64::MAX)));
        assert_eq!(table.slot(last).load(), Some((u64::MAX, 5)));
        assert_eq!(table.slot(2).load(), None);
        assert_eq!(table.slot(ProcessTable::SLOTS + 1).load(), Some((3, u64::MAX)));
        table.slot(1).clear();
        assert_eq!(table.slot(1).load(), None);
        table.slot(1).store(0, 0);
        assert_eq!(table.slot(1).load(), Some((0, 0)));
    }

    #[test]
    fn a_reader_never_sees_half_of_a_store() {
        let mapping = WriteMapping::new(&Segment::create(16 << 20, Backing::Memfd).unwrap()).unwrap();
        let slot = ProcessTable::new(&mapping).slot(3);
        const STORES: u64 = 200_000;
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=STORES).for_each(|number| slot.store(!number, number)));
            let mut last = 0;
            while last < STORES {
                if let Some((owner, number)) = slot.load() {
                    assert_eq!(owner, !number);
                    assert!(number >= last, "{number} after {last}");
                    last = number;
                }
            }
        });
    }
}

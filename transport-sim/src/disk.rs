//! The disk that objects are spilled to.

use std::collections::BTreeMap;

use shoal_core::node::SpillLocation;

use crate::segment::Content;

/// Why the disk did not do what it was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DiskError {
    /// No room.
    Full,
    /// What is there is not what was written, or nothing is.
    Unreadable,
}

/// One node's spill directory.
#[derive(Debug)]
pub struct Disk<C> {
    capacity: u64,
    used: u64,
    files: BTreeMap<u64, BTreeMap<u64, Spilled<C>>>,
    next_file: u64,
}

#[derive(Debug)]
struct Spilled<C> {
    size: u64,
    content: C,
    torn: bool,
}

impl<C: Content> Disk<C> {
    /// An empty disk of that many bytes.
    pub fn new(capacity: u64) -> Disk<C> {
        Disk { capacity, used: 0, files: BTreeMap::new(), next_file: 1 }
    }

    /// Bytes written and not deleted.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Write objects into one file. With `torn`, the last one is written in part, unnoticed.
    pub fn write(&mut self, objects: Vec<(C, u64)>, torn: bool) -> Result<Vec<SpillLocation>, DiskError> {
        let total: u64 = objects.iter().map(|(_, size)| size).sum();
        if self.used + total > self.capacity {
            return Err(DiskError::Full);
        }
        self.used += total;
        let file = self.next_file;
        self.next_file += 1;
        let mut offset = 0;
        let mut locations = Vec::new();
        let mut spilled = BTreeMap::new();
        let last = objects.len();
        for (at, (content, size)) in objects.into_iter().enumerate() {
            let torn = torn && at + 1 == last;
            spilled.insert(offset, Spilled { size, content, torn });
            locations.push(SpillLocation { file, offset, size });
            offset += size.max(1);
        }
        self.files.insert(file, spilled);
        Ok(locations)
    }

    /// Read an object back; its checksum tells a torn one.
    pub fn read(&self, location: SpillLocation) -> Result<&C, DiskError> {
        let spilled = self
            .files
            .get(&location.file)
            .and_then(|file| file.get(&location.offset))
            .filter(|spilled| spilled.size == location.size && !spilled.torn);
        spilled.map(|spilled| &spilled.content).ok_or(DiskError::Unreadable)
    }

    /// Forget an object. Says whether it was there.
    pub fn delete(&mut self, location: SpillLocation) -> bool {
        let Some(file) = self.files.get_mut(&location.file) else {
            return false;
        };
        let Some(spilled) = file.remove(&location.offset) else {
            return false;
        };
        self.used -= spilled.size;
        if file.is_empty() {
            self.files.remove(&location.file);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_refuses_and_a_torn_write_shows_at_reading() {
        let mut disk: Disk<u64> = Disk::new(100);
        let places = disk.write(vec![(1, 40), (2, 40)], true).expect("room");
        assert_eq!(disk.read(places[0]), Ok(&1));
        assert_eq!(disk.read(places[1]), Err(DiskError::Unreadable));
        assert_eq!(disk.write(vec![(3, 40)], false), Err(DiskError::Full));
        assert!(disk.delete(places[0]) && !disk.delete(places[0]));
        assert_eq!(disk.used(), 40);
        assert!(disk.write(vec![(3, 40)], false).is_ok());
    }
}

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
pub struct Disk {
    capacity: u64,
    used: u64,
    files: BTreeMap<u64, BTreeMap<u64, Spilled>>,
    next_file: u64,
}

#[derive(Debug)]
struct Spilled {
    size: u64,
    content: Content,
    torn: bool,
}

impl Disk {
    /// An empty disk of that many bytes.
    pub fn new(capacity: u64) -> Disk {
        Disk { capacity, used: 0, files: BTreeMap::new(), next_file: 1 }
    }

    /// Bytes written and not deleted.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Write objects into one file. With `torn`, the last one is written in part, unnoticed.
    pub fn write(&mut self, objects: &[(Content, u64)], torn: bool) -> Result<Vec<SpillLocation>, DiskError> {
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
        for (at, (content, size)) in objects.iter().enumerate() {
            let torn = torn && at + 1 == objects.len();
            spilled.insert(offset, Spilled { size: *size, content: *content, torn });
            locations.push(SpillLocation { file, offset, size: *size });
            offset += size.max(&1);
        }
        self.files.insert(file, spilled);
        Ok(locations)
    }

    /// Read an object back; its checksum tells a torn one.
    pub fn read(&self, location: SpillLocation) -> Result<Content, DiskError> {
        let spilled = self
            .files
            .get(&location.file)
            .and_then(|file| file.get(&location.offset))
            .filter(|spilled| spilled.size == location.size && !spilled.torn);
        spilled.map(|spilled| spilled.content).ok_or(DiskError::Unreadable)
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
    use shoal_core::ids::{ProcessId, TaskId};

    #[test]
    fn a_full_disk_refuses_and_a_torn_write_shows_at_reading() {
        let object = |number| {
            let owner = ProcessId(1);
            Content { object: TaskId { owner, number }.object(0), attempt: 0 }
        };
        let mut disk = Disk::new(100);
        let places = disk.write(&[(object(1), 40), (object(2), 40)], true).expect("room");
        assert_eq!(disk.read(places[0]), Ok(object(1)));
        assert_eq!(disk.read(places[1]), Err(DiskError::Unreadable));
        assert_eq!(disk.write(&[(object(3), 40)], false), Err(DiskError::Full));
        assert!(disk.delete(places[0]) && !disk.delete(places[0]));
        assert_eq!(disk.used(), 40);
        assert!(disk.write(&[(object(3), 40)], false).is_ok());
    }
}

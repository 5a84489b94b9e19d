use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Dir, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::StoreError;

/// Objects begin at multiples of this, the block size of common file systems, so that the blocks of
/// a deleted object can be given back while its neighbours stay.
const ALIGNMENT: u64 = 4096;

/// Checksums are computed over parts that stay in a cache between the checksum and the system call.
const PART: usize = 1 << 20;

const SUFFIX: &str = ".spill";

/// Where a spilled object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpilledObject {
    /// Number of the spill file; never used twice by one [`SpillDirectory`].
    pub file: u64,
    /// First byte of the object in the file.
    pub offset: u64,
    /// Size of the object in bytes.
    pub length: u64,
}

/// What is spilled at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpillUsage {
    /// Number of files.
    pub files: u64,
    /// Number of objects that were written and not deleted.
    pub objects: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
}

/// The directory into which a node writes objects that do not fit its memory.
///
/// Spill files need not outlive the daemon: they are not synced, and what an earlier daemon left in
/// the directory is removed by [`open`](Self::open), what this one wrote when it is dropped. All
/// calls block on the disk and may come from several threads.
///
/// ```
/// use shoal_store::SpillDirectory;
///
/// # let directory = std::env::temp_dir().join(format!("shoal-spill-example-{}", std::process::id()));
/// let spill = SpillDirectory::open(&directory, 0.95)?;
/// let objects = spill.write(&[b"first", b"second"])?;
/// let mut restored = [0; 6];
/// spill.restore(objects[1], &mut restored)?;
/// assert_eq!(&restored, b"second");
/// for object in objects {
///     spill.delete(object)?;
/// }
/// assert_eq!(spill.usage().files, 0);
/// # drop(spill);
/// # std::fs::remove_dir(directory).unwrap();
/// # Ok::<(), shoal_store::StoreError>(())
/// ```
#[derive(Debug)]
pub struct SpillDirectory {
    path: PathBuf,
    /// Holds the lock that keeps other processes out; files are opened relative to it.
    directory: OwnedFd,
    limit: f64,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    last: u64,
    /// The live objects of each file, by offset.
    live: HashMap<u64, HashMap<u64, Record>>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    length: u64,
    checksum: u32,
}

impl SpillDirectory {
    /// Opens a directory for spilling, creates it if needed (readable for this user only), and
    /// removes spill files that a dead process left in it.
    ///
    /// `limit` is the share of the disk, above 0 and up to 1, that may be in use, by whatever
    /// files, after a write: with 0.95 the last twentieth is left to others.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidSpillLimit`], [`StoreError::SpillDirectoryInUse`] by another process or
    /// another `SpillDirectory` of this one, [`StoreError::SpillFile`].
    pub fn open(path: impl Into<PathBuf>, limit: f64) -> Result<SpillDirectory, StoreError> {
        let path = path.into();
        if !(limit > 0.0 && limit <= 1.0) {
            return Err(StoreError::InvalidSpillLimit { limit });
        }
        create_directory(&path)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, &path, flags, Mode::empty())
            .map_err(|errno| spill_file("opening the spill directory", path.clone(), errno))?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(StoreError::SpillDirectoryInUse { path }),
            Err(errno) => return Err(spill_file("locking the spill directory", path, errno)),
        }
        let spill = SpillDirectory { path, directory, limit, files: Mutex::default() };
        spill.remove_left_over()?;
        Ok(spill)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that may still be written before the limit is reached.
    ///
    /// # Errors
    ///
    /// [`StoreError::SpillFile`].
    pub fn available(&self) -> Result<u64, StoreError> {
        let disk = rustix::fs::fstatvfs(&self.directory)
            .map_err(|errno| spill_file("asking for the free space of", self.path.clone(), errno))?;
        if disk.f_blocks == 0 {
            // A file system that does not say how large it is: writing will tell.
            return Ok(u64::MAX);
        }
        let kept_free = (disk.f_blocks as f64 * (1.0 - self.limit)).ceil() as u64;
        // Some blocks may be free but not for this user.
        let blocks = disk.f_bfree.saturating_sub(kept_free).min(disk.f_bavail);
        Ok(blocks.saturating_mul(disk.f_frsize))
    }

    /// Writes objects into one new file and returns where each of them lies, in the same order.
    ///
    /// The space is checked and allocated before the first byte is written; a failed write leaves
    /// no file.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutOfDisk`], [`StoreError::SpillFile`].
    pub fn write(&self, objects: &[&[u8]]) -> Result<Vec<SpilledObject>, StoreError> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        // An empty object takes a block, too, so that no two objects share an offset.
        let blocks = objects.iter().map(|object| (object.len() as u64).max(1).next_multiple_of(ALIGNMENT));
        let needed = blocks.clone().sum();
        let number = self.lock().next();
        let partial = self.create(number, needed)?;
        let mut written = Vec::with_capacity(objects.len());
        let mut records = HashMap::with_capacity(objects.len());
        let mut offset = 0;
        for (object, block) in objects.iter().zip(blocks) {
            let length = object.len() as u64;
            let checksum = write_object(&partial.file, object, offset)
                .map_err(|errno| self.failed_write(number, needed, errno))?;
            written.push(SpilledObject { file: number, offset, length });
            records.insert(offset, Record { length, checksum });
            offset += block;
        }
        self.lock().live.insert(number, records);
        partial.keep();
        Ok(written)
    }

    /// Reads an object back into `destination`, which has its size, and checks that it is what was
    /// written.
    ///
    /// After an error the contents of `destination` are unspecified.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotSpilled`], also when the object is deleted meanwhile;
    /// [`StoreError::WrongLength`]; [`StoreError::SpillMissing`], [`StoreError::SpillTorn`] and
    /// [`StoreError::SpillCorrupt`] when the object is lost; [`StoreError::SpillFile`] for other
    /// failures of the disk, which may pass.
    pub fn restore(&self, object: SpilledObject, destination: &mut [u8]) -> Result<(), StoreError> {
        let record = self.record(object)?;
        let given = destination.len() as u64;
        if given != record.length {
            return Err(StoreError::WrongLength { expected: record.length, given });
        }
        self.read_checked(object, record, destination).map_err(|error| {
            // A delete gives the blocks back at once: what looks like damage may be that.
            self.record(object).err().unwrap_or(error)
        })
    }

    /// Deletes an object and gives its space on the disk back; the file goes with its last object.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotSpilled`] if it was deleted before, [`StoreError::SpillFile`] if the file
    /// cannot be removed. The object is forgotten in either case.
    pub fn delete(&self, object: SpilledObject) -> Result<(), StoreError> {
        let (record, last) = {
            let mut files = self.lock();
            let objects = files.live.get_mut(&object.file).ok_or(not_spilled(object))?;
            let record = objects.remove(&object.offset).ok_or(not_spilled(object))?;
            let last = objects.is_empty();
            if last {
                files.live.remove(&object.file);
            }
            (record, last)
        };
        let removed = match last {
            true => self.unlink(object.file),
            false => self.punch(object, record),
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // The blocks stay until the file goes.
            Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(spill_file("deleting from", self.file_path(object.file), errno)),
        }
    }

    /// What is spilled at the moment.
    pub fn usage(&self) -> SpillUsage {
        let files = self.lock();
        let objects = files.live.values().flat_map(HashMap::values);
        SpillUsage {
            files: files.live.len() as u64,
            objects: objects.clone().count() as u64,
            bytes: objects.map(|record| record.length).sum(),
        }
    }

    /// A new file with space for `needed` bytes.
    fn create(&self, number: u64, needed: u64) -> Result<Partial<'_>, StoreError> {
        let available = self.available()?;
        if needed > available {
            return Err(StoreError::OutOfDisk { path: self.path.clone(), needed, available });
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.directory, file_name(number), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.failed_write(number, needed, errno))?;
        let partial = Partial { spill: self, number, file, keep: false };
        loop {
            match rustix::fs::fallocate(&partial.file, FallocateFlags::empty(), 0, needed) {
                // A file system without allocation finds out while writing.
                Ok(()) | Err(Errno::OPNOTSUPP) => return Ok(partial),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed_write(number, needed, errno)),
            }
        }
    }

    fn failed_write(&self, number: u64, needed: u64, errno: Errno) -> StoreError {
        match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => {
                let available = self.available().unwrap_or(0);
                StoreError::OutOfDisk { path: self.path.clone(), needed, available }
            }
            _ => spill_file("writing", self.file_path(number), errno),
        }
    }

    fn read_checked(
        &self,
        object: SpilledObject,
        record: Record,
        destination: &mut [u8],
    ) -> Result<(), StoreError> {
        let path = || self.file_path(object.file);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::openat(&self.directory, file_name(object.file), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Err(StoreError::SpillMissing { path: path() }),
            opened => opened.map_err(|errno| spill_file("opening", path(), errno))?,
        };
        let mut hasher = crc32fast::Hasher::new();
        let mut done = 0;
        while done < destination.len() {
            let end = destination.len().min(done + PART);
            match rustix::io::pread(&file, &mut destination[done..end], object.offset + done as u64) {
                Ok(0) => {
                    return Err(StoreError::SpillTorn {
                        path: path(),
                        expected: record.length,
                        found: done as u64,
                    });
                }
                Ok(count) => {
                    hasher.update(&destination[done..done + count]);
                    done += count;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(spill_file("reading", path(), errno)),
            }
        }
        let (expected, found) = (record.checksum, hasher.finalize());
        if expected != found {
            return Err(StoreError::SpillCorrupt { path: path(), offset: object.offset, expected, found });
        }
        Ok(())
    }

    fn record(&self, object: SpilledObject) -> Result<Record, StoreError> {
        let files = self.lock();
        let record = files.live.get(&object.file).and_then(|objects| objects.get(&object.offset));
        record.copied().ok_or(not_spilled(object))
    }

    /// Gives back the blocks of an object whose file stays.
    fn punch(&self, object: SpilledObject, record: Record) -> rustix::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.directory, file_name(object.file), flags, Mode::empty())?;
        let length = record.length.max(1).next_multiple_of(ALIGNMENT);
        rustix::fs::fallocate(
            &file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            object.offset,
            length,
        )
    }

    fn unlink(&self, number: u64) -> rustix::io::Result<()> {
        rustix::fs::unlinkat(&self.directory, file_name(number), AtFlags::empty())
    }

    fn remove_left_over(&self) -> Result<(), StoreError> {
        let failed = |errno| spill_file("listing", self.path.clone(), errno);
        for entry in Dir::read_from(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_bytes().ends_with(SUFFIX.as_bytes()) {
                rustix::fs::unlinkat(&self.directory, entry.file_name(), AtFlags::empty()).map_err(
                    |errno| {
                        let name = entry.file_name().to_string_lossy().into_owned();
                        spill_file("removing the left-over file", self.path.join(name), errno)
                    },
                )?;
            }
        }
        Ok(())
    }

    fn file_path(&self, number: u64) -> PathBuf {
        self.path.join(file_name(number))
    }

    /// A panic while the lock is held cannot leave the table half changed, so poison means nothing
    /// here.
    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SpillDirectory {
    fn drop(&mut self) {
        let numbers: Vec<u64> = self.lock().live.keys().copied().collect();
        for number in numbers {
            // There is nobody to tell, and the next `open` of the directory removes what is left.
            let _ = self.unlink(number);
        }
    }
}

impl Files {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// A file that goes unless it is completed.
struct Partial<'a> {
    spill: &'a SpillDirectory,
    number: u64,
    file: OwnedFd,
    keep: bool,
}

impl Partial<'_> {
    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Partial<'_> {
    fn drop(&mut self) {
        if !self.keep {
            // The error that made the file partial is reported; the next `open` removes it if this
            // fails.
            let _ = self.spill.unlink(self.number);
        }
    }
}

/// Writes an object at an offset and returns its checksum.
fn write_object(file: &OwnedFd, object: &[u8], offset: u64) -> rustix::io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut position = offset;
    for part in object.chunks(PART) {
        hasher.update(part);
        let mut rest = part;
        while !rest.is_empty() {
            match rustix::io::pwrite(file, rest, position) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => {
                    rest = &rest[count..];
                    position += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(hasher.finalize())
}

fn create_directory(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| {
        StoreError::SpillFile { operation: "creating the spill directory", path: path.to_owned(), source }
    })
}

fn file_name(number: u64) -> String {
    format!("{number}{SUFFIX}")
}

fn not_spilled(object: SpilledObject) -> StoreError {
    StoreError::NotSpilled { file: object.file, offset: object.offset }
}

fn spill_file(operation: &'static str, path: PathBuf, errno: Errno) -> StoreError {
    StoreError::SpillFile { operation, path, source: io::Error::from(errno) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_completed_goes() {
        let name = format!("shoal-spill-partial-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let spill = SpillDirectory::open(&path, 1.0).unwrap();
        let exists = |number| path.join(file_name(number)).exists();
        let partial = spill.create(1, 5000).unwrap();
        assert!(exists(1));
        drop(partial);
        assert!(!exists(1));
        spill.create(2, 5000).unwrap().keep();
        assert!(exists(2));
        spill.unlink(2).unwrap();
        drop(spill);
        std::fs::remove_dir(path).unwrap();
    }
}

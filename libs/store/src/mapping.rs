//! The segment in the address space of a process.
//!
//! # What a process must keep to
//!
//! A mapping shows memory that other processes write. The node's protocol makes that sound: an
//! extent belongs to one process, which alone writes in it; an object is sealed before its location
//! is passed on; a reader pins an object before it looks, and the extent is reused only after the
//! last pin is gone. The compiler sees none of this, so the functions that make Rust references, or
//! write, are `unsafe`, and their callers state which part of the protocol covers them.
//!
//! # Running out of memory
//!
//! The file never shrinks, so no access within bounds can miss it. What remains is a first touch
//! for which the kernel finds no page, which kills the process with SIGBUS.
//! [`WriteMapping::reserve`] finds the page first and reports [`StoreError::OutOfMemory`] instead;
//! after it, writing the range needs no new page of the file. Two ends of a process are beyond it:
//! a kernel or control group that is out of memory may kill a process while it reserves, and a page
//! that the hardware reports as broken raises SIGBUS when it is touched.
//!
//! # Fork
//!
//! A child inherits the mappings at the same addresses and shares their memory; nothing is copied.
//! The kernel does not even copy the page tables of shared files: the child faults pages in by
//! itself, one by one (16 neighbours at a time when reading 4 KiB pages, 2 MiB at a time with huge
//! pages), and fork takes no longer for a large segment than for a small one. Hence a template
//! process maps once and its workers inherit.

use std::ffi::c_void;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::backed::BackedChunks;
use crate::layout::{self, BACKED_BYTES, BACKED_OFFSET, CHUNK, PROCESS_TABLE_BYTES, PROCESS_TABLE_OFFSET};
use crate::residency::Residency;
use crate::segment::system;
use crate::{Segment, StoreError, copy};

/// No processor that Linux runs on has larger base pages; ranges rounded to it are whole pages
/// everywhere.
const LARGEST_PAGE: u64 = 64 << 10;

#[derive(Debug)]
struct Mapping {
    memory: MmapRaw,
    capacity: u64,
}

impl Mapping {
    fn new(segment: &Segment, writable: bool) -> Result<Mapping, StoreError> {
        let capacity = segment.capacity();
        let failed = |source| StoreError::Map { capacity, source };
        let length = usize::try_from(capacity).map_err(|_| failed(Errno::OVERFLOW.into()))?;
        let mut options = MmapOptions::new();
        options.len(length).no_reserve_swap();
        let file = segment.as_fd();
        let memory = match writable {
            true => options.map_raw(&file),
            false => options.map_raw_read_only(&file),
        }
        .map_err(failed)?;
        // Only advice: a kernel built without huge pages refuses it, and works.
        let _ = memory.advise(Advice::HugePage);
        Ok(Mapping { memory, capacity })
    }

    fn pointer(&self, offset: u64, length: u64) -> Result<NonNull<u8>, StoreError> {
        layout::check_bounds(offset, length, self.capacity)?;
        // SAFETY: the offset is at most the capacity, which is the length of the mapping and fits a
        // usize. A mapping is never at address zero.
        Ok(unsafe { NonNull::new_unchecked(self.memory.as_mut_ptr().add(offset as usize)) })
    }
}

/// The whole segment, for reading. Writing through it ends the process with SIGSEGV.
///
/// ```
/// use shoal_store::{Backing, FIRST_OFFSET, ReadMapping, Segment, WriteMapping};
///
/// let segment = Segment::create(16 << 20, Backing::Memfd)?;
/// let producer = WriteMapping::new(&segment)?;
/// let consumer = ReadMapping::new(&segment)?;
/// producer.reserve(FIRST_OFFSET, 5)?;
/// // SAFETY: no one else knows of this segment.
/// unsafe {
///     producer.write_at(FIRST_OFFSET, &[b"sh", b"oal"])?;
///     assert_eq!(consumer.slice(FIRST_OFFSET, 5)?, b"shoal");
/// }
/// # Ok::<(), shoal_store::StoreError>(())
/// ```
#[derive(Debug)]
pub struct ReadMapping(Mapping);

impl ReadMapping {
    /// Maps the segment; this touches no page of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Map`] if the address space of the process is limited.
    pub fn new(segment: &Segment) -> Result<ReadMapping, StoreError> {
        Mapping::new(segment, false).map(ReadMapping)
    }

    /// Size of the segment in bytes.
    pub fn capacity(&self) -> u64 {
        self.0.capacity
    }

    /// Address of a range of the object area, which stays the same while the mapping lives.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutOfBounds`].
    pub fn pointer(&self, offset: u64, length: u64) -> Result<*const u8, StoreError> {
        Ok(self.0.pointer(offset, length)?.as_ptr().cast_const())
    }

    /// The bytes of an object.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutOfBounds`].
    ///
    /// # Safety
    ///
    /// No process may write to the range while the slice lives: it is of sealed objects that this
    /// process has pinned.
    pub unsafe fn slice(&self, offset: u64, length: u64) -> Result<&[u8], StoreError> {
        let start = self.0.pointer(offset, length)?;
        // SAFETY: in bounds; the mapping outlives the borrow of self; the caller vouches that no
        // one writes.
        Ok(unsafe { slice::from_raw_parts(start.as_ptr(), length as usize) })
    }

    /// What of the segment this process has touched through this mapping. Slow: for tests and
    /// reports.
    ///
    /// # Errors
    ///
    /// [`StoreError::System`] without `/proc`.
    pub fn residency(&self) -> Result<Residency, StoreError> {
        Residency::of(self.0.memory.as_ptr())
    }
}

/// The whole segment, for reading and writing.
#[derive(Debug)]
pub struct WriteMapping {
    mapping: Mapping,
    file: OwnedFd,
}

impl WriteMapping {
    /// Maps the segment; this touches no page of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Map`] if the address space of the process is limited, [`StoreError::System`]
    /// if it has no file descriptor left.
    pub fn new(segment: &Segment) -> Result<WriteMapping, StoreError> {
        let file = segment.as_fd().try_clone_to_owned().map_err(|source| StoreError::System {
            operation: "duplicating the store's file descriptor",
            source,
        })?;
        Ok(WriteMapping { mapping: Mapping::new(segment, true)?, file })
    }

    /// Size of the segment in bytes.
    pub fn capacity(&self) -> u64 {
        self.mapping.capacity
    }

    /// Address of a range of the object area, for building a large value in place. It stays the
    /// same while the mapping lives.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutOfBounds`].
    pub fn pointer(&self, offset: u64, length: u64) -> Result<*mut u8, StoreError> {
        Ok(self.mapping.pointer(offset, length)?.as_ptr())
    }

    /// The bytes of an object that is being built, for example to receive or restore it in place.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutOfBounds`].
    ///
    /// # Safety
    ///
    /// While the slice lives, nothing else in this or another process may read or write the range:
    /// it lies in an extent of this process and is not sealed. [`reserve`](Self::reserve) it first.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps the extents of a mapping apart")]
    pub unsafe fn slice_mut(&self, offset: u64, length: u64) -> Result<&mut [u8], StoreError> {
        let start = self.mapping.pointer(offset, length)?;
        // SAFETY: in bounds; the mapping outlives the borrow of self; the caller vouches for
        // exclusive access.
        Ok(unsafe { slice::from_raw_parts_mut(start.as_ptr(), length as usize) })
    }

    /// Copies `buffers` one after another to `offset` and returns the number of bytes.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutOfBounds`], before anything is written.
    ///
    /// # Safety
    ///
    /// During the call nothing else in this or another process may read or write the range: it lies
    /// in an extent of this process and is not sealed. The buffers do not lie in it.
    /// [`reserve`](Self::reserve) it first.
    pub unsafe fn write_at(&self, offset: u64, buffers: &[&[u8]]) -> Result<u64, StoreError> {
        let length = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let start = self.mapping.pointer(offset, length)?;
        // SAFETY: the range holds all buffers; the caller vouches that nothing else uses it.
        Ok(unsafe { copy::gather(start.as_ptr(), buffers) } as u64)
    }

    /// Makes sure that memory backs a range, so that writing to it cannot fail.
    ///
    /// For a range that is backed already this is a look at a shared bitmap. Else each chunk of 2
    /// MiB that the range touches is allocated and faulted in here; that takes about 0.1 ms a chunk
    /// with huge pages and 1 ms with pages of 4 KiB, which the write that follows would otherwise
    /// have spent.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutOfBounds`], [`StoreError::OutOfMemory`]; what was allocated before stays.
    pub fn reserve(&self, offset: u64, length: u64) -> Result<(), StoreError> {
        layout::check_bounds(offset, length, self.capacity())?;
        if length == 0 {
            return Ok(());
        }
        let backed = self.backed();
        let chunks = offset / CHUNK..(offset + length).div_ceil(CHUNK);
        if backed.contains(chunks.clone()) {
            return Ok(());
        }
        for chunk in chunks {
            if !backed.contains(chunk..chunk + 1) {
                self.fault_in(chunk * CHUNK, CHUNK).map_err(|errno| out_of_memory(offset, length, errno))?;
                backed.insert(chunk..chunk + 1);
            }
        }
        Ok(())
    }

    /// Gives the memory of a range back to the system and returns how many bytes.
    ///
    /// Only the whole chunks of 2 MiB in the range are given back; they read as zeros afterwards.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutOfBounds`], [`StoreError::System`].
    ///
    /// # Safety
    ///
    /// Nothing in this or another process may use the range from now on: it holds no objects, and
    /// no process has an extent in it. It is as good as new when it is reserved again.
    pub unsafe fn release(&self, offset: u64, length: u64) -> Result<u64, StoreError> {
        layout::check_bounds(offset, length, self.capacity())?;
        let chunks = offset.div_ceil(CHUNK)..(offset + length) / CHUNK;
        if chunks.is_empty() {
            return Ok(0);
        }
        let bytes = (chunks.end - chunks.start) * CHUNK;
        let start = chunks.start * CHUNK;
        self.backed().remove(chunks);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, start, bytes).map_err(system("giving store memory back"))?;
        Ok(bytes)
    }

    /// Reserves a range and faults all of it into this process, whoever backed it, so that the
    /// first write runs at full speed.
    ///
    /// For a range that another process backed this takes 1 microsecond per MiB with huge pages and
    /// 0.2 ms with pages of 4 KiB; for a new one see [`reserve`](Self::reserve). Contents stay as
    /// they are. Meant for a background thread, a few MiB at a time.
    ///
    /// # Errors
    ///
    /// [`StoreError::OutOfBounds`], [`StoreError::OutOfMemory`].
    pub fn populate(&self, offset: u64, length: u64) -> Result<(), StoreError> {
        self.reserve(offset, length)?;
        let end = (offset + length).next_multiple_of(LARGEST_PAGE);
        let mut start = offset / LARGEST_PAGE * LARGEST_PAGE;
        while start < end {
            let step = (CHUNK - start % CHUNK).min(end - start);
            self.fault_in(start, step).map_err(|errno| out_of_memory(offset, length, errno))?;
            start += step;
        }
        Ok(())
    }

    /// Backs and maps whole pages.
    ///
    /// Not by `fallocate`, which is faster alone (it leaves the pages to be cleared later) but not
    /// with the write that follows, and which, having no mapping at hand, knows nothing of
    /// `MADV_HUGEPAGE`: it neither makes the kernel compact memory into huge pages nor uses them
    /// where the administrator allows them on advice only.
    fn fault_in(&self, start: u64, length: u64) -> rustix::io::Result<()> {
        loop {
            // SAFETY: the range is in the mapping: the object area begins and ends at a chunk,
            // which holds whole pages. Faulting pages in changes no contents.
            let populated = unsafe {
                let address = self.mapping.memory.as_mut_ptr().add(start as usize).cast::<c_void>();
                rustix::mm::madvise(address, length as usize, rustix::mm::Advice::LinuxPopulateWrite)
            };
            match populated {
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The fault would have raised SIGBUS: tmpfs is full.
                Err(Errno::FAULT) => return Err(Errno::NOSPC),
                // Before Linux 5.14 there is no such advice. A chunk is allocated too quickly for
                // signals to keep interrupting it for long.
                Err(Errno::INVAL) => match self.allocate(start, length) {
                    Err(Errno::INTR) => {}
                    allocated => return allocated,
                },
                populated => return populated,
            }
        }
    }

    fn allocate(&self, start: u64, length: u64) -> rustix::io::Result<()> {
        rustix::fs::fallocate(&self.file, FallocateFlags::empty(), start, length)
    }

    /// What of the segment this process has touched through this mapping. Slow: for tests and
    /// reports.
    ///
    /// # Errors
    ///
    /// [`StoreError::System`] without `/proc`.
    pub fn residency(&self) -> Result<Residency, StoreError> {
        Residency::of(self.mapping.memory.as_ptr())
    }

    fn backed(&self) -> BackedChunks<'_> {
        BackedChunks::new(self.shared_words(BACKED_OFFSET, BACKED_BYTES))
    }

    pub(crate) fn process_table(&self) -> &[AtomicU64] {
        self.shared_words(PROCESS_TABLE_OFFSET, PROCESS_TABLE_BYTES)
    }

    /// A part of what lies before the objects; all processes access it by atomics only.
    fn shared_words(&self, offset: usize, bytes: usize) -> &[AtomicU64] {
        let length = bytes / size_of::<AtomicU64>();
        // SAFETY: offset and length come from the layout, lie below the smallest capacity and are
        // multiples of 8 from the page-aligned start. The memory was backed when the segment was
        // made. Atomics may be shared with other processes, and no other access is made to these
        // bytes.
        unsafe { slice::from_raw_parts(self.mapping.memory.as_ptr().add(offset).cast::<AtomicU64>(), length) }
    }
}

fn out_of_memory(offset: u64, length: u64, errno: Errno) -> StoreError {
    StoreError::OutOfMemory { offset, length, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backing, FIRST_OFFSET, tmpfs};

    const CAPACITY: u64 = 32 << 20;

    /// A segment of each kind that this system has.
    fn segments() -> Vec<Segment> {
        let huge =
            Segment::create(CAPACITY, Backing::HugeTmpfs).inspect_err(|error| println!("skipped: {error}"));
        huge.into_iter().chain(Segment::create(CAPACITY, Backing::Memfd)).collect()
    }

    fn backed_bytes(segment: &Segment) -> u64 {
        rustix::fs::fstat(segment).unwrap().st_blocks as u64 * 512
    }

    #[test]
    fn what_one_mapping_writes_the_other_reads() {
        for segment in segments() {
            let writer = WriteMapping::new(&segment).unwrap();
            let reader = ReadMapping::new(&segment).unwrap();
            let offset = CAPACITY - CHUNK - 3;
            let large: Vec<u8> = (0..CHUNK).map(|index| (index % 251) as u8).collect();
            writer.reserve(offset, CHUNK + 3).unwrap();
            // SAFETY: only this test knows the segment.
            unsafe {
                assert_eq!(writer.write_at(offset, &[b"abc", &large]).unwrap(), CHUNK + 3);
                assert_eq!(reader.slice(offset, 3).unwrap(), b"abc");
                assert!(reader.slice(offset + 3, CHUNK).unwrap() == large);
                assert_eq!(reader.slice(offset - 2, 2).unwrap(), [0, 0]);
                writer.slice_mut(offset, 1).unwrap()[0] = b'A';
                assert_eq!(*reader.pointer(offset, 1).unwrap(), b'A');
            }
        }
    }

    #[test]
    fn nothing_outside_the_object_area_is_reachable() {
        let segment = Segment::create(CAPACITY, Backing::Memfd).unwrap();
        let writer = WriteMapping::new(&segment).unwrap();
        let reader = ReadMapping::new(&segment).unwrap();
        for (offset, length) in
            [(0, 1), (FIRST_OFFSET - 1, 1), (CAPACITY - 1, 2), (u64::MAX, 1), (FIRST_OFFSET, u64::MAX)]
        {
            let bad = |result: Result<(), StoreError>| {
                assert!(matches!(result, Err(StoreError::OutOfBounds { .. })))
            };
            bad(writer.reserve(offset, length));
            bad(writer.populate(offset, length));
            bad(writer.pointer(offset, length).map(|_| ()));
            bad(reader.pointer(offset, length).map(|_| ()));
            // SAFETY: the calls fail before they touch anything.
            unsafe {
                bad(writer.release(offset, length).map(|_| ()));
                bad(reader.slice(offset, length).map(|_| ()));
            }
        }
        // SAFETY: the call fails before it touches anything.
        let error = unsafe { writer.write_at(CAPACITY - 4, &[b"too", b"long"]) }.unwrap_err();
        assert!(matches!(error, StoreError::OutOfBounds { length: 7, .. }));
    }

    #[test]
    fn reserve_backs_chunks_and_release_gives_whole_chunks_back() {
        for segment in segments() {
            let writer = WriteMapping::new(&segment).unwrap();
            let other = WriteMapping::new(&segment).unwrap();
            let header = backed_bytes(&segment);
            let offset = FIRST_OFFSET + CHUNK - 10;
            writer.reserve(offset, 2 * CHUNK).unwrap();
            assert_eq!(backed_bytes(&segment) - header, 3 * CHUNK);
            other.reserve(offset, 2 * CHUNK).unwrap();
            other.reserve(FIRST_OFFSET, 5).unwrap();
            assert_eq!(backed_bytes(&segment) - header, 3 * CHUNK);
            // SAFETY: only this test knows the segment, and no slice lives across a call.
            unsafe {
                writer.write_at(offset, &[&[7; 2 * CHUNK as usize]]).unwrap();
                assert_eq!(other.release(offset, 2 * CHUNK).unwrap(), CHUNK);
                assert_eq!(other.release(offset + 1, CHUNK).unwrap(), 0);
                assert_eq!(backed_bytes(&segment) - header, 2 * CHUNK);
                let (before, behind) = (offset, offset + 10 + CHUNK);
                assert!(writer.slice_mut(before, 10).unwrap().iter().all(|&byte| byte == 7));
                assert!(writer.slice_mut(behind, CHUNK - 10).unwrap().iter().all(|&byte| byte == 7));
                writer.reserve(offset, 2 * CHUNK).unwrap();
                assert_eq!(backed_bytes(&segment) - header, 3 * CHUNK);
                assert!(writer.slice_mut(offset + 10, CHUNK).unwrap().iter().all(|&byte| byte == 0));
            }
        }
    }

    #[test]
    fn populate_maps_the_range_into_this_process_only() {
        for segment in segments() {
            let mapping = WriteMapping::new(&segment).unwrap();
            let other = WriteMapping::new(&segment).unwrap();
            other.reserve(FIRST_OFFSET, 4 * CHUNK).unwrap();
            assert_eq!(mapping.residency().unwrap(), Residency { bytes: 0, huge_bytes: 0 });
            mapping.populate(FIRST_OFFSET + 4096, 4 * CHUNK - 4096).unwrap();
            let after = mapping.residency().unwrap();
            assert!(after.bytes >= 4 * CHUNK - LARGEST_PAGE, "{after:?}");
            // Memory may be too fragmented for some huge pages, but not for all of them.
            assert!(!segment.huge_pages() || after.huge_bytes >= CHUNK, "{after:?}");
        }
    }

    #[test]
    fn a_full_tmpfs_is_an_error_before_the_write_and_not_a_signal() {
        let file = match tmpfs::open(3 * CHUNK) {
            Ok(file) => file,
            Err(error) => return println!("skipped: {error}"),
        };
        rustix::fs::ftruncate(&file, CAPACITY).unwrap();
        let mapping = WriteMapping::new(&Segment::initialize(file, CAPACITY, None).unwrap()).unwrap();
        mapping.reserve(FIRST_OFFSET, CHUNK).unwrap();
        for failed in [mapping.reserve(FIRST_OFFSET, 4 * CHUNK), mapping.populate(FIRST_OFFSET, 4 * CHUNK)] {
            assert!(
                matches!(failed, Err(StoreError::OutOfMemory { length, .. }) if length == 4 * CHUNK),
                "{failed:?}"
            );
        }
        // What there was room for is reserved; the rest is known not to be.
        mapping.reserve(FIRST_OFFSET, 2 * CHUNK).unwrap();
        assert!(mapping.reserve(FIRST_OFFSET + 2 * CHUNK, 1).is_err());
        // SAFETY: only this test knows the segment.
        assert_eq!(unsafe { mapping.release(FIRST_OFFSET, CHUNK) }.unwrap(), CHUNK);
        mapping.reserve(FIRST_OFFSET + 2 * CHUNK, 1).unwrap();
        assert!(mapping.reserve(FIRST_OFFSET, 1).is_err());
    }
}

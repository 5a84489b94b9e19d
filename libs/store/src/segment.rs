use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::layout::{self, CHUNK, FIRST_OFFSET, HEADER_BYTES};
use crate::{StoreError, tmpfs};

/// What holds the pages of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// Huge pages where the system gives them, else [`Backing::Memfd`].
    #[default]
    Auto,
    /// A file on a private tmpfs mount with huge pages, or an error.
    HugeTmpfs,
    /// An anonymous memory file with the page size that the administrator set, usually 4 KiB.
    Memfd,
}

/// The shared memory of a node: one sparse file without a name.
///
/// The file has its full size from the start and never changes it; memory appears in it on first
/// touch, or by [`WriteMapping::reserve`](crate::WriteMapping::reserve). It goes when the last
/// process that holds the descriptor or a mapping ends, however it ends.
///
/// ```
/// use shoal_store::{Backing, Segment};
///
/// let segment = Segment::create(64 << 20, Backing::Auto)?;
/// assert_eq!(segment.capacity(), 64 << 20);
/// # Ok::<(), shoal_store::StoreError>(())
/// ```
#[derive(Debug)]
pub struct Segment {
    file: OwnedFd,
    capacity: u64,
    huge_pages: bool,
    fallback_reason: Option<StoreError>,
}

impl Segment {
    /// Makes a segment of `capacity` bytes, rounded up to 2 MiB; the first 2 MiB of it hold no
    /// objects.
    ///
    /// Without the right to mount, [`Backing::Auto`] and [`Backing::HugeTmpfs`] fork a child that
    /// ends before this returns. Call it at the start of the daemon, where a fork is cheap.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidCapacity`], [`StoreError::BackingUnavailable`] for a backing that was
    /// asked for by name, and [`StoreError::OutOfMemory`] if not even the first 2 MiB can be had.
    pub fn create(capacity: u64, backing: Backing) -> Result<Segment, StoreError> {
        let capacity = layout::round_capacity(capacity)?;
        let (file, fallback_reason) = match backing {
            Backing::HugeTmpfs => (huge_file(capacity)?, None),
            Backing::Memfd => (memfd(capacity)?, None),
            Backing::Auto => match huge_file(capacity) {
                Ok(file) => (file, None),
                Err(reason) => (memfd(capacity)?, Some(reason)),
            },
        };
        Segment::initialize(file, capacity, fallback_reason)
    }

    pub(crate) fn initialize(
        file: OwnedFd,
        capacity: u64,
        fallback_reason: Option<StoreError>,
    ) -> Result<Segment, StoreError> {
        // Every process reads and writes what lies before the objects without reserving it first.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, FIRST_OFFSET).map_err(|errno| {
            StoreError::OutOfMemory { offset: 0, length: FIRST_OFFSET, source: errno.into() }
        })?;
        let header = layout::encode_header(capacity);
        match rustix::io::pwrite(&file, &header, 0) {
            Ok(HEADER_BYTES) => {}
            Ok(_) => return Err(system("writing the header of the store")(Errno::IO)),
            Err(errno) => return Err(system("writing the header of the store")(errno)),
        }
        let huge_pages = has_huge_pages(&file)?;
        Ok(Segment { file, capacity, huge_pages, fallback_reason })
    }

    /// Takes over the segment that the node daemon made and passed on.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotASegment`] if the file has another size or was not made by
    /// [`Segment::create`] of the same version.
    pub fn from_fd(file: OwnedFd, capacity: u64) -> Result<Segment, StoreError> {
        let not_a_segment = |reason: String| StoreError::NotASegment { reason };
        let status = rustix::fs::fstat(&file).map_err(system("inspecting the store's file"))?;
        if u64::try_from(status.st_size) != Ok(capacity) {
            return Err(not_a_segment(format!("it has {} bytes instead of {capacity}", status.st_size)));
        }
        let mut header = [0; HEADER_BYTES];
        match rustix::io::pread(&file, &mut header, 0) {
            Ok(HEADER_BYTES) if header == layout::encode_header(capacity) => {}
            Ok(_) => {
                return Err(not_a_segment("its header is missing or of another version".to_owned()));
            }
            Err(errno) => return Err(not_a_segment(format!("its header cannot be read: {errno}"))),
        }
        let huge_pages = has_huge_pages(&file)?;
        Ok(Segment { file, capacity, huge_pages, fallback_reason: None })
    }

    /// Size in bytes, with the 2 MiB that hold no objects.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether the kernel backs the file with huge pages while it has any.
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Why [`Backing::Auto`] had to do without huge pages, if it had to.
    pub fn fallback_reason(&self) -> Option<&StoreError> {
        self.fallback_reason.as_ref()
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Segment> for OwnedFd {
    fn from(segment: Segment) -> OwnedFd {
        segment.file
    }
}

fn huge_file(capacity: u64) -> Result<OwnedFd, StoreError> {
    let file = tmpfs::open(capacity)?;
    rustix::fs::ftruncate(&file, capacity).map_err(system("setting the size of the store"))?;
    if has_huge_pages(&file)? {
        return Ok(file);
    }
    Err(StoreError::BackingUnavailable {
        backing: "huge pages",
        step: "asking tmpfs for them",
        source: io::Error::from(Errno::NOTSUP),
    })
}

fn memfd(capacity: u64) -> Result<OwnedFd, StoreError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create(c"shoal-store", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3 there was no such flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"shoal-store", flags),
        created => created,
    };
    let unavailable = |step| {
        move |errno: Errno| StoreError::BackingUnavailable {
            backing: "anonymous memory files",
            step,
            source: errno.into(),
        }
    };
    let file = file.map_err(unavailable("creating one"))?;
    rustix::fs::ftruncate(&file, capacity).map_err(unavailable("setting its size"))?;
    // Nothing that holds the descriptor can change the size any more, and with it pull pages from
    // under a mapping. A file on tmpfs cannot be sealed; there it is only our own code that never
    // does it.
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        .map_err(unavailable("sealing its size"))?;
    Ok(file)
}

/// tmpfs announces the page size that it uses for a file as the file's preferred block size.
fn has_huge_pages(file: &OwnedFd) -> Result<bool, StoreError> {
    let status = rustix::fs::fstat(file).map_err(system("inspecting the store's file"))?;
    Ok(u64::try_from(status.st_blksize).is_ok_and(|size| size >= CHUNK))
}

pub(crate) fn system(operation: &'static str) -> impl Fn(Errno) -> StoreError {
    move |errno| StoreError::System { operation, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_says_why_it_has_no_huge_pages() {
        let segment = Segment::create(16 << 20, Backing::Auto).unwrap();
        assert_eq!(segment.huge_pages(), segment.fallback_reason().is_none());
        if let Some(reason) = segment.fallback_reason() {
            println!("no huge pages here: {reason}");
        }
    }

    #[test]
    fn who_may_mount_has_huge_pages_where_the_kernel_knows_them() {
        let knows = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        match tmpfs::open_directly(16 << 20) {
            Ok(_) if knows => {
                assert!(Segment::create(16 << 20, Backing::HugeTmpfs).unwrap().huge_pages());
            }
            Ok(_) => println!("skipped: a kernel without huge pages"),
            Err(error) => println!("skipped: {error}"),
        }
    }

    #[test]
    fn the_size_of_a_memfd_is_sealed() {
        let segment = Segment::create(16 << 20, Backing::Memfd).unwrap();
        assert_eq!(rustix::fs::ftruncate(&segment, 4 << 20), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&segment, 32 << 20), Err(Errno::PERM));
    }

    #[test]
    fn a_segment_survives_the_journey_through_a_descriptor() {
        let segment = Segment::create((16 << 20) - 5, Backing::Memfd).unwrap();
        assert_eq!(segment.capacity(), 16 << 20);
        let copy = segment.as_fd().try_clone_to_owned().unwrap();
        assert!(matches!(Segment::from_fd(copy, 8 << 20), Err(StoreError::NotASegment { .. })));
        let again = Segment::from_fd(segment.into(), 16 << 20).unwrap();
        assert_eq!(again.capacity(), 16 << 20);
    }

    #[test]
    fn a_foreign_file_is_no_segment() {
        let file = rustix::fs::memfd_create(c"foreign", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 16 << 20).unwrap();
        let error = Segment::from_fd(file, 16 << 20).unwrap_err();
        assert!(matches!(&error, StoreError::NotASegment { reason } if reason.contains("header")), "{error}");
    }
}

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What can go wrong with shared memory and spill files.
///
/// Every message says what failed and what to do about it. None of these errors leaves a segment,
/// an object or a spill file half done: a failed call has changed nothing that its caller can see.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The capacity asked for cannot be a segment.
    #[error(
        "a store of {requested} bytes cannot be made: \
         choose a capacity between {minimum} and {maximum} bytes"
    )]
    InvalidCapacity {
        /// Bytes asked for.
        requested: u64,
        /// Smallest capacity, in bytes.
        minimum: u64,
        /// Largest capacity, in bytes.
        maximum: u64,
    },

    /// The kernel, or what this process may do, does not allow the backing.
    #[error(
        "the store cannot use {backing}: {step} failed: {source}; \
         let the backing be chosen automatically, or allow it to this user"
    )]
    BackingUnavailable {
        /// The backing that was tried.
        backing: &'static str,
        /// The step that failed.
        step: &'static str,
        /// The error of the system.
        source: io::Error,
    },

    /// A file descriptor does not refer to a segment of the given capacity.
    #[error(
        "the file descriptor is no store segment: {reason}; \
         pass on the descriptor that the node daemon sent"
    )]
    NotASegment {
        /// What differs.
        reason: String,
    },

    /// The segment cannot be mapped into this process.
    #[error(
        "the store's {capacity} bytes cannot be mapped: {source}; \
         raise the address space limit of the process (ulimit -v) or lower the store's capacity"
    )]
    Map {
        /// Size of the segment, in bytes.
        capacity: u64,
        /// The error of the system.
        source: io::Error,
    },

    /// A range does not lie in the part of the segment that holds objects.
    #[error(
        "bytes {offset}..{offset}+{length} are not in the object area {start}..{end} of the store: \
         the object's location is wrong"
    )]
    OutOfBounds {
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        length: u64,
        /// First byte of the object area.
        start: u64,
        /// End of the object area.
        end: u64,
    },

    /// There is no memory to back a range of the segment.
    #[error(
        "there is no memory left for {length} bytes of the store: {source}; \
         free or spill objects, or start the node with a smaller store"
    )]
    OutOfMemory {
        /// First byte of the range.
        offset: u64,
        /// Number of bytes of the range.
        length: u64,
        /// The error of the system.
        source: io::Error,
    },

    /// A system call failed that works on every supported system; a bug, or a limit of the process.
    #[error(
        "{operation} failed: {source}; \
         check the limits of the process (ulimit -a) and the kernel's log"
    )]
    System {
        /// What was being done.
        operation: &'static str,
        /// The error of the system.
        source: io::Error,
    },

    /// A limit for the spill directory is not a fraction of the disk.
    #[error("{limit} is no fraction of a disk: give a spill limit above 0 and up to 1, such as 0.95")]
    InvalidSpillLimit {
        /// The limit given.
        limit: f64,
    },

    /// Another process spills into the directory.
    #[error(
        "the spill directory {} is used by another process: give each node its own",
        path.display()
    )]
    SpillDirectoryInUse {
        /// The directory.
        path: PathBuf,
    },

    /// The disk, or the share of it that spilling may use, is full.
    #[error(
        "no room to spill to {}: {needed} bytes are needed, {available} may be used; \
         free disk space, raise the spill limit or choose another spill directory",
        path.display()
    )]
    OutOfDisk {
        /// The spill directory.
        path: PathBuf,
        /// Bytes that the write needs.
        needed: u64,
        /// Bytes that spilling may still use.
        available: u64,
    },

    /// The spill directory or a file in it cannot be used.
    #[error(
        "{operation} {} failed: {source}; \
         check that the disk is healthy and writable for this user",
        path.display()
    )]
    SpillFile {
        /// What was being done.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },

    /// No such object was spilled, or it was deleted.
    #[error(
        "no object is spilled at offset {offset} of spill file {file}: \
         it was deleted, or never written"
    )]
    NotSpilled {
        /// Number of the spill file.
        file: u64,
        /// Offset of the object in it.
        offset: u64,
    },

    /// The memory given for a restored object has another size than the object.
    #[error("the spilled object has {expected} bytes, not {given}: give it a destination of its size")]
    WrongLength {
        /// Size of the object, in bytes.
        expected: u64,
        /// Size of the destination, in bytes.
        given: u64,
    },

    /// A spill file has vanished.
    #[error(
        "the spill file {} is gone: something else deletes files there; \
         the object must be rebuilt",
        path.display()
    )]
    SpillMissing {
        /// The file.
        path: PathBuf,
    },

    /// A spill file ends before the object does.
    #[error(
        "the spill file {} is cut off: {found} of {expected} bytes of the object are there; \
         the object must be rebuilt",
        path.display()
    )]
    SpillTorn {
        /// The file.
        path: PathBuf,
        /// Size of the object, in bytes.
        expected: u64,
        /// Bytes of it that could be read.
        found: u64,
    },

    /// The bytes in a spill file are not those that were written.
    #[error(
        "the spill file {} is corrupt at offset {offset}: \
         checksum {found:#010x} instead of {expected:#010x}; \
         check the disk; the object must be rebuilt",
        path.display()
    )]
    SpillCorrupt {
        /// The file.
        path: PathBuf,
        /// Offset of the object in it.
        offset: u64,
        /// Checksum of what was written.
        expected: u32,
        /// Checksum of what was read.
        found: u32,
    },
}

//! Descriptors that tasks wait for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that a task can wait for.
pub(super) type Watched = AsyncFd<OwnedFd>;

/// Have the event loop watch a descriptor, which must not block.
pub(super) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<Watched> {
    // SAFETY: the result owns the descriptor, which stays the same and open while it is watched.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

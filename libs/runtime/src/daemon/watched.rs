//! Descriptors that tasks wait for.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that a task can wait for.
pub(super) type Watched = AsyncFd<OwnedFd>;

/// Have the event loop watch a descriptor, which must not block.
pub(super) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<Watched> {
    // SAFETY: the result owns the descriptor, which stays the same and open while it is watched.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// Wait until a descriptor that is watched for other things can be written to, or may be able to. A socket that
/// is watched for that all the time wakes the event loop whenever its other end has read something.
pub(super) async fn writable(watched: &Watched) {
    let own = watched.get_ref().try_clone().and_then(|own| watch(own, Interest::WRITABLE));
    match own {
        Ok(own) => drop(own.writable().await),
        // There are no descriptors left: look again soon.
        Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
    }
}

const RETRY_PAUSE: Duration = Duration::from_millis(20);

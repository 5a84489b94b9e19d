//! Machines have no clock: the time is an argument.

use std::time::{Duration, Instant};

use shoal_core::{Time, Wakeup};

/// Counts from the start of the program.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that says 0.
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Time {
        Time(self.start.elapsed().as_nanos() as u64)
    }

    /// How long to wait for the next delivery: until the machine's deadline, if it has one.
    pub fn until(&self, deadline: Option<(Time, Wakeup)>) -> Duration {
        match deadline {
            Some((due, _)) => Duration::from_nanos((due - self.now()).0),
            None => Duration::from_secs(3600),
        }
    }
}

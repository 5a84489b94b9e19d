//! The background thread: does what nobody else does.
//!
//! While the program calls into the runtime by itself, this thread only looks up about every
//! millisecond, writes what was left and fires deadlines. When the program computes, or waits for
//! callbacks, it reads. When nothing happens at all it sleeps until something comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Process;

/// How often it looks up while the program is active.
const TICK: Duration = Duration::from_millis(1);
/// After so long without any activity it sleeps until something comes.
const QUIET: Duration = Duration::from_millis(20);
/// How long an event loop has for reading what came.
const LOOP_PATIENCE: Duration = Duration::from_millis(5);

pub(super) fn start(process: &Arc<Process>) -> std::io::Result<()> {
    let weak = Arc::downgrade(process);
    std::thread::Builder::new().name("shoal-background".into()).spawn(move || {
        let mut seen = 0;
        let mut quiet_since = Instant::now();
        while let Some(process) = weak.upgrade() {
            if process.stopping.load(Ordering::SeqCst) {
                return;
            }
            let activity = process.activity.load(Ordering::SeqCst);
            if activity != seen {
                seen = activity;
                quiet_since = Instant::now();
                process.tend();
                drop(process);
                std::thread::sleep(TICK);
            } else if quiet_since.elapsed() < QUIET {
                process.tend();
                process.watch(Some(TICK));
            } else {
                process.tend();
                process.sleep_long(seen);
                quiet_since = Instant::now() - QUIET;
            }
        }
    })?;
    Ok(())
}

impl Process {
    /// Write what was left, fire deadlines, read if nobody does.
    fn tend(&self) {
        let mut inner = self.lock();
        inner.handle_timeout();
        if inner.is_dirty() {
            inner.flush();
        }
        let lonely = self.waiting.load(Ordering::SeqCst) == 0 || inner.has_callbacks();
        self.finish(inner);
        if !lonely || self.is_read_by_a_loop() {
            return;
        }
        if let Some(mut reader) = self.reader.try_lock() {
            while reader.poll(self, 0) {}
            drop(reader);
            self.pass_on();
        }
    }

    /// Whether an event loop reads. One that runs the program's code for long does not, and then
    /// somebody must, or nobody would see a cancellation.
    fn is_read_by_a_loop(&self) -> bool {
        if !self.has_loop.load(Ordering::SeqCst) {
            return false;
        }
        let before = self.activity.load(Ordering::SeqCst);
        std::thread::sleep(LOOP_PATIENCE);
        self.activity.load(Ordering::SeqCst) != before
    }

    /// Sleep until input comes, at most `limit`.
    fn watch(&self, limit: Option<Duration>) {
        let timeout =
            limit.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) });
        // Not part of the poller: a reader would clear it, and this thread would sleep on.
        let input = PollFd::new(&self.poller, PollFlags::IN);
        let mut descriptors = [input, PollFd::new(&self.kick, PollFlags::IN)];
        let _ = rustix::event::poll(&mut descriptors, timeout.as_ref());
        if !descriptors[1].revents().is_empty() {
            let _ = rustix::io::read(&self.kick, &mut [0; 8]);
        }
    }

    fn sleep_long(&self, seen: u64) {
        // A call of the program that comes from now on finds this thread asleep and wakes it; one
        // that came just before shows in the count.
        self.background_asleep.store(true, Ordering::SeqCst);
        if self.activity.load(Ordering::SeqCst) != seen || self.has_dropped.load(Ordering::SeqCst) {
            self.background_asleep.store(false, Ordering::SeqCst);
            return;
        }
        let limit = {
            let inner = self.inner.lock();
            let now = inner.now();
            if inner.is_dirty() {
                self.background_asleep.store(false, Ordering::SeqCst);
                drop(inner);
                std::thread::sleep(TICK);
                return;
            }
            let due = shoal_core::Machine::poll_timeout(&inner.owner).map(|(due, _)| due);
            due.map(|due| Duration::from_nanos((due - now).0).max(TICK))
        };
        self.watch(limit);
        self.background_asleep.store(false, Ordering::SeqCst);
    }
}

//! Waiting: one thread of those that wait reads for all, the others sleep until it has news.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shoal_core::ids::{ProcessId, RequestId, TaskId};
use shoal_core::message::{Answer, Query};
use shoal_core::owner::{Input, Owner};
use shoal_core::value::Failure;

use super::Process;
use super::inner::{Inner, Job};

/// Why a wait ended without its result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stopped {
    /// The deadline passed.
    TimedOut,
    /// A signal came: let the program handle it, then wait on.
    Interrupted,
    /// The daemon is gone.
    Disconnected,
}

/// Why there is no room in the store.
#[derive(Debug)]
pub enum Allocation {
    /// The node said so.
    Refused(Failure),
    /// The node is gone.
    Disconnected,
}

enum Turn<T> {
    Done(T),
    Stopped(Stopped),
    Again,
}

impl Process {
    /// Wait until `ready` finds what it looks for. With `blocks`, the node may use this process's
    /// CPU for others meanwhile.
    /// `go_on` is asked from time to time, at least after each signal; if it says no, the wait ends
    /// as [`Stopped::Interrupted`].
    pub fn wait<T>(
        &self,
        deadline: Option<Instant>,
        blocks: bool,
        go_on: &mut dyn FnMut() -> bool,
        mut ready: impl FnMut(&mut Owner) -> Option<T>,
    ) -> Result<T, Stopped> {
        self.wait_for(deadline, blocks, go_on, |inner| ready(&mut inner.owner))
    }

    fn wait_for<T>(
        &self,
        deadline: Option<Instant>,
        blocks: bool,
        go_on: &mut dyn FnMut() -> bool,
        mut ready: impl FnMut(&mut Inner) -> Option<T>,
    ) -> Result<T, Stopped> {
        self.activity.fetch_add(1, Ordering::SeqCst);
        let mut blocked = false;
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let result = loop {
            match self.turn(deadline, blocks && self.is_worker, &mut blocked, &mut ready) {
                Turn::Done(value) => break Ok(value),
                Turn::Stopped(Stopped::Interrupted) if go_on() => {}
                Turn::Stopped(why) => break Err(why),
                Turn::Again => {}
            }
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if blocked {
            let mut inner = self.inner.lock();
            inner.handle(Input::Unblocked);
            inner.flush();
        }
        self.pass_on();
        result
    }

    /// This thread does not read any more: wake one that waits, if one does.
    pub(super) fn pass_on(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            // A thread that found the reader taken is asleep once the lock is free.
            drop(self.inner.lock());
            self.progress.notify_all();
        }
    }

    /// Look once, then read as the leader, or sleep as a follower.
    fn turn<T>(
        &self,
        deadline: Option<Instant>,
        blocks: bool,
        blocked: &mut bool,
        ready: &mut impl FnMut(&mut Inner) -> Option<T>,
    ) -> Turn<T> {
        let mut inner = self.lock();
        if let Some(value) = self.look(&mut inner, ready) {
            self.finish(inner);
            return Turn::Done(value);
        }
        if inner.disconnected {
            return Turn::Stopped(Stopped::Disconnected);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Turn::Stopped(Stopped::TimedOut);
        }
        if self.interrupted.swap(false, Ordering::SeqCst) {
            return Turn::Stopped(Stopped::Interrupted);
        }
        let Some(mut reader) = self.reader.try_lock() else {
            return self.follow(inner, deadline, blocks, blocked);
        };
        self.finish(inner);
        if reader.look(self) {
            return Turn::Again;
        }
        self.report_blocked(blocks, blocked);
        let interrupted = reader.sleep(self, deadline);
        drop(reader);
        if interrupted { Turn::Stopped(Stopped::Interrupted) } else { Turn::Again }
    }

    fn look<T>(&self, inner: &mut Inner, ready: &mut impl FnMut(&mut Inner) -> Option<T>) -> Option<T> {
        let found = ready(inner);
        if inner.is_dirty() {
            inner.flush();
        }
        found
    }

    fn report_blocked(&self, blocks: bool, blocked: &mut bool) {
        if blocks && !*blocked {
            *blocked = true;
            let mut inner = self.inner.lock();
            inner.handle(Input::Blocked);
            inner.flush();
            self.finish(inner);
        }
    }

    /// Another thread reads: sleep until it has news. The nap is bounded so that signals and a
    /// leader that left are noticed.
    fn follow<T>(
        &self,
        mut inner: parking_lot::MutexGuard<'_, Inner>,
        deadline: Option<Instant>,
        blocks: bool,
        blocked: &mut bool,
    ) -> Turn<T> {
        if blocks && !*blocked {
            *blocked = true;
            inner.handle(Input::Blocked);
            inner.flush();
        }
        let nap = Instant::now() + Duration::from_millis(50);
        let until = deadline.map_or(nap, |deadline| deadline.min(nap));
        let timed_out = self.progress.wait_until(&mut inner, until).timed_out();
        if timed_out && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            // The background thread may be asleep in the same wait as the reader was.
            return Turn::Stopped(Stopped::Interrupted);
        }
        Turn::Again
    }

    /// The next job for a thread that runs the program's code; `group` limits it to one
    /// concurrency group.
    pub fn next_job(&self, group: Option<usize>, go_on: &mut dyn FnMut() -> bool) -> Result<Job, Stopped> {
        self.wait_for(None, false, go_on, |inner| inner.take_job(group))
    }

    /// A job that is there now. What waits to be written goes out if it has waited long enough.
    pub fn try_next_job(&self, group: Option<usize>) -> Option<Job> {
        let mut inner = self.inner.lock();
        let job = inner.take_job(group);
        if job.is_some() && inner.is_dirty() {
            inner.flush_if_worthwhile();
        }
        job
    }

    /// Wait until a generator's consumer has taken at least `wanted` items.
    pub fn wait_consumed(
        &self,
        task: TaskId,
        wanted: u32,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Stopped> {
        self.wait_for(None, true, go_on, |inner| {
            let consumed = inner.consumed.get(&task).copied().unwrap_or(0);
            (consumed >= wanted || inner.owner.is_cancelled(task)).then_some(())
        })
    }

    /// Whether a generator's consumer has taken at least `wanted` items.
    pub fn has_consumed(&self, task: TaskId, wanted: u32) -> bool {
        self.inner.lock().consumed.get(&task).copied().unwrap_or(0) >= wanted
    }

    /// A task that ran here has ended.
    pub fn forget_consumed(&self, task: TaskId) {
        let mut inner = self.inner.lock();
        if !inner.consumed.is_empty() {
            inner.consumed.remove(&task);
        }
    }

    /// Ask the head or the node something, and wait for the answer.
    pub fn ask(&self, to: ProcessId, query: Query, deadline: Option<Instant>) -> Result<Answer, Stopped> {
        let request = {
            let mut inner = self.inner.lock();
            let request = inner.next_request();
            inner.handle(Input::Ask { request, to, query });
            request
        };
        self.wait_answer(request, deadline)
    }

    /// Make an actor whose name must be free, and wait for the head's word.
    pub fn ask_with(
        &self,
        make: impl FnOnce(TaskId, RequestId) -> Input,
    ) -> (TaskId, Result<Answer, Stopped>) {
        let (id, request) = {
            let mut inner = self.inner.lock();
            let id = inner.owner.next_task_id();
            let request = inner.next_request();
            inner.handle(make(id, request));
            (id, request)
        };
        (id, self.wait_answer(request, None))
    }

    fn wait_answer(&self, request: RequestId, deadline: Option<Instant>) -> Result<Answer, Stopped> {
        // A signal must not lose the answer: handlers run once the call is over.
        self.wait_for(deadline, false, &mut || true, |inner| inner.answers.remove(&request))
    }

    /// Room in the store for `size` bytes; waits while the node makes some.
    pub fn allocate(&self, size: u64) -> Result<u64, Allocation> {
        loop {
            let request = {
                let mut inner = self.lock();
                if let Some(offset) = inner.owner.allocate(size) {
                    return Ok(offset);
                }
                let request = inner.next_request();
                inner.handle(Input::RequestRoom { request, size });
                request
            };
            match self.wait_for(None, false, &mut || true, |inner| inner.rooms.remove(&request)) {
                Ok(None) => {}
                Ok(Some(failure)) => return Err(Allocation::Refused(failure)),
                Err(_) => return Err(Allocation::Disconnected),
            }
        }
    }
}

//! The runtime inside a driver or worker process: drives the [`Owner`] machine over sockets.
//!
//! There is no thread between the program and the sockets. The thread that submits runs the machine
//! and writes; a thread that waits reads, first looking again and again for a bounded time, then
//! sleeping in `epoll_wait`. Of several waiting threads one, the leader, reads, and the others sleep
//! until it has news or leaves. A background thread reads, writes what was left and fires deadlines
//! only while the program does not come here by itself.

mod background;
mod connecting;
mod inner;
mod link;
mod reader;
mod store;
mod waiting;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use shoal_core::Effects;
use shoal_core::ids::{ObjectId, ProcessId, TaskId};
use shoal_core::owner::{Effect, Input, Owner};

use crate::control::Welcome;
pub use connecting::ConnectError;
pub use inner::{Callback, Job};
use inner::{Inner, Signal};
use reader::Reader;
use store::Store;
pub use store::{Mapped, StoreError};
pub use waiting::{Allocation, Stopped};

/// What the process does about things that only it can do. Called without any lock.
pub trait Hooks: Send + Sync {
    /// Interrupt the thread that runs the task.
    fn interrupt(&self, task: TaskId);
    /// A worker printed something.
    fn output(&self, process: ProcessId, pid: u32, error: bool, lines: Vec<String>);
}

/// Something about references that can take effect a little later.
#[derive(Clone, Copy, Debug)]
pub enum Noted {
    /// One more reference to the object.
    Reference(ObjectId),
    /// One less.
    NoReference(ObjectId),
    /// A reader of a stored object is gone.
    NoReader(ObjectId),
    /// A stream's consumer is gone.
    NoConsumer(TaskId),
}

impl Noted {
    /// The input that says so to an owner.
    pub fn into_input(self) -> Input {
        match self {
            Noted::Reference(object) => Input::AddReference { object },
            Noted::NoReference(object) => Input::RemoveReference { object },
            Noted::NoReader(object) => Input::RemoveReader { object },
            Noted::NoConsumer(task) => Input::CloseStream { task },
        }
    }
}

/// This process is a fork of one that has a runtime.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Called in a fork: values that it inherited may be dropped there without touching the sockets and
/// locks that they came with.
pub fn forked() {
    FORKED.store(true, Ordering::SeqCst);
}

/// The runtime of this process.
pub struct Process {
    inner: Mutex<Inner>,
    /// Told when something changed or the leader left.
    progress: Condvar,
    waiting: AtomicUsize,
    reader: Mutex<Reader>,
    poller: OwnedFd,
    /// Wakes the background thread, which alone polls and clears it.
    kick: OwnedFd,
    background_asleep: AtomicBool,
    /// An event loop takes the jobs; it must be woken when another thread has read one.
    has_loop: AtomicBool,
    polling: AtomicBool,
    jobs_came: OwnedFd,
    jobs_told: AtomicBool,
    /// Counts the program's calls, so that the background thread keeps out of its way.
    activity: AtomicU64,
    /// References that came and went, noted without the lock: the collector of the program's
    /// language may drop them while a thread holds it.
    dropped: Mutex<Vec<Noted>>,
    has_dropped: AtomicBool,
    /// A running task was cancelled since somebody last looked.
    interrupted: AtomicBool,
    stopping: AtomicBool,
    hooks: Box<dyn Hooks>,
    welcome: Welcome,
    store: Store,
    is_worker: bool,
}

impl Process {
    /// Who and where this process is.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Whether this is a worker rather than a driver.
    pub fn is_worker(&self) -> bool {
        self.is_worker
    }

    /// The node's store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock();
        if self.has_dropped.swap(false, Ordering::SeqCst) {
            let noted = std::mem::take(&mut *self.dropped.lock());
            inner.handle_all(noted.into_iter().map(Noted::into_input));
        }
        inner
    }

    /// Note something about references. Never waits; takes effect, in order, before the program's
    /// next call, and within a millisecond.
    pub fn note(&self, noted: Noted) {
        if FORKED.load(Ordering::Relaxed) {
            return;
        }
        let mut dropped = self.dropped.lock();
        dropped.push(noted);
        let first = dropped.len() == 1;
        drop(dropped);
        if first {
            self.has_dropped.store(true, Ordering::SeqCst);
            if self.background_asleep.load(Ordering::SeqCst) {
                self.wake_background();
            }
        }
    }

    /// Look at the owner's state without changing it.
    pub fn peek<T>(&self, look: impl FnOnce(&Owner) -> T) -> T {
        look(&self.inner.lock().owner)
    }

    /// Whether this process has left by itself.
    pub fn has_left(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Use a method of the owner that has no effects.
    pub fn with_owner_quietly<T>(&self, act: impl FnOnce(&mut Owner) -> T) -> T {
        act(&mut self.inner.lock().owner)
    }

    /// Apply something that the program did. What must be written is written now or, in a burst,
    /// together with what follows within microseconds.
    pub fn handle(&self, input: Input) {
        self.activity.fetch_add(1, Ordering::SeqCst);
        let mut inner = self.lock();
        inner.handle(input);
        inner.flush_if_worthwhile();
        self.finish(inner);
    }

    /// Use the owner directly.
    pub fn with_owner<T>(&self, act: impl FnOnce(&mut Owner, &mut Effects<Effect>) -> T) -> T {
        self.activity.fetch_add(1, Ordering::SeqCst);
        let mut inner = self.lock();
        let result = inner.with_owner(act);
        inner.flush_if_worthwhile();
        self.finish(inner);
        result
    }

    /// Submit with an id taken in the same breath.
    pub fn submit(&self, make: impl FnOnce(TaskId) -> Input) -> TaskId {
        self.activity.fetch_add(1, Ordering::SeqCst);
        let mut inner = self.lock();
        let id = inner.owner.next_task_id();
        inner.handle(make(id));
        inner.flush_if_worthwhile();
        self.finish(inner);
        id
    }

    /// Write everything that waits.
    pub fn flush(&self) {
        let mut inner = self.inner.lock();
        if inner.is_dirty() {
            inner.flush();
        }
        self.finish(inner);
    }

    /// Leave the lock, do what must be done outside of it, and see that somebody does the rest.
    fn finish(&self, mut inner: parking_lot::MutexGuard<'_, Inner>) {
        let signals = std::mem::take(&mut inner.signals);
        let has_jobs = self.has_loop.load(Ordering::Relaxed) && inner.has_jobs();
        drop(inner);
        if has_jobs && !self.polling.load(Ordering::SeqCst) && !self.jobs_told.swap(true, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.jobs_came, &1u64.to_ne_bytes());
        }
        if self.background_asleep.load(Ordering::SeqCst) {
            self.wake_background();
        }
        self.deliver(signals);
    }

    fn deliver(&self, signals: Vec<Signal>) {
        for signal in signals {
            match signal {
                Signal::Call(callback) => callback(),
                Signal::Interrupt(task) => {
                    self.hooks.interrupt(task);
                    // Whoever waits looks whether it was meant.
                    self.interrupted.store(true, Ordering::SeqCst);
                    self.progress.notify_all();
                }
                Signal::ExitNow(reason) => exit_now(&reason),
            }
        }
    }

    fn wake_background(&self) {
        self.background_asleep.store(false, Ordering::Relaxed);
        let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
    }

    /// See that the object's bytes come here, and call back when something changes about it; or
    /// now, if it already is as wanted.
    pub fn call_back(&self, object: ObjectId, is_done: impl FnOnce(&Owner) -> bool, callback: Callback) {
        self.call_back_after(Some(Input::Need { object }), object, is_done, callback);
    }

    /// Call back when something changes about the object; or now, if all is as wanted.
    pub fn call_back_on_change(
        &self,
        object: ObjectId,
        is_done: impl FnOnce(&Owner) -> bool,
        callback: Callback,
    ) {
        self.call_back_after(None, object, is_done, callback);
    }

    fn call_back_after(
        &self,
        input: Option<Input>,
        object: ObjectId,
        is_done: impl FnOnce(&Owner) -> bool,
        callback: Callback,
    ) {
        self.activity.fetch_add(1, Ordering::SeqCst);
        let mut inner = self.lock();
        if is_done(&inner.owner) || inner.disconnected {
            drop(inner);
            callback();
            return;
        }
        // Registered first: what is asked for may be there at once.
        inner.call_back(object, callback);
        if let Some(input) = input {
            inner.handle(input);
        }
        if inner.is_dirty() {
            inner.flush_if_worthwhile();
        }
        self.finish(inner);
    }

    /// Read what has come and write what waits, without sleeping; for event loops.
    pub fn poll(&self, spin: bool) {
        self.activity.fetch_add(1, Ordering::SeqCst);
        self.has_loop.store(true, Ordering::SeqCst);
        self.polling.store(true, Ordering::SeqCst);
        if self.jobs_told.swap(false, Ordering::SeqCst) {
            let _ = rustix::io::read(&self.jobs_came, &mut [0; 8]);
        }
        self.flush();
        if let Some(mut reader) = self.reader.try_lock() {
            if spin {
                reader.look(self);
            } else {
                reader.poll(self, 0);
            }
            drop(reader);
            self.pass_on();
        }
        self.polling.store(false, Ordering::SeqCst);
        self.flush();
    }

    /// A descriptor that becomes readable when [`Process::poll`] would find something.
    pub fn pollable(&self) -> std::os::fd::BorrowedFd<'_> {
        self.poller.as_fd()
    }

    /// Whether the daemon is still there.
    pub fn is_connected(&self) -> bool {
        !self.stopping.load(Ordering::SeqCst) && !self.inner.lock().disconnected
    }

    /// Why the cluster has told this process to leave, if it has.
    pub fn dismissal(&self) -> Option<String> {
        self.inner.lock().exiting.clone()
    }

    /// Leave: waiting threads are told, the links close with the last user of this value.
    pub fn disconnect(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        {
            let mut inner = self.inner.lock();
            inner.close();
            self.finish(inner);
        }
        self.progress.notify_all();
        self.wake_background();
    }
}

/// End the process without running anything of the program.
fn exit_now(reason: &str) -> ! {
    eprintln!("shoal: this worker ends: {reason}");
    unsafe { libc::_exit(1) }
}

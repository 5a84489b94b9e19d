//! The runtime inside a driver or worker process: drives the [`Owner`] machine over sockets.
//!
//! There is no thread between the program and the sockets. The thread that submits runs the machine
//! and writes; a thread that waits reads, first looking again and again for a bounded time, then
//! sleeping in `epoll_wait`. Of several waiting threads one, the leader, reads, and the others sleep
//! until it has news or leaves. A background thread reads, writes what was left and fires deadlines
//! only while the program does not come here by itself.

mod background;
mod inner;
mod link;
mod reader;
mod spin;
mod store;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::epoll;
use shoal_core::Effects;
use shoal_core::ids::{ObjectId, ProcessId, TaskId};
use shoal_core::message::{Answer, Query};
use shoal_core::owner::{Config, Effect, Input, Owner};
use shoal_core::value::Failure;

use crate::control::{Control, Launch, VERSION, Welcome};
use crate::frame::{self, FrameError, Kind};
pub use inner::{Callback, Job};
use inner::{Inner, Signal};
use link::{Incoming, Outgoing, ReadState};
use reader::Reader;
use store::Store;
pub use store::{Mapped, StoreError};

/// What the process does about things that only it can do. Called without any lock.
pub trait Hooks: Send + Sync {
    /// Interrupt the thread that runs the task.
    fn interrupt(&self, task: TaskId);
    /// A worker printed something.
    fn output(&self, process: ProcessId, pid: u32, error: bool, lines: Vec<String>);
}

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

/// Why a process could not join a node.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket cannot be reached.
    #[error("cannot reach the node daemon at {path}: {source}")]
    Unreachable {
        /// The socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The daemon said no.
    #[error("the node daemon refused this process: {0}")]
    Refused(String),
    /// The daemon closed the link, or said something else.
    #[error("the node daemon did not answer as expected: {0}")]
    Protocol(String),
    /// A frame was malformed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The operating system refused something.
    #[error("cannot set up the connection: {0}")]
    System(#[from] std::io::Error),
    /// The store could not be mapped.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    fn into_input(self) -> Input {
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
    /// Join the node behind `socket` as a driver.
    pub fn connect(
        socket: &Path,
        namespace: String,
        launch: Launch,
        output: bool,
        hooks: Box<dyn Hooks>,
    ) -> Result<Arc<Process>, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { path: socket.display().to_string(), source };
        let stream = UnixStream::connect(socket).map_err(unreachable)?;
        let mut hello = Vec::new();
        let pid = std::process::id();
        let control = Control::Hello { version: VERSION.into(), pid, namespace, launch, output };
        frame::append(&mut hello, Kind::Control, ProcessId::HEAD, ProcessId::HEAD, &control)?;
        let socket = Arc::new(OwnedFd::from(stream));
        let mut outgoing = Outgoing::new(socket.clone());
        outgoing.buffer = hello;
        outgoing.flush();
        let mut incoming = Incoming::new(socket, ProcessId::HEAD, true);
        let welcome = greet(&mut incoming)?;
        let segment = incoming
            .take_descriptor()
            .ok_or_else(|| ConnectError::Protocol("the welcome came without the store".into()))?;
        Process::start(welcome, outgoing, incoming, segment, hooks, false)
    }

    /// Start the runtime of a worker that was just forked.
    pub fn start_worker(
        welcome: Welcome,
        link: OwnedFd,
        segment: OwnedFd,
        hooks: Box<dyn Hooks>,
    ) -> Result<Arc<Process>, ConnectError> {
        let link = Arc::new(link);
        let outgoing = Outgoing::new(link.clone());
        let incoming = Incoming::new(link, ProcessId::HEAD, true);
        let process = Process::start(welcome, outgoing, incoming, segment, hooks, true)?;
        process.inner.lock().worker_ready();
        Ok(process)
    }

    fn start(
        welcome: Welcome,
        outgoing: Outgoing,
        incoming: Incoming,
        segment: OwnedFd,
        hooks: Box<dyn Hooks>,
        is_worker: bool,
    ) -> Result<Arc<Process>, ConnectError> {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let kick = rustix::event::eventfd(0, flags).map_err(std::io::Error::from)?;
        let config = Config::new(welcome.process, welcome.job, welcome.cpus);
        let inner = Inner::new(Owner::new(config), outgoing, Instant::now());
        let mut reader = Reader::default();
        reader.add(&poller, incoming)?;
        let jobs_came = rustix::event::eventfd(0, flags).map_err(std::io::Error::from)?;
        reader.watch_jobs(&poller, &jobs_came)?;
        let store = Store::new(segment, &welcome)?;
        let process = Arc::new(Process {
            inner: Mutex::new(inner),
            progress: Condvar::new(),
            waiting: AtomicUsize::new(0),
            reader: Mutex::new(reader),
            poller,
            kick,
            background_asleep: AtomicBool::new(false),
            has_loop: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            jobs_came,
            jobs_told: AtomicBool::new(false),
            activity: AtomicU64::new(0),
            dropped: Mutex::new(Vec::new()),
            has_dropped: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            hooks,
            welcome,
            store,
            is_worker,
        });
        background::start(&process)?;
        Ok(process)
    }

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
    fn pass_on(&self) {
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
        make: impl FnOnce(TaskId, shoal_core::ids::RequestId) -> Input,
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

    fn wait_answer(
        &self,
        request: shoal_core::ids::RequestId,
        deadline: Option<Instant>,
    ) -> Result<Answer, Stopped> {
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

    /// Whether the daemon is still there.
    pub fn is_connected(&self) -> bool {
        !self.stopping.load(Ordering::SeqCst) && !self.inner.lock().disconnected
    }

    /// Leave: waiting threads are told, the links close with the last user of this value.
    pub fn disconnect(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        {
            let mut inner = self.inner.lock();
            inner.flush();
            inner.disconnected = true;
            inner.peers.clear();
            inner.fire_all_callbacks();
            let _ = rustix::net::shutdown(inner.daemon.socket(), rustix::net::Shutdown::Both);
            self.finish(inner);
        }
        self.progress.notify_all();
        self.wake_background();
    }
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

/// End the process without running anything of the program.
fn exit_now(reason: &str) -> ! {
    eprintln!("shoal: this worker ends: {reason}");
    unsafe { libc::_exit(1) }
}

/// Wait for the daemon's answer to a greeting.
fn greet(incoming: &mut Incoming) -> Result<Welcome, ConnectError> {
    loop {
        if let Some((header, body)) = incoming.next_frame()? {
            let control = match header.kind {
                Kind::Control => shoal_core::wire::decode::<Control>(incoming.bytes(body)),
                Kind::Message => {
                    return Err(ConnectError::Protocol("a message came before the welcome".into()));
                }
            };
            return match control.map_err(FrameError::from)? {
                Control::Welcome(welcome) => Ok(welcome),
                Control::Refused { reason } => Err(ConnectError::Refused(reason)),
                other => Err(ConnectError::Protocol(format!("{other:?}"))),
            };
        }
        let mut descriptors = [rustix::event::PollFd::new(incoming.socket(), rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut descriptors, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        if incoming.read() == ReadState::Closed {
            return Err(ConnectError::Protocol("it closed the connection".into()));
        }
    }
}

//! A simulated process as its own code sees it: what `shoal_runtime::process::Process` is to a real one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use shoal_core::ids::{ObjectId, ProcessId, RequestId, TaskId};
use shoal_core::message::{Answer, Query};
use shoal_core::owner::{Config, Effect, Input, Owner};
use shoal_core::{Effects, Span, Time};
use shoal_runtime::control::Welcome;
use shoal_runtime::process::{Allocation, Callback, Job, Noted, Stopped};

use super::threads::{DRIVER, Here, Interest, Wait};
use super::users::{Program, token};
use super::world::{self, Content, Inner, Phase, World};
use crate::interrupt;

/// Buffers in a value lie at multiples of this, and so must the value.
const ALIGNMENT: usize = 64;

/// See the module's text.
pub(crate) struct Member {
    world: Arc<World>,
    welcome: Welcome,
    is_worker: bool,
}

/// Stands in for the owner of a process that is gone: what becomes of it does not count.
fn nobody(id: ProcessId) -> Owner {
    Owner::new(Config::new(id, shoal_core::ids::JobId(0), 1))
}

impl Member {
    pub(super) fn new(world: Arc<World>, welcome: Welcome, is_worker: bool) -> Member {
        Member { world, welcome, is_worker }
    }

    pub(super) fn id(&self) -> ProcessId {
        self.welcome.process
    }

    pub(crate) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    pub(crate) fn is_worker(&self) -> bool {
        self.is_worker
    }

    /// The process is gone, or the simulation is.
    pub(crate) fn has_left(&self) -> bool {
        self.world.is_abandoned() || !self.world.lock().is_alive(self.id())
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.has_left()
    }

    pub(crate) fn note(&self, noted: Noted) {
        self.world.note(self.id(), noted);
    }

    pub(crate) fn peek<T>(&self, look: impl FnOnce(&Owner) -> T) -> T {
        match self.world.lock().cluster.processes.get(&self.id()) {
            Some(process) => look(&process.owner),
            None => look(&nobody(self.id())),
        }
    }

    pub(crate) fn with_owner_quietly<T>(&self, act: impl FnOnce(&mut Owner) -> T) -> T {
        match self.world.lock().cluster.processes.get_mut(&self.id()) {
            Some(process) => act(&mut process.owner),
            None => act(&mut nobody(self.id())),
        }
    }

    pub(crate) fn handle(&self, input: Input) {
        self.world.lock().cluster.tell(self.id(), input);
    }

    pub(crate) fn with_owner<T>(&self, act: impl FnOnce(&mut Owner, &mut Effects<Effect>) -> T) -> T {
        let mut inner = self.world.lock();
        if !inner.cluster.processes.contains_key(&self.id()) {
            return act(&mut nobody(self.id()), &mut Effects::new());
        }
        let Some(result) = inner.cluster.with_owner(self.id(), act) else { unreachable!("looked up above") };
        result
    }

    pub(crate) fn submit(&self, make: impl FnOnce(TaskId) -> Input) -> TaskId {
        let mut inner = self.world.lock();
        let task = self.next_task_id(&mut inner);
        inner.cluster.tell(self.id(), make(task));
        task
    }

    fn next_task_id(&self, inner: &mut Inner) -> TaskId {
        match inner.cluster.processes.get_mut(&self.id()) {
            Some(process) => process.owner.next_task_id(),
            None => nobody(self.id()).next_task_id(),
        }
    }

    fn request(&self, inner: &mut Inner) -> RequestId {
        inner.cluster.processes.get_mut(&self.id()).map_or(RequestId(0), |process| process.request())
    }

    pub(crate) fn call_back(
        &self,
        object: ObjectId,
        is_done: impl FnOnce(&Owner) -> bool,
        callback: Callback,
    ) {
        self.call_back_after(Some(Input::Need { object }), object, is_done, callback);
    }

    pub(crate) fn call_back_on_change(
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
        let mut inner = self.world.lock();
        let done = inner.cluster.processes.get(&self.id()).is_none_or(|process| is_done(&process.owner));
        match inner.users.programs.get_mut(&self.id()).filter(|_| !done) {
            Some(program) => program.callbacks.entry(object).or_default().push(callback),
            None => {
                drop(inner);
                return callback();
            }
        }
        if let Some(input) = input {
            inner.cluster.tell(self.id(), input);
        }
    }

    // --- waiting -----------------------------------------------------------------------------------

    pub(crate) fn wait<T>(
        &self,
        deadline: Option<Instant>,
        blocks: bool,
        _go_on: &mut dyn FnMut() -> bool,
        mut ready: impl FnMut(&mut Owner) -> Option<T>,
    ) -> Result<T, Stopped> {
        let id = self.id();
        self.wait_for(deadline, blocks, Interest::News, move |inner| {
            ready(&mut inner.cluster.processes.get_mut(&id)?.owner)
        })
    }

    /// Let the world go on until `look` finds what it looks for.
    fn wait_for<T>(
        &self,
        deadline: Option<Instant>,
        blocks: bool,
        interest: Interest,
        mut look: impl FnMut(&mut Inner) -> Option<T>,
    ) -> Result<T, Stopped> {
        // A thread that the simulation does not know has no turn.
        let Some(here) = Here::get() else { return Err(Stopped::Disconnected) };
        let deadline = deadline.map(|deadline| self.world.time(deadline));
        let mut blocked = false;
        let result = loop {
            if self.world.is_abandoned() {
                return self.unwind(&here);
            }
            let mut inner = self.world.lock();
            let gone = std::mem::take(&mut inner.users.gone);
            if !gone.is_empty() {
                drop(inner);
                bury(gone);
                continue;
            }
            let mine = here.process.welcome().process;
            if !inner.is_alive(mine) {
                drop(inner);
                return self.unwind(&here);
            }
            let fired = inner.users.programs.get_mut(&mine).and_then(|program| program.fired.pop_front());
            if let Some(callback) = fired {
                drop(inner);
                self.resumes(mine);
                callback();
                continue;
            }
            if here.number == DRIVER && inner.verdict.is_some() {
                break Err(Stopped::Disconnected);
            }
            if let Some(found) = look(&mut inner) {
                break Ok(found);
            }
            if !inner.is_alive(self.id()) {
                break Err(Stopped::Disconnected);
            }
            let is_main = inner.users.threads.get(&here.number).is_some_and(|thread| thread.is_main);
            if is_main && interrupt::is_wanted(&here.process) {
                break Err(Stopped::Interrupted);
            }
            if deadline.is_some_and(|deadline| deadline <= inner.cluster.now()) {
                break Err(Stopped::TimedOut);
            }
            if blocks && self.is_worker && !blocked {
                blocked = true;
                inner.cluster.tell(self.id(), Input::Blocked);
            }
            self.start_waiting(&mut inner, &here, interest, deadline);
            let next = inner.drive();
            if next == here.number {
                self.stop_waiting(&mut inner, &here);
                continue;
            }
            self.world.hand_over(inner, next);
            if let Err(error) = here.take_turn() {
                self.world.abandon();
                Python::attach(|py| error.restore(py));
                return Err(Stopped::Interrupted);
            }
            self.stop_waiting(&mut self.world.lock(), &here);
        };
        if blocked {
            self.handle(Input::Unblocked);
        }
        self.resumes(here.process.welcome().process);
        result
    }

    /// The program of this process goes on.
    fn resumes(&self, process: ProcessId) {
        if self.world.is_other_shown(process) {
            Python::attach(|py| self.world.show(py, process));
        }
    }

    fn start_waiting(&self, inner: &mut Inner, here: &Here, interest: Interest, until: Option<Time>) {
        let now = inner.cluster.now();
        let Some(thread) = inner.users.threads.get_mut(&here.number) else { return };
        thread.wake = thread.wake.wrapping_add(1);
        thread.waking = false;
        thread.wait = Some(Wait { on: self.id(), interest, since: now, until });
        let (process, wake) = (thread.process, token(here.number, thread.wake));
        if let Some(until) = until {
            inner.cluster.wake_after(process, until - now, wake);
        }
    }

    fn stop_waiting(&self, inner: &mut Inner, here: &Here) {
        if let Some(thread) = inner.users.threads.get_mut(&here.number) {
            thread.wait = None;
        }
    }

    /// The process is gone: say so, so that the thread ends. One that does not is left lying.
    fn unwind<T>(&self, here: &Here) -> Result<T, Stopped> {
        if here.number == DRIVER || self.world.is_abandoned() {
            return Err(Stopped::Disconnected);
        }
        let stays = {
            let mut inner = self.world.lock();
            inner.users.threads.get_mut(&here.number).is_some_and(|thread| thread.does_not_unwind())
        };
        if stays {
            self.world.thread_ends(here.number);
            loop {
                std::thread::park();
            }
        }
        Err(Stopped::Disconnected)
    }

    pub(crate) fn next_job(
        &self,
        group: Option<usize>,
        _go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Job, Stopped> {
        let id = self.id();
        self.wait_for(None, false, Interest::Job, move |inner| {
            inner.users.programs.get_mut(&id)?.take_job(group)
        })
    }

    pub(crate) fn try_next_job(&self, group: Option<usize>) -> Option<Job> {
        self.world.lock().users.programs.get_mut(&self.id())?.take_job(group)
    }

    pub(crate) fn wait_consumed(
        &self,
        task: TaskId,
        wanted: u32,
        _go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Stopped> {
        let id = self.id();
        self.wait_for(None, true, Interest::News, move |inner| {
            let program = inner.users.programs.get(&id)?;
            let consumed = program.consumed.get(&task).copied().unwrap_or(0) >= wanted;
            let cancelled = || inner.cluster.processes.get(&id).is_some_and(|p| p.owner.is_cancelled(task));
            (consumed || cancelled()).then_some(())
        })
    }

    pub(crate) fn has_consumed(&self, task: TaskId, wanted: u32) -> bool {
        let inner = self.world.lock();
        let consumed = inner.users.programs.get(&self.id()).and_then(|program| program.consumed.get(&task));
        consumed.copied().unwrap_or(0) >= wanted
    }

    pub(crate) fn forget_consumed(&self, task: TaskId) {
        if let Some(program) = self.world.lock().users.programs.get_mut(&self.id()) {
            program.consumed.remove(&task);
        }
    }

    pub(crate) fn ask(
        &self,
        to: ProcessId,
        query: Query,
        deadline: Option<Instant>,
    ) -> Result<Answer, Stopped> {
        let request = {
            let mut inner = self.world.lock();
            let request = self.request(&mut inner);
            inner.cluster.tell(self.id(), Input::Ask { request, to, query });
            request
        };
        self.wait_answer(request, deadline)
    }

    pub(crate) fn ask_with(
        &self,
        make: impl FnOnce(TaskId, RequestId) -> Input,
    ) -> (TaskId, Result<Answer, Stopped>) {
        let (task, request) = {
            let mut inner = self.world.lock();
            let task = self.next_task_id(&mut inner);
            let request = self.request(&mut inner);
            inner.cluster.tell(self.id(), make(task, request));
            (task, request)
        };
        (task, self.wait_answer(request, None))
    }

    fn wait_answer(&self, request: RequestId, deadline: Option<Instant>) -> Result<Answer, Stopped> {
        let id = self.id();
        self.wait_for(deadline, false, Interest::News, move |inner| {
            inner.users.programs.get_mut(&id)?.answers.remove(&request)
        })
    }

    /// Let so much time pass.
    pub(super) fn sleep(&self, span: Span) -> Result<(), Stopped> {
        let until = self.now() + Duration::from_nanos(span.0);
        match self.wait_for(Some(until), false, Interest::Time, |_| None) {
            Err(Stopped::TimedOut) => Ok(()),
            other => other,
        }
    }

    /// Wait until another thread says this, or, with `jobs`, a call has come. False: the time is over.
    pub(super) fn park(&self, token: u64, timeout: Option<Span>, jobs: bool) -> Result<bool, Stopped> {
        let id = self.id();
        let hear = move |program: &mut Program| {
            let heard = program.signals.iter().position(|said| *said == token);
            heard.map(|at| program.signals.swap_remove(at)).is_some()
        };
        if let Some(program) = self.world.lock().users.programs.get_mut(&id) {
            while hear(program) {}
        }
        let deadline = timeout.map(|span| self.now() + Duration::from_nanos(span.0));
        let waited = self.wait_for(deadline, false, Interest::Signal { token, jobs }, move |inner| {
            let program = inner.users.programs.get_mut(&id)?;
            (hear(program) || jobs && program.has_jobs()).then_some(())
        });
        match waited {
            Ok(()) => Ok(true),
            Err(Stopped::TimedOut) => Ok(false),
            Err(why) => Err(why),
        }
    }

    /// Say something to the threads of this process that wait for it.
    pub(super) fn unpark(&self, token: u64) {
        let mut inner = self.world.lock();
        let Inner { cluster, users, .. } = &mut *inner;
        let Some(program) = users.programs.get_mut(&self.id()) else { return };
        if !program.signals.contains(&token) {
            program.signals.push(token);
        }
        users.wake(
            cluster,
            self.id(),
            |interest| matches!(interest, Interest::Signal { token: waited, .. } if waited == token),
        );
    }

    /// The main thread looks whether it is interrupted.
    pub(crate) fn interrupt_main_thread(&self) {
        let mut inner = self.world.lock();
        let Inner { cluster, users, .. } = &mut *inner;
        users.wake(cluster, self.id(), |_| true);
    }

    /// Let others go first, now and then.
    pub(crate) fn breathe(&self, py: Python<'_>) -> PyResult<()> {
        let span = {
            let mut inner = self.world.lock();
            let most = inner.cluster.settings.step_micros;
            let random = &mut inner.cluster.random;
            random.chance(300).then(|| Span::from_micros(random.between(1, most.max(1))))
        };
        let stopped = match span {
            Some(span) => py.detach(|| self.sleep(span)).is_err(),
            None => self.has_left(),
        };
        let interrupted =
            Here::get().is_some_and(|here| self.is_main(&here) && interrupt::is_wanted(&here.process));
        match (stopped || interrupted).then(|| self.verdict(py)).flatten() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn is_main(&self, here: &Here) -> bool {
        self.world.lock().users.threads.get(&here.number).is_some_and(|thread| thread.is_main)
    }

    /// Why a wait ended without its result.
    pub(crate) fn verdict(&self, py: Python<'_>) -> Option<PyErr> {
        if let Some(error) = PyErr::take(py) {
            return Some(error);
        }
        let here = Here::get()?;
        if self.is_main(&here) && interrupt::take(&here.process) {
            return Some(PyKeyboardInterrupt::new_err(()));
        }
        if here.number == DRIVER {
            // Made without the lock: it is Python that makes it.
            let verdict = self.world.lock().verdict.clone();
            return verdict.map(|verdict| world::verdict(py, &verdict));
        }
        let dead = here.process.has_left();
        dead.then(|| world::simulation_error(py, "ProcessKilled", String::from("this process was killed")))
    }

    // --- store and clock -----------------------------------------------------------------------------

    pub(crate) fn allocate(&self, size: u64) -> Result<u64, Allocation> {
        let id = self.id();
        loop {
            let request = {
                let mut inner = self.world.lock();
                let Some(process) = inner.cluster.processes.get_mut(&id) else {
                    return Err(Allocation::Disconnected);
                };
                if let Some(offset) = process.owner.allocate(size) {
                    return Ok(offset);
                }
                let request = process.request();
                inner.cluster.tell(id, Input::RequestRoom { request, size });
                request
            };
            let waited = self.wait_for(None, false, Interest::News, |inner| {
                inner.users.programs.get_mut(&id)?.rooms.remove(&request)
            });
            match waited {
                Ok(None) => {}
                Ok(Some(failure)) => return Err(Allocation::Refused(failure)),
                Err(_) => return Err(Allocation::Disconnected),
            }
        }
    }

    pub(crate) fn write(&self, object: ObjectId, offset: u64, size: u64, pieces: &[(usize, &[u8])]) {
        let size_here = size as usize;
        let mut room = vec![0; size_here + ALIGNMENT];
        let start = room.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        for (place, piece) in pieces {
            room[start + place..start + place + piece.len()].copy_from_slice(piece);
        }
        let bytes = Bytes::from(room).slice(start..start + size_here);
        self.world.lock().cluster.write(self.id(), offset, size, Content { object, bytes });
    }

    pub(crate) fn read(&self, offset: u64, size: u64) -> Result<Bytes, String> {
        let inner = self.world.lock();
        match inner.cluster.read(self.id(), offset, size) {
            Some(content) => Ok(content.bytes.clone()),
            None => Err(format!("nothing of {size} bytes lies at {offset}")),
        }
    }

    /// The cluster notes by itself what it starts.
    pub(crate) fn note_started(&self, _task: TaskId) {}

    pub(crate) fn now(&self) -> Instant {
        self.world.instant()
    }

    pub(crate) fn micros_since_epoch(&self) -> u64 {
        self.world.nanos_since_epoch() / 1_000
    }

    /// The driver leaves, and the cluster comes to rest; then every other process ends. What the driver had
    /// left behind, one line each.
    pub(super) fn close(&self, orderly: bool) -> Result<Vec<String>, PyErr> {
        let Some(here) = Here::get() else { return Ok(Vec::new()) };
        let mut leftovers = Vec::new();
        if orderly {
            {
                let mut inner = self.world.lock();
                inner.phase = Phase::Rests;
                inner.cluster.unblock_all();
                inner.cluster.leave(self.id(), 1_000);
            }
            self.run_others(&here)?;
            leftovers = self.world.lock().leftovers();
        }
        {
            let mut inner = self.world.lock();
            inner.phase = Phase::Closes;
            let processes: Vec<ProcessId> = inner.cluster.processes.keys().copied().collect();
            for process in processes {
                inner.cluster.crash(process, 9);
            }
        }
        self.run_others(&here)?;
        let gone = {
            let mut inner = self.world.lock();
            inner.users.threads.remove(&here.number);
            std::mem::take(&mut inner.users.gone)
        };
        bury(gone);
        Ok(leftovers)
    }

    /// Let other threads run until nobody has anything to do.
    fn run_others(&self, here: &Here) -> Result<(), PyErr> {
        loop {
            let mut inner = self.world.lock();
            let next = inner.drive();
            if next == here.number {
                return Ok(());
            }
            self.world.hand_over(inner, next);
            if let Err(error) = here.take_turn() {
                self.world.abandon();
                return Err(error);
            }
            let gone = std::mem::take(&mut self.world.lock().users.gone);
            bury(gone);
        }
    }
}

/// Drop what may run destructors of the program.
fn bury(gone: Vec<Program>) {
    if !gone.is_empty() {
        Python::attach(|_| drop(gone));
    }
}

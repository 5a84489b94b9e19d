//! The process that Python's calls act for: a real one, or one of a simulated cluster. Both offer the
//! same; everything else in this module does not know which it has.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pyo3::prelude::*;
use shoal_core::Effects;
use shoal_core::ids::{ObjectId, ProcessId, RequestId, TaskId};
use shoal_core::message::{Answer, Query};
use shoal_core::owner::{Effect, Input, Owner};
use shoal_runtime::control::Welcome;
use shoal_runtime::process::{Allocation, Callback, Job, Noted, Stopped};

use crate::simulation::Member;
use crate::{interrupt, worker};

/// See the module's text.
pub(crate) struct Process {
    backend: Backend,
    /// What it runs, if it is a worker.
    pub(crate) worker: worker::State,
    /// What of that is to be interrupted.
    pub(crate) interrupts: interrupt::State,
}

enum Backend {
    Real(Arc<shoal_runtime::process::Process>),
    Simulated(Member),
}

/// Bytes of an object in the store, readable while they are pinned.
pub(crate) struct Stored {
    pub(crate) pointer: *const u8,
    pub(crate) length: usize,
    /// What keeps them, where no mapping does.
    pub(crate) kept: Option<Bytes>,
}

/// Call a method that both have.
macro_rules! either {
    ($this:expr, $process:ident => $call:expr) => {
        match &$this.backend {
            Backend::Real($process) => $call,
            Backend::Simulated($process) => $call,
        }
    };
}

impl Process {
    pub(crate) fn real(process: Arc<shoal_runtime::process::Process>) -> Arc<Process> {
        Process::new(Backend::Real(process))
    }

    pub(crate) fn simulated(member: Member) -> Arc<Process> {
        Process::new(Backend::Simulated(member))
    }

    fn new(backend: Backend) -> Arc<Process> {
        let (worker, interrupts) = Default::default();
        Arc::new(Process { backend, worker, interrupts })
    }

    /// The part of a simulated cluster that this is, if it is one.
    pub(crate) fn member(&self) -> Option<&Member> {
        match &self.backend {
            Backend::Real(_) => None,
            Backend::Simulated(member) => Some(member),
        }
    }

    pub(crate) fn welcome(&self) -> &Welcome {
        either!(self, process => process.welcome())
    }

    pub(crate) fn is_worker(&self) -> bool {
        either!(self, process => process.is_worker())
    }

    pub(crate) fn note(&self, noted: Noted) {
        either!(self, process => process.note(noted))
    }

    pub(crate) fn peek<T>(&self, look: impl FnOnce(&Owner) -> T) -> T {
        either!(self, process => process.peek(look))
    }

    pub(crate) fn has_left(&self) -> bool {
        either!(self, process => process.has_left())
    }

    pub(crate) fn with_owner_quietly<T>(&self, act: impl FnOnce(&mut Owner) -> T) -> T {
        either!(self, process => process.with_owner_quietly(act))
    }

    pub(crate) fn handle(&self, input: Input) {
        either!(self, process => process.handle(input))
    }

    pub(crate) fn with_owner<T>(&self, act: impl FnOnce(&mut Owner, &mut Effects<Effect>) -> T) -> T {
        either!(self, process => process.with_owner(act))
    }

    pub(crate) fn submit(&self, make: impl FnOnce(TaskId) -> Input) -> TaskId {
        either!(self, process => process.submit(make))
    }

    pub(crate) fn flush(&self) {
        if let Backend::Real(process) = &self.backend {
            process.flush();
        }
    }

    pub(crate) fn call_back(
        &self,
        object: ObjectId,
        is_done: impl FnOnce(&Owner) -> bool,
        callback: Callback,
    ) {
        either!(self, process => process.call_back(object, is_done, callback))
    }

    pub(crate) fn call_back_on_change(
        &self,
        object: ObjectId,
        is_done: impl FnOnce(&Owner) -> bool,
        callback: Callback,
    ) {
        either!(self, process => process.call_back_on_change(object, is_done, callback))
    }

    /// Read what has come and write what waits, without sleeping.
    pub(crate) fn poll(&self, spin: bool) {
        if let Backend::Real(process) = &self.backend {
            process.poll(spin);
        }
    }

    /// A descriptor that becomes readable when [`Process::poll`] would find something. A simulated
    /// process has none: its event loops wait in the simulation.
    pub(crate) fn pollable(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        match &self.backend {
            Backend::Real(process) => Some(process.pollable()),
            Backend::Simulated(_) => None,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        either!(self, process => process.is_connected())
    }

    pub(crate) fn disconnect(&self) {
        if let Backend::Real(process) = &self.backend {
            process.disconnect();
        }
    }

    pub(crate) fn wait<T>(
        &self,
        deadline: Option<Instant>,
        blocks: bool,
        go_on: &mut dyn FnMut() -> bool,
        ready: impl FnMut(&mut Owner) -> Option<T>,
    ) -> Result<T, Stopped> {
        either!(self, process => process.wait(deadline, blocks, go_on, ready))
    }

    pub(crate) fn next_job(
        &self,
        group: Option<usize>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Job, Stopped> {
        either!(self, process => process.next_job(group, go_on))
    }

    pub(crate) fn try_next_job(&self, group: Option<usize>) -> Option<Job> {
        either!(self, process => process.try_next_job(group))
    }

    pub(crate) fn wait_consumed(
        &self,
        task: TaskId,
        wanted: u32,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Stopped> {
        either!(self, process => process.wait_consumed(task, wanted, go_on))
    }

    pub(crate) fn has_consumed(&self, task: TaskId, wanted: u32) -> bool {
        either!(self, process => process.has_consumed(task, wanted))
    }

    pub(crate) fn forget_consumed(&self, task: TaskId) {
        either!(self, process => process.forget_consumed(task))
    }

    pub(crate) fn ask(
        &self,
        to: ProcessId,
        query: Query,
        deadline: Option<Instant>,
    ) -> Result<Answer, Stopped> {
        either!(self, process => process.ask(to, query, deadline))
    }

    pub(crate) fn ask_with(
        &self,
        make: impl FnOnce(TaskId, RequestId) -> Input,
    ) -> (TaskId, Result<Answer, Stopped>) {
        either!(self, process => process.ask_with(make))
    }

    pub(crate) fn allocate(&self, size: u64) -> Result<u64, Allocation> {
        either!(self, process => process.allocate(size))
    }

    /// Write an object to a place that was allocated for it, piece by piece.
    pub(crate) fn write(
        &self,
        object: ObjectId,
        offset: u64,
        size: u64,
        pieces: &[(usize, &[u8])],
    ) -> Result<(), String> {
        match &self.backend {
            Backend::Real(process) => {
                for (place, piece) in pieces {
                    let written = process.store().copy_in(offset + *place as u64, piece);
                    written.map_err(|error| error.to_string())?;
                }
            }
            Backend::Simulated(member) => member.write(object, offset, size, pieces),
        }
        Ok(())
    }

    /// The bytes of a pinned object.
    pub(crate) fn read(&self, offset: u64, size: u64) -> Result<Stored, String> {
        match &self.backend {
            Backend::Real(process) => {
                let mapped = process.store().read(offset, size).map_err(|error| error.to_string())?;
                Ok(Stored { pointer: mapped.pointer, length: mapped.length, kept: None })
            }
            Backend::Simulated(member) => {
                let bytes = member.read(offset, size)?;
                Ok(Stored { pointer: bytes.as_ptr(), length: bytes.len(), kept: Some(bytes) })
            }
        }
    }

    /// Note that this worker starts the task.
    pub(crate) fn note_started(&self, task: TaskId) -> Result<(), String> {
        match &self.backend {
            Backend::Real(process) => process.store().note_started(task).map_err(|error| error.to_string()),
            Backend::Simulated(member) => {
                member.note_started(task);
                Ok(())
            }
        }
    }

    /// The present by this process's clock.
    pub(crate) fn now(&self) -> Instant {
        match &self.backend {
            Backend::Real(_) => Instant::now(),
            Backend::Simulated(member) => member.now(),
        }
    }

    /// Microseconds since the epoch by this process's clock.
    pub(crate) fn micros_since_epoch(&self) -> u64 {
        match &self.backend {
            Backend::Real(_) => {
                SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
            }
            Backend::Simulated(member) => member.micros_since_epoch(),
        }
    }

    /// Why the cluster has told this process to leave, if it has; simulated ones are never told.
    pub(crate) fn dismissal(&self) -> Option<String> {
        match &self.backend {
            Backend::Real(process) => process.dismissal(),
            Backend::Simulated(_) => None,
        }
    }

    /// Why nothing goes on here, where the simulation knows.
    pub(crate) fn verdict(&self, py: Python<'_>) -> Option<PyErr> {
        self.member()?.verdict(py)
    }

    /// Between two calls of a program others may come: in a simulation, where time passes only here.
    pub(crate) fn breathe(&self, py: Python<'_>) -> PyResult<()> {
        match &self.backend {
            Backend::Real(_) => Ok(()),
            Backend::Simulated(member) => member.breathe(py),
        }
    }
}

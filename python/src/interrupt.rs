//! Interrupting what runs: a task on the main thread by a signal, a coroutine through its loop.

use std::sync::OnceLock;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use shoal_core::ids::TaskId;

use crate::process::Process;
use crate::{errors, session};

/// What of a process is to be interrupted.
#[derive(Default)]
pub(crate) struct State {
    /// The task that the main thread runs, and whether it is to be interrupted.
    main: Mutex<Option<(TaskId, bool)>>,
    /// The task that was interrupted when it began, for it had been cancelled already: the word of that
    /// may still come, and must not interrupt it again.
    begun_cancelled: Mutex<Option<TaskId>>,
    /// An async actor's way to cancel one of its coroutines.
    cancel: Mutex<Option<Py<PyAny>>>,
}

static MAIN_THREAD: OnceLock<libc::pthread_t> = OnceLock::new();

/// This is the thread that runs tasks.
pub(crate) fn remember_main_thread() {
    // SAFETY: takes no arguments and cannot fail.
    let _ = MAIN_THREAD.set(unsafe { libc::pthread_self() });
}

/// The main thread runs this task now, or none.
pub(crate) fn set_running(process: &Process, task: Option<TaskId>) {
    *process.interrupts.main.lock() = task.map(|task| (task, false));
}

/// Interrupt a task that was cancelled before the main thread took it up: there was nobody to interrupt
/// then. The word of the cancellation may have come since, or come later.
pub(crate) fn interrupt_at_its_beginning(process: &Process, task: TaskId) {
    if matches!(*process.interrupts.main.lock(), Some((_, false))) {
        interrupt(process, task);
        *process.interrupts.begun_cancelled.lock() = Some(task);
    }
}

/// Interrupt the task if it runs here in a way that can be interrupted.
pub(crate) fn interrupt(process: &Process, task: TaskId) {
    let state = &process.interrupts;
    if state.begun_cancelled.lock().take_if(|begun| *begun == task).is_some() {
        return;
    }
    if let Some((running, wanted)) = state.main.lock().as_mut()
        && *running == task
    {
        *wanted = true;
        if let Some(member) = process.member() {
            member.interrupt_main_thread();
            return;
        }
        if let Some(thread) = MAIN_THREAD.get() {
            // SAFETY: the main thread lives as long as the process.
            unsafe { libc::pthread_kill(*thread, libc::SIGINT) };
            return;
        }
    }
    Python::attach(|py| {
        let cancel = state.cancel.lock().as_ref().map(|cancel| cancel.clone_ref(py));
        let Some(cancel) = cancel else { return };
        let id = PyBytes::new(py, &errors::task_array(task));
        if let Err(error) = cancel.call1(py, (id,)) {
            error.write_unraisable(py, Some(cancel.bind(py)));
        }
    });
}

/// Whether the task that runs on the main thread is to be interrupted. Said once.
pub(crate) fn take(process: &Process) -> bool {
    match process.interrupts.main.lock().as_mut() {
        Some((_, wanted)) => std::mem::take(wanted),
        None => false,
    }
}

/// Whether the task that runs on the main thread is to be interrupted.
pub(crate) fn is_wanted(process: &Process) -> bool {
    matches!(*process.interrupts.main.lock(), Some((_, true)))
}

/// Whether the signal that came was meant for the task that runs now. Asked once.
#[pyfunction]
pub(crate) fn take_interrupt() -> bool {
    session::current().is_ok_and(|process| take(&process))
}

/// `cancel(task: bytes)` is called, on any thread, when a running call is cancelled.
#[pyfunction]
pub(crate) fn on_cancel(cancel: Py<PyAny>) -> PyResult<()> {
    *session::current()?.interrupts.cancel.lock() = Some(cancel);
    Ok(())
}

//! Interrupting what runs: a task on the main thread by a signal, a coroutine through its loop.

use std::sync::OnceLock;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use shoal_core::ids::TaskId;

use crate::errors;

/// The task that the main thread runs, and whether it is to be interrupted.
static MAIN: Mutex<Option<(TaskId, bool)>> = Mutex::new(None);
/// The task that was interrupted when it began, for it had been cancelled already: the word of that
/// may still come, and must not interrupt it again.
static BEGUN_CANCELLED: Mutex<Option<TaskId>> = Mutex::new(None);
static MAIN_THREAD: OnceLock<libc::pthread_t> = OnceLock::new();
/// An async actor's way to cancel one of its coroutines.
static CANCEL: Mutex<Option<Py<PyAny>>> = Mutex::new(None);

/// This is the thread that runs tasks.
pub(crate) fn remember_main_thread() {
    // SAFETY: takes no arguments and cannot fail.
    let _ = MAIN_THREAD.set(unsafe { libc::pthread_self() });
}

/// The main thread runs this task now, or none.
pub(crate) fn set_running(task: Option<TaskId>) {
    *MAIN.lock() = task.map(|task| (task, false));
}

/// Interrupt a task that was cancelled before the main thread took it up: there was nobody to interrupt
/// then. The word of the cancellation may have come since, or come later.
pub(crate) fn interrupt_at_its_beginning(task: TaskId) {
    if matches!(*MAIN.lock(), Some((_, false))) {
        interrupt(task);
        *BEGUN_CANCELLED.lock() = Some(task);
    }
}

/// Interrupt the task if it runs here in a way that can be interrupted.
pub(crate) fn interrupt(task: TaskId) {
    if BEGUN_CANCELLED.lock().take_if(|begun| *begun == task).is_some() {
        return;
    }
    {
        let mut main = MAIN.lock();
        if let Some((running, wanted)) = main.as_mut()
            && *running == task
            && let Some(thread) = MAIN_THREAD.get()
        {
            *wanted = true;
            // SAFETY: the main thread lives as long as the process.
            unsafe { libc::pthread_kill(*thread, libc::SIGINT) };
            return;
        }
    }
    Python::attach(|py| {
        let cancel = CANCEL.lock().as_ref().map(|cancel| cancel.clone_ref(py));
        let Some(cancel) = cancel else { return };
        let id = PyBytes::new(py, &errors::task_array(task));
        if let Err(error) = cancel.call1(py, (id,)) {
            error.write_unraisable(py, Some(cancel.bind(py)));
        }
    });
}

/// Whether the signal that came was meant for the task that runs now. Asked once.
#[pyfunction]
pub(crate) fn take_interrupt() -> bool {
    match MAIN.lock().as_mut() {
        Some((_, wanted)) => std::mem::take(wanted),
        None => false,
    }
}

/// `cancel(task: bytes)` is called, on any thread, when a running call is cancelled.
#[pyfunction]
pub(crate) fn on_cancel(cancel: Py<PyAny>) {
    *CANCEL.lock() = Some(cancel);
}

//! One assigned task: from its encoded arguments to its encoded results.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use shoal_core::ids::TaskId;
use shoal_core::owner::{Input, RunResult};
use shoal_core::task::{Assignment, Callee, Dependency, RetryExceptions, Returns};
use shoal_core::value::{Outcome, Payload, Value};

use crate::process::Process;
use crate::worker::{self, TaskContext};
use crate::{calls, errors, values, waits};

/// A task that was handed to the interpreter's side. Used there by async actors; see `worker` for the
/// loop that does without.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct Assigned {
    process: Arc<Process>,
    assignment: Mutex<Option<Box<Assignment>>>,
    pub(crate) context: Arc<TaskContext>,
    returns: Returns,
    retry: RetryExceptions,
    started: Instant,
    started_micros: u64,
    items: Mutex<u32>,
}

/// A callable and what to call it with.
type Prepared<'py> = (Bound<'py, PyAny>, Bound<'py, PyTuple>, Bound<'py, PyDict>);

impl Assigned {
    pub(crate) fn new(process: &Arc<Process>, assignment: Box<Assignment>) -> Assigned {
        Assigned {
            process: process.clone(),
            context: Arc::new(TaskContext::of(process, &assignment)),
            returns: assignment.returns,
            retry: assignment.retry_exceptions.clone(),
            assignment: Mutex::new(Some(assignment)),
            started: process.now(),
            started_micros: process.micros_since_epoch(),
            items: Mutex::new(0),
        }
    }

    pub(crate) fn task(&self) -> TaskId {
        self.context.task
    }

    pub(crate) fn prepare<'py>(&self, py: Python<'py>) -> PyResult<Prepared<'py>> {
        let assignment = self.assignment.lock().take();
        let assignment = assignment.ok_or_else(|| PyRuntimeError::new_err("prepared before"))?;
        let callable = match &assignment.callee {
            Callee::Function { function, code, .. } => {
                worker::function(py, &self.process, *function, code.as_ref())?
            }
            Callee::Method { name, .. } => worker::method(py, &self.process, name)?,
        };
        let (args, kwargs) =
            decode_arguments(py, &self.process, &assignment.arguments, &assignment.dependencies)?;
        Ok((callable, args, kwargs))
    }

    /// Run it to its end on this thread.
    pub(crate) fn run(&self, py: Python<'_>) -> PyResult<()> {
        let prepared = self.prepare(py);
        let result = self.process.breathe(py).and(prepared);
        let result = result.and_then(|(callable, args, kwargs)| callable.call(args, Some(&kwargs)));
        let result = result.and_then(|value| match self.returns {
            Returns::Stream { .. } => self.run_stream(py, &value),
            Returns::Count(_) => self.finish_with(&value),
        });
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.finish_with_error(py, error),
        }
    }

    fn run_stream(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        for item in value.try_iter().map_err(|_| not_a_generator(value))? {
            self.send_item(&item?)?;
            self.wait_for_consumer(py)?;
        }
        self.report(Vec::new(), false);
        Ok(())
    }

    fn send_item(&self, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let task = self.task();
        let index = *self.items.lock();
        let value = values::to_value(item, &self.process, task.object(index + 1))?;
        *self.items.lock() += 1;
        self.process.handle(Input::Yielded { task, index, outcome: Outcome::Value(value) });
        Ok(())
    }

    fn wait_for_consumer(&self, py: Python<'_>) -> PyResult<()> {
        let Returns::Stream { backpressure } = self.returns else { return Ok(()) };
        let sent = *self.items.lock();
        if backpressure == 0 || sent < backpressure {
            return Ok(());
        }
        let (process, task) = (&self.process, self.task());
        let mut raised = None;
        let waited = py.detach(|| {
            process.wait_consumed(task, sent + 1 - backpressure, &mut || waits::go_on(&mut raised))
        });
        match (waited, raised) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(error)) => Err(error),
            (Err(_), None) => Err(errors::disconnected(process)),
        }
    }

    fn finish_with(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let task = self.task();
        let outcomes = match self.returns {
            Returns::Count(0) => Vec::new(),
            Returns::Count(1) | Returns::Stream { .. } => {
                vec![Outcome::Value(values::to_value(value, &self.process, task.object(0))?)]
            }
            Returns::Count(count) => {
                let mut outcomes = Vec::with_capacity(count as usize);
                for (index, item) in results_of(value, count)?.iter().enumerate() {
                    let object = task.object(index as u32);
                    outcomes.push(Outcome::Value(values::to_value(item, &self.process, object)?));
                }
                outcomes
            }
        };
        self.report(outcomes, false);
        Ok(())
    }

    /// Report what was raised; what ends the process is passed on.
    pub(crate) fn finish_with_error(&self, py: Python<'_>, error: PyErr) -> PyResult<()> {
        if error.is_instance_of::<pyo3::exceptions::PySystemExit>(py) {
            self.report_silently();
            return Err(error);
        }
        let (value, retryable) = self.serialize_error(py, &error)?;
        self.report(vec![Outcome::Exception(value)], retryable);
        Ok(())
    }

    fn serialize_error(&self, py: Python<'_>, error: &PyErr) -> PyResult<(Value, bool)> {
        let retry = match &self.retry {
            RetryExceptions::Never => false.into_pyobject(py)?.to_owned().into_any(),
            RetryExceptions::Always => true.into_pyobject(py)?.to_owned().into_any(),
            RetryExceptions::Listed(classes) => PyBytes::new(py, classes).into_any(),
        };
        serialize_error(py, &self.process, error, &self.context, retry)
    }

    fn report(&self, outcomes: Vec<Outcome>, retryable: bool) {
        self.end(outcomes, retryable, false);
    }

    fn report_silently(&self) {
        self.end(Vec::new(), false, true);
    }

    fn end(&self, outcomes: Vec<Outcome>, retryable: bool, silent: bool) {
        let task = self.task();
        let result = RunResult {
            outcomes,
            items: *self.items.lock(),
            retryable,
            started: self.started_micros,
            micros: (self.process.now() - self.started).as_micros().min(u128::from(u32::MAX)) as u32,
            exiting: self.context.is_last_call,
            silent,
        };
        self.process.handle(Input::Ran { task, result: Box::new(result) });
        if matches!(self.returns, Returns::Stream { .. }) {
            self.process.forget_consumed(task);
        }
    }
}

#[pymethods]
impl Assigned {
    #[getter]
    fn label(&self) -> &str {
        &self.context.label
    }

    #[getter]
    fn task_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &errors::task_array(self.task()))
    }

    #[getter]
    fn is_stream(&self) -> bool {
        matches!(self.returns, Returns::Stream { .. })
    }

    /// The callable, its positional and its keyword arguments. Once.
    #[pyo3(name = "prepare")]
    fn prepare_python<'py>(&self, py: Python<'py>) -> PyResult<Prepared<'py>> {
        self.prepare(py)
    }

    /// It returned this.
    fn complete(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.finish_with(value) {
            Ok(()) => Ok(()),
            Err(error) => self.finish_with_error(py, error),
        }
    }

    /// It raised this.
    fn fail(&self, py: Python<'_>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        self.finish_with_error(py, PyErr::from_value(exception))
    }

    /// It ends the process: report nothing.
    fn abandon(&self) {
        self.report_silently();
    }

    /// It yielded this; whether it must wait for the consumer before it goes on.
    fn must_wait_after(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.send_item(item)?;
        let Returns::Stream { backpressure } = self.returns else { return Ok(false) };
        let sent = *self.items.lock();
        if backpressure == 0 || sent < backpressure {
            self.process.flush();
            return Ok(false);
        }
        Ok(!self.process.has_consumed(self.task(), sent + 1 - backpressure))
    }

    /// Block until the consumer has caught up.
    #[pyo3(name = "wait_for_consumer")]
    fn wait_for_consumer_python(&self, py: Python<'_>) -> PyResult<()> {
        self.wait_for_consumer(py)
    }

    /// The generator ended.
    fn end_stream(&self) {
        self.report(Vec::new(), false);
    }
}

/// Serialise what a task raised; `retry` is its `retry_exceptions`.
pub(crate) fn serialize_error(
    py: Python<'_>,
    process: &Arc<Process>,
    error: &PyErr,
    context: &TaskContext,
    retry: Bound<'_, PyAny>,
) -> PyResult<(Value, bool)> {
    let keywords = PyDict::new(py);
    worker::describe_error_source(py, process, &keywords)?;
    // Before Python 3.12 a fetched exception lacks its traceback until it is turned into a value.
    let exception = error.clone_ref(py).into_value(py);
    let arguments = (exception, &*context.label, retry);
    let serialized =
        py.import("shoal._errors")?.call_method("serialize_task_exception", arguments, Some(&keywords))?;
    let (data, buffers, retryable) =
        serialized.extract::<(Bound<'_, PyBytes>, Vec<Bound<'_, PyAny>>, bool)>()?;
    let object = context.task.object(0);
    let serialized = values::pickled(data, &buffers)?;
    let payload = serialized.into_payload(py, process, object)?;
    Ok((Value { payload, contains: Vec::new() }, retryable))
}

fn not_a_generator(value: &Bound<'_, PyAny>) -> PyErr {
    let kind = value.get_type().name().map(|name| name.to_string()).unwrap_or_default();
    PyTypeError::new_err(format!(
        "num_returns=\"streaming\" needs a generator, and the task returned a {kind}"
    ))
}

fn results_of<'py>(value: &Bound<'py, PyAny>, count: u32) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let wrong = |text: String| PyValueError::new_err(text);
    let items = value
        .try_iter()
        .map_err(|_| {
            wrong(format!("the task has num_returns={count} and returned one object that is no sequence"))
        })?
        .collect::<PyResult<Vec<_>>>()?;
    if items.len() != count as usize {
        return Err(wrong(format!("the task has num_returns={count} and returned {} objects", items.len())));
    }
    Ok(items)
}

/// The arguments that [`calls`] encoded.
pub(crate) fn decode_arguments<'py>(
    py: Python<'py>,
    process: &Arc<Process>,
    encoded: &[u8],
    dependencies: &[Dependency],
) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
    let kwargs = PyDict::new(py);
    if encoded.is_empty() {
        return Ok((PyTuple::empty(py), kwargs));
    }
    let mut decoder = Decoder { rest: encoded };
    let count = decoder.word()?;
    let mut args = Vec::new();
    for _ in 0..count {
        args.push(decode_argument(py, process, &mut decoder, dependencies)?);
    }
    while !decoder.rest.is_empty() {
        let length = decoder.word()? as usize;
        let name = std::str::from_utf8(decoder.take(length)?).map_err(|_| malformed())?;
        kwargs.set_item(name, decode_argument(py, process, &mut decoder, dependencies)?)?;
    }
    Ok((PyTuple::new(py, args)?, kwargs))
}

fn decode_argument<'py>(
    py: Python<'py>,
    process: &Arc<Process>,
    decoder: &mut Decoder<'_>,
    dependencies: &[Dependency],
) -> PyResult<Bound<'py, PyAny>> {
    let kind = decoder.take(1)?[0];
    let word = decoder.word()? as usize;
    match kind {
        calls::GIVEN => values::deserialize(py, decoder.take(word)?),
        calls::DEPENDENCY => {
            let dependency = dependencies.get(word).ok_or_else(malformed)?;
            dependency_value(py, process, dependency)
        }
        _ => Err(malformed()),
    }
}

fn dependency_value<'py>(
    py: Python<'py>,
    process: &Arc<Process>,
    dependency: &Dependency,
) -> PyResult<Bound<'py, PyAny>> {
    let (value, exception) = match &dependency.outcome {
        Outcome::Value(value) => (value, false),
        Outcome::Exception(value) => (value, true),
        Outcome::Failure(failure) => return Err(errors::from_failure(py, failure)),
    };
    let object = dependency.object;
    let value = match &value.payload {
        Payload::Inline(bytes) => values::deserialize(py, bytes)?,
        Payload::Stored { .. } => {
            let (offset, size) = process
                .with_owner_quietly(|owner| owner.open(object))
                .ok_or_else(|| PyRuntimeError::new_err("an argument is not in the store any more"))?;
            values::deserialize_stored(py, process, object, offset, size)?
        }
    };
    if exception { Err(errors::from_exception(py, value)) } else { Ok(value) }
}

struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    fn take(&mut self, length: usize) -> PyResult<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn word(&mut self) -> PyResult<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?))
    }
}

fn malformed() -> PyErr {
    PyRuntimeError::new_err(
        "the task's arguments are malformed; do all processes run the same version of shoal?",
    )
}

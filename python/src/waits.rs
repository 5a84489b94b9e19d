//! Waiting: get, wait, cancel.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyListMethods, PySequenceMethods};
use rustc_hash::FxBuildHasher;
use shoal_core::ids::ObjectId;
use shoal_core::owner::{Input, Lookup, NextItem, Owner};
use shoal_core::value::Failure;
use shoal_runtime::process::Stopped;

use crate::objects::{ObjectRef, Stream};
use crate::process::Process;
use crate::{errors, session, values};

/// Wait without the interpreter's lock; signals are handled as the interpreter wants.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    process: &Process,
    deadline: Option<Instant>,
    ready: impl FnMut(&mut Owner) -> Option<T> + Send,
) -> Result<T, Stopped> {
    let mut ready = ready;
    // Most things are there already.
    if let Some(value) = process.with_owner(|owner, _| ready(owner)) {
        return Ok(value);
    }
    let mut error = None;
    let result = py.detach(|| process.wait(deadline, true, &mut || go_on(&mut error), ready));
    if let Some(error) = error {
        error.restore(py);
    }
    result
}

/// Let the interpreter handle signals; no, if one raised.
pub(crate) fn go_on(error: &mut Option<PyErr>) -> bool {
    Python::attach(|py| match py.check_signals() {
        Ok(()) => true,
        Err(raised) => {
            *error = Some(raised);
            false
        }
    })
}

/// What was found behind a reference, taken out from under the lock.
enum Found {
    Inline { bytes: Bytes, exception: bool },
    Stored { offset: u64, size: u64, exception: bool },
    Failed(Failure),
}

fn find(owner: &mut Owner, object: ObjectId) -> Option<Found> {
    let exception = match owner.lookup(object) {
        Lookup::NotReady => return None,
        Lookup::Inline { bytes, exception } => {
            return Some(Found::Inline { bytes: bytes.clone(), exception });
        }
        Lookup::Failed(failure) => return Some(Found::Failed(failure.clone())),
        Lookup::Stored { exception } => exception,
    };
    let (offset, size) = owner.open(object)?;
    Some(Found::Stored { offset, size, exception })
}

fn convert<'py>(
    py: Python<'py>,
    process: &Arc<Process>,
    object: ObjectId,
    found: Found,
) -> PyResult<Bound<'py, PyAny>> {
    let (value, exception) = match found {
        Found::Inline { bytes, exception } => (values::deserialize(py, &bytes)?, exception),
        Found::Stored { offset, size, exception } => {
            (values::deserialize_stored(py, process, object, offset, size)?, exception)
        }
        Found::Failed(failure) => return Err(errors::from_failure_of(py, &failure, object)),
    };
    if exception { Err(errors::from_exception(py, value)) } else { Ok(value) }
}

fn get_from<'py>(
    py: Python<'py>,
    reference: &ObjectRef,
    deadline: Option<Instant>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyAny>> {
    let (process, object) = (&reference.process, reference.id);
    process.breathe(py)?;
    let found = match process.with_owner_quietly(|owner| find(owner, object)) {
        Some(found) => found,
        None => {
            process.handle(Input::Need { object });
            let found = wait_found(py, process, object, deadline);
            match found {
                Ok(found) => found,
                Err(Stopped::TimedOut) => return Err(not_in_time(py, timeout)),
                Err(why) => return Err(session::stopped(py, process, why)),
            }
        }
    };
    convert(py, process, object, found)
}

/// Wait for the outcome, and then for its bytes if they are in the store.
fn wait_found(
    py: Python<'_>,
    process: &Process,
    object: ObjectId,
    deadline: Option<Instant>,
) -> Result<Found, Stopped> {
    loop {
        let found = wait(py, process, deadline, move |owner| match find(owner, object) {
            Some(found) => Some(Some(found)),
            // The task has ended, but the bytes are elsewhere: ask for them.
            None if owner.is_elsewhere(object) => Some(None),
            None => None,
        })?;
        match found {
            Some(found) => return Ok(found),
            None => process.handle(Input::Need { object }),
        }
    }
}

fn not_in_time(py: Python<'_>, timeout: Option<f64>) -> PyErr {
    let seconds = timeout.unwrap_or_default();
    errors::timed_out(py, format!("the value was not there after {seconds} seconds"))
}

#[pyfunction]
#[pyo3(signature = (r#ref, timeout))]
pub(crate) fn get_one<'py>(
    py: Python<'py>,
    r#ref: &Bound<'py, ObjectRef>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyAny>> {
    let reference = r#ref.get();
    get_from(py, reference, session::deadline(&reference.process, timeout)?, timeout)
}

#[pyfunction]
#[pyo3(signature = (refs, timeout))]
pub(crate) fn get<'py>(
    py: Python<'py>,
    refs: Vec<Bound<'py, ObjectRef>>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyList>> {
    let Some(first) = refs.first() else { return Ok(PyList::empty(py)) };
    let deadline = session::deadline(&first.get().process, timeout)?;
    {
        let missing: Vec<ObjectId> = first.get().process.peek(|owner| {
            let unready = |object: &ObjectId| matches!(owner.lookup(*object), Lookup::NotReady);
            refs.iter().map(|reference| reference.get().id).filter(unready).collect()
        });
        // Ask for all of them before waiting for the first.
        for object in missing {
            first.get().process.handle(Input::Need { object });
        }
    }
    let values = PyList::empty(py);
    for reference in &refs {
        values.append(get_from(py, reference.get(), deadline, timeout)?)?;
    }
    Ok(values)
}

/// A reference or a stream, as `wait` takes both.
enum Waitable {
    Object(ObjectId),
    Stream(shoal_core::ids::TaskId),
}

impl Waitable {
    fn is_ready(&self, owner: &Owner, fetch: bool) -> bool {
        match self {
            Waitable::Object(object) if fetch => !matches!(owner.lookup(*object), Lookup::NotReady),
            Waitable::Object(object) => owner.has_outcome(*object),
            Waitable::Stream(task) => !matches!(owner.peek_item(*task), NextItem::NotYet(_)),
        }
    }
}

#[pyfunction]
#[pyo3(name = "wait")]
pub(crate) fn wait_many(
    py: Python<'_>,
    refs: Vec<Bound<'_, PyAny>>,
    num_returns: usize,
    timeout: Option<f64>,
    fetch: bool,
) -> PyResult<(Vec<usize>, Vec<usize>)> {
    let mut waitables = Vec::with_capacity(refs.len());
    for reference in &refs {
        if let Ok(object) = reference.cast::<ObjectRef>() {
            waitables.push(Waitable::Object(object.get().id));
        } else if let Ok(stream) = reference.cast::<Stream>() {
            waitables.push(Waitable::Stream(stream.get().task));
        } else {
            return Err(errors::wrong_type("only references and streams can be waited for"));
        }
    }
    let ready = wait_for_all(py, &waitables, num_returns, timeout, fetch)?;
    Ok((0..waitables.len()).partition(|index| ready.contains(index)))
}

/// The usual `wait`: of references alone. Returns None if there is something else in the list.
#[pyfunction]
pub(crate) fn wait_refs<'py>(
    py: Python<'py>,
    refs: &Bound<'py, PyList>,
    num_returns: usize,
    timeout: Option<f64>,
    fetch: bool,
) -> PyResult<Option<(Bound<'py, PyList>, Bound<'py, PyList>)>> {
    let mut waitables = Vec::with_capacity(refs.len());
    let mut seen: HashSet<ObjectId, FxBuildHasher> = HashSet::default();
    seen.reserve(refs.len());
    for reference in refs {
        let Ok(reference) = reference.cast_exact::<ObjectRef>() else { return Ok(None) };
        let id = reference.get().id;
        if !seen.insert(id) {
            return Err(PyValueError::new_err("wait() takes a list of references that are all different"));
        }
        waitables.push(Waitable::Object(id));
    }
    if num_returns == 0 || num_returns > waitables.len() {
        let count = waitables.len();
        return Err(PyValueError::new_err(format!(
            "num_returns is {num_returns}, but must be from 1 to the number of references, {count}"
        )));
    }
    let ready = wait_for_all(py, &waitables, num_returns, timeout, fetch)?;
    let (done, others) = (PyList::empty(py), PyList::empty(py));
    if let [only] = ready.as_slice() {
        // By far the most common: one is taken out of a long list.
        done.append(refs.get_item(*only)?)?;
        let others = refs.get_slice(0, *only);
        let rest = refs.get_slice(only + 1, refs.len());
        return Ok(Some((done, others.as_sequence().in_place_concat(rest.as_sequence())?.cast_into()?)));
    }
    let mut ready = ready.into_iter().peekable();
    for (index, reference) in refs.iter().enumerate() {
        if ready.next_if_eq(&index).is_some() {
            done.append(reference)?;
        } else {
            others.append(reference)?;
        }
    }
    Ok(Some((done, others)))
}

/// Indices of the ready ones, in order.
fn wait_for_all(
    py: Python<'_>,
    waitables: &[Waitable],
    num_returns: usize,
    timeout: Option<f64>,
    fetch: bool,
) -> PyResult<Vec<usize>> {
    let process = session::current()?;
    let deadline = session::deadline(&process, timeout)?;
    let first = process.peek(|owner| {
        let ready = waitables.iter().enumerate().filter(|(_, waitable)| waitable.is_ready(owner, fetch));
        ready.map(|(index, _)| index).take(num_returns).collect::<Vec<_>>()
    });
    if first.len() == num_returns {
        return Ok(first);
    }
    for waitable in waitables {
        if let Waitable::Object(object) = waitable {
            process.handle(Input::Need { object: *object });
        }
    }
    match wait_for_some(py, &process, waitables, num_returns, deadline, fetch) {
        Ok(seen) => Ok((0..seen.len()).filter(|index| seen[*index]).collect()),
        Err(why) => Err(session::stopped(py, &process, why)),
    }
}

/// Which are ready, once enough are or the deadline has passed.
fn wait_for_some(
    py: Python<'_>,
    process: &Process,
    waitables: &[Waitable],
    wanted: usize,
    deadline: Option<Instant>,
    fetch: bool,
) -> Result<Vec<bool>, Stopped> {
    let mut seen = vec![false; waitables.len()];
    let mut count = 0;
    loop {
        let (seen_now, count_now) = (&mut seen, &mut count);
        let waited = wait(py, process, deadline, move |owner| {
            let mut elsewhere = Vec::new();
            for (index, waitable) in waitables.iter().enumerate() {
                if *count_now >= wanted {
                    break;
                }
                if seen_now[index] {
                    continue;
                }
                if waitable.is_ready(owner, fetch) {
                    seen_now[index] = true;
                    *count_now += 1;
                } else if let Waitable::Object(object) = waitable
                    && fetch
                    && owner.is_elsewhere(*object)
                {
                    elsewhere.push(*object);
                }
            }
            (*count_now >= wanted || !elsewhere.is_empty()).then_some(elsewhere)
        });
        match waited {
            // The values exist, but not here: ask for them, and wait on.
            Ok(elsewhere) if count < wanted => {
                elsewhere.into_iter().for_each(|object| process.handle(Input::Need { object }));
            }
            Ok(_) | Err(Stopped::TimedOut) => return Ok(seen),
            Err(why) => return Err(why),
        }
    }
}

#[pyfunction]
#[pyo3(signature = (r#ref, force, recursive))]
pub(crate) fn cancel(r#ref: &Bound<'_, PyAny>, force: bool, recursive: bool) -> PyResult<()> {
    let (process, object) = if let Ok(reference) = r#ref.cast::<ObjectRef>() {
        (reference.get().process.clone(), reference.get().id)
    } else if let Ok(stream) = r#ref.cast::<Stream>() {
        (stream.get().process.clone(), stream.get().task.object(0))
    } else {
        return Err(errors::wrong_type("only references and streams can be cancelled"));
    };
    if force && process.peek(|owner| owner.is_call(object)) {
        let text = "force=True would end the actor: its methods can only be cancelled without force";
        return Err(PyValueError::new_err(text));
    }
    process.handle(Input::Cancel { object, force, recursive });
    process.flush();
    Ok(())
}

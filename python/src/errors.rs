//! Failures of the core as Python exceptions; `shoal._errors` knows the classes and the words.

use pyo3::exceptions::{PyConnectionError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use shoal_core::ids::{ActorId, ObjectId, TaskId};
use shoal_core::value::{ActorDeath, Death, Failure, Payload};

use crate::objects::OBJECT_ID_BYTES;
use crate::process::Process;
use crate::values;

/// The daemon is gone, or this process has left.
pub(crate) fn disconnected(process: &Process) -> PyErr {
    if let Some(verdict) = Python::attach(|py| process.verdict(py)) {
        return verdict;
    }
    if process.has_left() {
        return PyConnectionError::new_err("this belongs to a session that shoal.shutdown() has ended");
    }
    if let Some(reason) = process.dismissal() {
        let text = format!(
            "The cluster has ended this session: {reason}. shoal.shutdown() and shoal.init() start a new one."
        );
        return Python::attach(|py| named(py, "ShoalSystemError", text));
    }
    Python::attach(|py| {
        let text = "The node daemon of this process ended, and with it the session. Its log is in the \
                    session's directory; shoal.shutdown() and shoal.init() start a new one.";
        named(py, "LocalNodeDiedError", text.into())
    })
}

/// No session.
pub(crate) fn not_connected() -> PyErr {
    PyRuntimeError::new_err("Shoal is not running in this process: call shoal.init() first")
}

/// An id that is not one.
pub(crate) fn bad_id(what: &str, length: usize) -> PyErr {
    PyValueError::new_err(format!("{length} bytes are not {what}"))
}

/// A typed exception of `shoal.exceptions` by name.
pub(crate) fn named(py: Python<'_>, class: &str, message: String) -> PyErr {
    let made = py
        .import("shoal.exceptions")
        .and_then(|module| module.getattr(class))
        .and_then(|class| class.call1((message.clone(),)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(_) => PyRuntimeError::new_err(message),
    }
}

/// The wait's deadline passed.
pub(crate) fn timed_out(py: Python<'_>, message: String) -> PyErr {
    named(py, "GetTimeoutError", message)
}

/// The exception for a failure.
pub(crate) fn from_failure(py: Python<'_>, failure: &Failure) -> PyErr {
    let made = describe(py, failure, describe_cause)
        .and_then(|(kind, fields)| py.import("shoal._errors")?.call_method1("from_failure", (kind, fields)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// The exception for a failure to produce an object.
pub(crate) fn from_failure_of(py: Python<'_>, failure: &Failure, object: ObjectId) -> PyErr {
    if *failure != Failure::Cancelled {
        return from_failure(py, failure);
    }
    let made = describe(py, failure, describe_cause).and_then(|(kind, fields)| {
        fields.set_item("task", PyBytes::new(py, &task_array(object.task)))?;
        py.import("shoal._errors")?.call_method1("from_failure", (kind, fields))
    });
    made.map_or_else(|error| error, PyErr::from_value)
}

/// The exception of the user's code that is the value of `bytes`.
pub(crate) fn from_exception(py: Python<'_>, value: Bound<'_, PyAny>) -> PyErr {
    let made = py.import("shoal._errors").and_then(|m| m.call_method1("to_exception", (value,)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// A wrong argument.
pub(crate) fn wrong_type(message: impl Into<String>) -> PyErr {
    PyTypeError::new_err(message.into())
}

type Described<'py> = PyResult<(&'static str, Bound<'py, PyDict>)>;

/// A failure's name and fields; `cause_of` describes the death of an actor as far as it is known.
fn describe<'py, Cause, Fields: IntoPyObject<'py>>(
    py: Python<'py>,
    failure: &Failure<Cause>,
    cause_of: impl Fn(Python<'py>, &Cause) -> PyResult<Fields>,
) -> Described<'py> {
    let fields = PyDict::new(py);
    let kind = match failure {
        Failure::WorkerCrashed { worker, death } => {
            fields.set_item("worker", worker.0)?;
            fields.set_item("death", describe_death(py, death)?)?;
            "WorkerCrashed"
        }
        Failure::Cancelled => "Cancelled",
        Failure::ActorDied { actor, cause } => {
            fields.set_item("actor", actor_bytes(py, *actor))?;
            fields.set_item("cause", cause_of(py, cause)?)?;
            "ActorDied"
        }
        Failure::ActorUnavailable { actor, detail } => {
            fields.set_item("actor", actor_bytes(py, *actor))?;
            fields.set_item("detail", detail)?;
            "ActorUnavailable"
        }
        Failure::ObjectLost { object, detail } => {
            fields.set_item("object", object_bytes(py, *object))?;
            fields.set_item("detail", detail)?;
            "ObjectLost"
        }
        Failure::OwnerDied { object, death } => {
            fields.set_item("object", object_bytes(py, *object))?;
            fields.set_item("death", describe_death(py, death)?)?;
            "OwnerDied"
        }
        Failure::Freed { object } => {
            fields.set_item("object", object_bytes(py, *object))?;
            "Freed"
        }
        Failure::EndOfStream => "EndOfStream",
        Failure::GroupRemoved { group } => {
            fields.set_item("group", PyBytes::new(py, &task_array(group.0)))?;
            "GroupRemoved"
        }
        Failure::Unschedulable { detail } => with_detail(&fields, "Unschedulable", detail)?,
        Failure::StoreFull { detail } => with_detail(&fields, "StoreFull", detail)?,
        Failure::OutOfDisk { detail } => with_detail(&fields, "OutOfDisk", detail)?,
        Failure::EnvironmentSetup { detail } => with_detail(&fields, "EnvironmentSetup", detail)?,
    };
    fields.set_item("kind", kind)?;
    Ok((kind, fields))
}

fn with_detail(fields: &Bound<'_, PyDict>, kind: &'static str, detail: &str) -> PyResult<&'static str> {
    fields.set_item("detail", detail)?;
    Ok(kind)
}

fn describe_death<'py>(py: Python<'py>, death: &Death) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    let kind = match death {
        Death::Exited { code } => {
            fields.set_item("code", code)?;
            "Exited"
        }
        Death::Signalled { signal } => {
            fields.set_item("signal", signal)?;
            "Signalled"
        }
        Death::OutOfMemory { detail } => with_detail(&fields, "OutOfMemory", detail)?,
        Death::Killed { reason } => {
            fields.set_item("reason", reason)?;
            "Killed"
        }
        Death::NotStarted { reason } => {
            fields.set_item("reason", reason)?;
            "NotStarted"
        }
        Death::NodeDied { node } => {
            fields.set_item("node", node.0)?;
            "NodeDied"
        }
        Death::GroupRemoved { group } => {
            fields.set_item("group", PyBytes::new(py, &task_array(group.0)))?;
            "GroupRemoved"
        }
    };
    fields.set_item("kind", kind)?;
    Ok(fields)
}

fn describe_cause<'py>(py: Python<'py>, cause: &ActorDeath) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    let kind = match cause {
        ActorDeath::Constructor(value) => {
            if let Payload::Inline(bytes) = &value.payload {
                fields.set_item("error", values::deserialize(py, bytes)?)?;
            }
            "Constructor"
        }
        ActorDeath::ArgumentFailed(failure) => {
            fields.set_item("failure", describe(py, failure, |py, ()| Ok(py.None()))?.1)?;
            "ArgumentFailed"
        }
        ActorDeath::Process(death) => {
            fields.set_item("death", describe_death(py, death)?)?;
            "Process"
        }
        ActorDeath::Exited => "Exited",
        ActorDeath::Killed => "Killed",
        ActorDeath::OutOfScope => "OutOfScope",
        ActorDeath::CreatorDied => "CreatorDied",
        ActorDeath::Unschedulable(detail) => with_detail(&fields, "Unschedulable", detail)?,
        ActorDeath::GroupRemoved => "GroupRemoved",
        ActorDeath::Unknown => "Unknown",
    };
    fields.set_item("kind", kind)?;
    Ok(fields)
}

/// An object's id as bytes.
pub(crate) fn object_bytes<'py>(py: Python<'py>, object: ObjectId) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &object_array(object))
}

/// See [`object_bytes`] and [`OBJECT_ID_BYTES`].
pub(crate) fn object_array(object: ObjectId) -> [u8; OBJECT_ID_BYTES] {
    let mut bytes = [0; OBJECT_ID_BYTES];
    bytes[..16].copy_from_slice(&task_array(object.task));
    bytes[24..].copy_from_slice(&object.index.to_be_bytes());
    if object.owner().0 == u64::MAX {
        bytes[16..24].fill(0xff);
    }
    bytes
}

/// A task's id as bytes: owner, number.
pub(crate) fn task_array(task: TaskId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&task.owner.0.to_be_bytes());
    bytes[8..].copy_from_slice(&task.number.to_be_bytes());
    bytes
}

/// An actor's id as bytes.
pub(crate) fn actor_bytes<'py>(py: Python<'py>, actor: ActorId) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &task_array(actor.0))
}

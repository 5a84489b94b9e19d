//! References to objects and actors: counted while Python holds them.

use std::sync::Arc;

use pyo3::basic::CompareOp;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple, PyType};
use shoal_core::ids::{ActorId, ObjectId, ProcessId, TaskId};
use shoal_core::owner::{Input, NextItem, Owner};
use shoal_runtime::process::Noted;

use crate::process::Process;
use crate::{errors, session, values};

/// See `_shoal.pyi`.
#[pyclass(frozen, weakref, module = "shoal._shoal")]
pub(crate) struct ObjectRef {
    pub(crate) process: Arc<Process>,
    pub(crate) id: ObjectId,
}

/// Bytes of a reference's id, as many as programs written for Ray expect: owner, number, padding,
/// index.
pub(crate) const OBJECT_ID_BYTES: usize = 28;

impl ObjectRef {
    /// Takes over one local reference.
    pub(crate) fn new(process: Arc<Process>, id: ObjectId) -> ObjectRef {
        ObjectRef { process, id }
    }

    fn rebuild(binary: &[u8]) -> PyResult<ObjectRef> {
        let bytes: [u8; OBJECT_ID_BYTES] =
            binary.try_into().map_err(|_| errors::bad_id("an object id", binary.len()))?;
        let id =
            ObjectId { task: parse_task(&bytes[..16])?, index: u32::from_be_bytes(bytes[24..].try_into()?) };
        let process = session::current()?;
        // Whoever lent it keeps it alive until this call's outcome is reported, which is later.
        process.note(Noted::Reference(id));
        Ok(ObjectRef::new(process, id))
    }
}

impl Drop for ObjectRef {
    fn drop(&mut self) {
        self.process.note(Noted::NoReference(self.id));
    }
}

#[pymethods]
impl ObjectRef {
    #[new]
    fn from_binary(binary: &[u8]) -> PyResult<ObjectRef> {
        ObjectRef::rebuild(binary)
    }

    #[staticmethod]
    fn nil() -> PyResult<ObjectRef> {
        ObjectRef::rebuild(&[0xff; OBJECT_ID_BYTES])
    }

    #[staticmethod]
    fn from_random(py: Python<'_>) -> PyResult<ObjectRef> {
        let mut bytes = [0; OBJECT_ID_BYTES];
        let random = py.import("os")?.call_method1("urandom", (OBJECT_ID_BYTES,))?;
        bytes.copy_from_slice(random.cast::<PyBytes>()?.as_bytes());
        bytes[16..24].fill(0);
        ObjectRef::rebuild(&bytes)
    }

    #[staticmethod]
    fn from_hex(py: Python<'_>, text: &str) -> PyResult<ObjectRef> {
        let bytes = py.get_type::<PyBytes>().call_method1("fromhex", (text,))?;
        ObjectRef::rebuild(bytes.cast::<PyBytes>()?.as_bytes())
    }

    #[staticmethod]
    fn size() -> usize {
        OBJECT_ID_BYTES
    }

    fn is_nil(&self) -> bool {
        self.id.index == u32::MAX && self.id.owner().0 == u64::MAX
    }

    fn hex(&self) -> String {
        hex(&errors::object_array(self.id))
    }

    fn binary<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        errors::object_bytes(py, self.id)
    }

    fn task_id_binary<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &errors::task_array(self.id.task))
    }

    fn task_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("shoal.ids")?.getattr("TaskID")?.call1((self.task_id_binary(py),))
    }

    fn job_id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let job = self.process.welcome().job.0;
        py.import("shoal.ids")?.getattr("JobID")?.call_method1("from_number", (job,))
    }

    fn owner_process(&self) -> u64 {
        self.id.owner().0
    }

    fn owner_address(&self) -> String {
        format!("{:?}", self.id.owner())
    }

    fn call_site(&self) -> &'static str {
        ""
    }

    fn on_ready(&self, py: Python<'_>, callback: Py<PyAny>) {
        let (process, object) = (self.process.clone(), self.id);
        py.detach(|| watch(process, object, callback));
    }

    fn future<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("shoal._async")?.call_method1("concurrent_future", (slf,))
    }

    fn as_future<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("shoal._async")?.call_method1("as_future", (slf,))
    }

    fn __await__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("shoal._async")?.call_method1("await_ref", (slf,))
    }

    fn __hash__(&self) -> u64 {
        mixed(self.id.task, self.id.index)
    }

    fn __richcmp__(&self, other: &Bound<'_, PyAny>, op: CompareOp) -> Py<PyAny> {
        let same = other.cast::<ObjectRef>().ok().map(|other| other.get().id == self.id);
        compare(other.py(), same, op)
    }

    fn __repr__(&self) -> String {
        format!("ObjectRef({})", self.hex())
    }

    fn __reduce__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let this = slf.get();
        if !values::note_contained(this.id) {
            // The program pickles by itself: nobody knows where the bytes go, so the object stays.
            this.process.handle(Input::AddReference { object: this.id });
        }
        let py = slf.py();
        let rebuild = py.import("shoal._shoal")?.getattr("rebuild_reference")?;
        (rebuild, (errors::object_bytes(py, this.id),)).into_pyobject(py)
    }

    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        cls.py().import("types")?.getattr("GenericAlias")?.call1((cls, item))
    }
}

/// Call back once the outcome of `object` is here, with its bytes.
fn watch(process: Arc<Process>, object: ObjectId, callback: Py<PyAny>) {
    let again = process.clone();
    process.clone().call_back(
        object,
        |owner| is_here(owner, object),
        Box::new(move || {
            let here = again.peek(|owner| is_here(owner, object)) || !again.is_connected();
            if here {
                call(&callback);
            } else {
                // Changed, but not yet as wanted: its bytes are still on their way.
                watch(again, object, callback);
            }
        }),
    );
}

fn is_here(owner: &Owner, object: ObjectId) -> bool {
    !matches!(owner.lookup(object), shoal_core::owner::Lookup::NotReady)
}

fn call(callback: &Py<PyAny>) {
    Python::attach(|py| {
        if let Err(error) = callback.call0(py) {
            error.write_unraisable(py, Some(callback.bind(py)));
        }
    });
}

#[pyfunction]
pub(crate) fn rebuild_reference(binary: &[u8]) -> PyResult<ObjectRef> {
    ObjectRef::rebuild(binary)
}

pub(crate) fn parse_task(bytes: &[u8]) -> PyResult<TaskId> {
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| errors::bad_id("a task id", bytes.len()))?;
    let (owner, number) = bytes.split_at(8);
    Ok(TaskId {
        owner: ProcessId(u64::from_be_bytes(owner.try_into()?)),
        number: u64::from_be_bytes(number.try_into()?),
    })
}

/// See `_shoal.pyi`.
#[pyclass(frozen, weakref, module = "shoal._shoal")]
pub(crate) struct Actor {
    pub(crate) process: Arc<Process>,
    pub(crate) id: ActorId,
    counted: bool,
}

impl Actor {
    /// Takes over one local reference to the actor's handle object.
    pub(crate) fn counted(process: Arc<Process>, id: ActorId) -> Actor {
        Actor { process, id, counted: true }
    }

    /// Does not keep the actor alive.
    pub(crate) fn weak(process: Arc<Process>, id: ActorId) -> Actor {
        Actor { process, id, counted: false }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if self.counted {
            self.process.note(Noted::NoReference(self.id.handle_object()));
        }
    }
}

#[pymethods]
impl Actor {
    fn binary<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        errors::actor_bytes(py, self.id)
    }

    fn hex(&self) -> String {
        hex(&errors::task_array(self.id.0))
    }

    fn is_weak(&self) -> bool {
        !self.counted
    }

    fn submit<'py>(
        &self,
        py: Python<'py>,
        method: &crate::calls::Method,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, pyo3::types::PyDict>,
        pending_max: i64,
    ) -> PyResult<Bound<'py, PyAny>> {
        crate::calls::submit_method(py, self, method, args, kwargs, pending_max)
    }

    fn kill(&self, no_restart: bool) {
        self.process.handle(Input::KillActor { actor: self.id, no_restart });
        self.process.flush();
    }

    fn ready(&self) -> ObjectRef {
        let object = self.id.handle_object();
        self.process.handle(Input::AddReference { object });
        ObjectRef::new(self.process.clone(), object)
    }

    fn __hash__(&self) -> u64 {
        mixed(self.id.0, 0)
    }

    fn __richcmp__(&self, other: &Bound<'_, PyAny>, op: CompareOp) -> Py<PyAny> {
        let same = other.cast::<Actor>().ok().map(|other| other.get().id == self.id);
        compare(other.py(), same, op)
    }

    fn __repr__(&self) -> String {
        format!("Actor({})", self.hex())
    }

    fn __reduce__<'py>(slf: Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let this = slf.get();
        if this.counted && !values::note_contained(this.id.handle_object()) {
            this.process.handle(Input::AddReference { object: this.id.handle_object() });
        }
        let py = slf.py();
        let rebuild = py.import("shoal._shoal")?.getattr("rebuild_actor")?;
        (rebuild, (errors::actor_bytes(py, this.id), !this.counted)).into_pyobject(py)
    }
}

#[pyfunction]
pub(crate) fn rebuild_actor(binary: &[u8], weak: bool) -> PyResult<Actor> {
    let id = ActorId(parse_task(binary)?);
    let process = session::current()?;
    process.handle(Input::WatchActor { actor: id });
    if weak {
        return Ok(Actor::weak(process, id));
    }
    process.handle(Input::AddReference { object: id.handle_object() });
    Ok(Actor::counted(process, id))
}

/// See `_shoal.pyi`.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct Stream {
    pub(crate) process: Arc<Process>,
    pub(crate) task: TaskId,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.process.note(Noted::NoConsumer(self.task));
        self.process.note(Noted::NoReference(self.task.object(0)));
    }
}

#[pymethods]
impl Stream {
    #[pyo3(signature = (timeout = None))]
    fn next(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<ObjectRef>> {
        let deadline = session::deadline(&self.process, timeout)?;
        let task = self.task;
        let waited = crate::waits::wait(py, &self.process, deadline, move |owner| {
            (!matches!(owner.peek_item(task), NextItem::NotYet(_))).then_some(())
        });
        waited.map_err(|why| session::stopped(py, &self.process, why))?;
        match self.process.with_owner(|owner, out| owner.next_item(task, out)) {
            NextItem::Item(object) => Ok(Some(ObjectRef::new(self.process.clone(), object))),
            NextItem::NotYet(_) | NextItem::End => Ok(None),
        }
    }

    fn is_next_ready(&self) -> bool {
        let task = self.task;
        self.process.peek(|owner| !matches!(owner.peek_item(task), NextItem::NotYet(_)))
    }

    fn on_next_ready(&self, py: Python<'_>, callback: Py<PyAny>) {
        let (process, task) = (self.process.clone(), self.task);
        py.detach(|| watch_stream(process, task, callback));
    }

    fn is_finished(&self) -> bool {
        let task = self.task;
        self.process.peek(|owner| owner.peek_item(task) == NextItem::End)
    }

    fn completed(&self) -> ObjectRef {
        let object = self.task.object(0);
        self.process.handle(Input::AddReference { object });
        ObjectRef::new(self.process.clone(), object)
    }

    fn close(&self) {
        self.process.handle(Input::CloseStream { task: self.task });
    }
}

fn watch_stream(process: Arc<Process>, task: TaskId, callback: Py<PyAny>) {
    let NextItem::NotYet(object) = process.peek(|owner| owner.peek_item(task)) else {
        call(&callback);
        return;
    };
    let done = move |owner: &Owner| !matches!(owner.peek_item(task), NextItem::NotYet(_));
    process.call_back_on_change(object, done, Box::new(move || call(&callback)));
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Spreads neighbouring numbers; nothing more is needed of it.
fn mixed(task: TaskId, index: u32) -> u64 {
    let word = task.number ^ task.owner.0.rotate_left(32) ^ u64::from(index).rotate_left(48);
    word.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn compare(py: Python<'_>, same: Option<bool>, op: CompareOp) -> Py<PyAny> {
    let result = match (same, op) {
        (Some(same), CompareOp::Eq) => same,
        (Some(same), CompareOp::Ne) => !same,
        _ => return py.NotImplemented(),
    };
    pyo3::types::PyBool::new(py, result).to_owned().into_any().unbind()
}

//! Python values as bytes, and back.
//!
//! The first byte says how: common scalars have a form of their own, everything else is a pickle with
//! its large buffers beside it, aligned, so that they can be read in place. No bytes at all is `None`.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::Arc;

use bytes::Bytes;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString, PyTuple};
use shoal_core::ids::ObjectId;
use shoal_core::owner::Input;
use shoal_core::value::{INLINE_BYTES_MAX, Payload, Value};
use shoal_runtime::process::{Allocation, Noted};

use crate::errors;
use crate::process::Process;

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const INTEGER: u8 = 3;
const FLOAT: u8 = 4;
const STRING: u8 = 5;
const BYTES: u8 = 6;
const PICKLE: u8 = 7;
const PICKLE_WITH_BUFFERS: u8 = 8;

/// Buffers lie at multiples of this, as numpy and Arrow like it.
const ALIGNMENT: usize = 64;

thread_local! {
    /// References met while a value is pickled; `None` outside of that.
    static CONTAINED: RefCell<Option<Vec<ObjectId>>> = const { RefCell::new(None) };
}

/// Note a reference that is being pickled. False: nobody serialises a value now, the program
/// pickles by itself.
pub(crate) fn note_contained(object: ObjectId) -> bool {
    CONTAINED.with_borrow_mut(|contained| match contained {
        Some(contained) => {
            contained.push(object);
            true
        }
        None => false,
    })
}

/// A value on its way out: its bytes, some still where Python has them.
pub(crate) enum Serialized {
    /// All in one piece.
    Whole(Vec<u8>),
    /// One large Python `bytes`.
    Raw(Py<PyBytes>),
    /// A pickle and its buffers.
    Pickled { pickle: Py<PyBytes>, buffers: Vec<PyBuffer<u8>> },
}

static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static PLAIN_DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn cached<'py>(
    py: Python<'py>,
    cell: &PyOnceLock<Py<PyAny>>,
    module: &str,
    name: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let found = cell.get_or_try_init(py, || PyResult::Ok(py.import(module)?.getattr(name)?.unbind()))?;
    Ok(found.bind(py).clone())
}

/// Serialise a value; the references inside it come with it.
pub(crate) fn serialize(value: &Bound<'_, PyAny>) -> PyResult<(Serialized, Vec<ObjectId>)> {
    if let Some(whole) = serialize_scalar(value)? {
        return Ok((whole, Vec::new()));
    }
    let py = value.py();
    if is_plain(value, 4, &mut 256) {
        let dumps = cached(py, &PLAIN_DUMPS, "pickle", "dumps")?;
        let pickle = dumps.call1((value, 5))?.cast_into::<PyBytes>()?;
        return Ok((Serialized::Pickled { pickle: pickle.unbind(), buffers: Vec::new() }, Vec::new()));
    }
    let dumps = cached(py, &DUMPS, "shoal._serialization", "dumps")?;
    let outer = CONTAINED.replace(Some(Vec::new()));
    let result = dumps.call1((value,));
    let contained = CONTAINED.replace(outer).unwrap_or_default();
    let (pickle, buffers) = result?.extract::<(Bound<'_, PyBytes>, Vec<Bound<'_, PyAny>>)>()?;
    Ok((pickled(pickle, &buffers)?, contained))
}

/// What `shoal._serialization` or `shoal._errors` pickled.
pub(crate) fn pickled(pickle: Bound<'_, PyBytes>, buffers: &[Bound<'_, PyAny>]) -> PyResult<Serialized> {
    let buffers = buffers.iter().map(raw_buffer).collect::<PyResult<Vec<_>>>()?;
    Ok(Serialized::Pickled { pickle: pickle.unbind(), buffers })
}

/// The bytes behind a `pickle.PickleBuffer`, flat and contiguous.
fn raw_buffer(buffer: &Bound<'_, PyAny>) -> PyResult<PyBuffer<u8>> {
    PyBuffer::get(&buffer.call_method0("raw")?)
}

fn serialize_scalar(value: &Bound<'_, PyAny>) -> PyResult<Option<Serialized>> {
    let whole = |bytes| Ok(Some(Serialized::Whole(bytes)));
    if value.is_none() {
        return whole(Vec::new());
    }
    if let Ok(value) = value.cast_exact::<PyBool>() {
        return whole(vec![if value.is_true() { TRUE } else { FALSE }]);
    }
    if let Ok(integer) = value.cast_exact::<PyInt>() {
        // Larger integers are pickled.
        return Ok(integer.extract::<i64>().ok().map(|integer| {
            let mut bytes = vec![INTEGER];
            bytes.extend_from_slice(&integer.to_le_bytes());
            Serialized::Whole(bytes)
        }));
    }
    if let Ok(float) = value.cast_exact::<PyFloat>() {
        let mut bytes = vec![FLOAT];
        bytes.extend_from_slice(&float.value().to_le_bytes());
        return whole(bytes);
    }
    if let Ok(string) = value.cast_exact::<PyString>()
        && let Ok(text) = string.to_str()
    {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.push(STRING);
        bytes.extend_from_slice(text.as_bytes());
        return whole(bytes);
    }
    if let Ok(raw) = value.cast_exact::<PyBytes>() {
        return Ok(Some(Serialized::Raw(raw.clone().unbind())));
    }
    Ok(None)
}

/// Whether the C pickler alone gives the right result: built-in containers of scalars. The number of
/// looks is bounded, as a large container costs more to look through than it saves.
fn is_plain(value: &Bound<'_, PyAny>, depth: u32, looks: &mut u32) -> bool {
    if *looks == 0 || depth == 0 {
        return false;
    }
    *looks -= 1;
    if value.is_none()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_exact_instance_of::<PyBool>()
    {
        return true;
    }
    if let Ok(list) = value.cast_exact::<PyList>() {
        return list.iter().all(|item| is_plain(&item, depth - 1, looks));
    }
    if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        return tuple.iter().all(|item| is_plain(&item, depth - 1, looks));
    }
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        return dict
            .iter()
            .all(|(key, item)| is_plain(&key, depth - 1, looks) && is_plain(&item, depth - 1, looks));
    }
    false
}

/// Where the parts of a pickle with buffers lie: a table of lengths, the pickle, the buffers.
struct Layout {
    pickle: usize,
    buffers: Vec<usize>,
    total: usize,
}

impl Layout {
    fn new(pickle: usize, buffers: &[usize]) -> Layout {
        // Tag and padding, number of buffers, length of the pickle, lengths of the buffers.
        let start = 16 + 8 * buffers.len();
        let mut end = start + pickle;
        let mut places = Vec::with_capacity(buffers.len());
        for length in buffers {
            end = end.next_multiple_of(ALIGNMENT);
            places.push(end);
            end += length;
        }
        Layout { pickle: start, buffers: places, total: end }
    }

    fn head(pickle: usize, buffers: &[usize]) -> Vec<u8> {
        let mut head = vec![PICKLE_WITH_BUFFERS, 0, 0, 0];
        head.extend_from_slice(&(buffers.len() as u32).to_le_bytes());
        head.extend_from_slice(&(pickle as u64).to_le_bytes());
        for length in buffers {
            head.extend_from_slice(&(*length as u64).to_le_bytes());
        }
        head
    }
}

impl Serialized {
    /// Bytes that the value takes.
    pub(crate) fn size(&self, py: Python<'_>) -> usize {
        match self {
            Serialized::Whole(bytes) => bytes.len(),
            Serialized::Raw(raw) => raw.as_bytes(py).len() + 1,
            Serialized::Pickled { pickle, buffers } if buffers.is_empty() => pickle.as_bytes(py).len() + 1,
            Serialized::Pickled { pickle, buffers } => {
                Layout::new(pickle.as_bytes(py).len(), &lengths(buffers)).total
            }
        }
    }

    /// The pieces to write one after the other, each with its place.
    fn pieces<'a>(&'a self, py: Python<'a>, head: &'a mut Vec<u8>) -> Vec<(usize, &'a [u8])> {
        match self {
            Serialized::Whole(bytes) => vec![(0, bytes)],
            Serialized::Raw(raw) => {
                head.push(BYTES);
                vec![(0, head), (1, raw.as_bytes(py))]
            }
            Serialized::Pickled { pickle, buffers } if buffers.is_empty() => {
                head.push(PICKLE);
                vec![(0, head), (1, pickle.as_bytes(py))]
            }
            Serialized::Pickled { pickle, buffers } => {
                let pickle = pickle.as_bytes(py);
                let lengths = lengths(buffers);
                let layout = Layout::new(pickle.len(), &lengths);
                *head = Layout::head(pickle.len(), &lengths);
                let mut pieces = vec![(0, head.as_slice()), (layout.pickle, pickle)];
                for (buffer, place) in buffers.iter().zip(layout.buffers) {
                    pieces.push((place, buffer_bytes(buffer)));
                }
                pieces
            }
        }
    }

    /// All in one piece.
    pub(crate) fn into_bytes(self, py: Python<'_>) -> Bytes {
        if let Serialized::Whole(bytes) = self {
            return bytes.into();
        }
        let mut whole = Vec::with_capacity(self.size(py));
        let mut head = Vec::new();
        for (place, piece) in self.pieces(py, &mut head) {
            whole.resize(place, 0);
            whole.extend_from_slice(piece);
        }
        whole.into()
    }

    /// The value in a message if it is small, else in the store as `object`.
    pub(crate) fn into_payload(
        self,
        py: Python<'_>,
        process: &Process,
        object: ObjectId,
    ) -> PyResult<Payload> {
        let size = self.size(py);
        if size <= INLINE_BYTES_MAX {
            return Ok(Payload::Inline(self.into_bytes(py)));
        }
        let offset = py.detach(|| process.allocate(size as u64)).map_err(|why| match why {
            Allocation::Refused(failure) => errors::from_failure(py, &failure),
            Allocation::Disconnected => errors::disconnected(process),
        })?;
        let mut head = Vec::new();
        let pieces = self.pieces(py, &mut head);
        // The buffers are held, so their bytes stay where they are while other threads run.
        if let Err(error) = py.detach(|| process.write(object, offset, size as u64, &pieces)) {
            process.handle(Input::Abandon { offset, size: size as u64 });
            return Err(PyRuntimeError::new_err(format!("cannot write to the object store: {error}")));
        }
        process.handle(Input::Seal { object, offset, size: size as u64 });
        Ok(Payload::Stored { node: process.welcome().node, size: size as u64 })
    }
}

fn lengths(buffers: &[PyBuffer<u8>]) -> Vec<usize> {
    buffers.iter().map(|buffer| buffer.len_bytes()).collect()
}

fn buffer_bytes(buffer: &PyBuffer<u8>) -> &[u8] {
    if buffer.len_bytes() == 0 {
        return &[];
    }
    // SAFETY: `PickleBuffer.raw()` is contiguous, and the buffer is held while the slice lives. A
    // program that writes to an array while it is being serialised gets torn bytes, as with any copy.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) }
}

/// Serialise for a message or the store.
pub(crate) fn to_value(value: &Bound<'_, PyAny>, process: &Process, object: ObjectId) -> PyResult<Value> {
    let (serialized, contains) = serialize(value)?;
    let payload = serialized.into_payload(value.py(), process, object)?;
    Ok(Value { payload, contains })
}

/// The value that small bytes stand for.
pub(crate) fn deserialize<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let Some((tag, rest)) = bytes.split_first() else { return Ok(py.None().into_bound(py)) };
    match *tag {
        PICKLE => cached(py, &LOADS, "pickle", "loads")?.call1((PyBytes::new(py, rest),)),
        PICKLE_WITH_BUFFERS => {
            let whole = PyBytes::new(py, bytes);
            let view = PyMemoryView::from(whole.as_any())?;
            load_with_buffers(py, bytes, &view)
        }
        _ => deserialize_scalar(py, *tag, rest),
    }
}

fn deserialize_scalar<'py>(py: Python<'py>, tag: u8, rest: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match (tag, rest.len()) {
        (TRUE, _) => Ok(PyBool::new(py, true).to_owned().into_any()),
        (FALSE, _) => Ok(PyBool::new(py, false).to_owned().into_any()),
        (INTEGER, 8) => {
            let bytes: [u8; 8] = rest.try_into()?;
            Ok(i64::from_le_bytes(bytes).into_pyobject(py)?.into_any())
        }
        (FLOAT, 8) => {
            let bytes: [u8; 8] = rest.try_into()?;
            Ok(PyFloat::new(py, f64::from_le_bytes(bytes)).into_any())
        }
        (STRING, _) => {
            let text = std::str::from_utf8(rest).map_err(|_| malformed())?;
            Ok(PyString::new(py, text).into_any())
        }
        (BYTES, _) => Ok(PyBytes::new(py, rest).into_any()),
        _ => Err(malformed()),
    }
}

fn malformed() -> PyErr {
    PyRuntimeError::new_err(
        "a serialised value is malformed; do all processes run the same version of shoal?",
    )
}

/// The value of an object in the store. Its buffers are read in place, and keep it pinned.
pub(crate) fn deserialize_stored<'py>(
    py: Python<'py>,
    process: &Arc<Process>,
    object: ObjectId,
    offset: u64,
    size: u64,
) -> PyResult<Bound<'py, PyAny>> {
    let pin = StoredBytes::new(process, object, offset, size)?;
    let bytes = pin.bytes();
    match bytes.first() {
        Some(&PICKLE_WITH_BUFFERS) => {
            let holder = Bound::new(py, pin)?;
            let view = PyMemoryView::from(holder.as_any())?;
            let bytes = holder.get().bytes();
            load_with_buffers(py, bytes, &view)
        }
        _ => deserialize(py, bytes),
    }
}

fn load_with_buffers<'py>(
    py: Python<'py>,
    bytes: &[u8],
    view: &Bound<'py, PyMemoryView>,
) -> PyResult<Bound<'py, PyAny>> {
    let word = |at: usize| -> PyResult<usize> {
        let bytes = bytes.get(at..at + 8).ok_or_else(malformed)?;
        Ok(u64::from_le_bytes(bytes.try_into()?) as usize)
    };
    let count = (word(0)? >> 32) as u32 as usize;
    if count > bytes.len() / 8 {
        return Err(malformed());
    }
    let pickle_length = word(8)?;
    let lengths = (0..count).map(|index| word(16 + 8 * index)).collect::<PyResult<Vec<_>>>()?;
    let sum = lengths.iter().try_fold(pickle_length, |sum, length| sum.checked_add(*length));
    if sum.is_none_or(|sum| sum > bytes.len()) {
        return Err(malformed());
    }
    let layout = Layout::new(pickle_length, &lengths);
    if layout.total > bytes.len() {
        return Err(malformed());
    }
    let slice = |start: usize, length: usize| {
        view.get_item(pyo3::types::PySlice::new(py, start as isize, (start + length) as isize, 1))
    };
    let pickle = slice(layout.pickle, pickle_length)?;
    let mut buffers = Vec::with_capacity(count);
    for (place, length) in layout.buffers.iter().zip(&lengths) {
        buffers.push(slice(*place, *length)?);
    }
    let keywords = PyDict::new(py);
    keywords.set_item("buffers", buffers)?;
    cached(py, &LOADS, "pickle", "loads")?.call((pickle,), Some(&keywords))
}

/// The bytes of an object in the store, as a read-only buffer. While it lives the object is pinned.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct StoredBytes {
    process: Arc<Process>,
    object: ObjectId,
    pointer: usize,
    length: usize,
    /// Keeps them where no mapping does.
    _kept: Option<Bytes>,
}

impl StoredBytes {
    /// Takes over one reader of the object.
    fn new(process: &Arc<Process>, object: ObjectId, offset: u64, size: u64) -> PyResult<StoredBytes> {
        let stored = process.read(offset, size).map_err(|error| {
            process.note(Noted::NoReader(object));
            PyRuntimeError::new_err(format!("cannot read from the object store: {error}"))
        })?;
        Ok(StoredBytes {
            process: process.clone(),
            object,
            pointer: stored.pointer as usize,
            length: stored.length,
            _kept: stored.kept,
        })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the object is sealed and pinned while `self` lives, so nobody writes here.
        unsafe { std::slice::from_raw_parts(self.pointer as *const u8, self.length) }
    }
}

impl Drop for StoredBytes {
    fn drop(&mut self) {
        self.process.note(Noted::NoReader(self.object));
    }
}

#[pymethods]
impl StoredBytes {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: i32) -> PyResult<()> {
        let this = slf.get();
        let pointer = this.pointer as *mut c_void;
        // SAFETY: the interpreter gives a valid view; the bytes live as long as `slf`, which the view
        // keeps alive. Read-only.
        let filled =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), pointer, this.length as isize, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

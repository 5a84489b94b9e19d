//! The one session that a process has.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use pyo3::exceptions::{PyConnectionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use shoal_core::actor::ActorState;
use shoal_core::group::{GroupSpec, GroupState};
use shoal_core::ids::{ProcessId, TaskId};
use shoal_core::message::{Answer, NodeSummary, Query};
use shoal_core::owner::Input;
use shoal_core::resources::Resources;
use shoal_runtime::control::Launch;
use shoal_runtime::process::{Hooks, Stopped};

use crate::objects::Actor;
use crate::process::Process;
use crate::{errors, groups, simulation};

static PROCESS: RwLock<Option<Arc<Process>>> = RwLock::new(None);

/// Called in a fork. What it inherited is left alone: it belongs to the process it was forked from.
#[pyfunction]
fn forget_session() {
    shoal_runtime::process::forked();
    if let Some(mut process) = PROCESS.try_write() {
        std::mem::forget(process.take());
    }
}

/// See that forks of this process know that they have no session.
fn watch_forks(py: Python<'_>) -> PyResult<()> {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if WATCHED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let keywords = PyDict::new(py);
    keywords.set_item("after_in_child", pyo3::wrap_pyfunction!(forget_session, py)?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&keywords))?;
    Ok(())
}

/// The session, or an error that says how to get one.
pub(crate) fn current() -> PyResult<Arc<Process>> {
    match simulation::here() {
        Some(process) => Ok(process),
        None => real(),
    }
}

/// The session of this process itself, whatever it simulates.
fn real() -> PyResult<Arc<Process>> {
    PROCESS.read().clone().ok_or_else(errors::not_connected)
}

pub(crate) fn set_current(py: Python<'_>, process: Arc<Process>) -> PyResult<()> {
    *PROCESS.write() = Some(process);
    watch_forks(py)
}

/// What only the interpreter's side can do.
pub(crate) struct PythonHooks {
    pub(crate) on_output: Option<Py<PyAny>>,
}

impl Hooks for PythonHooks {
    fn interrupt(&self, task: TaskId) {
        if let Ok(process) = real() {
            crate::interrupt::interrupt(&process, task);
        }
    }

    fn output(&self, process: ProcessId, pid: u32, error: bool, lines: Vec<String>) {
        let Some(callback) = &self.on_output else { return };
        Python::attach(|py| {
            if let Err(error) = callback.call1(py, (process.0, pid, error, lines)) {
                error.write_unraisable(py, Some(callback.bind(py)));
            }
        });
    }
}

#[pyfunction]
#[pyo3(signature = (socket, namespace, launch, on_output))]
pub(crate) fn connect<'py>(
    py: Python<'py>,
    socket: &str,
    namespace: String,
    launch: &Bound<'py, PyDict>,
    on_output: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let wants_output = on_output.is_some();
    let launch = parse_launch(launch)?;
    let hooks = Box::new(PythonHooks { on_output });
    let joined = py.detach(|| {
        shoal_runtime::process::Process::connect(Path::new(socket), namespace, launch, wants_output, hooks)
    });
    let process = joined.map_err(|error| PyConnectionError::new_err(error.to_string()))?;
    let process = Process::real(process);
    let info = describe(py, &process)?;
    set_current(py, process)?;
    Ok(info)
}

fn parse_launch(launch: &Bound<'_, PyDict>) -> PyResult<Launch> {
    let item = |name: &str| -> PyResult<Bound<'_, PyAny>> {
        launch.get_item(name)?.ok_or_else(|| PyValueError::new_err(format!("launch lacks {name:?}")))
    };
    Ok(Launch {
        python: item("python")?.extract()?,
        module_path: item("module_path")?.extract()?,
        working_directory: item("working_directory")?.extract()?,
        variables: item("variables")?.extract()?,
        preload: item("preload")?.extract()?,
    })
}

/// Who and where a process is.
pub(crate) fn describe<'py>(py: Python<'py>, process: &Process) -> PyResult<Bound<'py, PyDict>> {
    let welcome = process.welcome();
    let info = PyDict::new(py);
    info.set_item("process", welcome.process.0)?;
    info.set_item("node", welcome.node.0)?;
    info.set_item("job", welcome.job.0)?;
    info.set_item("namespace", &welcome.namespace)?;
    info.set_item("session", &welcome.session)?;
    info.set_item("cpus", welcome.cpus)?;
    info.set_item("segment", welcome.segment)?;
    info.set_item("is_worker", process.is_worker())?;
    Ok(info)
}

#[pyfunction]
pub(crate) fn process_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let process = current()?;
    let info = describe(py, &process)?;
    crate::worker::describe_actor(py, &process, &info)?;
    Ok(info)
}

#[pyfunction]
pub(crate) fn disconnect(py: Python<'_>) {
    let process = PROCESS.write().take();
    if let Some(process) = process {
        py.detach(|| process.disconnect());
    }
}

#[pyfunction]
pub(crate) fn is_connected() -> bool {
    if let Some(process) = simulation::here() {
        return process.is_connected();
    }
    PROCESS.read().as_ref().is_some_and(|process| process.is_connected())
}

/// The instant at which a timeout in seconds ends.
pub(crate) fn deadline(process: &Process, timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout else { return Ok(None) };
    let span = Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("a timeout of {seconds} seconds makes no sense")))?;
    // A deadline beyond what the clock can tell is none.
    Ok(process.now().checked_add(span))
}

/// The error for a wait that did not end well.
pub(crate) fn stopped(py: Python<'_>, process: &Process, why: Stopped) -> PyErr {
    match why {
        Stopped::TimedOut => errors::timed_out(py, "the deadline passed".into()),
        Stopped::Disconnected => errors::disconnected(process),
        Stopped::Interrupted => match PyErr::take(py) {
            Some(error) => error,
            None => errors::disconnected(process),
        },
    }
}

#[pyfunction]
pub(crate) fn ask<'py>(
    py: Python<'py>,
    query: &str,
    arguments: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyAny>> {
    let process = current()?;
    let node = ProcessId::daemon(process.welcome().node);
    let text = |name: &str| -> PyResult<String> { argument(arguments, name)?.extract() };
    let (to, query) = match query {
        "nodes" => (ProcessId::HEAD, Query::Nodes),
        "actors" => (ProcessId::HEAD, Query::Actors { dead: argument(arguments, "dead")?.extract()? }),
        "actor_by_name" => {
            (ProcessId::HEAD, Query::ActorByName { name: text("name")?, namespace: text("namespace")? })
        }
        "groups" => (ProcessId::HEAD, Query::Groups),
        "group_by_name" => {
            (ProcessId::HEAD, Query::GroupByName { name: text("name")?, namespace: text("namespace")? })
        }
        "put" => {
            let value: Vec<u8> = argument(arguments, "value")?.extract()?;
            let overwrite = argument(arguments, "overwrite")?.extract()?;
            (ProcessId::HEAD, Query::Put { key: text("key")?, value: value.into(), overwrite })
        }
        "get" => (ProcessId::HEAD, Query::Get { key: text("key")? }),
        "delete" => (ProcessId::HEAD, Query::Delete { key: text("key")? }),
        "workers" => (node, Query::Workers),
        "store" => (node, Query::Store),
        other => return Err(PyValueError::new_err(format!("there is no query {other:?}"))),
    };
    let answer = py.detach(|| process.ask(to, query, None)).map_err(|why| stopped(py, &process, why))?;
    convert(py, &process, answer)
}

fn argument<'py>(arguments: &Bound<'py, PyDict>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    arguments.get_item(name)?.ok_or_else(|| PyValueError::new_err(format!("the query lacks {name:?}")))
}

fn convert<'py>(py: Python<'py>, process: &Arc<Process>, answer: Answer) -> PyResult<Bound<'py, PyAny>> {
    match answer {
        Answer::NotFound => Ok(py.None().into_bound(py)),
        Answer::ActorCreated | Answer::GroupCreated => Ok(py.None().into_bound(py)),
        Answer::GroupRefused { detail } | Answer::DrainRefused { detail } => {
            Err(PyValueError::new_err(detail))
        }
        Answer::Draining(draining) => list(py, draining, |py, (node, drain)| {
            let dict = PyDict::new(py);
            dict.set_item("node", node.0)?;
            dict.set_item("deadline_seconds", drain.grace.map(|grace| grace.0 as f64 / 1e9))?;
            dict.set_item("reason", drain.reason)?;
            Ok(dict)
        }),
        Answer::Groups(groups) => list(py, groups, group_dict),
        Answer::Keys(keys) => Ok(PyList::new(py, keys)?.into_any()),
        Answer::ActorExists { actor } => Ok(errors::actor_bytes(py, actor).into_any()),
        Answer::Value(value) => Ok(PyBytes::new(py, &value).into_any()),
        Answer::Changed(changed) => Ok(changed.into_pyobject(py)?.to_owned().into_any()),
        Answer::Actor { actor, handle } => {
            process.handle(Input::WatchActor { actor });
            let weak = Bound::new(py, Actor::weak(process.clone(), actor))?;
            Ok((weak, PyBytes::new(py, &handle)).into_pyobject(py)?.into_any())
        }
        Answer::Nodes(nodes) => list(py, nodes, node_dict),
        Answer::Actors(actors) => list(py, actors, actor_dict),
        Answer::Workers(workers) => list(py, workers, |py, worker| {
            let dict = PyDict::new(py);
            dict.set_item("process", worker.process.0)?;
            dict.set_item("pid", worker.pid)?;
            dict.set_item("job", worker.job.0)?;
            dict.set_item("state", worker.state)?;
            Ok(dict)
        }),
        Answer::Store(store) => {
            let dict = PyDict::new(py);
            dict.set_item("capacity", store.capacity)?;
            dict.set_item("used", store.used)?;
            dict.set_item("pinned", store.pinned)?;
            dict.set_item("objects", store.objects)?;
            dict.set_item("spilled", store.spilled)?;
            dict.set_item("spilled_total", store.spilled_total)?;
            dict.set_item("restored_total", store.restored_total)?;
            dict.set_item("kept", store.kept)?;
            Ok(dict.into_any())
        }
    }
}

fn list<'py, T>(
    py: Python<'py>,
    items: Vec<T>,
    make: impl Fn(Python<'py>, T) -> PyResult<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let dicts = items.into_iter().map(|item| make(py, item)).collect::<PyResult<Vec<_>>>()?;
    Ok(PyList::new(py, dicts)?.into_any())
}

fn group_dict<'py>(py: Python<'py>, (spec, state): (GroupSpec, GroupState)) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("group", groups::id_bytes(py, spec.id))?;
    dict.set_item("job", spec.job.0)?;
    dict.set_item("name", spec.name)?;
    dict.set_item("namespace", spec.namespace)?;
    let bundles: PyResult<Vec<_>> =
        spec.bundles.iter().map(|bundle| resources_dict(py, &bundle.resources)).collect();
    dict.set_item("bundles", bundles?)?;
    dict.set_item("strategy", groups::strategy_name(spec.strategy))?;
    let (state, detail, nodes) = match state {
        GroupState::Pending { detail } => ("PENDING", detail, Vec::new()),
        GroupState::Placed { nodes } => ("CREATED", String::new(), nodes),
        GroupState::Rescheduling { detail } => ("RESCHEDULING", detail, Vec::new()),
        GroupState::Removed => ("REMOVED", String::new(), Vec::new()),
    };
    dict.set_item("state", state)?;
    dict.set_item("detail", detail)?;
    dict.set_item("nodes", nodes.iter().map(|node| node.0).collect::<Vec<_>>())?;
    Ok(dict)
}

fn node_dict<'py>(py: Python<'py>, node: NodeSummary) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("node", node.node.0)?;
    dict.set_item("alive", node.alive)?;
    dict.set_item("name", if node.name.is_empty() { &node.host } else { &node.name })?;
    dict.set_item("host", &node.host)?;
    dict.set_item("total", resources_dict(py, &node.total)?)?;
    dict.set_item("free", resources_dict(py, &node.free)?)?;
    let labels = PyDict::new(py);
    for (key, value) in node.labels {
        labels.set_item(key, value)?;
    }
    dict.set_item("labels", labels)?;
    Ok(dict)
}

pub(crate) fn resources_dict<'py>(py: Python<'py>, resources: &Resources) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, amount) in &resources.0 {
        dict.set_item(&**name, amount.as_f64())?;
    }
    Ok(dict)
}

fn actor_dict<'py>(py: Python<'py>, actor: shoal_core::actor::ActorSummary) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("actor", errors::actor_bytes(py, actor.id))?;
    dict.set_item("job", actor.job.0)?;
    dict.set_item("label", &*actor.label)?;
    dict.set_item("name", actor.name)?;
    dict.set_item("namespace", actor.namespace)?;
    dict.set_item("incarnation", actor.incarnation)?;
    dict.set_item("pid", actor.pid)?;
    let (state, process) = match actor.state {
        ActorState::Starting => ("PENDING_CREATION", None),
        ActorState::Alive { process } => ("ALIVE", Some(process.0)),
        ActorState::Restarting => ("RESTARTING", None),
        ActorState::Dead { .. } => ("DEAD", None),
    };
    dict.set_item("state", state)?;
    dict.set_item("process", process)?;
    Ok(dict)
}

#[pyfunction]
pub(crate) fn task_events(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let process = current()?;
    let events: Vec<_> = process.peek(|owner| owner.events().cloned().collect());
    let dicts = PyList::empty(py);
    for event in events {
        let dict = PyDict::new(py);
        dict.set_item("task", PyBytes::new(py, &errors::task_array(event.task)))?;
        dict.set_item("label", &*event.label)?;
        dict.set_item("process", event.process.0)?;
        dict.set_item("pid", event.process.number())?;
        dict.set_item("start_micros", event.started)?;
        dict.set_item("end_micros", event.started + u64::from(event.micros))?;
        dicts.append(dict)?;
    }
    Ok(dicts)
}

//! A worker process: forked from the template, it runs what it is assigned.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use shoal_core::actor::ActorSpec;
use shoal_core::ids::{ActorId, FunctionId, GroupId, TaskId};
use shoal_core::owner::Input;
use shoal_core::resources::{Demand, Devices, Resources};
use shoal_core::task::{Assignment, Callee};
use shoal_core::value::{ActorDeath, Payload};
use shoal_runtime::process::{Job, Stopped};
use shoal_runtime::template::{Event, Template};

use crate::execute::{self, Assigned};
use crate::process::Process;
use crate::{errors, groups, interrupt, session, waits};

/// What a running task can ask about itself.
pub(crate) struct TaskContext {
    pub(crate) task: TaskId,
    attempt: u32,
    pub(crate) label: Arc<str>,
    devices: Devices,
    is_method: bool,
    /// The function's limit of calls is reached with this one.
    pub(crate) is_last_call: bool,
}

impl TaskContext {
    pub(crate) fn of(process: &Process, assignment: &Assignment) -> TaskContext {
        let state = &process.worker;
        let (devices, is_method, is_last_call) = match &assignment.callee {
            Callee::Function { function, devices, demand, calls_max, .. } => {
                if let Some(demand) = demand {
                    *state.served.lock() = Some(demand.clone());
                }
                (devices.clone(), false, *calls_max > 0 && state.count_call(*function) >= *calls_max)
            }
            Callee::Method { .. } => (Devices::default(), true, false),
        };
        TaskContext {
            task: assignment.task,
            attempt: assignment.attempt,
            label: assignment.label.clone(),
            devices,
            is_method,
            is_last_call,
        }
    }
}

/// What a process has of a worker.
#[derive(Default)]
pub(crate) struct State {
    /// What the lease that this worker serves was asked for.
    served: Mutex<Option<Arc<Demand>>>,
    /// In an async actor the running call belongs to the coroutine, not to the thread.
    asynchronous: AtomicBool,
    /// A function that returns the `Assigned` of the running coroutine, or None.
    current_assigned: Mutex<Option<Py<PyAny>>>,
    functions: Mutex<HashMap<FunctionId, Function>>,
    calls: Mutex<HashMap<FunctionId, u32>>,
    /// The actor that the process is.
    actor: RwLock<Option<ActorHere>>,
    /// The devices that the process was last told to use.
    devices: Mutex<Devices>,
    /// The placement group in which the process was last told to run what it submits.
    captured: Mutex<Option<GroupId>>,
}

/// A function that has come.
enum Function {
    /// Kept as it came until it is loaded: a cancellation may interrupt that, and it comes once.
    Code(Bytes),
    Loaded(Py<PyAny>),
}

impl State {
    fn count_call(&self, function: FunctionId) -> u32 {
        let mut calls = self.calls.lock();
        let count = calls.entry(function).or_insert(0);
        *count += 1;
        *count
    }
}

thread_local! {
    /// What this thread runs.
    static CURRENT: RefCell<Option<Arc<TaskContext>>> = const { RefCell::new(None) };
}

fn current(py: Python<'_>, process: &Process) -> Option<Arc<TaskContext>> {
    if process.worker.asynchronous.load(Ordering::Relaxed) {
        let find = process.worker.current_assigned.lock().as_ref().map(|find| find.clone_ref(py))?;
        let assigned = find.call0(py).ok()?;
        let assigned = assigned.bind(py).cast::<Assigned>().ok()?;
        return Some(assigned.get().context.clone());
    }
    CURRENT.with_borrow(Clone::clone)
}

pub(crate) fn current_task_id(py: Python<'_>, process: &Process) -> Option<TaskId> {
    current(py, process).map(|context| context.task)
}

/// `find()` returns the `Assigned` of the running coroutine.
#[pyfunction]
pub(crate) fn set_asynchronous(find: Py<PyAny>) -> PyResult<()> {
    let process = session::current()?;
    *process.worker.current_assigned.lock() = Some(find);
    process.worker.asynchronous.store(true, Ordering::Relaxed);
    Ok(())
}

#[pyfunction]
pub(crate) fn current_task(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    let Ok(process) = session::current() else { return Ok(None) };
    let Some(context) = current(py, &process) else { return Ok(None) };
    let info = PyDict::new(py);
    info.set_item("task", PyBytes::new(py, &errors::task_array(context.task)))?;
    info.set_item("attempt", context.attempt)?;
    info.set_item("label", &*context.label)?;
    info.set_item("function", &*context.label)?;
    let actor = process.worker.actor.read();
    let devices = match actor.as_ref().filter(|_| context.is_method) {
        Some(actor) => {
            info.set_item("actor", errors::actor_bytes(py, actor.spec.id))?;
            info.set_item("actor_label", &*actor.spec.label)?;
            describe_held(py, &info, &actor.spec.running, actor.spec.placement.group)?;
            &actor.devices
        }
        None => {
            info.set_item("actor", py.None())?;
            let served = process.worker.served.lock().clone().unwrap_or_default();
            describe_held(py, &info, &served.resources, served.group)?;
            &context.devices
        }
    };
    info.set_item("devices", devices_dict(py, devices)?)?;
    Ok(Some(info))
}

/// What it holds, by the names under which it was asked for.
fn describe_held(
    py: Python<'_>,
    info: &Bound<'_, PyDict>,
    held: &Resources,
    group: Option<GroupId>,
) -> PyResult<()> {
    let plain = group.and_then(|group| shoal_core::group::needed(held, group)).map(|(plain, _)| plain);
    info.set_item("resources", session::resources_dict(py, plain.as_ref().unwrap_or(held))?)
}

/// The placement group in which this process runs what it runs, and whether what that submits runs
/// there, too.
#[pyfunction]
pub(crate) fn current_group(py: Python<'_>) -> Option<(Bound<'_, PyBytes>, bool)> {
    let process = session::current().ok()?;
    let demand = match process.worker.actor.read().as_ref() {
        Some(actor) => actor.spec.placement.clone(),
        None => process.worker.served.lock().as_deref()?.clone(),
    };
    Some((groups::id_bytes(py, demand.group?), demand.captures))
}

/// The actor that lives in this process.
pub(crate) fn actor_here(process: &Process) -> Option<ActorId> {
    process.worker.actor.read().as_ref().map(|actor| actor.spec.id)
}

fn devices_dict<'py>(py: Python<'py>, devices: &Devices) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, shares) in &devices.0 {
        let indices: Vec<u32> = shares.iter().map(|(index, _)| *index).collect();
        dict.set_item(&**name, indices)?;
    }
    Ok(dict)
}

#[pyfunction]
pub(crate) fn is_canceled(py: Python<'_>) -> PyResult<bool> {
    let process = session::current()?;
    Ok(current(py, &process).is_some_and(|context| process.peek(|owner| owner.is_cancelled(context.task))))
}

// --- functions ----------------------------------------------------------------------------------

pub(crate) fn function<'py>(
    py: Python<'py>,
    process: &Process,
    id: FunctionId,
    code: Option<&Bytes>,
) -> PyResult<Bound<'py, PyAny>> {
    let code = {
        let mut functions = process.worker.functions.lock();
        match (functions.get(&id), code) {
            (Some(Function::Loaded(callable)), _) => return Ok(callable.bind(py).clone()),
            (Some(Function::Code(kept)), _) => kept.clone(),
            (None, Some(code)) => {
                functions.insert(id, Function::Code(code.clone()));
                code.clone()
            }
            (None, None) => {
                let text = "the function's code did not come with its first call";
                return Err(PyRuntimeError::new_err(text));
            }
        }
    };
    let callable = load(py, &code)?;
    process.worker.functions.lock().insert(id, Function::Loaded(callable.clone().unbind()));
    Ok(callable)
}

fn load<'py>(py: Python<'py>, code: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    py.import("pickle")?.call_method1("loads", (PyBytes::new(py, code),))
}

// --- the actor of this process --------------------------------------------------------------------

struct ActorHere {
    spec: Box<ActorSpec>,
    incarnation: u32,
    devices: Devices,
    instance: Option<Py<PyAny>>,
}

pub(crate) fn method<'py>(py: Python<'py>, process: &Process, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let instance = {
        let actor = process.worker.actor.read();
        let instance = actor.as_ref().and_then(|actor| actor.instance.as_ref());
        instance.ok_or_else(|| PyRuntimeError::new_err("the actor is not constructed"))?.clone_ref(py)
    };
    let instance = instance.into_bound(py);
    if name.starts_with("__") {
        let system = py.import("shoal.actor")?.getattr("SYSTEM_METHODS")?;
        if let Ok(function) = system.get_item(name) {
            return py.import("functools")?.getattr("partial")?.call1((function, instance));
        }
    }
    instance.getattr(name)
}

pub(crate) fn describe_actor(py: Python<'_>, process: &Process, info: &Bound<'_, PyDict>) -> PyResult<()> {
    let actor = process.worker.actor.read();
    match actor.as_ref() {
        Some(actor) => {
            info.set_item("actor", errors::actor_bytes(py, actor.spec.id))?;
            info.set_item("incarnation", actor.incarnation)?;
            info.set_item("actor_name", &actor.spec.name)?;
            info.set_item("actor_label", &*actor.spec.label)?;
            info.set_item("actor_handle", PyBytes::new(py, &actor.spec.handle))?;
        }
        None => {
            info.set_item("actor", py.None())?;
            info.set_item("incarnation", 0)?;
        }
    }
    Ok(())
}

/// Which actor an exception comes from, if from one.
pub(crate) fn describe_error_source(
    py: Python<'_>,
    process: &Process,
    keywords: &Bound<'_, PyDict>,
) -> PyResult<()> {
    let actor = process.worker.actor.read();
    let Some(actor) = actor.as_ref() else { return Ok(()) };
    keywords.set_item("actor", errors::actor_bytes(py, actor.spec.id))?;
    keywords.set_item("actor_repr", &*actor.spec.label)
}

#[pyfunction]
pub(crate) fn exit_actor_requested() -> PyResult<()> {
    session::current()?.handle(Input::ExitActor);
    Ok(())
}

/// An actor to construct, handed to the interpreter's side.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct Construction {
    process: Arc<Process>,
}

#[pymethods]
impl Construction {
    #[getter]
    fn asynchronous(&self) -> bool {
        self.process.worker.actor.read().as_ref().is_some_and(|actor| actor.spec.asynchronous)
    }

    /// Name and limit of each concurrency group, the default one first.
    #[getter]
    fn groups(&self) -> Vec<(String, u32)> {
        let actor = self.process.worker.actor.read();
        let groups = actor.as_ref().map(|actor| actor.spec.groups.as_slice()).unwrap_or_default();
        groups.iter().map(|group| (group.name.to_string(), group.limit)).collect()
    }

    /// The devices that the actor holds.
    #[getter]
    fn devices<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let devices =
            self.process.worker.actor.read().as_ref().map(|actor| actor.devices.clone()).unwrap_or_default();
        devices_dict(py, &devices)
    }

    /// The class and the arguments of its constructor.
    fn prepare<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let (code, arguments, dependencies) = {
            let actor = self.process.worker.actor.read();
            let actor = actor.as_ref().ok_or_else(|| PyRuntimeError::new_err("no actor was assigned"))?;
            (actor.spec.code.clone(), actor.spec.arguments.clone(), actor.spec.dependencies.clone())
        };
        let class = load(py, &code)?;
        let (args, kwargs) = execute::decode_arguments(py, &self.process, &arguments, &dependencies)?;
        Ok((class, args.into_any(), kwargs.into_any()))
    }

    /// The constructor returned.
    fn complete(&self, instance: Py<PyAny>) {
        if let Some(actor) = self.process.worker.actor.write().as_mut() {
            actor.instance = Some(instance);
        }
        self.process.handle(Input::Constructed { failed: None });
    }

    /// The constructor raised.
    fn fail(&self, py: Python<'_>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        let (label, task) = {
            let actor = self.process.worker.actor.read();
            let spec = actor.as_ref().map(|actor| (actor.spec.label.clone(), actor.spec.id.0));
            spec.ok_or_else(|| PyRuntimeError::new_err("no actor was assigned"))?
        };
        let label: Arc<str> = format!("{label}.__init__").into();
        let context = TaskContext {
            task,
            attempt: 0,
            label,
            devices: Devices::default(),
            is_method: true,
            is_last_call: false,
        };
        let never = false.into_pyobject(py)?.to_owned().into_any();
        let error = PyErr::from_value(exception);
        let (mut value, _) = execute::serialize_error(py, &self.process, &error, &context, never)?;
        if !matches!(value.payload, Payload::Inline(_)) {
            // It goes to everyone who ever asks, so it must not depend on the store.
            let text = PyRuntimeError::new_err(format!("{error} (too large to be sent whole)"));
            let never = false.into_pyobject(py)?.to_owned().into_any();
            value = execute::serialize_error(py, &self.process, &text, &context, never)?.0;
        }
        self.process.handle(Input::Constructed { failed: Some(ActorDeath::Constructor(value)) });
        self.process.flush();
        Ok(())
    }
}

// --- running ----------------------------------------------------------------------------------------

/// Run tasks on this thread, of one concurrency group or of any. Returns an actor to construct, or
/// None when the process is to end.
#[pyfunction]
#[pyo3(signature = (group = None))]
pub(crate) fn run_tasks(py: Python<'_>, group: Option<usize>) -> PyResult<Option<Construction>> {
    let process = session::current()?;
    if process.member().is_none() {
        interrupt::remember_main_thread();
    }
    loop {
        match next_job(py, &process, group)? {
            Some(Job::Run(assignment)) => run_one(py, &process, assignment)?,
            Some(Job::Construct { spec, incarnation, devices }) => {
                *process.worker.actor.write() =
                    Some(ActorHere { spec, incarnation, devices, instance: None });
                return Ok(Some(Construction { process }));
            }
            Some(Job::Exit { .. }) | None => {
                process.flush();
                return Ok(None);
            }
        }
    }
}

fn next_job(py: Python<'_>, process: &Arc<Process>, group: Option<usize>) -> PyResult<Option<Job>> {
    if let Some(job) = process.try_next_job(group) {
        return Ok(Some(job));
    }
    let mut raised = None;
    match py.detach(|| process.next_job(group, &mut || waits::go_on(&mut raised))) {
        Ok(job) => Ok(Some(job)),
        Err(Stopped::Disconnected | Stopped::TimedOut) => Ok(None),
        Err(Stopped::Interrupted) => Err(raised.unwrap_or_else(|| errors::disconnected(process))),
    }
}

fn run_one(py: Python<'_>, process: &Arc<Process>, assignment: Box<Assignment>) -> PyResult<()> {
    let is_function = matches!(assignment.callee, Callee::Function { .. });
    if is_function {
        if let Err(error) = process.note_started(assignment.task) {
            return Err(PyOSError::new_err(error));
        }
        use_devices(py, process, &assignment)?;
        use_group(py, process, &assignment)?;
        interrupt::set_running(process, Some(assignment.task));
        if process.peek(|owner| owner.is_cancelled(assignment.task)) {
            interrupt::interrupt_at_its_beginning(process, assignment.task);
        }
    }
    let assigned = Assigned::new(process, assignment);
    let before = CURRENT.replace(Some(assigned.context.clone()));
    let result = assigned.run(py);
    CURRENT.set(before);
    if is_function {
        interrupt::set_running(process, None);
    }
    result
}

fn use_devices(py: Python<'_>, process: &Process, assignment: &Assignment) -> PyResult<()> {
    let Callee::Function { devices, .. } = &assignment.callee else { return Ok(()) };
    if *process.worker.devices.lock() == *devices {
        return Ok(());
    }
    py.import("shoal._executor")?.call_method1("use_devices", (devices_dict(py, devices)?,))?;
    *process.worker.devices.lock() = devices.clone();
    Ok(())
}

fn use_group(py: Python<'_>, process: &Process, assignment: &Assignment) -> PyResult<()> {
    let Callee::Function { demand: Some(demand), .. } = &assignment.callee else { return Ok(()) };
    let captured = demand.group.filter(|_| demand.captures);
    if *process.worker.captured.lock() == captured {
        return Ok(());
    }
    let group = captured.map(|group| groups::id_bytes(py, group));
    py.import("shoal._executor")?.call_method1("use_group", (group,))?;
    *process.worker.captured.lock() = captured;
    Ok(())
}

// --- async actors -----------------------------------------------------------------------------------

/// The calls that have come, as `Assigned`; None at the end when the process is to end. Reads and
/// writes first; with `spin` it looks for a while.
#[pyfunction]
pub(crate) fn poll_tasks<'py>(py: Python<'py>, spin: bool) -> PyResult<Bound<'py, PyList>> {
    let process = session::current()?;
    let tasks = PyList::empty(py);
    take_tasks(py, &process, &tasks)?;
    if tasks.is_empty() {
        py.detach(|| process.poll(spin));
        take_tasks(py, &process, &tasks)?;
    } else {
        process.flush();
    }
    Ok(tasks)
}

fn take_tasks(py: Python<'_>, process: &Arc<Process>, tasks: &Bound<'_, PyList>) -> PyResult<()> {
    while let Some(job) = process.try_next_job(None) {
        match job {
            Job::Run(assignment) => tasks.append(Py::new(py, Assigned::new(process, assignment))?)?,
            Job::Construct { .. } => {}
            Job::Exit { .. } => {
                tasks.append(py.None())?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A descriptor that is readable when `poll_tasks` would find something.
#[pyfunction]
pub(crate) fn pollable() -> PyResult<i32> {
    use std::os::fd::AsRawFd;
    let process = session::current()?;
    let pollable = process.pollable().ok_or_else(|| PyRuntimeError::new_err("simulated: nothing to poll"))?;
    Ok(pollable.as_raw_fd())
}

/// Write what waits to be written.
#[pyfunction]
pub(crate) fn flush(py: Python<'_>) -> PyResult<()> {
    let process = session::current()?;
    py.detach(|| process.flush());
    Ok(())
}

// --- the template -----------------------------------------------------------------------------------

#[pyfunction]
pub(crate) fn run_template<'py>(
    py: Python<'py>,
    link: i32,
    segment: i32,
) -> PyResult<Option<Bound<'py, PyDict>>> {
    // SAFETY: the daemon has handed both descriptors to this process, for this.
    let (link, segment) = unsafe { (OwnedFd::from_raw_fd(link), OwnedFd::from_raw_fd(segment)) };
    let os = py.import("os")?;
    let mut template = Template::new(link);
    loop {
        let event = py.detach(|| template.wait())?;
        let Event::Fork(request) = event else { return Ok(None) };
        let process = request.welcome.process;
        match os.call_method0("fork").and_then(|pid| pid.extract::<i32>()) {
            Ok(0) => {
                template.into_worker(request.stdout, request.stderr)?;
                let hooks = Box::new(session::PythonHooks { on_output: None });
                let started = shoal_runtime::process::Process::start_worker(
                    request.welcome,
                    request.link,
                    segment,
                    hooks,
                );
                let process = started.map_err(|error| PyOSError::new_err(error.to_string()))?;
                session::set_current(py, Process::real(process))?;
                let info = PyDict::new(py);
                info.set_item("variables", request.environment.variables)?;
                return Ok(Some(info));
            }
            Ok(pid) => template.forked(process, pid as u32)?,
            Err(error) => template.fork_failed(process, error.to_string())?,
        }
    }
}

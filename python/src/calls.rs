//! Submitting tasks, actor calls and actors.

use std::sync::Arc;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use shoal_core::actor::{ActorSpec, ConcurrencyGroup};
use shoal_core::ids::{ActorId, FunctionId, NodeId, ObjectId, TaskId};
use shoal_core::message::Answer;
use shoal_core::owner::Input;
use shoal_core::resources::{Demand, Environment, LabelSelector, Quantity, Resources, Strategy};
use shoal_core::task::{self, Definition, RetryExceptions, Returns, Submission, Target};
use shoal_core::value::{INLINE_BYTES_MAX, Value};

use crate::objects::{Actor, ObjectRef, Stream};
use crate::process::Process;
use crate::{errors, groups, session, values, worker};

/// An argument that is in the encoding itself.
pub(crate) const GIVEN: u8 = 0;
/// An argument that is one of the dependencies.
pub(crate) const DEPENDENCY: u8 = 1;

/// Encoded arguments with the references in them.
#[derive(Default)]
struct Arguments {
    encoded: Vec<u8>,
    dependencies: Vec<ObjectId>,
    borrows: Vec<ObjectId>,
    /// Values too large for a message, put for the time of the call.
    put: Vec<ObjectRef>,
}

impl Arguments {
    /// Each argument is serialised by itself; a top-level reference becomes a dependency.
    fn encode(
        process: &Arc<Process>,
        args: &Bound<'_, PyTuple>,
        kwargs: &Bound<'_, PyDict>,
    ) -> PyResult<Arguments> {
        let mut arguments = Arguments::default();
        if args.is_empty() && kwargs.is_empty() {
            return Ok(arguments);
        }
        arguments.encoded.extend_from_slice(&(args.len() as u32).to_le_bytes());
        for value in args {
            arguments.add(process, &value)?;
        }
        for (name, value) in kwargs {
            let name = name.cast::<PyString>().map_err(|_| errors::wrong_type("keywords must be strings"))?;
            let text = name.to_str()?;
            arguments.encoded.extend_from_slice(&(text.len() as u32).to_le_bytes());
            arguments.encoded.extend_from_slice(text.as_bytes());
            arguments.add(process, &value)?;
        }
        Ok(arguments)
    }

    fn add(&mut self, process: &Arc<Process>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(reference) = value.cast_exact::<ObjectRef>() {
            self.add_dependency(reference.get().id);
            return Ok(());
        }
        let (serialized, contained) = values::serialize(value)?;
        if serialized.size(value.py()) > INLINE_BYTES_MAX {
            let reference = put_serialized(value.py(), process, serialized, contained)?;
            self.add_dependency(reference.id);
            self.put.push(reference);
            return Ok(());
        }
        let bytes = serialized.into_bytes(value.py());
        self.encoded.push(GIVEN);
        self.encoded.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.encoded.extend_from_slice(&bytes);
        self.borrows.extend(contained);
        Ok(())
    }

    fn add_dependency(&mut self, object: ObjectId) {
        self.encoded.push(DEPENDENCY);
        self.encoded.extend_from_slice(&(self.dependencies.len() as u32).to_le_bytes());
        self.dependencies.push(object);
    }
}

fn put_serialized(
    py: Python<'_>,
    process: &Arc<Process>,
    serialized: values::Serialized,
    contains: Vec<ObjectId>,
) -> PyResult<ObjectRef> {
    let object = process.with_owner(|owner, _| owner.next_task_id()).object(0);
    let payload = serialized.into_payload(py, process, object)?;
    process.handle(Input::Put { object, value: Value { payload, contains } });
    Ok(ObjectRef::new(process.clone(), object))
}

#[pyfunction]
pub(crate) fn put(value: &Bound<'_, PyAny>) -> PyResult<ObjectRef> {
    let process = session::current()?;
    let py = value.py();
    process.breathe(py)?;
    let (serialized, contains) = values::serialize(value)?;
    if serialized.size(py) > INLINE_BYTES_MAX {
        return put_serialized(py, &process, serialized, contains);
    }
    let value = Value { payload: shoal_core::value::Payload::Inline(serialized.into_bytes(py)), contains };
    let id = process.submit(|id| Input::Put { object: id.object(0), value });
    Ok(ObjectRef::new(process, id.object(0)))
}

/// 128 bits that differ for different code: FNV-1a twice, with the length.
fn function_id(code: &[u8]) -> FunctionId {
    let hash = |basis: u64| {
        code.iter().fold(basis, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    let low = hash(0xcbf2_9ce4_8422_2325);
    let high = hash(0x6c62_272e_07bb_0142 ^ code.len() as u64);
    FunctionId(u128::from(high) << 64 | u128::from(low))
}

fn returns(count: i64, backpressure: u32) -> PyResult<Returns> {
    match count {
        -1 => Ok(Returns::Stream { backpressure }),
        0..=1_000_000 => Ok(Returns::Count(count as u32)),
        _ => Err(PyValueError::new_err(format!("a task cannot have {count} results"))),
    }
}

fn retry_exceptions(given: &Bound<'_, PyAny>) -> PyResult<RetryExceptions> {
    if let Ok(all) = given.extract::<bool>() {
        return Ok(if all { RetryExceptions::Always } else { RetryExceptions::Never });
    }
    Ok(RetryExceptions::Listed(given.extract::<Vec<u8>>()?.into()))
}

pub(crate) fn resources(given: Vec<(String, f64)>) -> PyResult<Resources> {
    let mut resources = Resources::default();
    for (name, amount) in given {
        if !amount.is_finite() || amount < 0.0 {
            return Err(PyValueError::new_err(format!("{amount} of {name:?} cannot be asked for")));
        }
        resources.set(&name, Quantity::from_f64(amount));
    }
    Ok(resources)
}

/// What a label is to be: key, values, and whether these are excluded.
pub(crate) type Selector = (String, Vec<String>, bool);

/// Selectors in a defined order, since equal demands share workers.
pub(crate) fn labels(given: Vec<Selector>) -> Vec<LabelSelector> {
    let selectors = given.into_iter();
    let mut labels: Vec<_> =
        selectors.map(|(key, values, excludes)| LabelSelector { key, values, excludes }).collect();
    labels.sort_unstable();
    labels
}

/// A demand for these amounts, where `given` and `labels` say.
fn demand(
    resources: Resources,
    given: &Bound<'_, PyAny>,
    labels: Vec<LabelSelector>,
    variables: Vec<(String, String)>,
) -> PyResult<Demand> {
    let plain = Demand { labels, environment: Environment { variables }, ..Demand::default() };
    if let Ok((group, bundle, captures)) = given.extract::<(Vec<u8>, i64, bool)>() {
        let group = groups::parse_id(&group)?;
        let resources = shoal_core::group::demanded(&resources, group, u32::try_from(bundle).ok());
        return Ok(Demand { resources, group: Some(group), captures, ..plain });
    }
    Ok(Demand { resources, strategy: strategy(given)?, ..plain })
}

fn strategy(given: &Bound<'_, PyAny>) -> PyResult<Strategy> {
    if let Ok((node, soft, at_once)) = given.extract::<(u32, bool, bool)>() {
        return Ok(Strategy::Node { node: NodeId(node), soft, at_once });
    }
    match given.extract::<String>()?.as_str() {
        "hybrid" => Ok(Strategy::Hybrid),
        "spread" => Ok(Strategy::Spread),
        other => Err(PyValueError::new_err(format!("there is no scheduling strategy {other:?}"))),
    }
}

pub(crate) fn pairs(given: &Bound<'_, PyDict>) -> PyResult<Vec<(String, f64)>> {
    given.iter().map(|(name, amount)| Ok((name.extract()?, amount.extract()?))).collect()
}

/// See `_shoal.pyi`.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct Function {
    definition: Arc<Definition>,
}

#[pymethods]
impl Function {
    #[new]
    #[pyo3(signature = (*, code, name, resources, strategy, labels, variables, returns, backpressure, retries_max, retry_exceptions, calls_max))]
    #[allow(clippy::too_many_arguments, reason = "one per option")]
    fn new(
        code: Vec<u8>,
        name: &str,
        resources: &Bound<'_, PyDict>,
        strategy: &Bound<'_, PyAny>,
        labels: Vec<Selector>,
        variables: Vec<(String, String)>,
        returns: i64,
        backpressure: u32,
        retries_max: i32,
        retry_exceptions: &Bound<'_, PyAny>,
        calls_max: u32,
    ) -> PyResult<Function> {
        let labels = self::labels(labels);
        let demand = demand(self::resources(pairs(resources)?)?, strategy, labels, variables)?;
        let definition = Definition {
            function: function_id(&code),
            code: code.into(),
            name: name.into(),
            demand: Arc::new(demand),
            returns: self::returns(returns, backpressure)?,
            retries_max,
            retry_exceptions: self::retry_exceptions(retry_exceptions)?,
            calls_max,
        };
        Ok(Function { definition: Arc::new(definition) })
    }

    fn submit<'py>(
        &self,
        py: Python<'py>,
        args: &Bound<'py, PyTuple>,
        kwargs: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let process = session::current()?;
        let target = Target::Function(self.definition.clone());
        submit(py, process, target, self.definition.returns, args, kwargs)
    }
}

/// See `_shoal.pyi`.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct Method {
    method: Arc<task::Method>,
}

#[pymethods]
impl Method {
    #[new]
    #[pyo3(signature = (*, name, label, returns, backpressure, retries_max, retry_exceptions, group, any_order))]
    #[allow(clippy::too_many_arguments, reason = "one per option")]
    fn new(
        name: &str,
        label: &str,
        returns: i64,
        backpressure: u32,
        retries_max: i32,
        retry_exceptions: &Bound<'_, PyAny>,
        group: &str,
        any_order: bool,
    ) -> PyResult<Method> {
        let method = task::Method {
            name: name.into(),
            label: label.into(),
            returns: self::returns(returns, backpressure)?,
            retries_max,
            retry_exceptions: self::retry_exceptions(retry_exceptions)?,
            group: group.into(),
            any_order,
        };
        Ok(Method { method: Arc::new(method) })
    }
}

pub(crate) fn submit_method<'py>(
    py: Python<'py>,
    actor: &Actor,
    method: &Method,
    args: &Bound<'py, PyTuple>,
    kwargs: &Bound<'py, PyDict>,
    pending_max: i64,
) -> PyResult<Bound<'py, PyAny>> {
    let process = actor.process.clone();
    if pending_max >= 0 {
        let pending = process.peek(|owner| owner.pending_calls(actor.id));
        if pending as i64 >= pending_max {
            let message = format!(
                "the actor has {pending} calls pending and max_pending_calls is {pending_max}: wait for some first"
            );
            return Err(errors::named(py, "PendingCallsLimitExceeded", message));
        }
    }
    let target = Target::Method { actor: actor.id, method: method.method.clone() };
    submit(py, process, target, method.method.returns, args, kwargs)
}

fn submit<'py>(
    py: Python<'py>,
    process: Arc<Process>,
    target: Target,
    returns: Returns,
    args: &Bound<'py, PyTuple>,
    kwargs: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyAny>> {
    if process.has_left() {
        return Err(errors::disconnected(&process));
    }
    process.breathe(py)?;
    let arguments = Arguments::encode(&process, args, kwargs)?;
    let parent = worker::current_task_id(py, &process);
    let id = process.submit(|id| {
        Input::Submit(Box::new(Submission {
            id,
            target,
            arguments: Bytes::from(arguments.encoded),
            dependencies: arguments.dependencies,
            borrows: arguments.borrows,
            parent,
        }))
    });
    results(py, process, id, returns)
}

fn results(
    py: Python<'_>,
    process: Arc<Process>,
    id: TaskId,
    returns: Returns,
) -> PyResult<Bound<'_, PyAny>> {
    match returns {
        Returns::Count(0) => Ok(py.None().into_bound(py)),
        Returns::Count(1) => Ok(Bound::new(py, ObjectRef::new(process, id.object(0)))?.into_any()),
        Returns::Count(count) => {
            let refs = (0..count).map(|index| ObjectRef::new(process.clone(), id.object(index)));
            let refs = refs.map(|r| Py::new(py, r)).collect::<PyResult<Vec<_>>>()?;
            Ok(PyList::new(py, refs)?.into_any())
        }
        Returns::Stream { .. } => Ok(Bound::new(py, Stream { process, task: id })?.into_any()),
    }
}

#[pyfunction]
#[pyo3(signature = (*, code, label, args, kwargs, placement, running, strategy, labels, variables,
    restarts_max, name, namespace, detached, asynchronous, groups, out_of_order, handle))]
#[allow(clippy::too_many_arguments, reason = "one per option")]
pub(crate) fn create_actor(
    py: Python<'_>,
    code: Vec<u8>,
    label: &str,
    args: &Bound<'_, PyTuple>,
    kwargs: &Bound<'_, PyDict>,
    placement: &Bound<'_, PyDict>,
    running: &Bound<'_, PyDict>,
    strategy: &Bound<'_, PyAny>,
    labels: Vec<Selector>,
    variables: Vec<(String, String)>,
    restarts_max: i32,
    name: String,
    namespace: String,
    detached: bool,
    asynchronous: bool,
    groups: Vec<(String, u32)>,
    out_of_order: bool,
    handle: Vec<u8>,
) -> PyResult<Actor> {
    let process = session::current()?;
    process.breathe(py)?;
    let arguments = Arguments::encode(&process, args, kwargs)?;
    let running = demand(resources(pairs(running)?)?, strategy, Vec::new(), Vec::new())?.resources;
    let placement = demand(resources(pairs(placement)?)?, strategy, self::labels(labels), variables)?;
    let groups = groups
        .into_iter()
        .map(|(name, limit)| ConcurrencyGroup { name: name.as_str().into(), limit })
        .collect();
    let is_named = !name.is_empty();
    let wanted = name.clone();
    let job = process.welcome().job;
    let dependencies = arguments.dependencies.clone();
    let make = |id: TaskId| {
        Box::new(ActorSpec {
            id: ActorId(id),
            job,
            class: function_id(&code),
            code: code.into(),
            label: label.into(),
            arguments: arguments.encoded.into(),
            dependencies: Vec::new(),
            borrows: arguments.borrows,
            placement,
            running,
            restarts_max,
            name,
            namespace,
            detached,
            asynchronous,
            groups,
            out_of_order,
            handle: handle.into(),
        })
    };
    if !is_named {
        let id = process.submit(|id| Input::CreateActor { spec: make(id), dependencies, request: None });
        return Ok(Actor::counted(process, ActorId(id)));
    }
    let (id, answer) = py.detach(|| {
        process.ask_with(|id, request| Input::CreateActor {
            spec: make(id),
            dependencies,
            request: Some(request),
        })
    });
    let answer = answer.map_err(|why| session::stopped(py, &process, why));
    let actor = Actor::counted(process, ActorId(id));
    match answer? {
        Answer::ActorExists { .. } => {
            let message = format!("an actor named {wanted:?} exists in this namespace");
            Err(errors::named(py, "ActorAlreadyExistsError", message))
        }
        _ => Ok(actor),
    }
}

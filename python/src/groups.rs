//! Placement groups: making, watching and removing them.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use shoal_core::group::{Bundle, GroupSpec, GroupState, GroupStrategy};
use shoal_core::ids::{ActorId, GroupId, TaskId};
use shoal_core::message::Answer;
use shoal_core::owner::Input;

use crate::{calls, errors, objects, session, waits, worker};

pub(crate) fn parse_id(bytes: &[u8]) -> PyResult<GroupId> {
    objects::parse_task(bytes).map(GroupId)
}

pub(crate) fn id_bytes(py: Python<'_>, group: GroupId) -> Bound<'_, PyBytes> {
    PyBytes::new(py, &errors::task_array(group.0))
}

fn strategy(given: &str) -> PyResult<GroupStrategy> {
    match given {
        "PACK" => Ok(GroupStrategy::Pack),
        "SPREAD" => Ok(GroupStrategy::Spread),
        "STRICT_PACK" => Ok(GroupStrategy::StrictPack),
        "STRICT_SPREAD" => Ok(GroupStrategy::StrictSpread),
        other => Err(PyValueError::new_err(format!("there is no placement strategy {other:?}"))),
    }
}

/// The name of a strategy, as programs write it.
pub(crate) fn strategy_name(strategy: GroupStrategy) -> &'static str {
    match strategy {
        GroupStrategy::Pack => "PACK",
        GroupStrategy::Spread => "SPREAD",
        GroupStrategy::StrictPack => "STRICT_PACK",
        GroupStrategy::StrictSpread => "STRICT_SPREAD",
    }
}

#[pyfunction]
#[pyo3(signature = (*, bundles, strategy, name, namespace, detached))]
pub(crate) fn create_group<'py>(
    py: Python<'py>,
    bundles: Vec<(Bound<'py, PyDict>, Vec<calls::Selector>)>,
    strategy: &str,
    name: String,
    namespace: String,
    detached: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let process = session::current()?;
    let strategy = self::strategy(strategy)?;
    let bundles = bundles.into_iter().map(|(amounts, selectors)| {
        let resources = calls::resources(calls::pairs(&amounts)?)?;
        Ok(Bundle { resources, labels: calls::labels(selectors) })
    });
    let bundles = bundles.collect::<PyResult<Vec<Bundle>>>()?;
    let job = process.welcome().job;
    let creator: Option<ActorId> = worker::actor_here(&process);
    let make = |id: TaskId| {
        let id = GroupId(id);
        Box::new(GroupSpec { id, job, creator, name, namespace, detached, bundles, strategy })
    };
    let (id, answer) =
        py.detach(|| process.ask_with(|id, request| Input::CreateGroup { spec: make(id), request }));
    match answer.map_err(|why| session::stopped(py, &process, why))? {
        Answer::GroupRefused { detail } => Err(PyValueError::new_err(detail)),
        _ => Ok(id_bytes(py, GroupId(id))),
    }
}

#[pyfunction]
pub(crate) fn remove_group(group: &[u8]) -> PyResult<()> {
    let process = session::current()?;
    process.handle(Input::RemoveGroup { group: parse_id(group)? });
    process.flush();
    Ok(())
}

/// Wait until the group is placed; no, if it is not in time.
#[pyfunction]
#[pyo3(signature = (group, timeout))]
pub(crate) fn wait_group(py: Python<'_>, group: &[u8], timeout: Option<f64>) -> PyResult<bool> {
    let process = session::current()?;
    let group = parse_id(group)?;
    let deadline = session::deadline(&process, timeout)?;
    process.handle(Input::WatchGroup { group });
    process.flush();
    let placed = waits::wait(py, &process, deadline, |owner| match owner.group_state(group) {
        Some(GroupState::Placed { .. }) => Some(true),
        Some(GroupState::Removed) => Some(false),
        _ if !owner.watches_group(group) => Some(false),
        _ => None,
    });
    match placed {
        Ok(true) => Ok(true),
        Ok(false) => Err(PyValueError::new_err(format!(
            "the placement group {} was removed, or never made",
            shoal_core::group::text(group)
        ))),
        Err(shoal_runtime::process::Stopped::TimedOut) => Ok(false),
        Err(why) => Err(session::stopped(py, &process, why)),
    }
}

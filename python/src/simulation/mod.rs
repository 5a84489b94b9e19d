//! `shoal.sim`: a program's own tasks and actors in a simulated cluster, in one process, under virtual
//! time.
//!
//! The cluster is [`shoal_transport_sim::cluster`]: the real machines, and everything around them
//! simulated from a seed. This module gives the processes in it the program's own code: each thread of
//! each process is a thread of the system, and exactly one of them runs at a time. When it waits, it lets
//! the cluster go on until something happens that another thread, or it itself, waits for. So what runs
//! when is decided by the seed alone.

mod member;
mod threads;
mod users;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use shoal_core::ids::{ActorId, ProcessId};
use shoal_core::{Span, Time};
use shoal_runtime::process::Stopped;
use shoal_transport_sim::Fault;
use shoal_transport_sim::cluster::{HostSettings, HostState, Settings};

pub(crate) use self::member::Member;
use self::threads::Here;
use self::world::World;
use crate::process::Process;
use crate::{errors, session};

/// Looked at by every call of Shoal, so that real programs pay next to nothing for simulated ones.
static SIMULATING: AtomicBool = AtomicBool::new(false);

/// The simulated process that the present thread belongs to, if it belongs to one.
pub(crate) fn here() -> Option<Arc<Process>> {
    if !SIMULATING.load(Ordering::Relaxed) {
        return None;
    }
    threads::process()
}

/// A simulated cluster, as the driver that entered it sees it.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct Simulation {
    world: Arc<World>,
    driver: Arc<Process>,
}

fn stopped(py: Python<'_>, process: &Process, why: Stopped) -> PyErr {
    session::stopped(py, process, why)
}

fn span(seconds: f64) -> PyResult<Span> {
    let span = Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err(format!("{seconds} seconds make no sense")))?;
    // Time that is asked for passes: less than the clock tells would leave a loop where it is.
    let least = if seconds > 0.0 { 1_000 } else { 0 };
    Ok(Span(span.as_nanos().clamp(least, u128::from(u64::MAX / 4)) as u64))
}

fn host_settings(given: &Bound<'_, PyDict>) -> PyResult<HostSettings> {
    let mut host = HostSettings::default();
    for (name, value) in given {
        match name.extract::<String>()?.as_str() {
            "cpus" => host.cpus = value.extract()?,
            "store_bytes" => host.store_bytes = value.extract()?,
            "resources" => host.resources = value.extract()?,
            "labels" => host.labels = value.extract()?,
            other => return Err(PyValueError::new_err(format!("a simulated node has no {other:?}"))),
        }
    }
    Ok(host)
}

#[pymethods]
impl Simulation {
    /// Bring a cluster up, and make the present thread its driver.
    #[new]
    fn new(
        py: Python<'_>,
        nodes: Vec<Bound<'_, PyDict>>,
        seed: u64,
        time_limit: f64,
        patience: f64,
        switch: Py<PyAny>,
    ) -> PyResult<Simulation> {
        let hosts = nodes.iter().map(host_settings).collect::<PyResult<Vec<_>>>()?;
        let settings = Settings {
            hosts,
            heal_at_micros: 0,
            // A process that has begun stays a worker for a while; a step is what calls of Shoal take.
            step_micros: 100,
            ..Settings::default()
        };
        if SIMULATING.swap(true, Ordering::SeqCst) {
            return Err(PyRuntimeError::new_err("a simulated cluster is on already in this process"));
        }
        let limit = Time(span(time_limit)?.0);
        let world = World::new(settings, seed, limit, Duration::from_secs_f64(patience), switch);
        let driver = match py.detach(|| world.come_up()) {
            Ok(driver) => driver,
            Err(text) => {
                SIMULATING.store(false, Ordering::SeqCst);
                return Err(world::simulation_error(py, "BrokenError", text));
            }
        };
        let process = driver.welcome().process;
        let number = world.lock().add_thread(process, format!("{process:?} main"), true);
        let turn = world.lock().users.threads.get(&number).map(|thread| thread.turn.clone());
        let Some(turn) = turn else { unreachable!("added just now") };
        Here::set(Some(Here { number, world: world.clone(), process: driver.clone(), turn }));
        world.identify(number);
        world.show(py, process);
        Ok(Simulation { world, driver })
    }

    /// Who and where the driver is.
    fn describe<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        session::describe(py, &self.driver)
    }

    /// End the simulation. What was left although the driver had gone, one line each; nothing is looked for
    /// unless it is to end `orderly`.
    fn close(&self, py: Python<'_>, orderly: bool) -> PyResult<Vec<String>> {
        let Some(member) = self.driver.member() else { return Ok(Vec::new()) };
        let closed = py.detach(|| member.close(orderly && !self.world.is_abandoned()));
        self.world.abandon();
        Here::set(None);
        SIMULATING.store(false, Ordering::SeqCst);
        closed
    }

    /// Seconds of virtual time since the beginning.
    #[getter]
    fn now(&self) -> f64 {
        self.world.now().0 as f64 / 1e9
    }

    /// Stands for everything that happened so far and its order.
    #[getter]
    fn order(&self) -> u64 {
        self.world.lock().order()
    }

    /// One line for everything that waits.
    fn pending(&self) -> Vec<String> {
        self.world.lock().pending()
    }

    /// Name and identity of each thread.
    fn threads(&self) -> Vec<(String, u64)> {
        let inner = self.world.lock();
        inner.users.threads.values().map(|thread| (thread.name.clone(), thread.identity)).collect()
    }

    /// A number below `limit` from the seed.
    fn draw(&self, limit: u64) -> u64 {
        self.world.lock().cluster.random.below(limit.max(1))
    }

    /// For each machine the number of its node, if it is a member.
    fn nodes(&self) -> Vec<Option<u32>> {
        let inner = self.world.lock();
        inner
            .cluster
            .hosts
            .iter()
            .map(|host| match host.state {
                HostState::Member(node) => Some(node.0),
                HostState::Down | HostState::Joining => None,
            })
            .collect()
    }

    /// Each worker: its process, its machine, and the actor that it is.
    fn workers<'py>(&self, py: Python<'py>) -> Vec<(u64, usize, Option<Bound<'py, PyAny>>)> {
        let inner = self.world.lock();
        let workers = inner.cluster.processes.iter().filter(|(_, process)| process.driver.is_none());
        let workers: Vec<(u64, usize, Option<ActorId>)> = workers
            .map(|(id, process)| (id.0, process.host, process.actor.map(|(actor, _)| actor)))
            .collect();
        drop(inner);
        let actor = |id: ActorId| errors::actor_bytes(py, id).into_any();
        workers.into_iter().map(|(id, host, id_of)| (id, host, id_of.map(actor))).collect()
    }

    /// A machine loses power.
    fn kill_host(&self, host: usize, restarts: bool) {
        let mut inner = self.world.lock();
        inner.cluster.set_daemon(host, restarts);
        inner.cluster.crash_host(host);
    }

    /// A machine has power again.
    fn start_host(&self, host: usize) {
        self.world.lock().cluster.set_daemon(host, true);
    }

    /// A process is killed.
    fn kill_process(&self, process: u64) {
        self.world.lock().cluster.crash(ProcessId(process), 9);
    }

    /// Nothing comes through from one machine to another for so long.
    fn block(&self, from: usize, to: usize, seconds: f64) -> PyResult<()> {
        let micros = span(seconds)?.0 / 1_000;
        self.world.lock().cluster.block(from, to, micros);
        Ok(())
    }

    /// Everything comes through again.
    fn heal(&self) {
        self.world.lock().cluster.unblock_all();
    }

    /// Something else goes wrong with a machine for so long.
    fn strike(&self, kind: &str, host: usize, seconds: f64) -> PyResult<()> {
        let micros = span(seconds)?.0 / 1_000;
        let choice = host as u64;
        let fault = match kind {
            "pause" => Fault::HostPause { at_micros: 0, choice, micros },
            "slow" => Fault::Slow { at_micros: 0, choice, micros, by_micros: 20_000 },
            "clog" => Fault::Clog { at_micros: 0, choice, micros, by_micros: 200_000 },
            "cut" => Fault::Cut { at_micros: 0, choice },
            other => return Err(PyValueError::new_err(format!("there is no fault {other:?}"))),
        };
        self.world.lock().cluster.strike(&fault);
        Ok(())
    }
}

/// Who is asked for something that only a simulated thread can do.
fn present() -> PyResult<Here> {
    Here::get().ok_or_else(|| PyRuntimeError::new_err("this thread is not part of a simulation"))
}

fn member(process: &Process) -> PyResult<&Member> {
    process.member().ok_or_else(|| PyRuntimeError::new_err("this process is not simulated"))
}

/// The simulated process that the present thread belongs to, or None.
#[pyfunction]
pub(crate) fn simulated_process() -> Option<u64> {
    here().map(|process| process.welcome().process.0)
}

/// Virtual nanoseconds since the beginning and since the epoch, or None on a thread that is not simulated.
#[pyfunction]
pub(crate) fn simulated_time() -> Option<(u64, u64)> {
    if !SIMULATING.load(Ordering::Relaxed) {
        return None;
    }
    let here = Here::get()?;
    let now = here.world.now().0;
    Some((now, here.world.nanos_since_epoch()))
}

/// Let virtual time pass.
#[pyfunction]
pub(crate) fn simulated_sleep(py: Python<'_>, seconds: f64) -> PyResult<()> {
    let here = present()?;
    let (member, span) = (member(&here.process)?, span(seconds)?);
    py.detach(|| member.sleep(span)).map_err(|why| stopped(py, &here.process, why))
}

/// Wait until another thread of the process says this token, or, with `jobs`, a call has come; False when
/// the time is over.
#[pyfunction]
pub(crate) fn simulated_park(py: Python<'_>, token: u64, timeout: Option<f64>, jobs: bool) -> PyResult<bool> {
    let here = present()?;
    let (member, timeout) = (member(&here.process)?, timeout.map(span).transpose()?);
    py.detach(|| member.park(token, timeout, jobs)).map_err(|why| stopped(py, &here.process, why))
}

/// Say a token to the threads of this process that wait for it.
#[pyfunction]
pub(crate) fn simulated_unpark(token: u64) {
    if let Some(here) = Here::get()
        && let Some(member) = here.process.member()
    {
        member.unpark(token);
    }
}

/// Who the threads of a process act for.
#[pyclass(frozen, module = "shoal._shoal")]
pub(crate) struct SimulatedThread {
    here: Here,
}

#[pymethods]
impl SimulatedThread {
    /// A new thread of the present process.
    #[new]
    fn new(name: &str) -> PyResult<SimulatedThread> {
        let Here { world, process, .. } = present()?;
        let id = process.welcome().process;
        let mut inner = world.lock();
        let number = inner.add_thread(id, format!("{id:?} {name}"), false);
        let turn = inner.users.threads.get(&number).map(|thread| thread.turn.clone());
        drop(inner);
        let turn = turn.ok_or_else(|| PyRuntimeError::new_err("the thread is gone already"))?;
        Ok(SimulatedThread { here: Here { number, world, process, turn } })
    }

    /// The present thread is this one; wait for its turn.
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        let here = self.here.clone();
        let (world, process, number) = (here.world.clone(), here.process.welcome().process, here.number);
        world.identify(number);
        py.detach(|| here.take_turn())?;
        let gone = here.process.has_left();
        Here::set(Some(here));
        if gone {
            let text = String::from("this process was killed");
            return Err(world::simulation_error(py, "ProcessKilled", text));
        }
        world.show(py, process);
        Ok(())
    }

    /// It ends.
    fn end(&self, py: Python<'_>) {
        let (world, number) = (self.here.world.clone(), self.here.number);
        Here::set(None);
        py.detach(|| world.thread_ends(number));
    }
}

/// End the present process at once, with this code.
#[pyfunction]
pub(crate) fn simulated_exit(py: Python<'_>, code: i32) -> PyResult<()> {
    let here = present()?;
    if here.number == threads::DRIVER || !here.process.is_worker() {
        return Err(PyRuntimeError::new_err("the driver of a simulation cannot end its process"));
    }
    here.world.lock().cluster.end(here.process.welcome().process, code);
    // Its threads are told when they come here next; this one is told now.
    simulated_sleep(py, 0.0)
}

//! The extension module of the `shoal` package. It only converts and forwards: what is decided is
//! decided in `shoal-core`, what touches the system is in `shoal-runtime`.

mod calls;
mod errors;
mod execute;
mod groups;
mod interrupt;
mod objects;
mod process;
mod session;
mod simulation;
mod values;
mod waits;
mod worker;

use pyo3::prelude::*;

#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Run the `shoal` command.
#[pyfunction]
fn main(py: Python<'_>, program: Vec<String>, arguments: Vec<String>) -> i32 {
    py.detach(|| shoal_cli::main(program, arguments))
}

#[pymodule(gil_used = false)]
mod _shoal {
    #[pymodule_export]
    use super::calls::{Function, Method, create_actor, put};
    #[pymodule_export]
    use super::execute::Assigned;
    #[pymodule_export]
    use super::groups::{create_group, remove_group, wait_group};
    #[pymodule_export]
    use super::interrupt::{on_cancel, take_interrupt};
    #[pymodule_export]
    use super::objects::{Actor, ObjectRef, Stream, rebuild_actor, rebuild_reference};
    #[pymodule_export]
    use super::session::{ask, connect, disconnect, is_connected, process_info, task_events};
    #[pymodule_export]
    use super::simulation::{
        SimulatedThread, Simulation, simulated_exit, simulated_park, simulated_process, simulated_sleep,
        simulated_time, simulated_unpark,
    };
    #[pymodule_export]
    use super::values::StoredBytes;
    #[pymodule_export]
    use super::waits::{cancel, get, get_one, wait_many, wait_refs};
    #[pymodule_export]
    use super::worker::{
        Construction, current_group, current_task, exit_actor_requested, flush, is_canceled, poll_tasks,
        pollable, run_tasks, run_template, set_asynchronous,
    };
    #[pymodule_export]
    use super::{main, version};
}

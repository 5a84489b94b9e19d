//! Threads of simulated processes. Each is a thread of the system, and exactly one of them runs: whoever
//! has the turn. A thread that waits lets the world go on until it says whose turn is next.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;
use shoal_core::Time;
use shoal_core::ids::ProcessId;

use super::world::World;
use crate::process::Process;

/// A thread's number in its simulation; the driver's first one is 0.
pub(crate) type Number = u32;

/// The thread that entered the simulation.
pub(super) const DRIVER: Number = 0;

/// A thread that waits again and again although its process is gone is left lying after so often.
const UNWINDING_MAX: u32 = 100;

/// A thread's turn.
#[derive(Default)]
pub(super) struct Turn {
    given: Mutex<bool>,
    changed: Condvar,
}

impl Turn {
    pub(super) fn give(&self) {
        *self.given.lock() = true;
        self.changed.notify_one();
    }

    fn take(&self) {
        let mut given = self.given.lock();
        while !*given {
            self.changed.wait(&mut given);
        }
        *given = false;
    }

    /// Whether it came within this time.
    fn take_within(&self, limit: Duration) -> bool {
        let mut given = self.given.lock();
        if !*given {
            self.changed.wait_for(&mut given, limit);
        }
        std::mem::take(&mut *given)
    }
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Interest {
    /// Time to pass.
    Time,
    /// Whatever happens in the process.
    News,
    /// A call to run, of a concurrency group or of any.
    Job,
    /// Another thread to say this.
    Signal { token: u64, jobs: bool },
}

/// A thread that waits.
pub(super) struct Wait {
    pub(super) on: ProcessId,
    pub(super) interest: Interest,
    pub(super) since: Time,
    pub(super) until: Option<Time>,
}

/// What the world knows of a thread.
pub(super) struct Thread {
    pub(super) process: ProcessId,
    pub(super) name: String,
    /// The first one of its process.
    pub(super) is_main: bool,
    pub(super) turn: Arc<Turn>,
    pub(super) wait: Option<Wait>,
    /// Only wake-ups with the latest number count.
    pub(super) wake: u32,
    /// Such a one is under way.
    pub(super) waking: bool,
    pub(super) unwindings: u32,
    /// The interpreter's name for it.
    pub(super) identity: u64,
}

impl Thread {
    pub(super) fn new(process: ProcessId, name: String, is_main: bool) -> Thread {
        Thread {
            process,
            name,
            is_main,
            turn: Arc::default(),
            wait: None,
            wake: 0,
            waking: false,
            unwindings: 0,
            identity: 0,
        }
    }

    /// It has been told often enough that its process is gone.
    pub(super) fn does_not_unwind(&mut self) -> bool {
        self.unwindings += 1;
        self.unwindings > UNWINDING_MAX
    }
}

/// Who the present thread is.
#[derive(Clone)]
pub(super) struct Here {
    pub(super) number: Number,
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
    pub(super) turn: Arc<Turn>,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

impl Here {
    /// None on a thread that is not simulated.
    pub(super) fn get() -> Option<Here> {
        HERE.with_borrow(Clone::clone)
    }

    pub(super) fn set(here: Option<Here>) {
        // What was there may run destructors of the program: not under the borrow.
        drop(HERE.replace(here));
    }

    /// Wait for this thread's turn. An error is what the interpreter raised meanwhile, which only the main
    /// thread, the driver's, is told.
    pub(super) fn take_turn(&self) -> Result<(), PyErr> {
        if self.number != DRIVER {
            self.turn.take();
            return Ok(());
        }
        let mut stalled = Duration::ZERO;
        let look = Duration::from_millis(200);
        let mut seen = self.world.handovers();
        while !self.turn.take_within(look) {
            Python::attach(|py| py.check_signals())?;
            let now = self.world.handovers();
            stalled = if now == seen { stalled + look } else { Duration::ZERO };
            seen = now;
            if stalled >= self.world.patience {
                return Err(self.world.stalled(stalled));
            }
        }
        Ok(())
    }
}

/// The process that the present thread belongs to, if it is simulated.
pub(super) fn process() -> Option<Arc<Process>> {
    HERE.with_borrow(|here| here.as_ref().map(|here| here.process.clone()))
}

/// Start the first thread of a worker. It begins when its turn comes.
pub(super) fn start_worker(here: Here, name: &str) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_string()).stack_size(8 << 20).spawn(move || {
        here.turn.take();
        let (world, number) = (here.world.clone(), here.number);
        world.identify(number);
        Python::attach(|py| {
            let process = here.process.clone();
            Here::set(Some(here));
            world.show(py, process.welcome().process);
            let served = py
                .import("shoal.sim._worker")
                .and_then(|module| module.call_method1("serve", (process.welcome().process.0,)));
            if let Err(error) = served
                && !process.has_left()
            {
                error.write_unraisable(py, None);
            }
        });
        leave(&world, number);
    })?;
    Ok(())
}

/// The present thread ends, or goes on outside of the simulation: the next one's turn.
pub(super) fn leave(world: &Arc<World>, number: Number) {
    // The last owner of its process, maybe.
    Python::attach(|_| Here::set(None));
    world.thread_ends(number);
}

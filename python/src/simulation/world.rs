//! A simulated cluster with a program's own code in its processes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use pyo3::prelude::*;
use shoal_core::ids::{ObjectId, ProcessId};
use shoal_core::{Span, Time};
use shoal_runtime::process::Noted;
use shoal_transport_sim::Trace;
use shoal_transport_sim::cluster::{Cluster, HostState, Settings};

use super::threads::{DRIVER, Number, Thread};
use super::users::Users;
use crate::process::Process;

/// An object's bytes.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) object: ObjectId,
    pub(super) bytes: Bytes,
}

impl shoal_transport_sim::Content for Content {
    fn object(&self) -> ObjectId {
        self.object
    }
}

/// After so long without anything under way, programs that wait wait for ever. Longer than any of the
/// cluster's own deadlines: it takes ten seconds to give up a silent node.
const QUIET: Span = Span::from_secs(90);

/// After so long without anything under way, nothing is left of a driver that has gone.
const REST: Span = Span::from_secs(20);

/// Midnight of 1 January 2025, UTC, in microseconds: when every simulation begins.
const BEGINNING: u64 = 1_735_689_600_000_000;

/// Why a simulation cannot go on.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Everybody waits, for ever.
    Deadlock(String),
    /// Its time is over.
    TimedOut(String),
    /// An assertion of Shoal's own failed.
    Broken(String),
}

/// See the module's text.
pub(crate) struct World {
    inner: Mutex<Inner>,
    /// References that came and went.
    noted: Mutex<Vec<(ProcessId, Noted)>>,
    began: Instant,
    handovers: AtomicU64,
    /// How long a thread may keep its turn, in real time.
    pub(super) patience: Duration,
    abandoned: AtomicBool,
    /// `switch(process)` gives the interpreter's own state of a process back to it.
    switch: Py<PyAny>,
}

/// What is under the lock: never held while the program's code runs, or may run.
pub(super) struct Inner {
    pub(super) cluster: Cluster<Content>,
    pub(super) users: Users,
    pub(super) verdict: Option<Verdict>,
    pub(super) phase: Phase,
    time_limit: Time,
    quiet_since: Option<Time>,
    /// Whose state the interpreter has.
    shown: ProcessId,
    /// Stands for the order in which things happened.
    order: u64,
}

/// How far a simulation is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// The program runs.
    Runs,
    /// The driver has left; the cluster cleans up.
    Rests,
    /// Every thread ends.
    Closes,
}

impl World {
    pub(super) fn new(
        settings: Settings,
        seed: u64,
        time_limit: Time,
        patience: Duration,
        switch: Py<PyAny>,
    ) -> Arc<World> {
        Arc::new_cyclic(|world: &Weak<World>| {
            let mut cluster = Cluster::new(settings, Vec::new(), seed, Trace::default());
            cluster.connect_driver(0, Time(0), "simulation");
            let inner = Inner {
                cluster,
                users: Users::new(world.clone()),
                verdict: None,
                phase: Phase::Runs,
                time_limit,
                quiet_since: None,
                shown: ProcessId::HEAD,
                order: seed,
            };
            World {
                inner: Mutex::new(inner),
                noted: Mutex::default(),
                began: Instant::now(),
                handovers: AtomicU64::new(0),
                patience,
                abandoned: AtomicBool::new(false),
                switch,
            }
        })
    }

    /// Let the cluster come up: every daemon is a member, and the driver is in.
    pub(super) fn come_up(&self) -> Result<Arc<Process>, String> {
        let mut inner = self.lock();
        let Inner { cluster, users, .. } = &mut *inner;
        let up = |cluster: &Cluster<Content>| {
            cluster.hosts.iter().all(|host| matches!(host.state, HostState::Member(_)))
        };
        while users.driver().is_none() || !up(cluster) {
            if cluster.now() > Time(0) + Span::from_secs(60) || !cluster.step(users) {
                return Err(format!("the cluster does not come up: {:?}", cluster.pending()));
            }
        }
        // Once the nodes know of each other.
        let until = cluster.now() + Span::from_secs(1);
        while cluster.next_at().is_some_and(|at| at <= until) {
            cluster.step(users);
        }
        users.driver().ok_or_else(|| String::from("the driver was not let in"))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock();
        loop {
            let noted = std::mem::take(&mut *self.noted.lock());
            if noted.is_empty() {
                return inner;
            }
            for (process, noted) in noted {
                inner.cluster.tell(process, noted.into_input());
            }
        }
    }

    pub(super) fn note(&self, process: ProcessId, noted: Noted) {
        self.noted.lock().push((process, noted));
    }

    /// Virtual time as an instant, for those that reckon with instants.
    pub(super) fn instant(&self) -> Instant {
        self.began + Duration::from_nanos(self.now().0)
    }

    /// The virtual time that an instant of this world stands for.
    pub(super) fn time(&self, instant: Instant) -> Time {
        Time(instant.saturating_duration_since(self.began).as_nanos().min(u128::from(u64::MAX / 2)) as u64)
    }

    pub(super) fn now(&self) -> Time {
        self.inner.lock().cluster.now()
    }

    pub(super) fn nanos_since_epoch(&self) -> u64 {
        BEGINNING * 1_000 + self.now().0
    }

    pub(super) fn handovers(&self) -> u64 {
        self.handovers.load(Ordering::Relaxed)
    }

    /// The present thread is this one.
    pub(super) fn identify(&self, number: Number) {
        // SAFETY: takes no arguments and cannot fail.
        let identity = unsafe { libc::pthread_self() };
        if let Some(thread) = self.inner.lock().users.threads.get_mut(&number) {
            thread.identity = identity as u64;
        }
    }

    /// Nobody simulates any more: threads that are left end when they come here next.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    /// Whether the interpreter has the state of another process.
    pub(super) fn is_other_shown(&self, process: ProcessId) -> bool {
        self.inner.lock().shown != process
    }

    /// The program of this process goes on.
    pub(super) fn show(&self, py: Python<'_>, process: ProcessId) {
        {
            let mut inner = self.inner.lock();
            if inner.shown == process {
                return;
            }
            inner.shown = process;
        }
        if let Err(error) = self.switch.call1(py, (process.0,)) {
            error.write_unraisable(py, None);
        }
    }

    /// Give the turn away.
    pub(super) fn hand_over(&self, mut inner: MutexGuard<'_, Inner>, next: Number) {
        self.handovers.fetch_add(1, Ordering::Relaxed);
        inner.users.running = next;
        if let Some(thread) = inner.users.threads.get(&next) {
            let turn = thread.turn.clone();
            drop(inner);
            turn.give();
        }
    }

    /// A thread is over: the next one's turn.
    pub(super) fn thread_ends(&self, number: Number) {
        let mut inner = self.lock();
        inner.users.threads.remove(&number);
        if inner.users.running != number || self.is_abandoned() {
            return;
        }
        let next = inner.drive();
        self.hand_over(inner, next);
    }

    /// What became of the program that has its turn for too long.
    pub(super) fn stalled(&self, waited: Duration) -> PyErr {
        let text = {
            let inner = self.inner.lock();
            let running = inner.users.running;
            let name = inner.users.threads.get(&running).map_or("?", |thread| thread.name.as_str());
            format!(
                "{name} has been running for {} s of real time without a call of Shoal or a wait that the \
                 simulation knows of. Does it compute that long, or wait for something outside?",
                waited.as_secs()
            )
        };
        self.abandon();
        Python::attach(|py| simulation_error(py, "StalledError", text))
    }
}

/// An exception of `shoal.sim`.
pub(super) fn simulation_error(py: Python<'_>, class: &str, text: String) -> PyErr {
    let made = py
        .import("shoal.sim._errors")
        .and_then(|module| module.getattr(class))
        .and_then(|class| class.call1((text,)));
    made.map_or_else(|error| error, PyErr::from_value)
}

impl Inner {
    /// Let the world go on until it is some thread's turn.
    pub(super) fn drive(&mut self) -> Number {
        loop {
            self.cluster.attend(&mut self.users);
            if let Some(next) = self.users.ready.pop_front() {
                self.mix(u64::from(next));
                return next;
            }
            if self.verdict.is_some() || self.phase == Phase::Closes {
                return DRIVER;
            }
            if self.is_at_rest() {
                if self.phase == Phase::Runs {
                    self.verdict = Some(self.stuck());
                }
                return DRIVER;
            }
            let stepped = catch_unwind(AssertUnwindSafe(|| self.cluster.step(&mut self.users)));
            if let Err(panic) = stepped {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                self.verdict = Some(Verdict::Broken(text.unwrap_or_default()));
            } else if let Some(text) = self.cluster.broken.take() {
                self.verdict = Some(Verdict::Broken(text));
            }
        }
    }

    fn is_at_rest(&mut self) -> bool {
        let now = self.cluster.now();
        if self.phase == Phase::Runs && now > self.time_limit {
            return true;
        }
        if self.cluster.is_busy() {
            self.quiet_since = None;
            return false;
        }
        let since = *self.quiet_since.get_or_insert(now);
        let patience = if self.phase == Phase::Runs { QUIET } else { REST };
        self.cluster.next_at().is_none_or(|at| at > since + patience)
    }

    fn stuck(&self) -> Verdict {
        let lines = self.pending().join("\n  ");
        if self.cluster.now() > self.time_limit {
            let seconds = self.time_limit.0 / 1_000_000_000;
            return Verdict::TimedOut(format!("no end after {seconds} s of virtual time:\n  {lines}"));
        }
        Verdict::Deadlock(format!("nothing happens any more, and these wait:\n  {lines}"))
    }

    /// One line for everything that waits.
    pub(super) fn pending(&self) -> Vec<String> {
        let mut lines = self.users.pending(&self.cluster);
        lines.extend(self.cluster.pending());
        lines
    }

    /// What is left although no driver is: processes other than detached actors, and bytes in stores.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(Verdict::Broken(text)) = &self.verdict {
            lines.push(text.clone());
        }
        let actors = self.cluster.processes.values().filter(|process| process.actor.is_some()).count();
        for (id, process) in &self.cluster.processes {
            if process.actor.is_none() {
                lines.push(format!("the worker {id:?} of {:?}", process.job));
            }
        }
        for (id, daemon) in &self.cluster.nodes {
            let used = daemon.node.inspect().store.used;
            if used > 0 && actors == 0 {
                lines.push(format!("{used} bytes in the store of {id:?}"));
            }
        }
        lines
    }

    /// What happened, and when, becomes part of the order.
    pub(super) fn mix(&mut self, what: u64) {
        for word in [what, self.cluster.now().0, self.cluster.trace.count()] {
            self.order = (self.order.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    pub(super) fn order(&self) -> u64 {
        self.order
    }

    /// Whether a process is there. Its program may not have been told yet that it is not.
    pub(super) fn is_alive(&self, process: ProcessId) -> bool {
        self.cluster.processes.contains_key(&process) && self.users.programs.contains_key(&process)
    }

    /// A new thread of a process, which begins after a moment.
    pub(super) fn add_thread(&mut self, process: ProcessId, name: String, is_main: bool) -> Number {
        self.users.add_thread(&mut self.cluster, Thread::new(process, name, is_main))
    }
}

/// Why the process of a thread does not go on, as an exception.
pub(super) fn verdict(py: Python<'_>, verdict: &Verdict) -> PyErr {
    let (class, text) = match verdict {
        Verdict::Deadlock(text) => ("DeadlockError", text),
        Verdict::TimedOut(text) => ("TimeLimitError", text),
        Verdict::Broken(text) => ("BrokenError", text),
    };
    simulation_error(py, class, text.clone())
}

//! A simulated cluster with simulated users: the programs of a scenario run in its processes.

mod calls;
mod groups;
mod pending;
mod program;
mod steps;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use shoal_core::ids::{ActorId, FunctionId, GroupId, JobId, ObjectId, ProcessId, TaskId};
use shoal_core::resources::Demand;
use shoal_core::{Span, Time};
use shoal_transport_sim::Trace;
use shoal_transport_sim::cluster::{self, Call, Programs};

use self::program::{Given, Holding, Program, Role, Thread, Waits};
use crate::observation::{Content, Observation};
use crate::program::{Class, Function};
use crate::rare;
use crate::scenario::{Driver, Scenario};
use crate::workloads;

/// A cluster whose objects say which attempt made them.
pub type Cluster = cluster::Cluster<Content>;

/// See the module's text.
pub struct World {
    /// The cluster.
    pub cluster: Cluster,
    /// Its users.
    pub users: Users,
}

/// The users of a cluster, and what they have done.
pub struct Users {
    script: Vec<Driver>,
    programs: BTreeMap<ProcessId, Program>,
    functions: BTreeMap<FunctionId, Rc<Function>>,
    classes: BTreeMap<ActorId, Rc<Class>>,
    /// Drivers that came, left, or finished.
    drivers: Vec<DriverState>,
    /// What was seen since the checks looked last.
    observations: Vec<Observation>,
    /// Attempts that really ended: with a value, or raising.
    pub ended: BTreeMap<ObjectId, Vec<(u32, bool)>>,
    /// Every task, and whether it has arguments passed by value.
    pub submitted: BTreeMap<TaskId, bool>,
    /// What every task and actor was given by value, in order; nothing of those that were given nothing.
    pub passed: BTreeMap<TaskId, Vec<ObjectId>>,
    /// The actors that outlive their creators.
    pub detached: BTreeSet<ActorId>,
    /// A process ended while a task ran in it, and its node lived on.
    pub cut_short: bool,
    /// Every task and actor that was to run in a placement group.
    pub within: BTreeMap<TaskId, Within>,
    /// Tasks that ran again after they had ended with a value.
    rebuilt: BTreeSet<TaskId>,
}

/// What work of a placement group asks for.
#[derive(Clone, Debug)]
pub struct Within {
    /// The group.
    pub group: GroupId,
    /// In that bundle, or in any.
    pub bundle: Option<u32>,
    /// Of it.
    pub demand: Demand,
}

impl Users {
    /// Whether this object was put, or stands for an actor's handle, and is no result of a task.
    pub fn is_put(&self, object: ObjectId) -> bool {
        object.index == 0 && !self.submitted.contains_key(&object.task)
    }

    /// Whether this object stands for an actor's handle.
    pub fn is_actor(&self, object: ObjectId) -> bool {
        object.index == 0 && self.classes.contains_key(&ActorId(object.task))
    }
}

/// How far a driver is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum DriverState {
    /// It has not been let in yet.
    Coming,
    /// It runs.
    In(ProcessId),
    /// Its program has ended; it is still there.
    Finished(ProcessId),
    /// Gone.
    Gone,
}

/// Users acting in their cluster.
struct Scene<'a> {
    cluster: &'a mut Cluster,
    users: &'a mut Users,
}

impl World {
    /// The world of a scenario, before anything has happened.
    pub fn new(scenario: &Scenario, trace: Trace) -> World {
        let seed = scenario.seed ^ 0x5eed_0f51_40a1;
        let mut cluster = Cluster::new(scenario.cluster.clone(), scenario.faults.clone(), seed, trace);
        for driver in &scenario.drivers {
            let at = Time(driver.starts_at_micros * 1_000);
            cluster.connect_driver(driver.host, at, "everybody");
        }
        let users = Users {
            script: scenario.drivers.clone(),
            programs: BTreeMap::new(),
            functions: BTreeMap::new(),
            classes: BTreeMap::new(),
            drivers: vec![DriverState::Coming; scenario.drivers.len()],
            observations: Vec::new(),
            ended: BTreeMap::new(),
            submitted: BTreeMap::new(),
            passed: BTreeMap::new(),
            detached: BTreeSet::new(),
            cut_short: false,
            within: BTreeMap::new(),
            rebuilt: BTreeSet::new(),
        };
        World { cluster, users }
    }

    /// Let the next event happen. Says whether there was one.
    pub fn step(&mut self) -> bool {
        self.cluster.step(&mut self.users)
    }

    /// What was seen since this was asked last, in order.
    pub fn observations(&mut self) -> Vec<Observation> {
        let mut list = std::mem::take(&mut self.users.observations);
        list.extend(self.cluster.facts.drain(..).map(Observation::Fact));
        list
    }

    /// Whether every driver's program has ended, or its process has.
    pub fn drivers_finished(&self) -> bool {
        let done = |state: &DriverState| matches!(state, DriverState::Finished(_) | DriverState::Gone);
        self.users.drivers.iter().all(done)
    }

    /// Every driver that is still there leaves.
    pub fn dismiss_drivers(&mut self) {
        for state in self.users.drivers.clone() {
            if let DriverState::Finished(process) = state {
                self.cluster.leave(process, 1_000);
            }
        }
    }
}

impl Programs for Users {
    type Content = Content;

    fn handle(&mut self, cluster: &mut Cluster, process: ProcessId, call: Call) {
        let mut scene = Scene { cluster, users: self };
        match call {
            Call::Born { job, driver } => scene.born(process, job, driver),
            Call::Run { assignment, .. } => scene.run_task(process, *assignment),
            Call::Construct { spec, .. } => scene.construct(process, *spec),
            Call::Wake { token } => scene.thread_step(process, (token >> 32) as u32, token as u32),
            Call::Changed { object } => {
                let waits =
                    |thread: &Thread| matches!(&thread.waits, Waits::Objects(list) if list.contains(&object));
                scene.for_threads(process, waits, |_| {});
            }
            Call::Interrupt { task } => {
                let runs = |thread: &Thread| thread.task() == Some(task);
                scene.for_threads(process, runs, |thread| thread.interrupted = true);
            }
            Call::Consumed { task, consumed } => {
                let note = |thread: &mut Thread| {
                    if let Role::Task { consumed: known, .. } = &mut thread.role {
                        *known = (*known).max(consumed);
                    }
                };
                scene.for_threads(process, |thread| thread.task() == Some(task), note);
            }
            Call::Answered { request, answer } => {
                let note = |thread: &mut Thread| thread.answer = Some(answer.clone());
                scene.for_threads(process, |thread| thread.waits == Waits::Answer(request), note);
            }
            Call::Room { request, refused } => {
                let note = |thread: &mut Thread| thread.room_refused = refused.clone();
                scene.for_threads(process, |thread| thread.waits == Waits::Room(request), note);
            }
            Call::Gone => {
                let program = self.programs.remove(&process);
                let streams = |thread: &Thread| thread.is_stream_of(process);
                if self.programs.values().any(|other| other.threads.values().any(streams)) {
                    cluster.count(rare::CONSUMER_GONE);
                }
                let threads = program.iter().flat_map(|program| program.threads.values());
                let works = threads.into_iter().any(|thread| thread.task().is_some());
                self.cut_short |= works && cluster.nodes.contains_key(&process.node());
                if let Some(number) = program.and_then(|program| program.driver) {
                    self.drivers[number] = DriverState::Gone;
                }
            }
            Call::Rejected { driver } => self.drivers[driver] = DriverState::Gone,
            Call::GroupChanged { group, .. } => {
                let waits = |thread: &Thread| matches!(thread.waits, Waits::Group(of, _) if of == group);
                scene.for_threads(process, waits, |_| {});
            }
        }
    }
}

impl Scene<'_> {
    fn observe(&mut self, observation: Observation) {
        let facts = self.cluster.facts.drain(..).map(Observation::Fact);
        self.users.observations.extend(facts);
        self.users.observations.push(observation);
    }

    fn born(&mut self, id: ProcessId, _job: JobId, driver: Option<usize>) {
        self.users.programs.insert(id, Program { driver, ..Program::default() });
        let Some(number) = driver else { return };
        self.users.drivers[number] = DriverState::In(id);
        let items = self.users.script[number].items.clone();
        for (index, item) in items.iter().enumerate() {
            let number = (number as u64) << 8 | index as u64;
            let script = workloads::build(item, number, &self.cluster.settings.hosts);
            self.start_thread(id, Thread::new(Rc::new(script), Role::Driver));
        }
        self.finish_driver(id);
    }

    /// A driver whose threads have all ended is done, and may leave at once.
    fn finish_driver(&mut self, id: ProcessId) {
        let Some(program) = self.users.programs.get(&id) else {
            return;
        };
        let Some(number) = program.driver else { return };
        if !program.threads.is_empty() {
            return;
        }
        self.users.drivers[number] = DriverState::Finished(id);
        if self.users.script[number].leaves_abruptly {
            self.cluster.leave(id, 1_000);
        }
    }

    /// Change some threads of a process, and let them go on.
    fn for_threads(&mut self, id: ProcessId, which: impl Fn(&Thread) -> bool, change: impl Fn(&mut Thread)) {
        let Some(program) = self.users.programs.get_mut(&id) else {
            return;
        };
        let mut woken = Vec::new();
        for (number, thread) in &mut program.threads {
            if which(thread) {
                change(thread);
                // One that does not wait goes on by itself.
                if thread.waits != Waits::Nothing {
                    thread.wake += 1;
                    woken.push(token(*number, thread.wake));
                }
            }
        }
        for token in woken {
            self.cluster.wake_in(id, self.cluster.settings.step_micros, token);
        }
    }

    fn start_thread(&mut self, id: ProcessId, thread: Thread) {
        let Some(program) = self.users.programs.get_mut(&id) else {
            return;
        };
        let number = program.next_thread;
        program.next_thread += 1;
        program.threads.insert(number, thread);
        self.cluster.wake_in(id, self.cluster.settings.step_micros, token(number, 0));
    }
}

/// So many microseconds.
fn micros(count: u64) -> Span {
    Span::from_micros(count)
}

/// Names a thread's latest wake-up.
fn token(thread: u32, wake: u32) -> u64 {
    u64::from(thread) << 32 | u64::from(wake)
}

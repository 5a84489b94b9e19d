//! The whole simulated system: machines, processes, network, store and disk under one event heap.

mod calls;
mod daemon;
mod faults;
mod pending;
mod process;
mod steps;
mod transport;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use shoal_core::ids::{ActorId, FunctionId, JobId, NodeId, ObjectId, OperationId, ProcessId, TaskId};
use shoal_core::message::Message;
use shoal_core::owner::{self, Owner};
use shoal_core::value::Death;
use shoal_core::{Effects, Machine, Span, Time};
use shoal_core::{head, node};
use shoal_transport_sim::{Heap, Network, Random, Way};

use crate::observation::Observation;
use crate::program::{Class, Function};
use crate::scenario::{Cluster, Scenario};
use crate::trace::Trace;
use crate::workloads;

pub use daemon::Daemon;
pub use process::Process;
use process::{Holding, Role, Thread, Waits};

/// The only node, so far.
pub const NODE: NodeId = NodeId(1);

/// Something that will happen.
#[derive(Debug)]
enum Event {
    /// A frame comes to the end of its way.
    Arrive(Way),
    /// A machine of a process has a deadline.
    Timer(ProcessId),
    /// A thread goes on.
    Step { process: ProcessId, thread: u32, wake: u64 },
    /// The node's machine has a deadline.
    NodeTimer,
    /// The head's machine has a deadline.
    HeadTimer,
    /// Something for the node from inside the daemon.
    Node(node::Input),
    /// Something for the head from inside the daemon.
    Head(head::Input),
    /// Work that the node started ends.
    Work(OperationId),
    /// A forked worker is up.
    WorkerUp(ProcessId),
    /// A process that was told to end does.
    Ends { process: ProcessId, code: i32 },
    /// A driver comes.
    DriverComes(usize),
    /// A driver leaves.
    DriverLeaves(ProcessId),
    /// A fault that has a time.
    Fault(usize),
    /// Nothing goes wrong any more.
    Heal,
}

/// What travels on a way.
#[derive(Debug)]
enum Frame {
    Message {
        from: ProcessId,
        to: ProcessId,
        message: Message,
    },
    /// The sender's end of the link is closed.
    Closed,
    /// The daemon sees that the process is gone.
    Exited {
        death: Death,
        last_started: Option<TaskId>,
    },
}

/// See the module's text.
pub struct World {
    heap: Heap<Event>,
    network: Network<Frame>,
    random: Random,
    /// What the run was set up with.
    pub scenario: Scenario,
    /// The node's machines, store and disk.
    pub daemon: Daemon,
    /// Every process that is alive.
    pub processes: BTreeMap<ProcessId, Process>,
    /// How every process that is not died.
    pub deaths: BTreeMap<ProcessId, Death>,
    /// Direct links, smaller process first.
    links: BTreeSet<(ProcessId, ProcessId)>,
    /// Facts since the checks looked last.
    pub observations: Vec<Observation>,
    /// Everything that happened.
    pub trace: Trace,
    /// Rare states that were reached, and how often.
    pub counters: BTreeMap<&'static str, u64>,
    functions: BTreeMap<FunctionId, Rc<Function>>,
    classes: BTreeMap<ActorId, Rc<Class>>,
    /// Drivers that came, left, or finished.
    drivers: Vec<DriverState>,
    healed: bool,
    /// Events that are not deadlines.
    busy: usize,
    effects: Option<Effects<owner::Effect>>,
    /// Attempts that really ended: with a value, or raising.
    pub ended: BTreeMap<ObjectId, Vec<(u32, bool)>>,
    /// Every task, and whether it has arguments passed by value.
    pub submitted: BTreeMap<TaskId, bool>,
    /// A broken rule that only the world sees.
    pub broken: Option<String>,
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

impl World {
    /// The world of a scenario, before anything has happened.
    pub fn new(scenario: Scenario, trace: Trace) -> World {
        let mut random = Random::new(scenario.seed ^ 0x5eed_0f51_40a1);
        let network = Network::new(random.fork(), scenario.cluster.delays);
        let daemon = Daemon::new(&scenario.cluster, random.draw());
        let mut world = World {
            heap: Heap::default(),
            network,
            random,
            daemon,
            processes: BTreeMap::new(),
            deaths: BTreeMap::new(),
            links: BTreeSet::new(),
            observations: Vec::new(),
            trace,
            counters: BTreeMap::new(),
            functions: BTreeMap::new(),
            classes: BTreeMap::new(),
            drivers: vec![DriverState::Coming; scenario.drivers.len()],
            healed: false,
            busy: 0,
            effects: Some(Effects::new()),
            ended: BTreeMap::new(),
            submitted: BTreeMap::new(),
            broken: None,
            scenario,
        };
        for (number, driver) in world.scenario.drivers.clone().iter().enumerate() {
            let at = micros(driver.starts_at_micros);
            world.schedule(Time(at.0), Event::DriverComes(number));
        }
        world.schedule_faults();
        world.start_daemon();
        world
    }

    /// The present.
    pub fn now(&self) -> Time {
        self.heap.now()
    }

    /// The cluster's settings.
    pub fn cluster(&self) -> &Cluster {
        &self.scenario.cluster
    }

    /// Whether anything but deadlines is still to happen.
    pub fn is_busy(&self) -> bool {
        self.busy > 0
    }

    /// Whether the time of faults is over.
    pub fn is_healed(&self) -> bool {
        self.healed
    }

    /// Whether every driver's program has ended, or its process has.
    pub fn drivers_finished(&self) -> bool {
        let done = |state: &DriverState| matches!(state, DriverState::Finished(_) | DriverState::Gone);
        self.drivers.iter().all(done)
    }

    /// Whether no driver is left.
    pub fn drivers_gone(&self) -> bool {
        self.drivers.iter().all(|state| *state == DriverState::Gone)
    }

    /// Count a rare state.
    pub fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    /// When the next event happens.
    pub fn next_at(&self) -> Option<Time> {
        self.heap.next_at()
    }

    fn schedule(&mut self, at: Time, event: Event) {
        if !matches!(event, Event::Timer(_) | Event::NodeTimer | Event::HeadTimer) {
            self.busy += 1;
        }
        self.heap.schedule(at, event);
    }

    fn schedule_in(&mut self, most_micros: u64, event: Event) {
        let span = self.random.span(Span(0), micros(most_micros));
        self.schedule(self.now() + span, event);
    }

    /// Let the next event happen. Says whether there was one.
    pub fn step(&mut self) -> bool {
        let Some(event) = self.heap.pop() else {
            return false;
        };
        if !matches!(event, Event::Timer(_) | Event::NodeTimer | Event::HeadTimer) {
            self.busy -= 1;
        }
        match event {
            Event::Arrive(way) => self.arrive(way),
            Event::Timer(process) => self.process_timer(process),
            Event::Step { process, thread, wake } => self.thread_step(process, thread, wake),
            Event::NodeTimer => self.node_timer(),
            Event::HeadTimer => self.head_timer(),
            Event::Node(input) => self.tell_node(input),
            Event::Head(input) => self.tell_head(input),
            Event::Work(operation) => self.work_ends(operation),
            Event::WorkerUp(process) => self.worker_up(process),
            Event::Ends { process, code } => self.die(process, Death::Exited { code }, false),
            Event::DriverComes(number) => self.driver_comes(number),
            Event::DriverLeaves(process) => self.die(process, Death::Exited { code: 0 }, false),
            Event::Fault(number) => self.timed_fault(number),
            Event::Heal => self.heal(),
        }
        true
    }

    fn driver_comes(&mut self, number: usize) {
        let input = node::Input::DriverConnected {
            connection: number as u64,
            pid: 1000 + number as u32,
            namespace: String::from("everybody"),
            prestart: self.random.between(0, 2) as u32,
            launch: bytes::Bytes::new(),
        };
        self.tell_node(input);
    }

    /// The daemon lets a driver in: its program begins.
    fn driver_in(&mut self, number: usize, process: ProcessId, job: JobId) {
        self.drivers[number] = DriverState::In(process);
        self.spawn(process, job);
        let items = self.scenario.drivers[number].items.clone();
        for (index, item) in items.iter().enumerate() {
            let number = (number as u64) << 8 | index as u64;
            let script = workloads::build(item, number);
            self.start_thread(process, Thread::new(Rc::new(script), Role::Driver));
        }
        if let Some(process) = self.processes.get_mut(&process) {
            process.driver = Some(number);
        }
        self.finish_driver(process);
    }

    fn spawn(&mut self, id: ProcessId, job: JobId) {
        let config = owner::Config::new(id, job, self.scenario.cluster.cpus);
        let mut process = Process::new(Owner::new(config), job);
        process.doom = self.doom_of(id);
        self.processes.insert(id, process);
    }

    /// A driver whose threads have all ended is done, and may leave at once.
    fn finish_driver(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get(&id) else {
            return;
        };
        let Some(number) = process.driver else { return };
        if !process.threads.is_empty() {
            return;
        }
        self.drivers[number] = DriverState::Finished(id);
        if self.scenario.drivers[number].leaves_abruptly {
            self.schedule_in(1_000, Event::DriverLeaves(id));
        }
    }

    /// Every driver that is still there leaves.
    pub fn dismiss_drivers(&mut self) {
        for state in self.drivers.clone() {
            if let DriverState::Finished(process) = state {
                self.schedule_in(1_000, Event::DriverLeaves(process));
            }
        }
    }

    fn process_timer(&mut self, id: ProcessId) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if process.timer.is_none_or(|due| due > now) || process.ending {
            return;
        }
        if process.paused_until > now {
            let at = process.paused_until;
            process.timer = Some(at);
            self.heap.schedule(at, Event::Timer(id));
            return;
        }
        process.timer = None;
        self.trace.record(now, id, '<', &"timeout");
        let mut effects = self.effects.take().unwrap_or_default();
        process.owner.handle_timeout(now, &mut effects);
        if let Some((due, wakeup)) = process.owner.poll_timeout()
            && due <= now
        {
            self.broken = Some(format!("{id:?}: the deadline {wakeup:?} is still due after it fired"));
        }
        self.perform(id, effects);
    }

    /// Give a process's machine an input, and let the effects take place.
    fn tell(&mut self, id: ProcessId, input: owner::Input) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        self.trace.record(now, id, '<', &input);
        let mut effects = self.effects.take().unwrap_or_default();
        process.owner.handle(now, input, &mut effects);
        self.perform(id, effects);
    }

    fn perform(&mut self, id: ProcessId, mut effects: Effects<owner::Effect>) {
        let now = self.now();
        for effect in effects.drain() {
            let Some(process) = self.processes.get_mut(&id) else {
                break;
            };
            if process.doom.is_some_and(|doom| process.effects >= doom) && !self.healed {
                self.count("crash at an effect");
                self.die(id, Death::Signalled { signal: 11 }, true);
                break;
            }
            process.effects += 1;
            self.trace.record(now, id, '>', &effect);
            self.owner_effect(id, effect);
        }
        self.effects = Some(effects);
        self.arm_timer(id);
    }

    fn arm_timer(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if let Some((due, _)) = process.owner.poll_timeout()
            && process.timer.is_none_or(|armed| due < armed)
        {
            process.timer = Some(due);
            self.heap.schedule(due, Event::Timer(id));
        }
    }

    fn owner_effect(&mut self, id: ProcessId, effect: owner::Effect) {
        match effect {
            owner::Effect::Send { to, message } => self.send(id, to, message),
            owner::Effect::Changed { object } => {
                self.wake(
                    id,
                    |thread| matches!(&thread.waits, Waits::Objects(list) if list.contains(&object)),
                );
            }
            owner::Effect::Run { assignment, group } => self.run_task(id, *assignment, group),
            owner::Effect::Construct { spec, incarnation, .. } => self.construct(id, *spec, incarnation),
            owner::Effect::Interrupt { task } => {
                self.for_threads(
                    id,
                    |thread| thread.task() == Some(task),
                    |thread| thread.interrupted = true,
                );
            }
            owner::Effect::Consumed { task, consumed } => {
                let note = |thread: &mut Thread| {
                    if let Role::Task { consumed: known, .. } = &mut thread.role {
                        *known = (*known).max(consumed);
                    }
                };
                self.for_threads(id, |thread| thread.task() == Some(task), note);
            }
            owner::Effect::Exit { force, .. } => self.exit(id, force),
            owner::Effect::Answered { request, answer } => {
                let note = |thread: &mut Thread| thread.answer = Some(answer.clone());
                self.for_threads(id, |thread| thread.waits == Waits::Answer(request), note);
            }
            owner::Effect::Room { request, refused } => {
                let note = |thread: &mut Thread| thread.room_refused = refused.clone();
                self.for_threads(id, |thread| thread.waits == Waits::Room(request), note);
            }
            owner::Effect::GroupChanged { .. } => {}
        }
    }

    fn exit(&mut self, id: ProcessId, force: bool) {
        if let Some(process) = self.processes.get_mut(&id)
            && !process.ending
        {
            process.ending = true;
            let most = if force { 0 } else { 20_000 };
            self.schedule_in(most, Event::Ends { process: id, code: i32::from(force) });
        }
    }

    fn wake(&mut self, id: ProcessId, which: impl Fn(&Thread) -> bool) {
        self.for_threads(id, which, |_| {});
    }

    /// Change some threads of a process, and let them go on.
    fn for_threads(&mut self, id: ProcessId, which: impl Fn(&Thread) -> bool, change: impl Fn(&mut Thread)) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let mut woken = Vec::new();
        for (number, thread) in &mut process.threads {
            if which(thread) {
                change(thread);
                // One that does not wait goes on by itself.
                if thread.waits != Waits::Nothing {
                    thread.wake += 1;
                    woken.push((*number, thread.wake));
                }
            }
        }
        for (thread, wake) in woken {
            let most = self.scenario.cluster.step_micros;
            self.schedule_in(most, Event::Step { process: id, thread, wake });
        }
    }

    fn start_thread(&mut self, id: ProcessId, thread: Thread) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let number = process.next_thread;
        process.next_thread += 1;
        process.threads.insert(number, thread);
        let most = self.scenario.cluster.step_micros;
        self.schedule_in(most, Event::Step { process: id, thread: number, wake: 0 });
    }
}

fn micros(count: u64) -> Span {
    Span::from_micros(count)
}

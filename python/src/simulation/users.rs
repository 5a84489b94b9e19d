//! The programs in the processes of a simulated cluster: what their threads wait for, and what has come
//! for them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Weak};

use shoal_core::ids::{JobId, ObjectId, ProcessId, RequestId, TaskId};
use shoal_core::message::Answer;
use shoal_core::value::Failure;
use shoal_runtime::control::Welcome;
use shoal_runtime::process::{Callback, Job};
use shoal_transport_sim::cluster::{self, Call, Programs};

use super::member::Member;
use super::threads::{self, DRIVER, Here, Interest, Number, Thread, Wait};
use super::world::{Content, World};
use crate::interrupt;
use crate::process::Process;

type Cluster = cluster::Cluster<Content>;

/// See the module's text.
pub(super) struct Users {
    world: Weak<World>,
    pub(super) programs: BTreeMap<ProcessId, Program>,
    pub(super) threads: BTreeMap<Number, Thread>,
    next_thread: Number,
    /// Threads whose turn comes, in order.
    pub(super) ready: VecDeque<Number>,
    /// Whose turn it is.
    pub(super) running: Number,
    driver: Option<ProcessId>,
    /// What must be dropped where the program's code may run.
    pub(super) gone: Vec<Program>,
}

/// What runs in a process, and what has come for it.
pub(super) struct Program {
    pub(super) process: Arc<Process>,
    /// A worker's first thread is there.
    has_thread: bool,
    jobs: Vec<VecDeque<Job>>,
    pub(super) callbacks: HashMap<ObjectId, Vec<Callback>>,
    /// To be called by a thread of the process.
    pub(super) fired: VecDeque<Callback>,
    pub(super) answers: HashMap<RequestId, Answer>,
    pub(super) rooms: HashMap<RequestId, Option<Failure>>,
    pub(super) consumed: HashMap<TaskId, u32>,
    /// Said by one thread to another, and not heard yet.
    pub(super) signals: Vec<u64>,
}

impl Program {
    pub(super) fn take_job(&mut self, group: Option<usize>) -> Option<Job> {
        match group {
            Some(group) => self.jobs.get_mut(group).and_then(VecDeque::pop_front),
            None => self.jobs.iter_mut().find_map(VecDeque::pop_front),
        }
    }

    pub(super) fn has_jobs(&self) -> bool {
        self.jobs.iter().any(|queue| !queue.is_empty())
    }

    fn add_job(&mut self, group: usize, job: Job) {
        if self.jobs.len() <= group {
            self.jobs.resize_with(group + 1, VecDeque::new);
        }
        self.jobs[group].push_back(job);
    }
}

/// Names a wake-up of a thread.
pub(super) fn token(number: Number, wake: u32) -> u64 {
    u64::from(number) << 32 | u64::from(wake)
}

impl Users {
    pub(super) fn new(world: Weak<World>) -> Users {
        Users {
            world,
            programs: BTreeMap::new(),
            threads: BTreeMap::new(),
            next_thread: DRIVER,
            ready: VecDeque::new(),
            running: DRIVER,
            driver: None,
            gone: Vec::new(),
        }
    }

    /// The driver's process, once it is in.
    pub(super) fn driver(&self) -> Option<Arc<Process>> {
        Some(self.programs.get(&self.driver?)?.process.clone())
    }

    fn born(&mut self, cluster: &mut Cluster, id: ProcessId, job: JobId, driver: Option<usize>) {
        let Some(world) = self.world.upgrade() else { return };
        let host = cluster.processes.get(&id).map_or(0, |process| process.host);
        let welcome = Welcome {
            process: id,
            node: id.node(),
            job,
            namespace: String::from("simulation"),
            segment: 0,
            huge_pages: false,
            session: String::from("/simulation"),
            cpus: cluster.hosts[host].settings.cpus,
        };
        if driver.is_some() {
            self.driver = Some(id);
            self.next_thread = DRIVER;
        }
        let program = Program {
            process: Process::simulated(Member::new(world, welcome, driver.is_none())),
            has_thread: driver.is_some(),
            jobs: Vec::new(),
            callbacks: HashMap::new(),
            fired: VecDeque::new(),
            answers: HashMap::new(),
            rooms: HashMap::new(),
            consumed: HashMap::new(),
            signals: Vec::new(),
        };
        self.programs.insert(id, program);
    }

    /// A new thread; all but the driver's first one begin after a moment.
    pub(super) fn add_thread(&mut self, cluster: &mut Cluster, mut thread: Thread) -> Number {
        let number = self.next_thread;
        self.next_thread += 1;
        let process = thread.process;
        if number != DRIVER {
            let since = cluster.now();
            thread.wait = Some(Wait { on: process, interest: Interest::Time, since, until: None });
            thread.waking = true;
            cluster.wake_in(process, cluster.settings.step_micros, token(number, 0));
        }
        self.threads.insert(number, thread);
        number
    }

    fn job(&mut self, cluster: &mut Cluster, id: ProcessId, group: usize, job: Job) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        program.add_job(group, job);
        if program.has_thread {
            self.wake(cluster, id, |interest| {
                matches!(interest, Interest::Job | Interest::Signal { jobs: true, .. })
            });
            return;
        }
        program.has_thread = true;
        let process = program.process.clone();
        let name = format!("shoal-{id:?}");
        let thread = Thread::new(id, format!("{id:?} main"), true);
        let turn = thread.turn.clone();
        let number = self.add_thread(cluster, thread);
        let Some(world) = self.world.upgrade() else { return };
        if let Err(error) = threads::start_worker(Here { number, world, process, turn }, &name) {
            cluster.broken = Some(format!("a thread cannot be started: {error}"));
        }
    }

    /// Threads that wait on a process for such things look again, after a moment.
    pub(super) fn wake(&mut self, cluster: &mut Cluster, on: ProcessId, which: impl Fn(Interest) -> bool) {
        for (number, thread) in &mut self.threads {
            if let Some(wait) = &thread.wait
                && wait.on == on
                && !thread.waking
                && which(wait.interest)
            {
                thread.waking = true;
                let most = cluster.settings.step_micros;
                cluster.wake_in(thread.process, most, token(*number, thread.wake));
            }
        }
    }

    /// Something for a thread of the process to call.
    pub(super) fn fire(&mut self, cluster: &mut Cluster, id: ProcessId, callback: Callback) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        program.fired.push_back(callback);
        self.wake(cluster, id, |_| true);
    }

    fn changed(&mut self, cluster: &mut Cluster, id: ProcessId, object: ObjectId) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let callbacks = program.callbacks.remove(&object).unwrap_or_default();
        for callback in callbacks {
            self.fire(cluster, id, callback);
        }
        self.news(cluster, id);
    }

    fn news(&mut self, cluster: &mut Cluster, id: ProcessId) {
        self.wake(cluster, id, |interest| interest == Interest::News);
    }

    fn woken(&mut self, wake: u64) {
        let number = (wake >> 32) as Number;
        let Some(thread) = self.threads.get_mut(&number) else { return };
        if thread.wait.is_some() && thread.wake == wake as u32 {
            thread.wait = None;
            self.ready.push_back(number);
        }
    }

    /// The process is gone: its threads are told, before anything else happens.
    fn gone(&mut self, id: ProcessId) {
        if let Some(program) = self.programs.remove(&id) {
            self.gone.push(program);
        }
        for (number, thread) in &mut self.threads {
            let concerned = thread.process == id || thread.wait.as_ref().is_some_and(|wait| wait.on == id);
            if concerned && thread.wait.take().is_some() {
                self.ready.push_back(*number);
            }
        }
    }

    /// One line for each thread that waits.
    pub(super) fn pending(&self, cluster: &Cluster) -> Vec<String> {
        let describe = |thread: &Thread| {
            let wait = thread.wait.as_ref()?;
            let what = match wait.interest {
                Interest::Time => "for time to pass",
                Interest::News => "for values, or an answer",
                Interest::Job => return None,
                Interest::Signal { jobs: true, .. } => "in its event loop",
                Interest::Signal { .. } => "for another thread",
            };
            let waited = (cluster.now() - wait.since).0 / 1_000_000;
            let driver = if Some(thread.process) == self.driver { " (the driver)" } else { "" };
            let limit =
                wait.until.map(|until| format!(", {} ms at most", (until - wait.since).0 / 1_000_000));
            let limit = limit.unwrap_or_default();
            Some(format!("thread {}{driver} has waited {what} for {waited} ms{limit}", thread.name))
        };
        self.threads.values().filter_map(describe).collect()
    }
}

impl Programs for Users {
    type Content = Content;

    fn handle(&mut self, cluster: &mut Cluster, id: ProcessId, call: Call) {
        match call {
            Call::Born { job, driver } => self.born(cluster, id, job, driver),
            Call::Run { assignment, group } => {
                self.job(cluster, id, group as usize, Job::Run(assignment));
            }
            Call::Construct { spec, incarnation, devices } => {
                self.job(cluster, id, 0, Job::Construct { spec, incarnation, devices });
            }
            Call::Interrupt { task } => {
                if let Some(program) = self.programs.get(&id) {
                    let process = program.process.clone();
                    self.fire(cluster, id, Box::new(move || interrupt::interrupt(&process, task)));
                }
                // A generator may wait for its consumer, which does not come any more.
                self.news(cluster, id);
            }
            Call::Consumed { task, consumed } => {
                if let Some(program) = self.programs.get_mut(&id) {
                    program.consumed.insert(task, consumed);
                }
                self.news(cluster, id);
            }
            Call::Changed { object } => self.changed(cluster, id, object),
            Call::Answered { request, answer } => {
                if let Some(program) = self.programs.get_mut(&id) {
                    program.answers.insert(request, answer);
                }
                self.news(cluster, id);
            }
            Call::Room { request, refused } => {
                if let Some(program) = self.programs.get_mut(&id) {
                    program.rooms.insert(request, refused);
                }
                self.news(cluster, id);
            }
            Call::GroupChanged { .. } => self.news(cluster, id),
            Call::Wake { token } => self.woken(token),
            Call::Gone => self.gone(id),
            Call::Rejected { .. } => {
                cluster.broken = Some(String::from("the driver was not let in"));
            }
        }
    }
}

//! The daemon's state, and how its machines are driven.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Rlimit;
use shoal_core::head;
use shoal_core::ids::{JobId, NodeId, ProcessId};
use shoal_core::message::Message;
use shoal_core::node::{self, Config, Node, Work};
use shoal_core::owner::{self, Owner};
use shoal_core::{Effects, Machine, Time};
use shoal_state::Etcd;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::broker::Pairs;
use super::cluster::{Cluster, Fetches, Gate, HeadSide, Offers, Wanted};
use super::links::{Link, LinkId};
use super::memory::MemoryReader;
use super::status::StatusRequests;
use super::templates::Job;
use super::work::Store;
use super::workers::Worker;
use crate::spin::Spin;
use crate::transport::Transport;

/// So often the daemon looks for an answer before it does anything else, if that pays: for less than
/// 100 microseconds.
const ANSWER_LOOKS_MAX: u32 = 256;

/// The daemon as its tasks share it. No borrow lives across an `await`.
pub(super) type Shared = Rc<RefCell<Daemon>>;

/// What a daemon is made of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) head: HeadSide,
    /// Where it stands for election while the head is elsewhere, if it may be the head.
    pub(super) candidacy: Option<Etcd>,
    pub(super) transport: Option<Arc<dyn Transport>>,
    pub(super) offers: Arc<Offers>,
    pub(super) store: Store,
    pub(super) memory: MemoryReader,
    /// The part of the memory that may be in use before workers are killed.
    pub(super) memory_threshold: f64,
    /// The limit of open files that templates get.
    pub(super) files_before: Rlimit,
    pub(super) session: PathBuf,
    pub(super) logs: PathBuf,
    pub(super) cpus: u32,
    pub(super) idle_exit: Option<Duration>,
}

pub(super) struct Daemon {
    /// For tasks that this state starts.
    pub(super) this: Weak<RefCell<Daemon>>,
    pub(super) id: NodeId,
    pub(super) store: Store,
    pub(super) memory: MemoryReader,
    /// The part of the memory that may be in use before workers are killed.
    pub(super) memory_threshold: f64,
    pub(super) files_before: Rlimit,
    pub(super) session: PathBuf,
    pub(super) logs: PathBuf,
    pub(super) cpus: u32,

    pub(super) links: HashMap<LinkId, Link>,
    pub(super) links_made: u64,
    /// Links with something to write.
    pub(super) dirty: Vec<LinkId>,
    /// Whose frames are being handled: it pays for what they cause.
    pub(super) source: Option<Source>,
    /// A local process that was sent something by another node, which may have an answer at once.
    pub(super) asked: Option<LinkId>,
    pub(super) spin: Spin,
    /// How often something was read: whether anything happens at all.
    pub(super) reads: u64,
    pub(super) processes: HashMap<ProcessId, Process>,
    pub(super) jobs: HashMap<JobId, Job>,
    pub(super) cluster: Cluster,
    /// Where the head is, whenever that changes.
    pub(super) head_places: watch::Sender<Option<SocketAddr>>,
    pub(super) offers: Arc<Offers>,
    pub(super) fetches: Fetches,
    pub(super) pairs: Pairs,
    pub(super) statuses: StatusRequests,
    /// Scratch for what workers print.
    pub(super) output_buffer: Vec<u8>,
    pub(super) monitor: Option<Task>,
    pub(super) sweep: Option<Task>,

    /// Why to stop, once somebody has asked for it.
    pub(super) stop_reason: Option<String>,
    pub(super) stop: Rc<Notify>,
    /// It stops because it cannot go on, so another start may take up what it leaves.
    pub(super) has_failed: bool,
    /// Set while everything is being ended: nothing new starts.
    pub(super) stopping: bool,
    idle_exit: Option<Duration>,
    idle_since: Instant,

    node: Node,
    node_effects: Effects<node::Effect>,
    /// Owns what dead processes owned.
    steward: Owner,
    steward_effects: Effects<owner::Effect>,
    inputs: VecDeque<Input>,
    started: Instant,
    wake: Rc<Notify>,
}

/// A local process other than the daemon.
pub(super) struct Process {
    pub(super) job: JobId,
    pub(super) link: Option<LinkId>,
    /// `None` for a driver.
    pub(super) worker: Option<Worker>,
}

/// What waits to be handled by a machine.
enum Input {
    Node(node::Input),
    Head(head::Input),
    Steward(owner::Input),
}

/// Where frames come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A local process.
    Link(LinkId),
    /// A session with another daemon.
    Gate(Rc<Gate>),
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Task(JoinHandle<()>);

impl Task {
    pub(super) fn spawn(future: impl Future<Output = ()> + 'static) -> Task {
        Task(tokio::task::spawn_local(future))
    }
    pub(super) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Call into the daemon from a task, and carry out what that causes.
pub(super) fn with<R>(shared: &Shared, call: impl FnOnce(&mut Daemon) -> R) -> R {
    let mut daemon = shared.borrow_mut();
    let result = call(&mut daemon);
    daemon.settle();
    result
}

/// Start the loop that writes what has been gathered, and fires deadlines.
pub(super) fn spawn_driving(shared: &Shared) {
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        let wake = Rc::clone(&shared.borrow().wake);
        loop {
            let deadline = {
                let mut daemon = shared.borrow_mut();
                daemon.fire();
                daemon.run_machines();
                daemon.flush();
                daemon.look_for_answer();
                daemon.deadline()
            };
            // Tasks that are ready run before this one is polled again, so one round of writing
            // follows whatever a whole round of reading has caused.
            match deadline {
                Some(deadline) => {
                    let _ = tokio::time::timeout_at(deadline.into(), wake.notified()).await;
                }
                None => wake.notified().await,
            }
        }
    });
}

impl Daemon {
    pub(super) fn new(parts: Parts) -> Shared {
        Rc::new_cyclic(|this| {
            let id = parts.config.node;
            let steward = Owner::new(owner::Config::steward(id, parts.cpus));
            RefCell::new(Daemon {
                this: this.clone(),
                id,
                store: parts.store,
                memory: parts.memory,
                memory_threshold: parts.memory_threshold,
                files_before: parts.files_before,
                session: parts.session,
                logs: parts.logs,
                cpus: parts.cpus,
                links: HashMap::new(),
                links_made: 0,
                dirty: Vec::new(),
                source: None,
                asked: None,
                spin: Spin::serving(ANSWER_LOOKS_MAX),
                reads: 0,
                processes: HashMap::new(),
                jobs: HashMap::new(),
                pairs: Pairs::default(),
                statuses: StatusRequests::default(),
                output_buffer: Vec::new(),
                monitor: None,
                sweep: None,
                stop_reason: None,
                stop: Rc::new(Notify::new()),
                has_failed: false,
                stopping: false,
                idle_exit: parts.idle_exit,
                idle_since: Instant::now(),
                head_places: watch::Sender::new(None),
                offers: parts.offers,
                fetches: Fetches::default(),
                cluster: Cluster::new(parts.transport, parts.head, parts.candidacy),
                node: Node::new(parts.config),
                node_effects: Effects::new(),
                steward,
                steward_effects: Effects::new(),
                inputs: VecDeque::new(),
                started: Instant::now(),
                wake: Rc::new(Notify::new()),
            })
        })
    }

    /// The daemon as its tasks share it.
    pub(super) fn shared(&self) -> Shared {
        self.this.upgrade().expect("the daemon calls itself, so it exists")
    }

    /// This daemon as a sender of messages.
    pub(super) fn daemon_process(&self) -> ProcessId {
        ProcessId::daemon(self.id)
    }

    /// Let the node machine know something. Nothing happens before [`Daemon::settle`].
    pub(super) fn tell_node(&mut self, input: node::Input) {
        self.inputs.push_back(Input::Node(input));
    }

    /// Let the head's machine know something, if it is here.
    pub(super) fn tell_head(&mut self, input: head::Input) {
        self.inputs.push_back(Input::Head(input));
    }

    /// Hand a message to the machine that it is for.
    pub(super) fn deliver(&mut self, to: ProcessId, from: ProcessId, message: Message) {
        if to == ProcessId::HEAD && self.is_head_elsewhere() {
            self.send_to_head(from, &message);
        } else if to == ProcessId::HEAD {
            self.tell_head(head::Input::Received { via: self.id, from, message });
        } else if to == self.steward.process() {
            self.inputs.push_back(Input::Steward(owner::Input::Received { from, message }));
        } else if matches!(message, Message::Answer { .. }) {
            // The machine asks nothing: the daemon has, on behalf of people.
            self.take_answer(message);
        } else {
            self.inputs.push_back(Input::Node(node::Input::Received { from, message }));
        }
    }

    /// Whether a message for this process is one for a machine of this daemon.
    pub(super) fn is_own(&self, process: ProcessId) -> bool {
        process == ProcessId::HEAD || process == self.daemon_process() || process == self.steward.process()
    }

    /// End a call into the daemon: carry out what it caused, and have it written soon.
    pub(super) fn settle(&mut self) {
        self.run_machines();
        self.source = None;
        self.wake.notify_one();
    }

    /// Have the machines handle everything that waits, and carry out what they ask for.
    fn run_machines(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            let now = self.now();
            match input {
                Input::Node(input) => self.node.handle(now, input, &mut self.node_effects),
                Input::Head(input) => self.head_handles(now, input),
                Input::Steward(input) => self.steward.handle(now, input, &mut self.steward_effects),
            }
            self.apply();
        }
    }

    fn head_handles(&mut self, now: Time, input: head::Input) {
        if let HeadSide::Here(hosted) = &mut self.cluster.head {
            hosted.handle(now, self.id, input);
        } else if let head::Input::Received { via, from, message } = input
            && via == self.id
        {
            // It was for the head that was here until now.
            self.send_to_head(from, &message);
        }
    }

    /// Fire the machines' deadlines that have passed, and the daemon's own.
    fn fire(&mut self) {
        let now = self.now();
        if self.node.poll_timeout().is_some_and(|(due, _)| due <= now) {
            self.node.handle_timeout(now, &mut self.node_effects);
        }
        if self.steward.poll_timeout().is_some_and(|(due, _)| due <= now) {
            self.steward.handle_timeout(now, &mut self.steward_effects);
        }
        if let HeadSide::Here(hosted) = &mut self.cluster.head
            && hosted.head.poll_timeout().is_some_and(|(due, _)| due <= now)
            && !hosted.is_over()
        {
            hosted.head.handle_timeout(now, &mut hosted.effects);
        }
        self.apply();
        if !self.processes.is_empty() {
            self.idle_since = Instant::now();
        } else if self.idle_deadline().is_some_and(|due| due <= Instant::now()) {
            self.request_stop("nobody has used the node for its idle time");
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let head = match &self.cluster.head {
            HeadSide::Here(hosted) if !hosted.is_over() => hosted.head.poll_timeout(),
            HeadSide::Here(_) | HeadSide::There(_) => None,
        };
        let machines = [self.node.poll_timeout(), head, self.steward.poll_timeout()];
        let machines = machines.into_iter().flatten().map(|(due, _)| due);
        machines.map(|due| self.instant(due)).chain(self.idle_deadline()).min()
    }

    fn idle_deadline(&self) -> Option<Instant> {
        let idle = self.processes.is_empty() && self.stop_reason.is_none();
        self.idle_exit.filter(|_| idle).map(|span| self.idle_since + span)
    }

    fn apply(&mut self) {
        let mut effects = std::mem::take(&mut self.node_effects);
        for effect in effects.drain() {
            self.apply_node(effect);
        }
        self.node_effects = effects;
        let mut effects = std::mem::take(&mut self.steward_effects);
        for effect in effects.drain() {
            // It runs no program, so nobody here waits for anything else.
            if let owner::Effect::Send { to, message } = effect {
                self.send(to, self.steward.process(), message);
            }
        }
        self.steward_effects = effects;
        self.apply_head();
    }

    fn apply_node(&mut self, effect: node::Effect) {
        match effect {
            node::Effect::Send { to, message } => self.send(to, self.daemon_process(), message),
            node::Effect::AcceptDriver { connection, process, job, namespace } => {
                self.accept_driver(LinkId(connection), process, job, namespace);
            }
            node::Effect::Start { operation, work } => match work {
                Work::ForkWorker { process, job, environment } => {
                    self.fork_worker(operation, process, job, environment);
                }
                Work::Fetch { object, from, offset, size, urgent } => {
                    self.fetch(operation, Wanted { object, from, offset, size, urgent });
                }
                work => self.start_store_work(operation, work),
            },
            node::Effect::Kill { process, death } => self.kill(process, death),
            node::Effect::StopTemplate { job } => self.stop_template(job),
            node::Effect::RememberJob { job, driver, namespace, launch } => {
                self.remember_job(job, driver, namespace, &launch);
            }
            node::Effect::ForgetJob { job } => self.forget_job(job),
            node::Effect::Forget { node } => self.forget_node(node),
            node::Effect::Stop { reason } => self.request_stop(&reason),
            node::Effect::Offer { to, object, offset, size } => self.offer(to, object, offset, size),
            node::Effect::Withdraw { to, object } => self.withdraw(to, object),
            node::Effect::Cancel { operation } => self.cancel_fetch(operation),
        }
    }

    /// Send a machine's message on its way.
    pub(super) fn send(&mut self, to: ProcessId, from: ProcessId, message: Message) {
        if self.is_own(to) {
            self.deliver(to, from, message);
        } else if to.node() != self.id {
            self.send_to_other_node(to, from, &message);
        } else if let Some(link) = self.link_of(to) {
            self.queue_message(link, to, from, &message);
        }
    }

    /// Where the daemon of another node is reached, if the cluster's view says so.
    pub(super) fn address_text(&self, node: NodeId) -> Option<&str> {
        self.node.address_of(node)
    }

    pub(super) fn now(&self) -> Time {
        Time(self.started.elapsed().as_nanos() as u64)
    }

    fn instant(&self, time: Time) -> Instant {
        // A deadline beyond the clock's reach is as good as one in a year.
        let year = Duration::from_secs(365 * 24 * 3600);
        self.started + Duration::from_nanos(time.0).min(year)
    }
}

//! What the threads of a process share: the owner machine, the sending halves of its links, and what
//! the machine asked for and nobody has taken yet. Always used under one lock, held for microseconds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use shoal_core::actor::ActorSpec;
use shoal_core::ids::{ObjectId, ProcessId, RequestId, TaskId};
use shoal_core::message::{Answer, Message};
use shoal_core::owner::{Effect, Input, Owner};
use shoal_core::resources::Devices;
use shoal_core::task::Assignment;
use shoal_core::value::Failure;
use shoal_core::{Effects, Machine, Time};

use super::link::{Flushed, Outgoing};
use crate::control::Control;
use crate::frame::{self, Kind};

/// Called once, on whichever thread learns of the change; never under a lock.
pub type Callback = Box<dyn FnOnce() + Send>;

/// Something for the threads that run the program's code in a worker.
#[derive(Debug)]
pub enum Job {
    /// Run a task.
    Run(Box<Assignment>),
    /// Construct the actor.
    Construct {
        /// Everything about it.
        spec: Box<ActorSpec>,
        /// Which start.
        incarnation: u32,
        /// Devices that it holds.
        devices: Devices,
    },
    /// End the process.
    Exit {
        /// Why.
        reason: String,
    },
}

/// Something that must happen outside the lock.
pub(super) enum Signal {
    Call(Callback),
    Interrupt(TaskId),
    ExitNow(String),
}

pub(super) enum Peer {
    /// Asked the daemon for a link; frames wait here.
    Opening(Vec<u8>),
    Open(Outgoing),
}

/// Written at once when so much waits.
const FLUSH_BYTES: usize = 32 * 1024;
/// Written at once when nothing was written for so long.
pub(super) const FLUSH_NANOS: u64 = 50_000;

pub(super) struct Inner {
    pub(super) owner: Owner,
    effects: Effects<Effect>,
    started: Instant,
    me: ProcessId,
    pub(super) daemon: Outgoing,
    pub(super) peers: HashMap<ProcessId, Peer>,
    /// Peers with unwritten bytes.
    dirty: Vec<ProcessId>,
    last_flush: u64,
    /// Messages of this process to itself.
    loopback: VecDeque<Message>,
    /// One queue per concurrency group.
    jobs: Vec<VecDeque<Job>>,
    /// Why this process is to end; a driver, which is the user's, only leaves.
    pub(super) exiting: Option<String>,
    callbacks: HashMap<ObjectId, Vec<Callback>>,
    pub(super) answers: HashMap<RequestId, Answer>,
    pub(super) rooms: HashMap<RequestId, Option<Failure>>,
    pub(super) consumed: HashMap<TaskId, u32>,
    pub(super) signals: Vec<Signal>,
    next_request: u64,
    /// The daemon is gone; nothing will come any more.
    pub(super) disconnected: bool,
}

impl Inner {
    pub(super) fn new(owner: Owner, daemon: Outgoing, started: Instant) -> Inner {
        Inner {
            me: owner.process(),
            owner,
            effects: Effects::new(),
            started,
            daemon,
            peers: HashMap::new(),
            dirty: Vec::new(),
            last_flush: 0,
            loopback: VecDeque::new(),
            jobs: vec![VecDeque::new()],
            exiting: None,
            callbacks: HashMap::new(),
            answers: HashMap::new(),
            rooms: HashMap::new(),
            consumed: HashMap::new(),
            signals: Vec::new(),
            next_request: 0,
            disconnected: false,
        }
    }

    pub(super) fn now(&self) -> Time {
        Time(self.started.elapsed().as_nanos() as u64)
    }

    /// A fresh number for a question.
    pub(super) fn next_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// Apply an input and everything that follows from it.
    pub(super) fn handle(&mut self, input: Input) {
        let now = self.now();
        self.owner.handle(now, input, &mut self.effects);
        self.apply(now);
    }

    /// Apply many small inputs at once.
    pub(super) fn handle_all(&mut self, inputs: impl Iterator<Item = Input>) {
        let now = self.now();
        for input in inputs {
            self.owner.handle(now, input, &mut self.effects);
        }
        self.apply(now);
    }

    /// Fire the owner's deadlines that are due.
    pub(super) fn handle_timeout(&mut self) {
        let now = self.now();
        if self.owner.poll_timeout().is_some_and(|(due, _)| due <= now) {
            self.owner.handle_timeout(now, &mut self.effects);
            self.apply(now);
        }
    }

    /// Use a method of the owner that appends effects.
    pub(super) fn with_owner<T>(&mut self, act: impl FnOnce(&mut Owner, &mut Effects<Effect>) -> T) -> T {
        let result = act(&mut self.owner, &mut self.effects);
        let now = self.now();
        self.apply(now);
        result
    }

    fn apply(&mut self, now: Time) {
        loop {
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.drain() {
                self.apply_one(effect);
            }
            // Keep the buffer; what the loopback produces goes into it.
            self.effects = effects;
            let Some(message) = self.loopback.pop_front() else { return };
            let from = self.me;
            self.owner.handle(now, Input::Received { from, message }, &mut self.effects);
        }
    }

    fn apply_one(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send(to, message),
            Effect::Changed { object } => {
                if !self.callbacks.is_empty()
                    && let Some(callbacks) = self.callbacks.remove(&object)
                {
                    self.signals.extend(callbacks.into_iter().map(Signal::Call));
                }
            }
            Effect::Run { assignment, group } => self.add_job(group as usize, Job::Run(assignment)),
            Effect::Construct { spec, incarnation, devices } => {
                self.add_job(0, Job::Construct { spec, incarnation, devices })
            }
            Effect::Interrupt { task } => self.signals.push(Signal::Interrupt(task)),
            Effect::Consumed { task, consumed } => {
                self.consumed.insert(task, consumed);
            }
            Effect::Exit { reason, force: true } => self.signals.push(Signal::ExitNow(reason)),
            Effect::Exit { reason, force: false } => self.exiting = Some(reason),
            Effect::Answered { request, answer } => {
                self.answers.insert(request, answer);
            }
            Effect::Room { request, refused } => {
                self.rooms.insert(request, refused);
            }
            // Threads that wait for a group look at the owner.
            Effect::GroupChanged { .. } => {}
        }
    }

    fn add_job(&mut self, group: usize, job: Job) {
        if self.jobs.len() <= group {
            self.jobs.resize_with(group + 1, VecDeque::new);
        }
        self.jobs[group].push_back(job);
    }

    pub(super) fn has_jobs(&self) -> bool {
        self.exiting.is_some() || self.jobs.iter().any(|queue| !queue.is_empty())
    }

    /// The next job of a concurrency group, or of any.
    pub(super) fn take_job(&mut self, group: Option<usize>) -> Option<Job> {
        let job = match group {
            Some(group) => self.jobs.get_mut(group).and_then(VecDeque::pop_front),
            None => self.jobs.iter_mut().find_map(VecDeque::pop_front),
        };
        job.or_else(|| self.exiting.clone().map(|reason| Job::Exit { reason }))
    }

    /// Call back when the object changes.
    pub(super) fn call_back(&mut self, object: ObjectId, callback: Callback) {
        self.callbacks.entry(object).or_default().push(callback);
    }

    /// Nothing will change any more: whoever waits must look.
    pub(super) fn fire_all_callbacks(&mut self) {
        let callbacks = std::mem::take(&mut self.callbacks);
        self.signals.extend(callbacks.into_values().flatten().map(Signal::Call));
    }

    /// Nothing is sent or received any more.
    pub(super) fn close(&mut self) {
        self.flush();
        self.disconnected = true;
        self.peers.clear();
        self.fire_all_callbacks();
        let _ = rustix::net::shutdown(self.daemon.socket(), rustix::net::Shutdown::Both);
    }

    pub(super) fn has_callbacks(&self) -> bool {
        !self.callbacks.is_empty()
    }

    fn send(&mut self, to: ProcessId, message: Message) {
        if to == self.me {
            self.loopback.push_back(message);
            return;
        }
        if to.node() != self.me.node() || to.is_daemon() {
            Self::append(&mut self.daemon.buffer, to, self.me, &message);
            return;
        }
        match self.peers.get_mut(&to) {
            Some(Peer::Open(link)) => {
                if link.pending() == 0 {
                    self.dirty.push(to);
                }
                Self::append(&mut link.buffer, to, self.me, &message);
            }
            Some(Peer::Opening(buffer)) => Self::append(buffer, to, self.me, &message),
            None if matches!(message, Message::PushTask(_)) => {
                let mut buffer = Vec::new();
                Self::append(&mut buffer, to, self.me, &message);
                self.peers.insert(to, Peer::Opening(buffer));
                self.control(&Control::OpenLink { peer: to });
            }
            None => Self::append(&mut self.daemon.buffer, to, self.me, &message),
        }
    }

    fn append(buffer: &mut Vec<u8>, to: ProcessId, from: ProcessId, message: &Message) {
        // Only a message beyond the frame limit fails; sizes are checked where values are made.
        if let Err(error) = frame::append(buffer, Kind::Message, to, from, message) {
            eprintln!("shoal: a message to {to:?} was dropped: {error}");
        }
    }

    /// Tell the node that this worker is up.
    pub(super) fn worker_ready(&mut self) {
        self.send(ProcessId::daemon(self.me.node()), Message::WorkerReady);
        self.flush();
    }

    pub(super) fn control(&mut self, control: &Control) {
        let to = ProcessId::daemon(self.me.node());
        if let Err(error) = frame::append(&mut self.daemon.buffer, Kind::Control, to, self.me, control) {
            eprintln!("shoal: a control frame was dropped: {error}");
        }
    }

    /// A link to `peer` is there; returns whether it is new.
    pub(super) fn link_opened(&mut self, peer: ProcessId, socket: Arc<std::os::fd::OwnedFd>) -> bool {
        let mut link = Outgoing::new(socket);
        match self.peers.remove(&peer) {
            Some(Peer::Open(existing)) => {
                self.peers.insert(peer, Peer::Open(existing));
                return false;
            }
            Some(Peer::Opening(buffer)) => {
                link.buffer = buffer;
                self.dirty.push(peer);
            }
            None => {}
        }
        self.peers.insert(peer, Peer::Open(link));
        true
    }

    pub(super) fn link_closed(&mut self, peer: ProcessId) {
        self.peers.remove(&peer);
        self.handle(Input::LinkClosed { peer });
    }

    /// Whether bytes wait to be written.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.daemon.pending() > 0
    }

    /// Write if enough waits or nothing was written for a while.
    pub(super) fn flush_if_worthwhile(&mut self) {
        if !self.is_dirty() {
            return;
        }
        let waiting: usize = self
            .dirty
            .iter()
            .filter_map(|peer| match self.peers.get(peer) {
                Some(Peer::Open(link)) => Some(link.pending()),
                _ => None,
            })
            .sum();
        let now = self.now().0;
        if waiting + self.daemon.pending() > FLUSH_BYTES || now - self.last_flush > FLUSH_NANOS {
            self.flush();
        }
    }

    /// Write everything that the sockets take. The daemon's link first: what it is told (an object is
    /// sealed, a reference is kept) must not be overtaken by a peer that acts on it.
    pub(super) fn flush(&mut self) {
        if self.daemon.pending() > 0 && self.daemon.flush() == Flushed::Closed {
            self.disconnected = true;
        }
        let mut still = Vec::new();
        for peer in std::mem::take(&mut self.dirty) {
            if let Some(Peer::Open(link)) = self.peers.get_mut(&peer)
                && link.flush() == Flushed::Full
            {
                still.push(peer);
            }
        }
        self.dirty = still;
        self.last_flush = self.now().0;
    }

    /// Sockets that were full at the last write.
    pub(super) fn full_links(&self) -> impl Iterator<Item = (ProcessId, &Arc<std::os::fd::OwnedFd>)> {
        let daemon = self.daemon.full.then(|| (ProcessId::HEAD, self.daemon.socket()));
        let peers = self.dirty.iter().filter_map(|peer| match self.peers.get(peer) {
            Some(Peer::Open(link)) if link.full => Some((*peer, link.socket())),
            _ => None,
        });
        daemon.into_iter().chain(peers)
    }
}

//! A whole cluster in one thread under virtual time: machines with their daemons, heads, processes,
//! stores and disks, and the connections between them. What runs in the processes is not its business:
//! see [`Programs`].
//!
//! Addresses are those of the machines of `shoal-core`: a process by its id, a daemon by
//! [`ProcessId::daemon`]. Heads are numbered as the processes of node 0, which is no node: the first is
//! [`ProcessId::HEAD`], a later one is `p0.1`, `p0.2`, ….

mod clock;
mod contact;
mod daemon;
mod drains;
mod drivers;
mod facts;
mod faults;
mod heads;
mod hosts;
mod links;
mod partitions;
mod pending;
mod process;
mod programs;
pub mod rare;
mod routes;
mod settings;
mod stewards;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_core::ids::{NodeId, OperationId, ProcessId, TaskId};
use shoal_core::message::Message;
use shoal_core::session::Packet;
use shoal_core::value::Death;
use shoal_core::{Effects, Span, Time};
use shoal_core::{head, node, owner};

use crate::{Content, Fault, Heap, LogFate, Network, Random, Trace, Way};

use self::contact::Greeting;
pub use self::daemon::Daemon;
use self::drivers::Driver;
pub use self::facts::Fact;
pub use self::heads::{HeadProcess, Log};
pub use self::hosts::{Host, HostState};
use self::links::{Connection, End};
pub use self::process::Process;
pub(crate) use self::programs::micros;
pub use self::programs::{Call, Programs};
pub use self::settings::{HostSettings, Loss, Residence, Settings};

/// Something that will happen.
#[derive(Debug)]
enum Event {
    /// A frame comes to the end of its way. A quiet one is of no consequence for programs.
    Arrive { way: Way, quiet: bool },
    /// The machine at this address has a deadline.
    Timer(ProcessId),
    /// The session of this end has an acknowledgement to send.
    SessionTimer(Way),
    /// A program has let time pass.
    Wake { process: ProcessId, token: u64 },
    /// Something for a node that was paused.
    Node(NodeId, node::Input),
    /// Something for a steward whose daemon was paused.
    Steward(Box<Envelope>),
    /// Something for a head that was paused.
    Head(ProcessId, head::Input),
    /// Work that a node started ends.
    Work(NodeId, OperationId),
    /// A write to the log ends.
    Logged(ProcessId, OperationId),
    /// A forked worker is up.
    WorkerUp(ProcessId),
    /// A process that was told to end does.
    Ends { process: ProcessId, code: i32 },
    /// A driver comes.
    DriverComes(usize),
    /// A daemon starts.
    Boot { host: usize, life: u32 },
    /// A daemon and its processes end.
    NodeStops(NodeId),
    /// A head starts.
    HeadBoot { host: usize, log: LogFate },
    /// A head that should not be there any more ends; with a machine, the right one starts there.
    HeadEnds { head: ProcessId, next: Option<usize> },
    /// A daemon looks for the head.
    Greet { host: usize, life: u32 },
    /// It has found one.
    Greeted(u64),
    /// The head has answered.
    Welcome(Box<contact::Welcome>),
    /// Two daemons try to connect.
    Dial(ProcessId, ProcessId),
    /// An end notices that its connection is gone.
    CutNoticed { way: Way, serial: u64 },
    /// Nothing has come through between these for long.
    Keepalive { link: (ProcessId, ProcessId), serial: u64 },
    /// Packets come through between two machines again.
    Unblock { from: usize, to: usize },
    /// A fault that has a time.
    Fault(usize),
    /// A drain is called off.
    CallOff(NodeId),
    /// Nothing goes wrong any more.
    Heal,
}

impl Event {
    /// Whether programs may still go on because of it.
    fn is_busy(&self) -> bool {
        match self {
            Event::Timer(_) | Event::SessionTimer(_) | Event::Keepalive { .. } => false,
            Event::Arrive { quiet, .. } => !quiet,
            _ => true,
        }
    }
}

/// A message with its header.
#[derive(Clone, Debug)]
struct Envelope {
    from: ProcessId,
    to: ProcessId,
    message: Message,
}

/// What travels on a way.
#[derive(Debug)]
enum Frame {
    /// Within a machine.
    Message(Envelope),
    /// The sender's end of the link is closed.
    Closed,
    /// The daemon sees that the process is gone.
    Exited { death: Death, last_started: Option<TaskId> },
    /// Between daemons, or a daemon and a head, on one of their connections.
    Packet { serial: u64, packet: Packet<Envelope> },
}

/// See the module's text.
pub struct Cluster<C: Content> {
    heap: Heap<Event>,
    network: Network<Frame>,
    /// Decides what the seed leaves open while the run goes on.
    pub random: Random,
    /// What it was set up with.
    pub settings: Settings,
    /// What goes wrong, and when.
    pub faults: Vec<Fault>,
    /// The machines.
    pub hosts: Vec<Host>,
    /// The daemons that are members, with their stores.
    pub nodes: BTreeMap<NodeId, Daemon<C>>,
    /// The heads that run, by address.
    pub heads: BTreeMap<ProcessId, HeadProcess>,
    /// The head's log.
    pub log: Log,
    /// A copy of it from some time ago.
    old_log: Option<Log>,
    /// Every process that is alive.
    pub processes: BTreeMap<ProcessId, Process>,
    /// How every process that is not died.
    pub deaths: BTreeMap<ProcessId, Death>,
    /// The nodes whose death a head has told of.
    pub declared_dead: BTreeSet<NodeId>,
    /// Nodes that were drained and are to end: since when, and how long they had.
    ending: BTreeMap<NodeId, Vec<(Time, Span)>>,
    /// Facts since somebody looked last.
    pub facts: Vec<Fact>,
    /// Everything that happened.
    pub trace: Trace,
    /// Rare states that were reached, and how often.
    pub counters: BTreeMap<&'static str, u64>,
    /// A broken rule that only the world sees.
    pub broken: Option<String>,
    drivers: Vec<Driver>,
    /// Direct links, each from both sides.
    direct: BTreeSet<(ProcessId, ProcessId)>,
    /// Ends of sessions, by who they belong to and who is at the other end.
    ends: BTreeMap<Way, End>,
    connections: BTreeMap<(ProcessId, ProcessId), Connection>,
    greetings: BTreeMap<u64, Greeting>,
    next_greeting: u64,
    next_serial: u64,
    /// From which machine to which nothing comes through, and what waits there.
    blocked: BTreeMap<(usize, usize), Vec<Event>>,
    heads_started: u32,
    healed: bool,
    /// Events after which programs may go on.
    busy: usize,
    calls: VecDeque<(ProcessId, Call)>,
    effects: Option<Effects<owner::Effect>>,
}

impl<C: Content> Cluster<C> {
    /// A cluster before anything has happened.
    pub fn new(settings: Settings, faults: Vec<Fault>, seed: u64, trace: Trace) -> Cluster<C> {
        let mut random = Random::new(seed);
        let network = Network::new(random.fork());
        let mut cluster = Cluster {
            heap: Heap::default(),
            network,
            hosts: settings.hosts.iter().map(Host::new).collect(),
            nodes: BTreeMap::new(),
            heads: BTreeMap::new(),
            log: Log::new(random.draw()),
            old_log: None,
            processes: BTreeMap::new(),
            deaths: BTreeMap::new(),
            declared_dead: BTreeSet::new(),
            ending: BTreeMap::new(),
            facts: Vec::new(),
            trace,
            counters: BTreeMap::new(),
            broken: None,
            drivers: Vec::new(),
            direct: BTreeSet::new(),
            ends: BTreeMap::new(),
            connections: BTreeMap::new(),
            greetings: BTreeMap::new(),
            next_greeting: 1,
            next_serial: 1,
            blocked: BTreeMap::new(),
            heads_started: 0,
            healed: false,
            busy: 0,
            calls: VecDeque::new(),
            effects: Some(Effects::new()),
            random,
            settings,
            faults,
        };
        cluster.start();
        cluster
    }

    fn start(&mut self) {
        let beyond = self.settings.head_host >= self.hosts.len();
        if beyond {
            let mut host = Host::new(&HostSettings::default());
            host.has_daemon = false;
            self.settings.head_host = self.hosts.len();
            self.hosts.push(host);
        }
        self.head_boots(self.settings.head_host, LogFate::Kept);
        for host in 0..self.hosts.len() {
            self.boot_in(host, 0);
        }
        self.schedule_faults();
    }

    /// The present, by no clock of the cluster.
    pub fn now(&self) -> Time {
        self.heap.now()
    }

    /// Whether programs may still go on without anything happening to them from outside.
    pub fn is_busy(&self) -> bool {
        self.busy > 0
    }

    /// Whether the time of faults is over.
    pub fn is_healed(&self) -> bool {
        self.healed
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
        self.busy += usize::from(event.is_busy());
        self.heap.schedule(at, event);
    }

    fn schedule_in(&mut self, most_micros: u64, event: Event) {
        let span = self.random.span(Span(0), micros(most_micros));
        self.schedule(self.now() + span, event);
    }

    /// Let the next event happen. Says whether there was one.
    pub fn step(&mut self, programs: &mut impl Programs<Content = C>) -> bool {
        let Some(event) = self.heap.pop() else {
            return false;
        };
        self.busy -= usize::from(event.is_busy());
        self.happen(event);
        self.attend(programs);
        true
    }

    /// Tell programs what concerns them since they were told last. Part of every step; needed by itself
    /// where programs act between two steps.
    pub fn attend(&mut self, programs: &mut impl Programs<Content = C>) {
        while let Some((process, call)) = self.calls.pop_front() {
            let alive = self.processes.contains_key(&process);
            if alive || matches!(call, Call::Gone | Call::Rejected { .. }) {
                programs.handle(self, process, call);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { way, quiet } => self.arrive(way, quiet),
            Event::Timer(address) => self.timer(address),
            Event::SessionTimer(way) => self.session_timer(way),
            Event::Wake { process, token } => self.wake(process, token),
            Event::Node(node, input) => self.tell_node(node, input),
            Event::Steward(envelope) => {
                let Envelope { from, to, message } = *envelope;
                self.tell_steward(to.node(), from, message);
            }
            Event::Head(head, input) => self.tell_head(head, input),
            Event::Work(node, operation) => self.work_ends(node, operation),
            Event::Logged(head, operation) => self.write_ends(head, operation),
            Event::WorkerUp(process) => self.worker_up(process),
            Event::Ends { process, code } => self.die(process, Death::Exited { code }, false),
            Event::DriverComes(number) => self.driver_comes(number),
            Event::Boot { host, life } => self.daemon_boots(host, life),
            Event::NodeStops(node) => self.node_stops(node),
            Event::HeadBoot { host, log } => self.next_head_boots(host, log),
            Event::HeadEnds { head, next } => self.head_is_ended(head, next),
            Event::Greet { host, life } => self.greet(host, life),
            Event::Greeted(connection) => self.greeted(connection),
            Event::Welcome(welcome) => self.welcome(*welcome),
            Event::Dial(one, other) => self.dial(one, other),
            Event::CutNoticed { way, serial } => self.cut_noticed(way, serial),
            Event::Keepalive { link, serial } => self.keepalive_ends(link, serial),
            Event::Unblock { from, to } => self.unblock(from, to),
            Event::Fault(number) => self.timed_fault(number),
            Event::CallOff(node) => self.call_off(node),
            Event::Heal => self.heal(),
        }
    }

    fn timer(&mut self, address: ProcessId) {
        if self.heads.contains_key(&address) {
            self.head_timer(address);
        } else if address.is_steward() {
            self.steward_timer(address.node());
        } else if address.is_daemon() {
            self.node_timer(address.node());
        } else {
            self.process_timer(address);
        }
    }
}

//! Drives a node in tests: what goes in, and exactly what comes out.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

use super::{Config, Effect, Input, Node, Work, WorkResult};
use crate::actor::ActorSpec;
use crate::ids::{ActorId, FunctionId, JobId, LeaseId, NodeId, OperationId, ProcessId, RequestId, TaskId};
use crate::machine::{Effects, Machine, Span, Time};
use crate::message::{Drain, Message, NodeSummary, Route};
use crate::resources::{Demand, Environment, Quantity, Resources};
use crate::value::Death;

pub(super) const NODE: NodeId = NodeId(1);
pub(super) const JOB: JobId = JobId(1);
pub(super) const KILLED: Death = Death::Signalled { signal: 9 };

pub(super) fn process(number: u32) -> ProcessId {
    ProcessId::new(NODE, number)
}

/// The driver that [`Harness::with_driver`] lets in.
pub(super) fn driver() -> ProcessId {
    process(1)
}

/// The head has the node emptied, or not any more.
pub(super) fn draining(on: bool) -> Message {
    let drain = Drain { grace: None, reason: String::from("repairs") };
    Message::Draining { drain: on.then_some(drain) }
}

pub(super) fn resources(amounts: &[(&str, f64)]) -> Resources {
    let mut resources = Resources::default();
    for (name, amount) in amounts {
        resources.set(name, Quantity::from_f64(*amount));
    }
    resources
}

pub(super) fn demand(amounts: &[(&str, f64)]) -> Demand {
    Demand { resources: resources(amounts), ..Demand::default() }
}

pub(super) fn actor(number: u64) -> ActorId {
    ActorId(TaskId { owner: driver(), number })
}

/// An actor that is placed on one CPU and holds `running` while it lives.
pub(super) fn spec(id: ActorId, running: &[(&str, f64)]) -> ActorSpec {
    ActorSpec {
        id,
        job: JOB,
        class: FunctionId(1),
        code: Bytes::new(),
        label: Arc::from("Counter"),
        arguments: Bytes::new(),
        dependencies: Vec::new(),
        borrows: Vec::new(),
        placement: demand(&[("CPU", 1.0)]),
        running: resources(running),
        restarts_max: 0,
        name: String::new(),
        namespace: String::from("tests"),
        detached: false,
        asynchronous: false,
        groups: Vec::new(),
        out_of_order: false,
        handle: Bytes::new(),
    }
}

pub(super) fn config(amounts: &[(&str, f64)]) -> Config {
    Config {
        host: String::from("here"),
        resources: resources(amounts),
        store_start: 4096,
        store_capacity: 64 << 20,
        ..Config::new(NODE)
    }
}

/// What a node says of itself of which nothing is in use.
pub(super) fn summary(number: u32, amounts: &[(&str, f64)]) -> NodeSummary {
    NodeSummary {
        node: NodeId(number),
        alive: true,
        name: String::new(),
        host: String::new(),
        address: String::new(),
        total: resources(amounts),
        free: resources(amounts),
        labels: Vec::new(),
    }
}

pub(super) struct Harness {
    pub(super) node: Node,
    pub(super) now: Time,
    /// Forks that were started and not answered.
    pub(super) forks: Vec<(OperationId, ProcessId, Environment)>,
    /// Reports to the head are left out of what the methods return.
    pub(super) reports: Vec<Resources>,
    last_request: u64,
}

impl Harness {
    pub(super) fn new(config: Config) -> Harness {
        let node = Node::new(config);
        Harness { node, now: Time(0), forks: Vec::new(), reports: Vec::new(), last_request: 0 }
    }

    /// A node of such resources with a driver of job 1, which is process 1.
    pub(super) fn with_driver(amounts: &[(&str, f64)]) -> Harness {
        Harness::with_driver_and(config(amounts))
    }

    pub(super) fn with_driver_and(config: Config) -> Harness {
        let mut harness = Harness::new(config);
        harness.connect(0);
        harness.register(driver(), JOB);
        harness
    }

    pub(super) fn connect(&mut self, prestart: u32) -> Vec<Effect> {
        let namespace = String::new();
        self.input(Input::DriverConnected {
            connection: 5,
            pid: 77,
            namespace,
            prestart,
            launch: Bytes::new(),
        })
    }

    pub(super) fn register(&mut self, driver: ProcessId, job: JobId) -> Vec<Effect> {
        let namespace = String::from("tests");
        self.receive(ProcessId::HEAD, Message::JobRegistered { driver, job, namespace })
    }

    /// Apply an input, check the invariants, and return the effects without reports and forks.
    pub(super) fn input(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Effects::new();
        self.node.handle(self.now, input, &mut effects);
        self.node.check();
        self.sift(effects)
    }

    fn sift(&mut self, mut effects: Effects<Effect>) -> Vec<Effect> {
        let mut rest = Vec::new();
        for effect in effects.drain() {
            match effect {
                Effect::Send { to: ProcessId::HEAD, message: Message::NodeReport { report, .. } } => {
                    self.reports.push(report.free);
                }
                Effect::Start { operation, work: Work::ForkWorker { process, environment, .. } } => {
                    self.forks.push((operation, process, environment));
                }
                other => rest.push(other),
            }
        }
        rest
    }

    pub(super) fn receive(&mut self, from: ProcessId, message: Message) -> Vec<Effect> {
        self.input(Input::Received { from, message })
    }

    pub(super) fn exited(&mut self, process: ProcessId, death: Death) -> Vec<Effect> {
        self.input(Input::ProcessExited { process, death, last_started: None })
    }

    pub(super) fn finished(&mut self, operation: OperationId, result: WorkResult) -> Vec<Effect> {
        self.input(Input::Finished { operation, result })
    }

    /// Let time pass, and fire what becomes due on the way.
    pub(super) fn pass(&mut self, span: Span) -> Vec<Effect> {
        let end = self.now + span;
        let mut all = Vec::new();
        while let Some((at, _)) = self.node.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = at.max(self.now);
            let mut effects = Effects::new();
            self.node.handle_timeout(self.now, &mut effects);
            self.node.check();
            all.extend(self.sift(effects));
            let again = self.node.poll_timeout();
            assert!(again.is_none_or(|(at, _)| at > self.now), "{again:?} spins");
        }
        self.now = end;
        all
    }

    /// Ask for a lease.
    pub(super) fn request(&mut self, from: ProcessId, demand: &Demand) -> (RequestId, Vec<Effect>) {
        self.request_by(from, demand, Route::Fresh, None)
    }

    /// Ask for a lease in some way.
    pub(super) fn request_by(
        &mut self,
        from: ProcessId,
        demand: &Demand,
        route: Route,
        prefer: Option<u32>,
    ) -> (RequestId, Vec<Effect>) {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        let (demand, prefer) = (Arc::new(demand.clone()), prefer.map(NodeId));
        let message = Message::RequestLease { request, job: JOB, demand, route, prefer };
        (request, self.receive(from, message))
    }

    /// The head tells of other nodes.
    pub(super) fn view(&mut self, nodes: &[NodeSummary]) -> Vec<Effect> {
        self.receive(ProcessId::HEAD, Message::View { nodes: nodes.iter().cloned().map(Arc::new).collect() })
    }

    pub(super) fn node_died(&mut self, node: u32) -> Vec<Effect> {
        let (node, heir) = (NodeId(node), NODE);
        self.receive(ProcessId::HEAD, Message::NodeDied { node, heir })
    }

    /// The job of the tests has a driver on another node.
    pub(super) fn job_started(&mut self, driver: ProcessId) -> Vec<Effect> {
        let (namespace, launch) = (String::from("tests"), Bytes::from_static(b"python"));
        self.receive(ProcessId::HEAD, Message::JobStarted { job: JOB, driver, namespace, launch })
    }

    /// The oldest fork succeeds, and its worker comes up.
    pub(super) fn fork_next(&mut self) -> (ProcessId, Vec<Effect>) {
        let (operation, process, _) = self.forks.remove(0);
        let mut effects = self.finished(operation, WorkResult::Forked { pid: 1_000 + process.number() });
        effects.extend(self.receive(process, Message::WorkerReady));
        (process, effects)
    }

    /// A lease that is granted at once, or as soon as the worker that it needs has been forked.
    pub(super) fn lease(&mut self, from: ProcessId, demand: &Demand) -> (LeaseId, ProcessId) {
        let (_, mut effects) = self.request(from, demand);
        if granted(&effects).is_empty() {
            effects = self.fork_next().1;
        }
        granted(&effects)[0]
    }

    pub(super) fn give_back(&mut self, from: ProcessId, lease: LeaseId) -> Vec<Effect> {
        self.receive(from, Message::ReturnLease { lease, reusable: true })
    }

    pub(super) fn start_actor(&mut self, spec: &ActorSpec) -> Vec<Effect> {
        let spec = Box::new(spec.clone());
        self.receive(ProcessId::HEAD, Message::StartActor { spec, incarnation: 0, order: 1 })
    }
}

pub(super) fn send(to: ProcessId, message: Message) -> Effect {
    Effect::Send { to, message }
}

/// Process `number` of another node.
pub(super) fn afar(node: u32, number: u32) -> ProcessId {
    ProcessId::new(NodeId(node), number)
}

/// Where requests were sent, and how.
pub(super) fn redirected(effects: &[Effect]) -> Vec<(u32, Route)> {
    let redirects = effects.iter().filter_map(|effect| match effect {
        Effect::Send { message: Message::LeaseRedirected { to, route, .. }, .. } => Some((to.0, *route)),
        _ => None,
    });
    redirects.collect()
}

/// The leases that were granted, with their workers.
pub(super) fn granted(effects: &[Effect]) -> Vec<(LeaseId, ProcessId)> {
    let grants = effects.iter().filter_map(|effect| match effect {
        Effect::Send { message: Message::LeaseGranted { lease, worker, .. }, .. } => Some((*lease, *worker)),
        _ => None,
    });
    grants.collect()
}

/// What was sent to one process, without what others got.
pub(super) fn sent_to(process: ProcessId, effects: &[Effect]) -> Vec<Message> {
    let messages = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, message } if *to == process => Some(message.clone()),
        _ => None,
    });
    messages.collect()
}

/// The processes that were asked to exit.
pub(super) fn asked_to_exit(effects: &[Effect]) -> Vec<ProcessId> {
    let exits = effects.iter().filter_map(|effect| match effect {
        Effect::Send { to, message: Message::Exit { .. } } => Some(*to),
        _ => None,
    });
    exits.collect()
}

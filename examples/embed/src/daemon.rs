//! The daemon's thread: a `Node`, the `Head` of a cluster of one node, and the threads that are its
//! workers.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;

use shoal_core::head::{self, Head};
use shoal_core::ids::{JobId, NodeId, ProcessId};
use shoal_core::message::{Message, NodeSummary};
use shoal_core::node::{self, Node, Work, WorkResult};
use shoal_core::resources::{Quantity, Resources};
use shoal_core::value::Death;
use shoal_core::{Effects, Machine, wire};

use crate::clock::Clock;
use crate::process::{Closures, Process};
use crate::switchboard::{Delivery, Switchboard};

/// A driver that waits to be let in.
type Applicant = Sender<(ProcessId, JobId, Receiver<Delivery>)>;

/// See the module's text.
pub struct Daemon {
    node: Node,
    head: Head,
    id: NodeId,
    line: Receiver<Delivery>,
    board: Arc<Switchboard>,
    closures: Arc<Closures>,
    clock: Clock,
    /// By the number that the node knows them by.
    applicants: BTreeMap<u64, Applicant>,
    jobs: u64,
    workers: Vec<JoinHandle<()>>,
}

impl Daemon {
    /// A daemon with so many CPUs, which means: so many threads that compute at once.
    pub fn new(
        cpus: u32,
        line: Receiver<Delivery>,
        board: Arc<Switchboard>,
        closures: Arc<Closures>,
        clock: Clock,
    ) -> Daemon {
        let mut total = Resources::default();
        total.set(Resources::CPU, Quantity(i64::from(cpus) * Quantity::ONE.0));
        let mut head = Head::new(head::Config::new(1), Vec::new());
        let id = join(&mut head, &total, clock);
        let config = node::Config { resources: total, ..node::Config::new(id) };
        let node = Node::new(config);
        let (applicants, workers) = (BTreeMap::new(), Vec::new());
        Daemon { node, head, id, line, board, closures, clock, applicants, jobs: 0, workers }
    }

    /// Serve until every process has ended.
    pub fn serve(mut self) {
        loop {
            let deadlines = self.node.poll_timeout().into_iter().chain(self.head.poll_timeout());
            match self.line.recv_timeout(self.clock.until(deadlines.min())) {
                Ok(delivery) => self.deliver(delivery),
                Err(RecvTimeoutError::Timeout) => self.fire(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let served = self.jobs > 0 && self.applicants.is_empty();
            if served && self.board.is_empty() {
                break;
            }
        }
        for worker in self.workers {
            worker.join().expect("a worker's panic is caught in its thread");
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Frame { from, to, bytes } => {
                let message: Message = wire::decode(&bytes).expect("this program speaks only to itself");
                if to == ProcessId::HEAD {
                    self.tell_head(head::Input::Received { via: self.id, from, message });
                } else {
                    self.tell_node(node::Input::Received { from, message });
                }
            }
            Delivery::Ended { process, death, last_started } => {
                self.tell_node(node::Input::ProcessExited { process, death, last_started });
            }
            Delivery::Knock { answer } => {
                self.jobs += 1;
                self.applicants.insert(self.jobs, answer);
                self.tell_node(node::Input::DriverConnected {
                    connection: self.jobs,
                    pid: std::process::id(),
                    namespace: String::new(),
                    prestart: 0,
                    launch: Default::default(),
                });
            }
        }
    }

    /// A deadline of one of the machines has come; the other does nothing then.
    fn fire(&mut self) {
        let now = self.clock.now();
        let mut effects = Effects::new();
        self.head.handle_timeout(now, &mut effects);
        self.apply_head(effects);
        let mut effects = Effects::new();
        self.node.handle_timeout(now, &mut effects);
        self.apply_node(effects);
    }

    fn tell_node(&mut self, input: node::Input) {
        let mut effects = Effects::new();
        self.node.handle(self.clock.now(), input, &mut effects);
        self.apply_node(effects);
    }

    fn tell_head(&mut self, input: head::Input) {
        let mut effects = Effects::new();
        self.head.handle(self.clock.now(), input, &mut effects);
        self.apply_head(effects);
    }

    fn apply_head(&mut self, mut effects: Effects<head::Effect>) {
        for effect in effects.drain() {
            // The other effects are about a log, which this head does not keep, and about sessions with
            // other daemons, of which there are none.
            if let head::Effect::Send { to, message } = effect {
                self.board.send(ProcessId::HEAD, to, &message);
            }
        }
    }

    fn apply_node(&mut self, mut effects: Effects<node::Effect>) {
        for effect in effects.drain() {
            match effect {
                node::Effect::Send { to, message } => {
                    self.board.send(ProcessId::daemon(self.id), to, &message);
                }
                node::Effect::AcceptDriver { connection, process, job, .. } => {
                    let line = self.board.connect(process);
                    if let Some(applicant) = self.applicants.remove(&connection) {
                        applicant.send((process, job, line)).expect("a driver waits for its answer");
                    }
                }
                node::Effect::Start { operation, work } => {
                    let result = self.start(work);
                    self.tell_node(node::Input::Finished { operation, result });
                }
                node::Effect::Kill { process, death } => self.board.hang_up(process, death),
                // No template to stop, no other node to serve.
                _ => {}
            }
        }
    }

    /// Work of a node: here, only workers are ever started, for nothing is put into a store.
    fn start(&mut self, work: Work) -> WorkResult {
        let Work::ForkWorker { process, job, .. } = work else {
            return WorkResult::Done;
        };
        let line = self.board.connect(process);
        let (board, closures, clock) = (self.board.clone(), self.closures.clone(), self.clock);
        self.workers.push(std::thread::spawn(move || {
            let mut worker = Process::new(process, job, line, board.clone(), closures, clock);
            let ended = catch_unwind(AssertUnwindSafe(|| worker.work()));
            let code = if ended.is_ok() { 0 } else { 101 };
            board.hang_up(process, Death::Exited { code });
        }));
        WorkResult::Forked { pid: std::process::id() }
    }
}

/// The head numbers the nodes.
fn join(head: &mut Head, total: &Resources, clock: Clock) -> NodeId {
    let summary = NodeSummary {
        node: NodeId(0),
        alive: true,
        name: String::new(),
        host: String::from("this process"),
        address: String::new(),
        total: total.clone(),
        free: total.clone(),
        labels: Vec::new(),
    };
    let mut effects = Effects::new();
    let input = head::Input::NodeJoins { connection: 0, summary: Box::new(summary) };
    head.handle(clock.now(), input, &mut effects);
    let admitted = effects.drain().find_map(|effect| match effect {
        head::Effect::Admit { node, .. } => Some(node),
        _ => None,
    });
    admitted.expect("a head without a log admits at once")
}

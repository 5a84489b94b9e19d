//! A head, a node, a driver and its workers as bare machines; messages of one way keep their order, and
//! which way is next is drawn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use shoal_core::head::{self, Head};
use shoal_core::ids::{FunctionId, JobId, NodeId, ObjectId, OperationId, ProcessId, TaskId};
use shoal_core::message::Message;
use shoal_core::node::{self, Node, Work, WorkResult};
use shoal_core::owner::{self, Lookup, Owner, RunResult};
use shoal_core::resources::{Demand, Quantity, Resources};
use shoal_core::task::{Assignment, Definition, RetryExceptions, Returns, Submission, Target};
use shoal_core::value::{Death, Outcome, Payload, Value};
use shoal_core::{Effects, Machine, Span, Time};
use shoal_transport_sim::Random;

use crate::reference::{Expected, Model, Seen};
use crate::{Inside, Operation, Task};

const NODE: NodeId = NodeId(1);
const DAEMON: ProcessId = ProcessId::daemon(NODE);

/// From one process to another.
type Way = (ProcessId, ProcessId);

/// More steps than any program of this size needs: one that takes them hangs.
const STEPS_MAX: u32 = 200_000;

/// What lies on a way.
#[derive(Debug)]
enum Item {
    Message(Message),
    /// The sender is dead, and this was the last.
    End(Death, Option<TaskId>),
}

pub struct Cluster {
    random: Random,
    now: Time,
    head: Head,
    node: Node,
    owners: BTreeMap<ProcessId, Owner>,
    ways: BTreeMap<Way, VecDeque<Item>>,
    work: VecDeque<(OperationId, Work)>,
    runs: VecDeque<(ProcessId, Assignment)>,
    dead: BTreeSet<ProcessId>,
    driver: ProcessId,
    job: JobId,
    /// The references that the program holds.
    held: Vec<ObjectId>,
    steps: u32,
}

impl Cluster {
    /// A cluster whose driver was let in.
    pub fn new(seed: u64) -> Cluster {
        let mut resources = Resources::default();
        resources.set(Resources::CPU, Quantity(2 * Quantity::ONE.0));
        let mut cluster = Cluster {
            random: Random::new(seed),
            now: Time(0),
            head: Head::new(head::Config::new(1), Vec::new()),
            node: Node::new(node::Config { resources, ..node::Config::new(NODE) }),
            owners: BTreeMap::new(),
            ways: BTreeMap::new(),
            work: VecDeque::new(),
            runs: VecDeque::new(),
            dead: BTreeSet::new(),
            driver: ProcessId::default(),
            job: JobId::default(),
            held: Vec::new(),
            steps: 0,
        };
        cluster.tell_node(node::Input::DriverConnected {
            connection: 1,
            pid: 1,
            namespace: String::new(),
            prestart: 0,
            launch: Bytes::new(),
        });
        let mut model = Model::default();
        while cluster.owners.is_empty() {
            cluster.step(&mut model);
        }
        cluster
    }

    /// One operation of the program; the cluster does something between any two.
    pub fn perform(&mut self, operation: &Operation, model: &mut Model) {
        match operation {
            Operation::Put { salt } => {
                let object = self.driver().next_task_id().object(0);
                model.put(object, *salt);
                self.tell(self.driver, owner::Input::Put { object, value: number(u64::from(*salt), vec![]) });
                self.held.push(object);
            }
            Operation::Submit(task) => self.submit(task, model),
            Operation::Get { which } => {
                if let Some(object) = self.pick(*which) {
                    self.get(object, model);
                }
            }
            Operation::Take { which } => {
                if let Some(object) = self.pick(*which) {
                    self.take(object, model);
                }
            }
            Operation::Drop { which } => {
                if let Some(object) = self.pick(*which) {
                    self.held.retain(|held| *held != object);
                    self.tell(self.driver, owner::Input::RemoveReference { object });
                }
            }
        }
        for _ in 0..self.random.below(6) {
            self.step(model);
        }
    }

    pub fn drop_all(&mut self) {
        for object in std::mem::take(&mut self.held) {
            self.tell(self.driver, owner::Input::RemoveReference { object });
        }
    }

    /// Let everything arrive and every deadline of some seconds pass.
    pub fn settle(&mut self, model: &mut Model) {
        let end = self.now + Span::from_secs(5);
        while self.now < end || !self.is_quiet() {
            self.step(model);
        }
    }

    /// Nothing is left of a program that has ended all its tasks and dropped all its references.
    pub fn check_empty(&self) {
        for (process, owner) in &self.owners {
            let left = owner.inspect();
            assert!(left.objects.is_empty() && left.tasks.is_empty(), "{process:?} keeps {left:?}");
            assert!(left.leases.is_empty() && left.lease_requests == 0, "{process:?} keeps {left:?}");
        }
        assert!(self.node.inspect().leases.is_empty(), "{:?}", self.node.inspect());
    }

    fn pick(&self, which: usize) -> Option<ObjectId> {
        (!self.held.is_empty()).then(|| self.held[which % self.held.len()])
    }

    fn submit(&mut self, task: &Task, model: &mut Model) {
        let pick = |which: &Vec<usize>| which.iter().filter_map(|which| self.pick(*which)).collect();
        let (dependencies, borrows): (Vec<ObjectId>, Vec<ObjectId>) =
            (pick(&task.dependencies), pick(&task.borrows));
        let id = self.driver().next_task_id();
        let mut task = task.clone();
        task.borrows.truncate(borrows.len());
        model.submit(id.object(0), &task, &dependencies);
        let target = Target::Function(definition(&task));
        let arguments = Bytes::new();
        let submission = Submission { id, target, arguments, dependencies, borrows, parent: None };
        self.tell(self.driver, owner::Input::Submit(Box::new(submission)));
        self.held.push(id.object(0));
    }

    /// Wait for a value, and compare it with what it must be.
    fn get(&mut self, object: ObjectId, model: &mut Model) -> Seen {
        self.tell(self.driver, owner::Input::Need { object });
        let seen = loop {
            match self.owners[&self.driver].lookup(object) {
                Lookup::Inline { bytes, exception: false } => break Seen::Value(read(bytes)),
                Lookup::Inline { bytes, exception: true } => break Seen::Exception(read(bytes)),
                Lookup::Failed(failure) => break Seen::Failure(failure.clone()),
                Lookup::Stored { .. } => panic!("numbers are small"),
                Lookup::NotReady => self.step(model),
            }
        };
        let died = !self.dead.is_empty();
        assert!(
            model.explains(object, &seen, died),
            "{object:?}: {seen:?}, not {:?}",
            model.expected(object)
        );
        seen
    }

    fn take(&mut self, object: ObjectId, model: &mut Model) {
        let seen = self.get(object, model);
        let inside = self.owners[&self.driver].contained(object).to_vec();
        if matches!(seen, Seen::Value(_)) && matches!(model.expected(object), Expected::Value(_)) {
            assert_eq!(!inside.is_empty(), model.has_inside(object), "{object:?} contains {inside:?}");
        }
        if let Some(inner) = inside.first().filter(|inner| !self.held.contains(inner)) {
            self.held.push(*inner);
            self.tell(self.driver, owner::Input::AddReference { object: *inner });
        }
    }

    fn driver(&mut self) -> &mut Owner {
        self.owners.get_mut(&self.driver).expect("the driver was let in")
    }

    fn is_quiet(&self) -> bool {
        self.ways.is_empty() && self.work.is_empty() && self.runs.is_empty()
    }

    /// One thing happens: a message arrives, work ends, a task runs, or time passes.
    fn step(&mut self, model: &mut Model) {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "nobody gets any further");
        self.now = self.now + Span::from_micros(10);
        let choices = self.ways.len() + self.work.len() + self.runs.len();
        if choices == 0 {
            return self.wait();
        }
        let choice = self.random.below(choices as u64) as usize;
        if choice < self.ways.len() {
            let way = *self.ways.keys().nth(choice).expect("there are so many");
            self.arrive(way);
        } else if choice - self.ways.len() < self.work.len() {
            let (operation, work) = self.work.pop_front().expect("there is work");
            self.finish(operation, work);
        } else {
            let (process, assignment) = self.runs.pop_front().expect("something runs");
            self.run(process, assignment, model);
        }
        self.fire();
    }

    /// Nothing is under way: go to the next deadline.
    fn wait(&mut self) {
        let owners = self.owners.values().filter_map(|owner| owner.poll_timeout());
        let all = owners.chain(self.node.poll_timeout()).chain(self.head.poll_timeout());
        let next = all.map(|(due, _)| due).min().unwrap_or(self.now);
        self.now = next.max(self.now + Span::from_millis(10));
        self.fire();
    }

    fn fire(&mut self) {
        let now = self.now;
        let mut effects = Effects::new();
        self.node.handle_timeout(now, &mut effects);
        self.apply_node(effects);
        let mut effects = Effects::new();
        self.head.handle_timeout(now, &mut effects);
        self.apply_head(effects);
        for process in self.owners.keys().copied().collect::<Vec<_>>() {
            let mut effects = Effects::new();
            if let Some(owner) = self.owners.get_mut(&process) {
                owner.handle_timeout(now, &mut effects);
                self.apply(process, effects);
            }
        }
    }

    fn arrive(&mut self, way: Way) {
        let (from, to) = way;
        let Some(items) = self.ways.get_mut(&way) else { return };
        let item = items.pop_front();
        if items.is_empty() {
            self.ways.remove(&way);
        }
        match item {
            Some(Item::Message(message)) if to == ProcessId::HEAD => {
                let mut effects = Effects::new();
                let input = head::Input::Received { via: NODE, from, message };
                self.head.handle(self.now, input, &mut effects);
                self.head.check();
                self.apply_head(effects);
            }
            Some(Item::Message(message)) if to == DAEMON => {
                self.tell_node(node::Input::Received { from, message });
            }
            Some(Item::Message(message)) => self.tell(to, owner::Input::Received { from, message }),
            Some(Item::End(death, last_started)) if to == DAEMON => {
                self.tell_node(node::Input::ProcessExited { process: from, death, last_started });
            }
            Some(Item::End(..)) => self.tell(to, owner::Input::LinkClosed { peer: from }),
            None => {}
        }
    }

    fn send(&mut self, from: ProcessId, to: ProcessId, message: Message) {
        if !self.dead.contains(&to) {
            self.ways.entry((from, to)).or_default().push_back(Item::Message(message));
        }
    }

    fn finish(&mut self, operation: OperationId, work: Work) {
        let result = match work {
            Work::ForkWorker { process, .. } => {
                self.spawn(process);
                self.send(process, DAEMON, Message::WorkerReady);
                WorkResult::Forked { pid: 1 }
            }
            _ => WorkResult::Done,
        };
        self.tell_node(node::Input::Finished { operation, result });
    }

    fn spawn(&mut self, process: ProcessId) {
        let owner = Owner::new(owner::Config::new(process, self.job, 2));
        self.owners.insert(process, owner);
    }

    /// The process is gone: what it had sent still arrives, and then the news of its end.
    fn end(&mut self, process: ProcessId, death: Death, last_started: Option<TaskId>) {
        if self.owners.remove(&process).is_none() {
            return;
        }
        self.dead.insert(process);
        self.ways.retain(|(_, to), _| *to != process);
        self.runs.retain(|(runs, _)| *runs != process);
        let peers: Vec<ProcessId> = self.owners.keys().copied().chain([DAEMON]).collect();
        for peer in peers {
            let end = Item::End(death.clone(), last_started);
            self.ways.entry((process, peer)).or_default().push_back(end);
        }
    }

    fn tell_node(&mut self, input: node::Input) {
        let mut effects = Effects::new();
        self.node.handle(self.now, input, &mut effects);
        self.node.check();
        self.apply_node(effects);
    }

    fn apply_node(&mut self, mut effects: Effects<node::Effect>) {
        for effect in effects.drain() {
            match effect {
                node::Effect::Send { to, message } => self.send(DAEMON, to, message),
                node::Effect::AcceptDriver { process, job, .. } => {
                    (self.driver, self.job) = (process, job);
                    self.spawn(process);
                }
                node::Effect::Start { operation, work } => self.work.push_back((operation, work)),
                node::Effect::Kill { process, death } => self.end(process, death, None),
                _ => {}
            }
        }
    }

    fn apply_head(&mut self, mut effects: Effects<head::Effect>) {
        for effect in effects.drain() {
            if let head::Effect::Send { to, message } = effect {
                self.send(ProcessId::HEAD, to, message);
            }
        }
    }

    fn tell(&mut self, process: ProcessId, input: owner::Input) {
        let Some(owner) = self.owners.get_mut(&process) else { return };
        let mut effects = Effects::new();
        owner.handle(self.now, input, &mut effects);
        owner.check();
        self.apply(process, effects);
    }

    fn apply(&mut self, process: ProcessId, mut effects: Effects<owner::Effect>) {
        for effect in effects.drain() {
            match effect {
                owner::Effect::Send { to, message } => self.send(process, to, message),
                owner::Effect::Run { assignment, .. } => self.runs.push_back((process, *assignment)),
                owner::Effect::Exit { .. } => self.end(process, Death::Exited { code: 0 }, None),
                _ => {}
            }
        }
    }

    /// A task runs at once, to its end, or to the end of its worker.
    fn run(&mut self, process: ProcessId, assignment: Assignment, model: &mut Model) {
        let id = assignment.task;
        let task = model.task(id.object(0)).clone();
        if assignment.attempt < task.crashes {
            return self.end(process, Death::Signalled { signal: 11 }, Some(id));
        }
        let arguments = assignment.dependencies.iter().map(|dependency| match &dependency.outcome {
            Outcome::Value(Value { payload: Payload::Inline(bytes), .. }) => read(bytes),
            other => panic!("{id:?} runs with an argument that is {other:?}"),
        });
        let sum = u64::from(task.salt) + arguments.sum::<u64>();
        let inside = match task.returns {
            Inside::Nothing => None,
            Inside::Borrowed => assignment.borrows.first().copied(),
            Inside::Put => Some(self.put_inside(process, task.salt, model)),
        };
        let value = number(sum, inside.into_iter().collect());
        let outcome = if task.raises { Outcome::Exception(value) } else { Outcome::Value(value) };
        let result = RunResult {
            outcomes: vec![outcome],
            items: 0,
            retryable: false,
            started: 0,
            micros: 5,
            exiting: false,
            silent: false,
        };
        self.tell(process, owner::Input::Ran { task: id, result: Box::new(result) });
        if task.returns == Inside::Put
            && let Some(object) = inside
        {
            self.tell(process, owner::Input::RemoveReference { object });
        }
    }

    fn put_inside(&mut self, process: ProcessId, salt: u8, model: &mut Model) -> ObjectId {
        let owner = self.owners.get_mut(&process).expect("it runs");
        let object = owner.next_task_id().object(0);
        model.put_inside(object, salt);
        self.tell(process, owner::Input::Put { object, value: number(u64::from(salt), vec![]) });
        object
    }
}

fn number(value: u64, contains: Vec<ObjectId>) -> Value {
    Value { payload: Payload::Inline(Bytes::copy_from_slice(&value.to_le_bytes())), contains }
}

fn read(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a number is eight bytes"))
}

fn definition(task: &Task) -> Arc<Definition> {
    let mut resources = Resources::default();
    resources.set(Resources::CPU, Quantity::ONE);
    Arc::new(Definition {
        // Equal functions are measured together; a few kinds are enough.
        function: FunctionId(u128::from(task.salt % 3)),
        code: Bytes::from_static(b"code"),
        name: "task".into(),
        demand: Arc::new(Demand { resources, ..Demand::default() }),
        returns: Returns::Count(1),
        retries_max: task.retries as i32,
        retry_exceptions: RetryExceptions::Never,
        calls_max: 0,
    })
}

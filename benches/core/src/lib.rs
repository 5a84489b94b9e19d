//! A node, a driver and its workers as bare machines that hand each other their messages at once.

#![forbid(unsafe_code)]

pub mod many_nodes;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use shoal_core::actor::{ActorSpec, ConcurrencyGroup};
use shoal_core::head::{self, Head};
use shoal_core::ids::{ActorId, FunctionId, JobId, NodeId, ObjectId, ProcessId, TaskId};
use shoal_core::message::Message;
use shoal_core::node::{self, Node, Work, WorkResult};
use shoal_core::owner::{self, Owner, RunResult};
use shoal_core::resources::{Demand, Quantity, Resources};
use shoal_core::task::{Definition, Method, RetryExceptions, Returns, Submission, Target};
use shoal_core::value::{Outcome, Value};
use shoal_core::{Effects, Machine, Time};

const NODE: NodeId = NodeId(1);
const DAEMON: ProcessId = ProcessId::daemon(NODE);

/// The machines, and the messages under way between them.
pub struct Cluster {
    node: Node,
    head: Head,
    owners: BTreeMap<ProcessId, Owner>,
    driver: ProcessId,
    job: JobId,
    now: Time,
    messages: VecDeque<(ProcessId, ProcessId, Message)>,
    effects: Effects<owner::Effect>,
    definition: Arc<Definition>,
    method: Arc<Method>,
}

impl Cluster {
    /// A node of so many CPUs with one driver.
    pub fn new(cpus: u32) -> Cluster {
        let mut config = node::Config::new(NODE);
        let mut resources = Resources::default();
        resources.set(Resources::CPU, Quantity(i64::from(cpus) * Quantity::ONE.0));
        config.resources = resources;
        let mut cluster = Cluster {
            node: Node::new(config),
            head: Head::new(head::Config::new(1), Vec::new()),
            owners: BTreeMap::new(),
            driver: ProcessId::default(),
            job: JobId::default(),
            now: Time(0),
            messages: VecDeque::new(),
            effects: Effects::new(),
            definition: definition(),
            method: method(),
        };
        let mut effects = Effects::new();
        cluster.node.handle_timeout(cluster.now, &mut effects);
        cluster.node_effects(effects);
        let namespace = String::new();
        let input = node::Input::DriverConnected {
            connection: 1,
            pid: 1,
            namespace,
            prestart: 0,
            launch: Bytes::new(),
        };
        cluster.tell_node(input);
        cluster.settle();
        cluster
    }

    /// Submit a task without arguments.
    pub fn submit(&mut self) -> ObjectId {
        let target = Target::Function(self.definition.clone());
        self.submit_target(target)
    }

    /// Call the actor's method.
    pub fn call(&mut self, actor: ActorId) -> ObjectId {
        let target = Target::Method { actor, method: self.method.clone() };
        self.submit_target(target)
    }

    fn submit_target(&mut self, target: Target) -> ObjectId {
        let id = self.driver().next_task_id();
        let submission = Submission {
            id,
            target,
            arguments: Bytes::new(),
            dependencies: Vec::new(),
            borrows: Vec::new(),
            parent: None,
        };
        self.tell(self.driver, owner::Input::Submit(Box::new(submission)));
        id.object(0)
    }

    /// Make an actor and wait until it serves.
    pub fn actor(&mut self) -> ActorId {
        let actor = ActorId(self.driver().next_task_id());
        let spec = Box::new(actor_spec(actor, self.job));
        self.tell(self.driver, owner::Input::CreateActor { spec, dependencies: Vec::new(), request: None });
        self.settle();
        actor
    }

    /// Let every message arrive and every task run.
    pub fn settle(&mut self) {
        while let Some((from, to, message)) = self.messages.pop_front() {
            self.now = Time(self.now.0 + 1);
            if to == ProcessId::HEAD {
                let mut effects = Effects::new();
                self.head.handle(self.now, head::Input::Received { via: NODE, from, message }, &mut effects);
                for effect in effects.drain() {
                    if let head::Effect::Send { to, message } = effect {
                        self.messages.push_back((ProcessId::HEAD, to, message));
                    }
                }
            } else if to == DAEMON {
                self.tell_node(node::Input::Received { from, message });
            } else {
                self.tell(to, owner::Input::Received { from, message });
            }
        }
    }

    /// Whether the object's task has ended.
    pub fn is_ready(&self, object: ObjectId) -> bool {
        self.owners[&self.driver].has_outcome(object)
    }

    /// The driver lets go of a reference.
    pub fn drop_reference(&mut self, object: ObjectId) {
        self.tell(self.driver, owner::Input::RemoveReference { object });
    }

    /// The driver makes one more reference.
    pub fn add_reference(&mut self, object: ObjectId) {
        self.tell(self.driver, owner::Input::AddReference { object });
    }

    fn driver(&mut self) -> &mut Owner {
        self.owners.get_mut(&self.driver).expect("the driver was let in")
    }

    fn tell_node(&mut self, input: node::Input) {
        let mut effects = Effects::new();
        self.node.handle(self.now, input, &mut effects);
        self.node_effects(effects);
    }

    fn node_effects(&mut self, mut effects: Effects<node::Effect>) {
        for effect in effects.drain() {
            match effect {
                node::Effect::Send { to, message } => self.messages.push_back((DAEMON, to, message)),
                node::Effect::AcceptDriver { process, job, .. } => {
                    (self.driver, self.job) = (process, job);
                    self.spawn(process);
                }
                node::Effect::Start { operation, work } => {
                    let result = match work {
                        Work::ForkWorker { process, .. } => {
                            self.spawn(process);
                            self.messages.push_back((process, DAEMON, Message::WorkerReady));
                            WorkResult::Forked { pid: 1 }
                        }
                        _ => WorkResult::Done,
                    };
                    self.tell_node(node::Input::Finished { operation, result });
                }
                _ => {}
            }
        }
    }

    fn spawn(&mut self, process: ProcessId) {
        let owner = Owner::new(owner::Config::new(process, self.job, 4));
        self.owners.insert(process, owner);
    }

    fn tell(&mut self, process: ProcessId, input: owner::Input) {
        let mut effects = std::mem::take(&mut self.effects);
        let Some(owner) = self.owners.get_mut(&process) else { return };
        owner.handle(self.now, input, &mut effects);
        let mut ran = Vec::new();
        let mut constructed = false;
        for effect in effects.drain() {
            match effect {
                owner::Effect::Send { to, message } => self.messages.push_back((process, to, message)),
                owner::Effect::Run { assignment, .. } => ran.push(assignment.task),
                owner::Effect::Construct { .. } => constructed = true,
                _ => {}
            }
        }
        self.effects = effects;
        if constructed {
            self.tell(process, owner::Input::Constructed { failed: None });
        }
        for task in ran {
            self.tell(process, owner::Input::Ran { task, result: Box::new(result(task)) });
        }
    }
}

fn result(_task: TaskId) -> RunResult {
    RunResult {
        outcomes: vec![Outcome::Value(Value::inline(Bytes::from_static(b"value")))],
        items: 0,
        retryable: false,
        started: 0,
        micros: 1,
        exiting: false,
        silent: false,
    }
}

fn definition() -> Arc<Definition> {
    let mut resources = Resources::default();
    resources.set(Resources::CPU, Quantity::ONE);
    Arc::new(Definition {
        function: FunctionId(1),
        code: Bytes::from_static(b"code"),
        name: "f".into(),
        demand: Arc::new(Demand { resources, ..Demand::default() }),
        returns: Returns::Count(1),
        retries_max: 3,
        retry_exceptions: RetryExceptions::Never,
        calls_max: 0,
    })
}

fn method() -> Arc<Method> {
    Arc::new(Method {
        name: "m".into(),
        label: "A.m".into(),
        returns: Returns::Count(1),
        retries_max: 0,
        retry_exceptions: RetryExceptions::Never,
        group: "".into(),
        any_order: false,
    })
}

fn actor_spec(id: ActorId, job: JobId) -> ActorSpec {
    ActorSpec {
        id,
        job,
        class: FunctionId(2),
        code: Bytes::new(),
        label: "A".into(),
        arguments: Bytes::new(),
        dependencies: Vec::new(),
        borrows: Vec::new(),
        placement: Demand::default(),
        running: Resources::default(),
        restarts_max: 0,
        name: String::new(),
        namespace: String::new(),
        detached: false,
        asynchronous: false,
        groups: vec![ConcurrencyGroup { name: "".into(), limit: 1 }],
        out_of_order: false,
        handle: Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_and_calls_end_with_a_value() {
        let mut cluster = Cluster::new(2);
        let objects: Vec<ObjectId> = (0..100).map(|_| cluster.submit()).collect();
        let actor = cluster.actor();
        let called = cluster.call(actor);
        cluster.settle();
        assert!(objects.iter().all(|object| cluster.is_ready(*object)));
        assert!(cluster.is_ready(called));
        for object in objects {
            cluster.drop_reference(object);
        }
    }
}

//! Two owners and a node that is played by the test: each test says what the node says.

mod borrowing;
mod calls;
mod constructors;
mod copies;
mod groups;
mod inheritance;
mod leases;
mod nodes;
mod stewards;
mod streams;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use super::{Config, Effect, Input, Lookup, Owner, RunResult};
use crate::actor::{ActorSpec, ActorState};
use crate::ids::{ActorId, FunctionId, JobId, LeaseId, NodeId, ObjectId, ProcessId, RequestId, TaskId};
use crate::machine::{Effects, Machine, Span, Time};
use crate::message::Message;
use crate::resources::{Demand, Devices};
use crate::task::{Completion, Definition, Dependency, Method, RetryExceptions, Returns, Submission, Target};
use crate::value::{ActorDeath, Death, Failure, Outcome, Payload, Value};

const NODE: NodeId = NodeId(1);
const DAEMON: ProcessId = ProcessId::daemon(NODE);
const KILLED: Death = Death::Signalled { signal: 9 };

fn process(number: u32) -> ProcessId {
    ProcessId::new(NODE, number)
}

/// One owner and what it asked of the world.
struct Harness {
    owner: Owner,
    now: Time,
}

impl Harness {
    fn new(number: u32) -> Harness {
        Harness { owner: Owner::new(Config::new(process(number), JobId(1), 2)), now: Time(0) }
    }

    fn tell(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Effects::new();
        self.owner.handle(self.now, input, &mut effects);
        self.owner.check();
        effects.drain().collect()
    }

    fn receive(&mut self, from: ProcessId, message: Message) -> Vec<Effect> {
        self.tell(Input::Received { from, message })
    }

    /// Let time pass, firing every deadline on the way.
    fn pass(&mut self, span: Span) -> Vec<Effect> {
        let end = self.now + span;
        let mut effects = Effects::new();
        while let Some((due, _)) = self.owner.poll_timeout().filter(|(due, _)| *due <= end) {
            self.now = self.now.max(due);
            self.owner.handle_timeout(self.now, &mut effects);
            self.owner.check();
        }
        self.now = end;
        effects.drain().collect()
    }

    fn submit(
        &mut self,
        target: Target,
        dependencies: Vec<ObjectId>,
        borrows: Vec<ObjectId>,
    ) -> (TaskId, Vec<Effect>) {
        let id = self.owner.next_task_id();
        let arguments = Bytes::new();
        let submission = Submission { id, target, arguments, dependencies, borrows, parent: None };
        (id, self.tell(Input::Submit(Box::new(submission))))
    }

    fn put(&mut self, contains: Vec<ObjectId>) -> ObjectId {
        let object = self.owner.next_task_id().object(0);
        let value = Value { contains, ..small() };
        self.tell(Input::Put { object, value });
        object
    }

    fn grant(&mut self, request: RequestId, lease: u64, worker: u32) -> Vec<Effect> {
        let message = Message::LeaseGranted {
            request,
            lease: lease_id(lease),
            worker: process(worker),
            devices: Devices::default(),
        };
        self.receive(DAEMON, message)
    }

    fn ran(&mut self, task: TaskId, outcome: Outcome) -> Vec<Effect> {
        self.tell(Input::Ran { task, result: Box::new(ran(outcome)) })
    }
}

fn ran(outcome: Outcome) -> RunResult {
    RunResult {
        outcomes: vec![outcome],
        items: 0,
        retryable: false,
        started: 0,
        micros: 10,
        exiting: false,
        silent: false,
    }
}

/// What a worker says at the end of a task's first attempt.
fn finished(task: TaskId, outcomes: Vec<Outcome>) -> Message {
    finished_attempt(task, 0, outcomes)
}

/// What a worker says at the end of an attempt.
fn finished_attempt(task: TaskId, attempt: u32, outcomes: Vec<Outcome>) -> Message {
    Message::TaskFinished(Box::new(Completion {
        task,
        attempt,
        outcomes,
        items: 0,
        retryable: false,
        kept: vec![],
        started: 0,
        micros: 10,
        exiting: false,
    }))
}

fn lease_id(number: u64) -> LeaseId {
    LeaseId { node: NODE, epoch: 1, number }
}

fn small() -> Value {
    Value::inline(Bytes::from_static(b"value"))
}

fn function(number: u128, returns: Returns) -> Target {
    Target::Function(Arc::new(Definition {
        function: FunctionId(number),
        code: Bytes::from_static(b"code"),
        name: "f".into(),
        demand: Arc::new(Demand::default()),
        returns,
        retries_max: 1,
        retry_exceptions: RetryExceptions::Never,
        calls_max: 0,
    }))
}

fn method(actor: ActorId) -> Target {
    Target::Method {
        actor,
        method: Arc::new(Method {
            name: "m".into(),
            label: "A.m".into(),
            returns: Returns::Count(1),
            retries_max: 0,
            retry_exceptions: RetryExceptions::Never,
            group: "".into(),
            any_order: false,
        }),
    }
}

/// The messages to one process.
fn sent(effects: &[Effect], to: ProcessId) -> Vec<Message> {
    let message = |effect: &Effect| match effect {
        Effect::Send { to: whom, message } if *whom == to => Some(message.clone()),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

/// The tasks that are pushed to one process.
fn pushed(effects: &[Effect], to: ProcessId) -> Vec<(TaskId, u32)> {
    let push = |message: Message| match message {
        Message::PushTask(assignment) => Some((assignment.task, assignment.attempt)),
        _ => None,
    };
    sent(effects, to).into_iter().filter_map(push).collect()
}

fn requested(effects: &[Effect]) -> Vec<RequestId> {
    let request = |message: Message| match message {
        Message::RequestLease { request, .. } => Some(request),
        _ => None,
    };
    sent(effects, DAEMON).into_iter().filter_map(request).collect()
}

/// Messages from one owner to another, until none is left; what goes elsewhere is returned.
fn converse(one: &mut Harness, two: &mut Harness, effects: Vec<Effect>, from: ProcessId) -> Vec<Effect> {
    let mut elsewhere = Vec::new();
    let mut queue: Vec<(ProcessId, Effect)> = effects.into_iter().map(|effect| (from, effect)).collect();
    while !queue.is_empty() {
        let (from, effect) = queue.remove(0);
        let Effect::Send { to, message } = &effect else {
            elsewhere.push(effect);
            continue;
        };
        let target = if *to == one.owner.process() {
            &mut *one
        } else if *to == two.owner.process() {
            &mut *two
        } else {
            elsewhere.push(effect);
            continue;
        };
        let to = *to;
        let next = target.receive(from, message.clone());
        queue.extend(next.into_iter().map(|effect| (to, effect)));
    }
    elsewhere
}

//! What runs in a simulated process: the threads of its program.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use shoal_core::Time;
use shoal_core::ids::{ActorId, FunctionId, GroupId, ObjectId, ProcessId, RequestId, TaskId};
use shoal_core::message::Answer;
use shoal_core::task::{Dependency, Returns};
use shoal_core::value::Failure;

use crate::program::Script;

/// What runs in a process that is alive.
#[derive(Default)]
pub(super) struct Program {
    /// The driver's number, if it is a driver.
    pub(super) driver: Option<usize>,
    pub(super) threads: BTreeMap<u32, Thread>,
    pub(super) next_thread: u32,
    pub(super) code: BTreeSet<FunctionId>,
    pub(super) calls: BTreeMap<FunctionId, u32>,
    pub(super) actor: Option<ActorPart>,
}

/// What makes a process an actor.
pub(super) struct ActorPart {
    pub(super) state: Vec<Holding>,
}

/// A program that runs: a driver's, a task's or a constructor's.
pub(super) struct Thread {
    pub(super) script: Rc<Script>,
    pub(super) at: usize,
    pub(super) slots: Vec<Holding>,
    pub(super) role: Role,
    /// What it begins with, until it does.
    pub(super) given: Option<Given>,
    pub(super) waits: Waits,
    /// Its owner was told that it waits.
    pub(super) blocked: bool,
    pub(super) interrupted: bool,
    /// Only the latest wake-up counts.
    pub(super) wake: u32,
    pub(super) computed: bool,
    /// Results that are made, once the last step is done.
    pub(super) made: Vec<shoal_core::value::Outcome>,
    pub(super) room_refused: Option<Failure>,
    pub(super) answer: Option<Answer>,
    /// What `answer` is for.
    pub(super) pending_actor: Option<ActorId>,
    pub(super) pending_group: Option<GroupId>,
}

/// Whose program it is.
#[derive(Clone, Debug)]
pub(super) enum Role {
    Driver,
    Task {
        task: TaskId,
        attempt: u32,
        returns: Returns,
        retryable: bool,
        function: Option<(FunctionId, u32)>,
        started: Time,
        yielded: u32,
        consumed: u32,
    },
    Constructor,
}

/// What a task or a constructor is given.
pub(super) struct Given {
    pub(super) task: TaskId,
    /// Values of its arguments, and why it cannot run if it cannot.
    pub(super) arguments: Vec<Dependency>,
    pub(super) borrows: Vec<ObjectId>,
}

/// What a thread waits for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Waits {
    #[default]
    Nothing,
    Objects(Vec<ObjectId>),
    Room(RequestId),
    Answer(RequestId),
    Consumer,
    /// Of a group, until that time.
    Group(GroupId, Time),
}

/// What a slot holds.
#[derive(Clone, Debug, Default)]
pub(super) enum Holding {
    #[default]
    Nothing,
    /// One counted reference.
    Reference(ObjectId),
    /// A stream's consumer end.
    Stream(TaskId),
    /// A handle; a weak one is not counted.
    Actor { actor: ActorId, weak: bool },
    /// A placement group.
    Group(GroupId),
    /// A value, with one counted reference for each that it contains.
    Value { object: ObjectId, contains: Vec<ObjectId>, mapped: bool },
}

impl Thread {
    pub(super) fn new(script: Rc<Script>, role: Role) -> Thread {
        Thread {
            script,
            at: 0,
            slots: Vec::new(),
            role,
            given: None,
            waits: Waits::Nothing,
            blocked: false,
            interrupted: false,
            wake: 0,
            computed: false,
            made: Vec::new(),
            room_refused: None,
            answer: None,
            pending_actor: None,
            pending_group: None,
        }
    }

    pub(super) fn task(&self) -> Option<TaskId> {
        match self.role {
            Role::Task { task, .. } => Some(task),
            _ => None,
        }
    }

    /// Whether it is a generator that runs for this process.
    pub(super) fn is_stream_of(&self, owner: ProcessId) -> bool {
        matches!(&self.role, Role::Task { task, returns: Returns::Stream { .. }, .. } if task.owner == owner)
    }

    pub(super) fn put_slot(&mut self, slot: u16, holding: Holding) -> Holding {
        let at = usize::from(slot);
        if self.slots.len() <= at {
            self.slots.resize(at + 1, Holding::Nothing);
        }
        std::mem::replace(&mut self.slots[at], holding)
    }

    pub(super) fn slot(&self, slot: u16) -> &Holding {
        self.slots.get(usize::from(slot)).unwrap_or(&Holding::Nothing)
    }

    /// The placement group in a slot.
    pub(super) fn group(&self, slot: u16) -> Option<GroupId> {
        match self.slot(slot) {
            Holding::Group(group) => Some(*group),
            _ => None,
        }
    }

    /// The objects that these slots refer to; empty slots are left out.
    pub(super) fn objects(&self, slots: &[u16]) -> Vec<ObjectId> {
        slots.iter().filter_map(|slot| self.slot(*slot).object()).collect()
    }
}

impl Holding {
    /// The object that a reference or handle stands for.
    pub(super) fn object(&self) -> Option<ObjectId> {
        match self {
            Holding::Reference(object) => Some(*object),
            Holding::Actor { actor, .. } => Some(actor.handle_object()),
            _ => None,
        }
    }
}

impl Program {
    /// What each of its threads waits for.
    pub(super) fn waiting(&self, process: ProcessId) -> Vec<String> {
        let waiting = |(number, thread): (&u32, &Thread)| {
            let what = match &thread.waits {
                Waits::Nothing => return None,
                Waits::Objects(objects) => format!("for {objects:?}"),
                Waits::Room(request) => format!("for room in the store ({request:?})"),
                Waits::Answer(request) => format!("for an answer ({request:?})"),
                Waits::Consumer => String::from("for its consumer"),
                Waits::Group(group, _) => format!("for {group:?}"),
            };
            let role = match &thread.role {
                Role::Driver => format!("driver thread {number}"),
                Role::Task { task, attempt, .. } => format!("task {task:?} attempt {attempt}"),
                Role::Constructor => String::from("constructor"),
            };
            Some(format!("{process:?} {role} waits {what} at step {}", thread.at))
        };
        self.threads.iter().filter_map(waiting).collect()
    }
}

//! What a program must see: no machines, no messages, no time.

use std::collections::BTreeMap;

use shoal_core::ids::ObjectId;
use shoal_core::value::Failure;

use crate::{Inside, Task};

/// What getting a reference must give.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expected {
    Value(u64),
    Exception(u64),
    /// Its worker died, and no retry was left.
    Crashed,
}

/// What `get` gave.
#[derive(Clone, Debug)]
pub enum Seen {
    Value(u64),
    Exception(u64),
    Failure(Failure),
}

/// The outcome of every object that a program of one driver can make.
#[derive(Debug, Default)]
pub struct Model {
    outcomes: BTreeMap<ObjectId, Expected>,
    /// What tasks do, for the workers that run them.
    tasks: BTreeMap<ObjectId, Task>,
}

impl Model {
    pub fn put(&mut self, object: ObjectId, salt: u8) {
        self.outcomes.insert(object, Expected::Value(u64::from(salt)));
    }

    /// A task ends as its first argument without a value did. Otherwise it crashes more often than it
    /// may be tried again, or raises, or returns.
    pub fn submit(&mut self, object: ObjectId, task: &Task, dependencies: &[ObjectId]) {
        let arguments: Vec<Expected> = dependencies.iter().map(|object| self.expected(*object)).collect();
        let broken = arguments.iter().find(|expected| !matches!(expected, Expected::Value(_)));
        let values = arguments.iter().map(|expected| match expected {
            Expected::Value(value) => *value,
            _ => 0,
        });
        let sum = u64::from(task.salt) + values.sum::<u64>();
        let outcome = match broken {
            Some(broken) => *broken,
            None if task.crashes > task.retries => Expected::Crashed,
            None if task.raises => Expected::Exception(sum),
            None => Expected::Value(sum),
        };
        self.outcomes.insert(object, outcome);
        self.tasks.insert(object, task.clone());
    }

    /// Something that a worker has put.
    pub fn put_inside(&mut self, object: ObjectId, salt: u8) {
        self.put(object, salt);
    }

    pub fn expected(&self, object: ObjectId) -> Expected {
        self.outcomes[&object]
    }

    pub fn task(&self, object: ObjectId) -> &Task {
        &self.tasks[&object]
    }

    /// Whether what was seen is right. What a process had put may be lost with it, and so may what was
    /// computed from that.
    pub fn explains(&self, object: ObjectId, seen: &Seen, some_owner_died: bool) -> bool {
        match (self.expected(object), seen) {
            (Expected::Value(expected), Seen::Value(value)) => expected == *value,
            (Expected::Exception(expected), Seen::Exception(value)) => expected == *value,
            (Expected::Crashed, Seen::Failure(Failure::WorkerCrashed { .. })) => true,
            (_, Seen::Failure(Failure::OwnerDied { .. })) => some_owner_died,
            _ => false,
        }
    }

    /// Whether a value of this task has a reference inside.
    pub fn has_inside(&self, object: ObjectId) -> bool {
        self.tasks.get(&object).is_some_and(|task| {
            task.returns == Inside::Put || (task.returns == Inside::Borrowed && !task.borrows.is_empty())
        })
    }
}

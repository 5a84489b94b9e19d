//! Stored arguments of what was assigned to this process: it begins, task or constructor, when they are pinned.
//!
//! One whose bytes are lost is made again by its owner meanwhile, or is small or has failed when it comes back.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{Out, Owner};
use crate::ids::ObjectId;
use crate::task::Dependency;
use crate::value::{ActorDeath, Outcome, Payload, Value};

/// The stored arguments of one task or constructor that has not begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments {
    /// All of them, each with a record and a reader of its own while the task is here.
    pub(super) stored: Vec<ObjectId>,
    /// Those that are not pinned yet.
    unpinned: Vec<ObjectId>,
}

impl Arguments {
    pub(super) fn are_pinned(&self) -> bool {
        self.unpinned.is_empty()
    }

    pub(super) fn await_pin(&self, object: ObjectId) -> bool {
        self.unpinned.contains(&object)
    }
}

/// The references inside the values of arguments.
pub(super) fn contained(arguments: &[Dependency]) -> impl Iterator<Item = ObjectId> {
    arguments.iter().flat_map(|given| super::borrowing::contained(&given.outcome).iter().copied())
}

/// What an actor dies of that has an argument without a value.
pub(super) fn failed(arguments: &[Dependency]) -> Option<ActorDeath> {
    arguments.iter().find_map(|given| match &given.outcome {
        Outcome::Value(_) => None,
        Outcome::Exception(value) => Some(ActorDeath::Constructor(value.clone())),
        Outcome::Failure(failure) => {
            Some(ActorDeath::ArgumentFailed(Box::new(failure.as_ref().clone().without_cause())))
        }
    })
}

impl Owner {
    /// Of the arguments that are in the store: know where they are, and pin them.
    pub(super) fn hold_arguments(&mut self, arguments: &[Dependency], out: Out<'_>) -> Arguments {
        let mut held = Arguments::default();
        for Dependency { object, outcome } in arguments {
            let Outcome::Value(value) = outcome else { continue };
            if !matches!(value.payload, Payload::Stored { .. }) {
                continue;
            }
            // An earlier task may have failed to read it here; the caller asks to try again.
            let failed =
                matches!(self.outcome(*object), Some(Outcome::Failure(_))) && !self.is_owned(*object);
            if self.has_outcome(*object) && !failed {
                self.told_location(*object, value);
            } else {
                // The lender keeps what the value contains; only the bytes matter here.
                let value = Value { payload: value.payload.clone(), contains: Vec::new() };
                self.record(*object);
                self.resolve(self.now, *object, Outcome::Value(value), out);
            }
            self.record(*object).uses += 1;
            self.pin_argument(self.now, *object, out);
            held.stored.push(*object);
        }
        held.unpinned = held.stored.iter().copied().filter(|object| !self.is_pinned(*object)).collect();
        self.executor.awaited.extend(&held.unpinned);
        held
    }

    pub(super) fn release_arguments(&mut self, stored: &[ObjectId]) {
        for object in stored {
            self.remove_reader(self.now, *object);
            self.unuse(*object);
        }
    }

    /// The bytes of an argument are here.
    pub(super) fn argument_pinned(&mut self, object: ObjectId, out: Out<'_>) {
        if !self.executor.awaited.contains(&object) {
            return;
        }
        self.executor.awaited.retain(|awaited| *awaited != object);
        for (arguments, _) in self.executor.waiting_mut() {
            arguments.unpinned.retain(|awaited| *awaited != object);
        }
        self.start_ready(out);
    }

    /// The bytes of an argument were lost and are being made again.
    pub(super) fn argument_lost(&mut self, object: ObjectId) {
        if self.executor.awaited.contains(&object) {
            self.executor.lost.push(object);
        }
    }

    /// The bytes of an argument were lost, and there is a new outcome: in the store again, or
    /// small, or a failure that is the outcome of whatever waits for it, too.
    pub(super) fn argument_resolved(&mut self, object: ObjectId, out: Out<'_>) {
        if !self.executor.awaited.contains(&object) {
            return;
        }
        let Some(outcome) = self.outcome(object).cloned() else {
            return;
        };
        let in_store = match &outcome {
            Outcome::Value(value) | Outcome::Exception(value) => {
                matches!(value.payload, Payload::Stored { .. })
            }
            Outcome::Failure(_) => false,
        };
        if !in_store || !matches!(outcome, Outcome::Value(_)) {
            for (_, given) in self.executor.waiting_mut() {
                for dependency in given.iter_mut().filter(|dependency| dependency.object == object) {
                    dependency.outcome = outcome.clone();
                }
            }
        }
        if in_store {
            // Everything that waits for it is one reader; what was given back is none.
            let readers = |arguments: &Arguments| {
                let awaits = arguments.await_pin(object);
                arguments.stored.iter().filter(|stored| awaits && **stored == object).count()
            };
            for _ in 0..self.executor.waiting().map(readers).sum() {
                self.pin_argument(self.now, object, out);
            }
        } else {
            self.argument_pinned(object, out);
        }
    }
}

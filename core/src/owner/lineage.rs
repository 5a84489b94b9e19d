//! Rebuilding lost objects: the tasks that made stored objects are kept, within a byte limit, while a
//! result of theirs has a record, and run again when its bytes are lost.

use alloc::boxed::Box;
use alloc::format;

use super::objects::State;
use super::tasks::Stage;
use super::{Out, Owner};
use crate::ids::{ObjectId, TaskId};
use crate::machine::Time;
use crate::value::{Failure, Outcome, Payload};

impl Owner {
    /// Whether a finished task may have to run again: it made something that can be lost.
    pub(super) fn is_worth_keeping(&self, id: TaskId) -> bool {
        let Some(task) = self.tasks.get(&id) else {
            return false;
        };
        if task.stream.is_some() || task.actor().is_some() || task.retries_left == 0 {
            return false;
        }
        let id = task.id();
        let stored = (0..task.results_alive).any(|index| {
            matches!(
                self.outcome(id.object(index)),
                Some(Outcome::Value(value)) if matches!(value.payload, Payload::Stored { .. })
            )
        });
        stored && self.lineage_bytes + task.lineage_bytes() <= self.config.lineage_bytes_max
    }

    /// Keep the task, and of its arguments at least the way to make them again.
    pub(super) fn keep_lineage(&mut self, id: TaskId, dependencies: &[ObjectId], borrows: &[ObjectId]) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        self.lineage_bytes += task.lineage_bytes();
        for object in dependencies.iter().chain(borrows) {
            self.record(*object).lineage += 1;
        }
    }

    /// A result's record is gone: the task is forgotten with the last.
    pub(super) fn forget_lineage(&mut self, id: TaskId, out: Out<'_>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if id.owner == self.config.process {
            task.results_alive = task.results_alive.saturating_sub(1);
        } else {
            task.results_alive =
                task.results().filter(|result| self.objects.contains_key(result)).count() as u32;
        }
        if task.stage != Stage::Done || task.results_alive > 0 || task.stream.is_some() {
            return;
        }
        let Some(task) = self.tasks.remove(&id) else {
            return;
        };
        self.lineage_bytes = self.lineage_bytes.saturating_sub(task.lineage_bytes());
        let references = Self::references_of(&task);
        self.task_forgotten(id, task.kept, out);
        for object in references {
            if let Some(record) = self.objects.get_mut(&object) {
                record.lineage = record.lineage.saturating_sub(1);
                self.dropped.push(object);
            }
        }
    }

    /// Nobody needs the value now, but a task that may run again needs it then: drop the bytes if
    /// they can be made again.
    pub(super) fn evict(&mut self, object: ObjectId, out: Out<'_>) {
        let stored = matches!(
            self.outcome(object),
            Some(Outcome::Value(value)) if matches!(value.payload, Payload::Stored { .. })
        );
        let rebuildable = self
            .tasks
            .get(&object.task)
            .is_some_and(|task| task.stage == Stage::Done && task.stream.is_none());
        if !stored || !rebuildable || !self.is_owned(object) {
            return;
        }
        let record = self.record(object);
        if let State::Ready(outcome) = core::mem::replace(&mut record.state, State::Evicted) {
            self.release_last(object, outcome, out);
        }
        self.outcome_changed(object, out);
    }

    /// No node has the bytes of this object of ours: make them again or say why not.
    pub(super) fn lost(&mut self, now: Time, object: ObjectId, cause: &str, out: Out<'_>) {
        let record = self.record(object);
        if let State::Ready(outcome) = core::mem::replace(&mut record.state, State::Evicted) {
            self.release_last(object, outcome, out);
        }
        self.outcome_changed(object, out);
        self.forget_asked(object);
        self.rebuild(now, object, cause, out);
    }

    /// Run the task of an object without bytes again.
    pub(super) fn rebuild(&mut self, now: Time, object: ObjectId, cause: &str, out: Out<'_>) {
        let id = object.task;
        let refusal = match self.tasks.get_mut(&id) {
            Some(task) if task.stream.is_some() => Some("it cannot be made again"),
            Some(task) if task.stage != Stage::Done => None,
            Some(task) if task.retries_left == 0 => Some("its task has no retry left"),
            Some(task) => {
                if task.retries_left > 0 {
                    task.retries_left -= 1;
                }
                task.attempt += 1;
                self.run_again(now, id, out);
                None
            }
            None => Some("it was put, or its task's description was dropped, so nothing can make it again"),
        };
        match refusal {
            Some(refusal) => {
                let failure = Failure::ObjectLost { object, detail: format!("{cause}, and {refusal}") };
                self.resolve(now, object, Outcome::Failure(Box::new(failure)), out);
            }
            None => {
                let record = self.record(object);
                if matches!(record.state, State::Evicted) {
                    record.state = State::Pending;
                }
            }
        }
    }

    fn run_again(&mut self, now: Time, id: TaskId, out: Out<'_>) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        self.lineage_bytes = self.lineage_bytes.saturating_sub(task.lineage_bytes());
        let actor = task.actor();
        let references = Self::references_of(task);
        let dependencies = task.submission.dependencies.clone();
        let borrows = task.submission.borrows.clone();
        self.use_all(&dependencies);
        self.use_all(&borrows);
        if let Some(actor) = actor {
            self.queue_call(actor, id, out);
        }
        for object in references {
            let record = self.record(object);
            record.lineage = record.lineage.saturating_sub(1);
        }
        self.task_changed(id, out);
        self.await_dependencies(now, id, out);
    }

    /// The node cannot give us the bytes.
    pub(super) fn pin_failed(&mut self, now: Time, object: ObjectId, failure: Failure, out: Out<'_>) {
        let asked_at = self.forget_mapping(object);
        if !self.objects.contains_key(&object) {
            return;
        }
        let lost = matches!(failure, Failure::ObjectLost { .. } | Failure::Freed { .. });
        if lost {
            self.argument_lost(object);
        }
        if !lost {
            let record = self.record(object);
            if let State::Ready(outcome) = core::mem::take(&mut record.state) {
                self.release_last(object, outcome, out);
            }
            self.resolve(now, object, Outcome::Failure(Box::new(failure)), out);
        } else if self.is_owned(object) && self.forget_location(object, self.node()) {
            // The bytes here cannot be read; another node has them.
            self.pin(now, object, out);
            self.argument_resolved(object, out);
        } else if self.is_owned(object) && self.has_moved(object, asked_at) {
            // It was copied to another node after this one was told where it lay.
            self.pin(now, object, out);
            self.argument_resolved(object, out);
        } else if self.is_owned(object) {
            self.lost(now, object, "no node has a copy of it any more", out);
        } else {
            let node = asked_at.unwrap_or_else(|| self.node());
            let record = self.record(object);
            if let State::Ready(outcome) = core::mem::take(&mut record.state) {
                self.release_outcome(object, outcome, out);
            }
            self.fetch(now, object, Some(node), out);
        }
    }
}

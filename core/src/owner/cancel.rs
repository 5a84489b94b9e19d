//! Cancelling: a task that has not started never does; one that runs is interrupted.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::tasks::Stage;
use super::{Out, Owner};
use crate::ids::{ObjectId, TaskId};
use crate::machine::Time;
use crate::message::Message;
use crate::value::{Failure, Outcome};

impl Owner {
    /// The program cancels the task of one of its references.
    pub(super) fn cancel(&mut self, now: Time, object: ObjectId, force: bool, recursive: bool, out: Out<'_>) {
        self.cancel_task(now, object.task, force, recursive, out);
    }

    /// Owned here: cancel it. Owned elsewhere: its owner does.
    fn cancel_task(&mut self, now: Time, id: TaskId, force: bool, recursive: bool, out: Out<'_>) {
        if !self.is_owned(id.object(0)) {
            if let Some(owner) = self.owner_of(id.object(0)) {
                self.send(owner, Message::CancelTask { task: id, force, recursive }, out);
            }
            return;
        }
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        match task.stage {
            Stage::Done => {}
            Stage::Pushed { to } => {
                task.cancelled = true;
                self.task_changed(id, out);
                self.send(to, Message::CancelTask { task: id, force, recursive }, out);
            }
            Stage::Waiting { .. } | Stage::Queued => {
                task.cancelled = true;
                self.unqueue_task(id);
                self.fail(now, id, Outcome::Failure(Box::new(Failure::Cancelled)), out);
            }
        }
    }

    /// From the owner of a task that was pushed here, or from a borrower of a task that is ours.
    pub(super) fn cancel_received(
        &mut self,
        now: Time,
        task: TaskId,
        force: bool,
        recursive: bool,
        out: Out<'_>,
    ) {
        if self.tasks.contains_key(&task) {
            self.cancel_task(now, task, force, recursive, out);
            return;
        }
        if recursive {
            let mut children: Vec<TaskId> = self
                .tasks
                .values()
                .filter(|child| child.submission.parent == Some(task))
                .map(|child| child.id())
                .collect();
            children.sort_unstable();
            for child in children {
                // An actor's call cannot be forced, so neither can one among the children.
                let actor = self.tasks.get(&child).is_some_and(|c| c.actor().is_some());
                self.cancel_task(now, child, force && !actor, recursive, out);
            }
        }
        self.cancel_assigned(task, force, out);
    }
}

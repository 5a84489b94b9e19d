//! What must be known of an object, or of a task, in order to own it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::ids::{JobId, ObjectId, TaskId};
use crate::task::Submission;
use crate::value::Outcome;

/// A record that a steward keeps for an owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The job that it belongs to, and with which it ends.
    pub job: JobId,
    /// The present attempt of the task; of an object the one that made its value.
    pub attempt: u32,
    /// What the record is of.
    pub subject: Subject,
    /// References in it to what others own: they come with one grant each, and the steward holds them.
    pub lent: Vec<ObjectId>,
}

/// What a record is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Subject {
    /// An object.
    Object {
        /// Which.
        object: ObjectId,
        /// Its outcome; `None` while only its task can say.
        outcome: Option<Outcome>,
    },
    /// A task that may run, or run again.
    Task {
        /// Its description. The code of a function is left out where the steward has it already.
        submission: Box<Submission>,
        /// Attempts that are left, never 0; -1 is no limit.
        retries_left: i32,
    },
}

impl Record {
    /// The task that the record is of, or that makes its object.
    pub fn task(&self) -> TaskId {
        match &self.subject {
            Subject::Object { object, .. } => object.task,
            Subject::Task { submission, .. } => submission.id,
        }
    }
}

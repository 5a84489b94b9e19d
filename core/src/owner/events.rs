//! What ran when, for timelines: the last tasks that this process submitted and that ended.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use serde::{Deserialize, Serialize};

use super::Owner;
use super::tasks::Task;
use crate::ids::{ProcessId, TaskId};
use crate::task::{Completion, Target};

/// Older ones are dropped.
const EVENTS_MAX: usize = 100_000;

/// One attempt that ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskEvent {
    /// Its task.
    pub task: TaskId,
    /// For people.
    pub label: Arc<str>,
    /// Where it ran.
    pub process: ProcessId,
    /// When it started, in microseconds of the program's calendar.
    pub started: u64,
    /// How long it ran, in microseconds.
    pub micros: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Events {
    list: VecDeque<TaskEvent>,
}

impl Events {
    pub(super) fn add(&mut self, task: &Task, process: ProcessId, completion: &Completion) {
        if self.list.len() == EVENTS_MAX {
            self.list.pop_front();
        }
        let label = match &task.submission.target {
            Target::Function(definition) => &definition.name,
            Target::Method { method, .. } => &method.label,
        };
        self.list.push_back(TaskEvent {
            task: completion.task,
            label: label.clone(),
            process,
            started: completion.started,
            micros: completion.micros,
        });
    }
}

impl Owner {
    /// The attempts that ended last, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &TaskEvent> {
        self.events.list.iter()
    }
}

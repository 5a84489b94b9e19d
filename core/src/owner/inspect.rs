//! A look inside, for simulations, dashboards and `shoal why`: nothing here changes anything.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::Owner;
use super::objects::State;
use super::tasks::Stage;
use crate::ids::{ActorId, LeaseId, ObjectId, ProcessId, TaskId};

/// What an owner knows, sorted by id.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// Every object with a record.
    pub objects: Vec<ObjectView>,
    /// Every task with a record.
    pub tasks: Vec<TaskView>,
    /// Every leased worker.
    pub leases: Vec<LeaseView>,
    /// Every actor that is called or was created here.
    pub actors: Vec<ActorView>,
    /// Lease requests without an answer.
    pub lease_requests: usize,
    /// Objects of the store that are pinned for this process, with their readers.
    pub pins: Vec<(ObjectId, u32)>,
    /// Bytes of task descriptions kept for rebuilding.
    pub lineage_bytes: u64,
    /// Of a steward: records that it keeps for others.
    pub records: usize,
    /// Of a steward: deaths after which holders have yet to register.
    pub mournings: Vec<ProcessId>,
}

/// An object's record.
#[derive(Clone, Debug)]
pub struct ObjectView {
    /// The object.
    pub id: ObjectId,
    /// Whether there is an outcome, in a word.
    pub state: &'static str,
    /// References in the program.
    pub local: u32,
    /// Unfinished tasks, values and streams that need it.
    pub uses: u32,
    /// Finished tasks that may run again.
    pub lineage: u32,
    /// Who holds it through this process.
    pub held_for: Vec<(ProcessId, i64)>,
    /// Whose grants keep it alive for this process.
    pub grants: Vec<(ProcessId, u32)>,
    /// The owner was asked to register this process and has not answered.
    pub registering: bool,
}

/// A task's record.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// The task.
    pub id: TaskId,
    /// The present or latest attempt, from 0.
    pub attempt: u32,
    /// -1 is no limit.
    pub retries_left: i32,
    /// Cancelled.
    pub cancelled: bool,
    /// It has ended and is kept to rebuild its results or for what waits in its stream.
    pub done: bool,
    /// The process that has it.
    pub pushed_to: Option<ProcessId>,
    /// Where it is and what it waits for, in words.
    pub stage: String,
}

/// A leased worker.
#[derive(Clone, Debug)]
pub struct LeaseView {
    /// The lease.
    pub id: LeaseId,
    /// The worker.
    pub worker: ProcessId,
    /// Tasks that were pushed and not reported, in order.
    pub in_flight: Vec<TaskId>,
}

/// An actor as its caller or creator sees it.
#[derive(Clone, Debug)]
pub struct ActorView {
    /// The actor.
    pub id: ActorId,
    /// Where it is in its life, in words.
    pub state: String,
    /// Which start of it.
    pub incarnation: u32,
    /// Calls that wait here.
    pub queued: usize,
    /// Calls that were pushed and have not ended.
    pub in_flight: usize,
}

impl Owner {
    /// What this process knows.
    pub fn inspect(&self) -> Inspection {
        let mut inspection = Inspection {
            objects: self.objects.keys().map(|id| self.view_object(*id)).collect(),
            tasks: self.tasks.keys().map(|id| self.view_task(*id)).collect(),
            leases: self.leases.views(),
            actors: self.actors.iter().map(|(id, calls)| calls.view(*id)).collect(),
            lease_requests: self.leases.open_requests(),
            pins: self.mappings.iter().map(|(id, mapping)| (*id, mapping.readers())).collect(),
            lineage_bytes: self.lineage_bytes,
            records: self.shelved(),
            mournings: self.mourned(),
        };
        inspection.objects.sort_unstable_by_key(|object| object.id);
        inspection.tasks.sort_unstable_by_key(|task| task.id);
        inspection.pins.sort_unstable();
        inspection
    }

    /// The references inside a value that is known here.
    pub fn contained(&self, object: ObjectId) -> &[ObjectId] {
        self.outcome(object).map(super::borrowing::contained).unwrap_or_default()
    }

    fn view_object(&self, id: ObjectId) -> ObjectView {
        let record = &self.objects[&id];
        let sharing = record.sharing.as_deref();
        ObjectView {
            id,
            state: match record.state {
                State::Unknown => "unknown",
                State::Fetching => "fetching",
                State::Pending => "pending",
                State::Ready(_) => "ready",
                State::Evicted => "evicted",
            },
            local: record.local,
            uses: record.uses,
            lineage: record.lineage,
            held_for: sharing.map(|s| s.held_for.clone()).unwrap_or_default(),
            grants: sharing.map(|s| s.grants.clone()).unwrap_or_default(),
            registering: sharing.is_some_and(|s| s.registering),
        }
    }

    fn view_task(&self, id: TaskId) -> TaskView {
        let task = &self.tasks[&id];
        let pushed_to = match task.stage {
            Stage::Pushed { to } => Some(to),
            _ => None,
        };
        let missing = || {
            let dependencies = task.submission.dependencies.iter().copied();
            dependencies.filter(|object| !self.has_outcome(*object)).collect::<Vec<_>>()
        };
        TaskView {
            id: task.id(),
            attempt: task.attempt,
            retries_left: task.retries_left,
            cancelled: task.cancelled,
            done: task.stage == Stage::Done,
            pushed_to,
            stage: match task.stage {
                Stage::Waiting { .. } => format!("waits for its arguments {:?}", missing()),
                Stage::Queued => match task.actor() {
                    Some(actor) => format!("waits for {actor:?}"),
                    None => String::from("waits for a worker"),
                },
                Stage::Pushed { to } => format!("is with {to:?}"),
                Stage::Done => String::from("has ended"),
            },
        }
    }
}

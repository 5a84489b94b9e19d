//! What must hold of everything that has happened, and not only of the present: what is remembered of
//! the past is part of a state.

use std::collections::BTreeMap;

use shoal_core::ids::{ActorId, ObjectId, ProcessId, TaskId};
use shoal_core::value::{ActorDeath, Failure};

use crate::search::{Check, Violation};

/// A fact that a process's program sees.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Observation {
    /// It began to run an attempt.
    Started {
        /// What.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// Of a method: the actor, and which start of it.
        call: Option<(ActorId, u32)>,
    },
    /// It began to construct an actor.
    Constructing {
        /// The actor.
        actor: ActorId,
        /// Which start.
        incarnation: u32,
    },
    /// It asked for a value.
    Got {
        /// Of this object.
        object: ObjectId,
        /// What it got.
        result: Got,
    },
    /// It submitted a task with arguments that are passed by value.
    Depends {
        /// The task.
        task: TaskId,
    },
    /// It wants this task cancelled.
    Cancelled {
        /// The task.
        task: TaskId,
        /// The attempt that it is at, unless it has ended.
        attempt: Option<u32>,
    },
    /// It wants this actor killed.
    Killed {
        /// The actor.
        actor: ActorId,
    },
}

/// What a program got for a reference.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Got {
    /// A value: its text says which object it is and which attempt made it.
    Value(String),
    /// An exception of the user's code.
    Exception,
    /// A failure of the system.
    Failure(Failure),
}

/// Who is alive.
pub type Lives<'a> = &'a dyn Fn(ProcessId) -> bool;

/// What is remembered.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The latest attempt of each task that has started, and where.
    attempts: BTreeMap<TaskId, (u32, ProcessId)>,
    /// Tasks that may fail as their arguments did.
    depending: Vec<TaskId>,
    /// Where each actor was constructed last, and as which start of it.
    homes: BTreeMap<ActorId, (ProcessId, u32)>,
    /// By actor, incarnation and caller: the latest call that started.
    calls: BTreeMap<(ActorId, u32, ProcessId), u64>,
    /// Tasks that were cancelled, and their last attempts.
    cancelled: BTreeMap<TaskId, Option<u32>>,
    killed: Vec<ActorId>,
    /// A process crashed that had passed them on, maybe to somebody of whom their owner had not heard.
    lost: Vec<ObjectId>,
}

impl History {
    /// Remember what `process` saw, if it is in order. `lives` says who is alive.
    pub fn observe(&mut self, process: ProcessId, observation: &Observation, lives: Lives<'_>) -> Check {
        match observation {
            Observation::Started { task, attempt, call } => self.started(process, *task, *attempt, *call),
            Observation::Constructing { actor, incarnation } => {
                match self.homes.insert(*actor, (process, *incarnation)) {
                    Some((home, _)) if lives(home) => wrong(
                        "actors",
                        format!("{actor:?} is constructed in {process:?} and lives in {home:?}"),
                    ),
                    Some((_, earlier)) if earlier >= *incarnation => {
                        wrong("actors", format!("{actor:?} starts as {incarnation} after it was {earlier}"))
                    }
                    _ => Ok(()),
                }
            }
            Observation::Got { object, result } => self.judge(*object, result, lives).or_else(|why| {
                wrong("truth", format!("{process:?} got {result:?} for {object:?}, but {why}"))
            }),
            Observation::Depends { task } => {
                self.depending.push(*task);
                Ok(())
            }
            Observation::Cancelled { task, attempt } => {
                self.cancelled.entry(*task).or_insert(*attempt);
                Ok(())
            }
            Observation::Killed { actor } => {
                self.killed.push(*actor);
                Ok(())
            }
        }
    }

    /// A process crashes that has passed these on.
    pub fn lose(&mut self, objects: Vec<ObjectId>) {
        self.lost.extend(objects);
    }

    /// See [`Scenario::strict`](crate::scenario::Scenario::strict).
    pub fn may_be_lost(&self, object: ObjectId) -> bool {
        self.lost.contains(&object)
    }

    fn started(
        &mut self,
        process: ProcessId,
        task: TaskId,
        attempt: u32,
        call: Option<(ActorId, u32)>,
    ) -> Check {
        if let Some((earlier, _)) = self.attempts.insert(task, (attempt, process))
            && earlier >= attempt
        {
            let detail = format!("{process:?} starts attempt {attempt} of {task:?} after attempt {earlier}");
            return wrong("attempts", detail);
        }
        if let Some(Some(last)) = self.cancelled.get(&task)
            && attempt > *last
        {
            let detail = format!("{task:?} was cancelled in attempt {last}, and attempt {attempt} starts");
            return wrong("attempts", detail);
        }
        let Some((actor, incarnation)) = call else { return Ok(()) };
        let home = self.homes.get(&actor);
        if home != Some(&(process, incarnation)) {
            return wrong("actors", format!("{task:?} runs in {process:?}, and {actor:?} lives in {home:?}"));
        }
        if let Some(later) = self.calls.insert((actor, incarnation, task.owner), task.number)
            && later > task.number
        {
            let detail = format!("{actor:?} starts {task:?} after number {later} of the same caller");
            return wrong("actors", detail);
        }
        Ok(())
    }

    /// Whether what was got can be true.
    fn judge(&self, object: ObjectId, got: &Got, lives: Lives<'_>) -> Result<(), String> {
        let failure = match got {
            Got::Value(text) if text.is_empty() => return Ok(()),
            Got::Value(text) => {
                let own = text.strip_prefix(&format!("{object:?} of attempt "));
                let made = own.and_then(|attempt| attempt.parse::<u32>().ok());
                let started = self.attempts.get(&object.task).map_or(0, |(attempt, _)| *attempt);
                return match made {
                    Some(attempt) if attempt <= started => Ok(()),
                    _ => Err(format!("no such attempt has run; the latest is {started}")),
                };
            }
            Got::Exception => return Ok(()),
            Got::Failure(failure) => failure,
        };
        match failure {
            Failure::WorkerCrashed { worker, .. } if lives(*worker) => Err(format!("{worker:?} lives")),
            Failure::WorkerCrashed { worker, .. } if !self.depending.contains(&object.task) => {
                match self.attempts.get(&object.task) {
                    Some((_, process)) if process == worker => Ok(()),
                    other => Err(format!("it was started last as {other:?}")),
                }
            }
            Failure::OwnerDied { object, .. } if lives(object.owner()) => {
                Err(format!("{:?} lives", object.owner()))
            }
            Failure::Freed { object } if lives(object.owner()) && !self.may_be_lost(*object) => {
                Err(String::from("somebody still referred to it"))
            }
            Failure::Cancelled if self.cancelled.is_empty() => Err(String::from("nothing was cancelled")),
            Failure::ActorDied { actor, cause } => match cause {
                ActorDeath::Killed if !self.killed.contains(actor) => Err(String::from("nobody killed it")),
                ActorDeath::CreatorDied if lives(actor.creator()) => Err(String::from("its creator lives")),
                ActorDeath::Process(_) => self.home_is_gone(*actor, lives),
                ActorDeath::Unknown => Err(String::from("it was made before it was called")),
                _ => Ok(()),
            },
            Failure::ActorUnavailable { actor, .. } => self.home_is_gone(*actor, lives),
            Failure::Unschedulable { .. } | Failure::StoreFull { .. } | Failure::EndOfStream => {
                Err(String::from("there is no reason for it"))
            }
            _ => Ok(()),
        }
    }

    fn home_is_gone(&self, actor: ActorId, lives: Lives<'_>) -> Result<(), String> {
        match self.homes.get(&actor) {
            // Constructed once and still there: nothing has happened to it.
            Some((home, 0)) if lives(*home) => Err(format!("its process {home:?} lives")),
            _ => Ok(()),
        }
    }
}

fn wrong(property: &'static str, detail: String) -> Check {
    Err(Violation::new(property, detail))
}

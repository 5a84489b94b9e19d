//! Tasks that this process submitted: from submission to the last attempt's outcome.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::objects::State;
use super::records::KeptTask;
use super::streams::StreamState;
use super::{Effect, Out, Owner};
use crate::ids::{ActorId, JobId, NodeId, ObjectId, ProcessId, TaskId};
use crate::machine::Time;
use crate::message::Message;
use crate::mutants::Mutant;
use crate::task::{Assignment, Callee, Completion, Dependency, Returns, Submission, Target};
use crate::value::{Death, Failure, Outcome};

/// One task.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) submission: Submission,
    pub(super) job: JobId,
    pub(super) attempt: u32,
    /// -1 is no limit.
    pub(super) retries_left: i32,
    pub(super) stage: Stage,
    pub(super) cancelled: bool,
    /// Results that still have a record.
    pub(super) results_alive: u32,
    pub(super) stream: Option<Box<StreamState>>,
    /// Set while stewards have a record of it.
    pub(super) kept: Option<Box<KeptTask>>,
}

/// Where a task is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// So many of its dependencies have no outcome yet.
    Waiting { missing: u32 },
    /// Ready to be pushed: in its demand's queue, its actor's queue, or delayed.
    Queued,
    /// A process has it.
    Pushed { to: ProcessId },
    /// It ended; kept because it may have to run again to rebuild a result.
    Done,
}

impl Task {
    /// A task of a dead owner.
    pub(super) fn adopted(submission: Submission, job: JobId, attempt: u32, retries_left: i32) -> Task {
        Task {
            submission,
            job,
            attempt,
            retries_left,
            stage: Stage::Done,
            cancelled: false,
            results_alive: 0,
            stream: None,
            kept: None,
        }
    }

    pub(super) fn id(&self) -> TaskId {
        self.submission.id
    }

    pub(super) fn actor(&self) -> Option<ActorId> {
        match &self.submission.target {
            Target::Function(_) => None,
            Target::Method { actor, .. } => Some(*actor),
        }
    }

    pub(super) fn returns(&self) -> Returns {
        match &self.submission.target {
            Target::Function(definition) => definition.returns,
            Target::Method { method, .. } => method.returns,
        }
    }

    /// The results that have a record from the start.
    pub(super) fn results(&self) -> impl Iterator<Item = ObjectId> + use<> {
        let id = self.id();
        let count = match self.returns() {
            Returns::Count(count) => count,
            Returns::Stream { .. } => 1,
        };
        (0..count).map(move |index| id.object(index))
    }

    /// Bytes that keeping the task for lineage takes, roughly.
    pub(super) fn lineage_bytes(&self) -> u64 {
        256 + self.submission.arguments.len() as u64
    }
}

impl Owner {
    pub(super) fn submit(&mut self, now: Time, submission: Submission, out: Out<'_>) {
        let retries_left = match &submission.target {
            Target::Function(definition) => definition.retries_max,
            Target::Method { method, .. } => method.retries_max,
        };
        let id = submission.id;
        let mut task = Task {
            submission,
            job: self.config.job,
            attempt: 0,
            retries_left,
            stage: Stage::Queued,
            cancelled: false,
            results_alive: 0,
            stream: None,
            kept: None,
        };
        if let Returns::Stream { backpressure } = task.returns() {
            task.stream = Some(Box::new(StreamState::new(backpressure)));
        }
        for object in task.results() {
            task.results_alive += 1;
            self.own(object, State::Pending).local += 1;
        }
        self.use_all(&task.submission.dependencies);
        self.use_all(&task.submission.borrows);
        let actor = task.actor();
        self.tasks.insert(id, task);
        if let Some(actor) = actor {
            self.queue_call(actor, id, out);
        }
        self.await_dependencies(now, id, out);
    }

    /// Start the task if it has what it needs, else wait for that.
    pub(super) fn await_dependencies(&mut self, now: Time, id: TaskId, out: Out<'_>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if task.submission.dependencies.is_empty() {
            task.stage = Stage::Queued;
            self.ready_to_push(now, id, out);
            return;
        }
        let dependencies = task.submission.dependencies.clone();
        let missing: Vec<ObjectId> =
            dependencies.into_iter().filter(|object| !self.has_outcome(*object)).collect();
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if missing.is_empty() {
            task.stage = Stage::Queued;
            self.ready_to_push(now, id, out);
            return;
        }
        // Asking for an object may show at once that it is lost, so the task waits before it asks.
        task.stage = Stage::Waiting { missing: missing.len() as u32 };
        for object in &missing {
            self.record(*object).waiting.push(id);
        }
        for object in missing {
            self.need(now, object, out);
        }
    }

    /// One of the task's dependencies has an outcome.
    pub(super) fn dependency_ready(&mut self, now: Time, id: TaskId, out: Out<'_>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            self.creation_dependency_ready(now, id, out);
            return;
        };
        let Stage::Waiting { missing } = &mut task.stage else {
            return;
        };
        *missing -= 1;
        if *missing == 0 {
            task.stage = Stage::Queued;
            self.ready_to_push(now, id, out);
        }
    }

    fn ready_to_push(&mut self, now: Time, id: TaskId, out: Out<'_>) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let broken = task.submission.dependencies.iter().find_map(|object| self.broken(*object));
        if let Some(outcome) = broken {
            self.fail(now, id, outcome, out);
            return;
        }
        match task.actor() {
            Some(actor) => self.push_calls(now, actor, out),
            None => self.queue_task(now, id, false, out),
        }
    }

    /// A task whose argument has no value does not run: it ends as its argument did.
    fn broken(&self, dependency: ObjectId) -> Option<Outcome> {
        match self.outcome(dependency)? {
            Outcome::Value(_) => None,
            other => Some(other.clone()),
        }
    }

    /// Whether an argument was there and was lost while the task waited for its turn.
    pub(super) fn lacks_dependency(&self, id: TaskId) -> bool {
        !Mutant::LostArgument.is_active()
            && self.tasks.get(&id).is_some_and(|task| {
                task.submission.dependencies.iter().any(|object| !self.has_outcome(*object))
            })
    }

    /// What the process on that node that runs the task is told.
    pub(super) fn assignment(
        &mut self,
        id: TaskId,
        reader: NodeId,
        callee: Callee,
    ) -> Option<Box<Assignment>> {
        let mut objects = self.tasks.get(&id)?.submission.dependencies.clone();
        if Mutant::SortArguments.is_active() {
            objects.sort_unstable();
        }
        let mut dependencies = Vec::with_capacity(objects.len());
        for object in objects {
            dependencies.push(Dependency { object, outcome: self.outcome_for(object, reader)? });
        }
        let task = self.tasks.get(&id)?;
        let (label, returns, retry_exceptions) = match &task.submission.target {
            Target::Function(d) => (&d.name, d.returns, &d.retry_exceptions),
            Target::Method { method, .. } => (&method.label, method.returns, &method.retry_exceptions),
        };
        Some(Box::new(Assignment {
            task: task.id(),
            attempt: task.attempt,
            callee,
            label: label.clone(),
            arguments: task.submission.arguments.clone(),
            dependencies,
            borrows: task.submission.borrows.clone(),
            returns,
            retry_exceptions: retry_exceptions.clone(),
        }))
    }

    pub(super) fn task_finished(&mut self, now: Time, from: ProcessId, completion: Completion, out: Out<'_>) {
        let id = completion.task;
        let current = self.tasks.get(&id).is_some_and(|task| {
            task.attempt == completion.attempt && task.stage == (Stage::Pushed { to: from })
        });
        for outcome in &completion.outcomes {
            self.receive_contained(outcome, from, out);
        }
        for object in &completion.kept {
            self.grant(*object, from, out);
        }
        self.leave_process(now, from, id, completion.micros, completion.exiting, out);
        if let Some(task) = self.tasks.get(&id).filter(|_| current) {
            self.events.add(task, from, &completion);
        }
        if !current {
            return self.release_outcomes(completion.task, 0, completion.attempt, completion.outcomes, out);
        }
        if self.takes_another_attempt(id, &completion) {
            self.release_outcomes(completion.task, 0, completion.attempt, completion.outcomes, out);
            self.retry(now, id, out);
            return;
        }
        self.finish(now, id, completion.outcomes, completion.items, out);
    }

    fn takes_another_attempt(&mut self, id: TaskId, completion: &Completion) -> bool {
        let Some(task) = self.tasks.get_mut(&id) else {
            return false;
        };
        if !completion.retryable || task.cancelled || task.retries_left == 0 {
            return false;
        }
        if task.retries_left > 0 {
            task.retries_left -= 1;
        }
        true
    }

    /// The task ended: hand out its outcomes. A single failure or exception counts for every result.
    pub(super) fn finish(&mut self, now: Time, id: TaskId, outcomes: Vec<Outcome>, items: u32, out: Out<'_>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let (id, attempt) = (task.id(), task.attempt);
        if task.stream.is_some() {
            let mut outcomes = outcomes.into_iter();
            self.stream_finished(now, id, outcomes.next(), items, out);
            outcomes.for_each(|outcome| self.release_copy(outcome));
        } else {
            let results = task.results().collect();
            self.hand_out(now, id, attempt, results, outcomes, out);
        }
        self.end_task(id, out);
    }

    fn hand_out(
        &mut self,
        now: Time,
        id: TaskId,
        attempt: u32,
        results: Vec<ObjectId>,
        outcomes: Vec<Outcome>,
        out: Out<'_>,
    ) {
        if results.len() != 1
            && let [only @ (Outcome::Failure(_) | Outcome::Exception(_))] = outcomes.as_slice()
        {
            for object in results {
                self.use_all(super::borrowing::contained(only));
                self.resolve_made(now, object, attempt, only.clone(), out);
            }
            return self.release_outcomes(id, 0, attempt, outcomes, out);
        }
        let mut outcomes = outcomes.into_iter();
        let count = results.len() as u32;
        for object in results {
            let outcome = outcomes.next().unwrap_or_else(|| missing_result(id));
            self.resolve_made(now, object, attempt, outcome, out);
        }
        self.release_outcomes(id, count, attempt, outcomes, out);
    }

    /// Let go of outcomes that nobody is told, of results from `first` on.
    fn release_outcomes(
        &mut self,
        id: TaskId,
        first: u32,
        attempt: u32,
        outcomes: impl IntoIterator<Item = Outcome>,
        out: Out<'_>,
    ) {
        for (index, outcome) in outcomes.into_iter().enumerate() {
            self.release_attempt(id.object(first + index as u32), attempt, outcome, out);
        }
    }

    /// Without an attempt, or after the last: the task's results are this failure or exception.
    pub(super) fn fail(&mut self, now: Time, id: TaskId, outcome: Outcome, out: Out<'_>) {
        if let Some(task) = self.tasks.get(&id)
            && let Some(actor) = task.actor()
        {
            self.unqueue_call(actor, id);
        }
        self.use_all(super::borrowing::contained(&outcome));
        let items = self.items_received(id);
        let actor = self.tasks.get(&id).and_then(|task| task.actor());
        self.finish(now, id, alloc::vec![outcome], items, out);
        if let Some(actor) = actor.filter(|_| !Mutant::CallsBehindFailedOne.is_active()) {
            // It may have held up the calls behind it.
            self.push_calls(now, actor, out);
        }
    }

    /// Release what the task held, or keep it for lineage.
    fn end_task(&mut self, id: TaskId, out: Out<'_>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        task.stage = Stage::Done;
        let actor = task.actor();
        let keep = self.is_worth_keeping(id);
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        let dependencies = task.submission.dependencies.clone();
        let borrows = task.submission.borrows.clone();
        if keep {
            self.keep_lineage(id, &dependencies, &borrows);
        } else if task.stream.as_ref().is_none_or(|stream| stream.is_closed()) {
            self.forget_task(id, out);
        }
        for object in dependencies.into_iter().chain(borrows) {
            self.unuse(object);
        }
        if let Some(actor) = actor {
            self.call_ended(actor, id);
        }
    }

    pub(super) fn forget_task(&mut self, id: TaskId, out: Out<'_>) {
        if let Some(task) = self.tasks.remove(&id) {
            self.task_forgotten(id, task.kept, out);
        }
    }

    /// The process that had the task died, or may have lost it: run it again if that is allowed.
    pub(super) fn attempt_lost(
        &mut self,
        now: Time,
        id: TaskId,
        worker: ProcessId,
        death: &Death,
        out: Out<'_>,
    ) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if task.cancelled && !Mutant::CancelledIsCrashed.is_active() {
            self.fail(now, id, Outcome::Failure(Box::new(Failure::Cancelled)), out);
            return;
        }
        if let (None, Death::GroupRemoved { group }) = (task.actor(), death) {
            let failure = Failure::GroupRemoved { group: *group };
            self.fail(now, id, Outcome::Failure(Box::new(failure)), out);
            return;
        }
        if task.retries_left == 0 {
            let failure = Failure::WorkerCrashed { worker, death: death.clone() };
            self.fail(now, id, Outcome::Failure(Box::new(failure)), out);
            return;
        }
        if task.retries_left > 0 {
            task.retries_left -= 1;
        }
        if matches!(death, Death::OutOfMemory { .. }) {
            task.attempt += 1;
            task.stage = Stage::Queued;
            self.task_changed(id, out);
            self.delayed.insert((now + self.config.memory_retry_delay, id), ());
            return;
        }
        self.retry(now, id, out);
    }

    /// The next attempt.
    pub(super) fn retry(&mut self, now: Time, id: TaskId, out: Out<'_>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if !Mutant::Canary.is_active() {
            task.attempt += 1;
        }
        task.stage = Stage::Queued;
        let actor = task.actor();
        self.task_changed(id, out);
        match actor {
            Some(actor) => {
                self.queue_call_again(actor, id);
                self.push_calls(now, actor, out);
            }
            None => self.queue_task(now, id, false, out),
        }
    }

    pub(super) fn retry_due(&mut self, now: Time, out: Out<'_>) {
        while let Some((&(due, id), ())) = self.delayed.first_key_value() {
            if due > now {
                break;
            }
            self.delayed.pop_first();
            self.queue_task(now, id, false, out);
        }
    }

    /// A worker gave back tasks that it had not started.
    pub(super) fn tasks_returned(
        &mut self,
        now: Time,
        from: ProcessId,
        tasks: Vec<(TaskId, u32)>,
        out: Out<'_>,
    ) {
        self.worker_stalled(from);
        for (id, attempt) in tasks.into_iter().rev() {
            let pushed = self
                .tasks
                .get(&id)
                .is_some_and(|task| task.attempt == attempt && task.stage == (Stage::Pushed { to: from }));
            if pushed {
                self.forget_in_flight(from, id);
                self.push_elsewhere(now, id, out);
            }
        }
        self.worker_emptied(now, from, out);
        self.dispatch_all(now, out);
    }

    /// An attempt that certainly did not start is pushed again, as the same attempt.
    pub(super) fn push_elsewhere(&mut self, now: Time, id: TaskId, out: Out<'_>) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        task.stage = Stage::Queued;
        if task.cancelled {
            self.fail(now, id, Outcome::Failure(Box::new(Failure::Cancelled)), out);
        } else {
            self.queue_task(now, id, true, out);
        }
    }

    /// The effects of a push: where the task is now.
    pub(super) fn pushed(&mut self, id: TaskId, to: ProcessId, assignment: Box<Assignment>, out: Out<'_>) {
        let mut progress = None;
        if let Some(task) = self.tasks.get_mut(&id) {
            task.stage = Stage::Pushed { to };
            progress = task.stream.as_ref().and_then(|stream| stream.progress());
        }
        let task = assignment.task;
        self.lend_with(&assignment, to, out);
        out.push(Effect::Send { to, message: Message::PushTask(assignment) });
        if let Some(consumed) = progress.filter(|_| !Mutant::ConsumerProgress.is_active()) {
            // Items of an earlier attempt were taken: the producer need not wait for that again.
            self.send(to, Message::GeneratorConsumed { task, consumed }, out);
        }
    }
}

/// A peer that reports fewer outcomes than results broke the protocol.
fn missing_result(task: TaskId) -> Outcome {
    Outcome::Failure(Box::new(Failure::ObjectLost {
        object: task.object(0),
        detail: alloc::string::String::from("the worker reported too few results"),
    }))
}

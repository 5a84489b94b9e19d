//! Running what others assign to this process: in which order, how many at once, and what is told.
//!
//! A worker runs one task after the other. An actor has one queue per concurrency group; calls of a
//! group start in the order in which they came, as many at once as the group allows, once its constructor
//! has returned. A call whose stored arguments are not pinned yet holds up the calls behind it, a
//! constructor all of them.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;

use super::arguments::{self, Arguments};
use super::{Effect, Out, Owner, RunResult};
use crate::actor::ActorSpec;
use crate::ids::{ActorId, FunctionId, ObjectId, ProcessId, TaskId};
use crate::message::Message;
use crate::mutants::Mutant;
use crate::resources::Devices;
use crate::task::{Assignment, Callee, Completion, Dependency};
use crate::value::{ActorDeath, Failure, Outcome};
use crate::{Map, OrderedMap};

/// What this process was assigned.
#[derive(Clone, Debug, Default)]
pub(super) struct Executor {
    actor: Option<ActorRole>,
    /// One queue per concurrency group; a worker has one.
    lanes: Vec<Lane>,
    running: OrderedMap<TaskId, Running>,
    /// Threads of the program that wait for others.
    blocked: u32,
    /// The process takes nothing more and ends when nothing runs.
    leaving: Option<String>,
    /// The process ends now, and what runs was interrupted.
    aborting: bool,
    /// Stored arguments that queued tasks or the constructor wait for; almost always empty.
    pub(super) awaited: Vec<ObjectId>,
    /// Those of them that must be made again.
    pub(super) lost: Vec<ObjectId>,
    /// The next task waits for one of those, and the CPU was lent to whoever makes it.
    starved: bool,
    /// Code that came with tasks of which none has run here: the one that brought it may be given
    /// back, and those that follow come without.
    codes: Map<FunctionId, Bytes>,
}

#[derive(Clone, Debug)]
struct ActorRole {
    id: ActorId,
    incarnation: u32,
    groups: Vec<alloc::sync::Arc<str>>,
    /// The constructor, until it begins.
    constructor: Option<Constructor>,
    constructed: bool,
    /// Stored arguments, held until the constructor has ended.
    stored: Vec<ObjectId>,
    /// References that the constructor's arguments brought.
    borrows: Vec<ObjectId>,
}

/// A constructor that has not begun.
#[derive(Clone, Debug)]
struct Constructor {
    spec: Box<ActorSpec>,
    devices: Devices,
    arguments: Arguments,
}

#[derive(Clone, Debug)]
struct Lane {
    limit: u32,
    running: u32,
    queue: VecDeque<Assigned>,
}

#[derive(Clone, Debug)]
struct Assigned {
    from: ProcessId,
    assignment: Box<Assignment>,
    arguments: Arguments,
    /// How many items of this generator its consumer has taken already.
    consumed: u32,
}

#[derive(Clone, Debug)]
struct Running {
    from: ProcessId,
    attempt: u32,
    lane: usize,
    stored: Vec<ObjectId>,
    /// References that came with the arguments.
    borrows: Vec<ObjectId>,
    /// They are held here, for the caller is dead.
    holds: bool,
    cancelled: bool,
    is_function: bool,
}

impl Executor {
    /// For [`Owner::check`]: what tasks that are here hold, each as often as it is held.
    pub(super) fn held_arguments(&self) -> impl Iterator<Item = &ObjectId> {
        let waiting = self.waiting().flat_map(|arguments| &arguments.stored);
        let constructor = self.actor.iter().flat_map(|role| &role.stored);
        let orphaned = self.running.values().filter(|running| running.holds);
        let running = self.running.values().flat_map(|running| &running.stored);
        waiting.chain(running).chain(orphaned.flat_map(|running| &running.borrows)).chain(constructor)
    }

    /// The stored arguments of everything that has not begun.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Arguments> {
        let constructor = self.actor.iter().flat_map(|role| &role.constructor);
        let queued = self.lanes.iter().flat_map(|lane| &lane.queue).map(|waiting| &waiting.arguments);
        constructor.map(|waiting| &waiting.arguments).chain(queued)
    }

    /// The same, with all that each is given.
    pub(super) fn waiting_mut(&mut self) -> impl Iterator<Item = (&mut Arguments, &mut [Dependency])> {
        let constructor = self.actor.iter_mut().flat_map(|role| &mut role.constructor);
        let constructor =
            constructor.map(|waiting| (&mut waiting.arguments, &mut waiting.spec.dependencies[..]));
        let queued = self.lanes.iter_mut().flat_map(|lane| &mut lane.queue);
        constructor
            .chain(queued.map(|waiting| (&mut waiting.arguments, &mut waiting.assignment.dependencies[..])))
    }
}

impl Owner {
    pub(super) fn push_received(&mut self, from: ProcessId, assignment: Box<Assignment>, out: Out<'_>) {
        let Some(lane) = self.lane_for(&assignment.callee) else {
            // Not the actor, or not the start of it, that the caller means: it learns of the change.
            return;
        };
        if self.is_assigned(assignment.task) || self.is_dead(from) {
            return;
        }
        if self.executor.leaving.is_some() && matches!(assignment.callee, Callee::Function { .. }) {
            let tasks = vec![(assignment.task, assignment.attempt)];
            self.send(from, Message::TasksReturned { tasks }, out);
            return;
        }
        let arguments = self.hold_arguments(&assignment.dependencies, out);
        if let Callee::Function { function, code: Some(code), .. } = &assignment.callee
            && !Mutant::CodeOfReturnedTask.is_active()
        {
            self.executor.codes.insert(*function, code.clone());
        }
        self.executor.lanes[lane].queue.push_back(Assigned { from, assignment, arguments, consumed: 0 });
        self.run_next(lane, out);
    }

    fn lane_for(&mut self, callee: &Callee) -> Option<usize> {
        match (callee, &self.executor.actor) {
            (Callee::Function { .. }, None) => {
                if self.executor.lanes.is_empty() {
                    self.executor.lanes.push(Lane { limit: 1, running: 0, queue: VecDeque::new() });
                }
                Some(0)
            }
            (Callee::Method { actor, incarnation, group, .. }, Some(role)) => {
                if role.id != *actor || role.incarnation != *incarnation {
                    return None;
                }
                Some(role.groups.iter().position(|name| name == group).unwrap_or(0))
            }
            _ => None,
        }
    }

    fn is_assigned(&self, task: TaskId) -> bool {
        let queued = |lane: &Lane| lane.queue.iter().any(|assigned| assigned.assignment.task == task);
        self.executor.running.contains_key(&task)
            // Only a repeated message could be here twice; looking is cheap while queues are short.
            || (self.executor.lanes.iter().any(|lane| !lane.queue.is_empty() && lane.queue.len() < 8)
                && self.executor.lanes.iter().any(queued))
    }

    /// Start whatever waits for nothing any more.
    pub(super) fn start_ready(&mut self, out: Out<'_>) {
        self.start_constructor(out);
        for lane in 0..self.executor.lanes.len() {
            self.run_next(lane, out);
        }
    }

    /// Start what the lane has room for.
    fn run_next(&mut self, lane: usize, out: Out<'_>) {
        let constructed = self.executor.actor.as_ref().is_none_or(|role| role.constructed);
        loop {
            let Some(queue) = self.executor.lanes.get_mut(lane) else {
                return;
            };
            let ready = queue.queue.front().is_some_and(|assigned| assigned.arguments.are_pinned());
            if !constructed || !ready || queue.running >= queue.limit {
                return;
            }
            let Some(Assigned { from, mut assignment, arguments, consumed }) = queue.queue.pop_front() else {
                return;
            };
            queue.running += 1;
            if let Callee::Function { function, code, .. } = &mut assignment.callee {
                *code = self.executor.codes.remove(function).or(code.take());
            }
            let contained = arguments::contained(&assignment.dependencies);
            let borrows = assignment.borrows.iter().copied().chain(contained).collect();
            let running = Running {
                from,
                attempt: assignment.attempt,
                lane,
                stored: arguments.stored,
                borrows,
                holds: false,
                cancelled: false,
                is_function: matches!(assignment.callee, Callee::Function { .. }),
            };
            let task = assignment.task;
            self.executor.running.insert(task, running);
            out.push(Effect::Run { assignment, group: lane as u32 });
            if consumed > 0 {
                out.push(Effect::Consumed { task, consumed });
            }
        }
    }

    /// A task or constructor that waits for an argument to be made again holds a CPU that the making may need.
    pub(super) fn settle_starved(&mut self, out: Out<'_>) {
        let idle = self.executor.lost.is_empty() && !self.executor.starved;
        if idle || Mutant::StarvedWorker.is_active() {
            return;
        }
        let mut lost = core::mem::take(&mut self.executor.lost);
        lost.retain(|object| self.executor.waiting().any(|arguments| arguments.await_pin(*object)));
        let awaits = |arguments: &Arguments| lost.iter().any(|object| arguments.await_pin(*object));
        let starved = match &self.executor.actor {
            // Calls wait for the constructor, which uses the CPU unless it waits itself.
            Some(ActorRole { constructed: false, constructor, .. }) => {
                constructor.as_ref().is_some_and(|constructor| awaits(&constructor.arguments))
            }
            _ => self.executor.lanes.iter().any(|lane| {
                lane.running == 0 && lane.queue.front().is_some_and(|next| awaits(&next.arguments))
            }),
        };
        self.executor.lost = lost;
        if starved && !self.executor.starved {
            self.executor.blocked += 1;
            if self.executor.blocked == 1 {
                self.send(self.daemon(), Message::Blocked, out);
            }
        } else if !starved && self.executor.starved {
            self.unblocked(out);
        }
        self.executor.starved = starved;
    }

    /// Which attempt of a task runs here; 0 if none does, as for a number that stands for a put value.
    pub(super) fn running_attempt(&self, task: TaskId) -> u32 {
        self.executor.running.get(&task).map_or(0, |running| running.attempt)
    }

    pub(super) fn ran(&mut self, task: TaskId, result: RunResult, out: Out<'_>) {
        let Some(running) = self.executor.running.swap_remove(&task) else {
            return;
        };
        self.release_arguments(&running.stored);
        let mut outcomes = result.outcomes;
        // A method cannot be interrupted: that it was cancelled is all that its caller learns. A
        // task that ended before the interrupt came has its value.
        let raised = outcomes.iter().any(|o| matches!(o, Outcome::Exception(_)));
        if self.executor.aborting && raised && running.is_function {
            return;
        }
        if running.cancelled && (raised || !running.is_function) {
            outcomes = vec![Outcome::Failure(Box::new(Failure::Cancelled))];
        }
        for outcome in &outcomes {
            self.grant_contained(outcome, running.from, out);
        }
        let kept = if running.holds {
            running.borrows.iter().for_each(|object| self.unuse(*object));
            Vec::new()
        } else {
            self.keep(&running.borrows, running.from, out)
        };
        let completion = Completion {
            task,
            attempt: running.attempt,
            outcomes,
            items: result.items,
            retryable: result.retryable && !running.cancelled,
            kept,
            started: result.started,
            micros: result.micros,
            exiting: result.exiting || (self.executor.leaving.is_some() && running.is_function),
        };
        if !result.silent {
            self.send(running.from, Message::TaskFinished(Box::new(completion)), out);
        }
        if let Some(lane) = self.executor.lanes.get_mut(running.lane) {
            lane.running -= 1;
        }
        if result.exiting {
            self.executor.leaving.get_or_insert_with(|| String::from("its last task has ended"));
            self.give_back(|_| true, out);
        }
        self.run_next(running.lane, out);
        self.leave_if_done(out);
    }

    pub(super) fn yielded(&mut self, task: TaskId, index: u32, outcome: Outcome, out: Out<'_>) {
        let Some(running) = self.executor.running.get(&task) else {
            return;
        };
        let (from, attempt) = (running.from, running.attempt);
        self.grant_contained(&outcome, from, out);
        self.send(from, Message::GeneratorItem { task, attempt, index, outcome }, out);
    }

    /// The consumer of a generator has taken items; one that has not started is told when it does.
    pub(super) fn consumed(&mut self, task: TaskId, consumed: u32, out: Out<'_>) {
        if self.executor.running.contains_key(&task) {
            out.push(Effect::Consumed { task, consumed });
            return;
        }
        let queued = self.executor.lanes.iter_mut().flat_map(|lane| &mut lane.queue);
        for assigned in queued.filter(|assigned| assigned.assignment.task == task) {
            assigned.consumed = assigned.consumed.max(consumed);
        }
    }

    /// Whether a running task was asked to stop; for code that looks by itself.
    pub fn is_cancelled(&self, task: TaskId) -> bool {
        self.executor.running.get(&task).is_some_and(|running| running.cancelled)
    }

    pub(super) fn cancel_assigned(&mut self, task: TaskId, force: bool, out: Out<'_>) {
        if let Some(running) = self.executor.running.get_mut(&task) {
            running.cancelled = true;
            if force && running.is_function {
                let reason = String::from("its task was cancelled by force");
                out.push(Effect::Exit { reason, force: true });
            } else {
                out.push(Effect::Interrupt { task });
            }
            return;
        }
        for lane in 0..self.executor.lanes.len() {
            let queue = &mut self.executor.lanes[lane].queue;
            let Some(at) = queue.iter().position(|assigned| assigned.assignment.task == task) else {
                continue;
            };
            let Some(assigned) = queue.remove(at) else {
                return;
            };
            self.release_arguments(&assigned.arguments.stored);
            let completion = Completion {
                task,
                attempt: assigned.assignment.attempt,
                outcomes: vec![Outcome::Failure(Box::new(Failure::Cancelled))],
                items: 0,
                retryable: false,
                kept: Vec::new(),
                started: 0,
                micros: 0,
                exiting: false,
            };
            self.send(assigned.from, Message::TaskFinished(Box::new(completion)), out);
            self.run_next(lane, out);
            return;
        }
    }

    pub(super) fn take_back_received(&mut self, from: ProcessId, tasks: &[TaskId], out: Out<'_>) {
        self.give_back(|assigned| assigned.from == from && tasks.contains(&assigned.assignment.task), out);
    }

    /// Return queued tasks to their owners; calls wait for their actor.
    fn give_back(&mut self, which: impl Fn(&Assigned) -> bool, out: Out<'_>) {
        if self.executor.actor.is_some() {
            return;
        }
        let mut returned: OrderedMap<ProcessId, Vec<(TaskId, u32)>> = OrderedMap::default();
        for lane in 0..self.executor.lanes.len() {
            let queue = core::mem::take(&mut self.executor.lanes[lane].queue);
            for assigned in queue {
                if which(&assigned) {
                    self.release_arguments(&assigned.arguments.stored);
                    let task = (assigned.assignment.task, assigned.assignment.attempt);
                    returned.entry(assigned.from).or_default().push(task);
                } else {
                    self.executor.lanes[lane].queue.push_back(assigned);
                }
            }
        }
        for (from, tasks) in returned {
            self.send(from, Message::TasksReturned { tasks }, out);
        }
    }

    /// Callers died: what they queued here is not wanted any more.
    pub(super) fn forget_assigned(&mut self, gone: &dyn Fn(ProcessId) -> bool, out: Out<'_>) {
        self.hold_borrows(gone, out);
        for lane in 0..self.executor.lanes.len() {
            let queue = core::mem::take(&mut self.executor.lanes[lane].queue);
            for assigned in queue {
                if gone(assigned.from) {
                    self.release_arguments(&assigned.arguments.stored);
                } else {
                    self.executor.lanes[lane].queue.push_back(assigned);
                }
            }
            self.run_next(lane, out);
        }
    }

    /// Callers died whose calls run here: what their arguments refer to is not held by the caller any
    /// more, so this process holds it until the call ends.
    fn hold_borrows(&mut self, gone: &dyn Fn(ProcessId) -> bool, out: Out<'_>) {
        let mut held = Vec::new();
        for running in self.executor.running.values_mut() {
            if gone(running.from) && !running.holds {
                running.holds = true;
                held.extend(running.borrows.iter().copied());
            }
        }
        for object in held {
            self.record(object).uses += 1;
            self.register(object, out);
        }
    }

    /// The program waits: its CPU can serve others, and so can the tasks queued behind it.
    pub(super) fn blocked(&mut self, out: Out<'_>) {
        self.executor.blocked += 1;
        if self.executor.blocked == 1 {
            self.give_back(|_| true, out);
            self.send(self.daemon(), Message::Blocked, out);
        }
    }

    pub(super) fn unblocked(&mut self, out: Out<'_>) {
        if self.executor.blocked == 1 {
            self.send(self.daemon(), Message::Unblocked, out);
        }
        self.executor.blocked = self.executor.blocked.saturating_sub(1);
    }

    pub(super) fn become_actor(
        &mut self,
        spec: Box<ActorSpec>,
        incarnation: u32,
        devices: Devices,
        out: Out<'_>,
    ) {
        if self.executor.actor.is_some() {
            return;
        }
        let idle =
            self.executor.running.is_empty() && self.executor.lanes.iter().all(|lane| lane.queue.is_empty());
        assert!(idle, "the node makes actors of idle workers");
        let arguments = self.hold_arguments(&spec.dependencies, out);
        let lane = |limit| Lane { limit, running: 0, queue: VecDeque::new() };
        self.executor.lanes = spec.groups.iter().map(|group| lane(group.limit)).collect();
        if self.executor.lanes.is_empty() {
            // A creator that declares no group, not even the default one.
            self.executor.lanes.push(lane(1));
        }
        self.executor.actor = Some(ActorRole {
            id: spec.id,
            incarnation,
            groups: spec.groups.iter().map(|group| group.name.clone()).collect(),
            constructor: Some(Constructor { spec, devices, arguments }),
            constructed: false,
            stored: Vec::new(),
            borrows: Vec::new(),
        });
        self.start_constructor(out);
    }

    /// Construct the actor once the constructor's arguments are here; of one that has failed it dies.
    fn start_constructor(&mut self, out: Out<'_>) {
        let Some(role) = self.executor.actor.as_mut() else {
            return;
        };
        let hasty = Mutant::HastyConstruct.is_active();
        let Some(Constructor { spec, devices, arguments }) =
            role.constructor.take_if(|constructor| constructor.arguments.are_pinned() || hasty)
        else {
            return;
        };
        role.stored = arguments.stored;
        if let Some(cause) = arguments::failed(&spec.dependencies) {
            self.constructed(Some(cause), out);
            return;
        }
        role.borrows = spec.borrows.iter().copied().chain(arguments::contained(&spec.dependencies)).collect();
        let incarnation = role.incarnation;
        out.push(Effect::Construct { spec, incarnation, devices });
    }

    /// The constructor ended. References that it kept are registered with their owners; the creator
    /// holds them for as long as the actor may restart, so there is no hurry.
    pub(super) fn constructed(&mut self, failed: Option<ActorDeath>, out: Out<'_>) {
        let Some(role) = self.executor.actor.as_mut() else {
            return;
        };
        role.constructed = failed.is_none();
        let (actor, incarnation) = (role.id, role.incarnation);
        let (stored, borrows) = (core::mem::take(&mut role.stored), core::mem::take(&mut role.borrows));
        self.release_arguments(&stored);
        for object in borrows {
            self.register(object, out);
        }
        let report = Message::ActorConstructed { actor, incarnation, failed };
        self.send(self.daemon(), report, out);
        for lane in 0..self.executor.lanes.len() {
            self.run_next(lane, out);
        }
    }

    /// The actor ends by its own will.
    pub(super) fn exit_actor(&mut self, out: Out<'_>) {
        let Some(role) = &self.executor.actor else {
            return;
        };
        let (actor, incarnation) = (role.id, role.incarnation);
        self.send(self.daemon(), Message::ActorExits { actor, incarnation }, out);
        for lane in 0..self.executor.lanes.len() {
            // Callers learn of the actor's end from the head.
            self.executor.lanes[lane].limit = 0;
            for assigned in core::mem::take(&mut self.executor.lanes[lane].queue) {
                self.release_arguments(&assigned.arguments.stored);
            }
        }
        self.executor.leaving = Some(String::from("the actor exited"));
        self.leave_if_done(out);
    }

    pub(super) fn exit_requested(&mut self, graceful: bool, reason: String, out: Out<'_>) {
        if !graceful {
            // What runs is interrupted. That is no outcome of it: whoever waits for it learns that this
            // process has ended.
            self.executor.aborting = true;
            let running = self.executor.running.iter().filter(|(_, running)| running.is_function);
            for (task, _) in running {
                out.push(Effect::Interrupt { task: *task });
            }
            out.push(Effect::Exit { reason, force: false });
            return;
        }
        self.executor.leaving = Some(reason);
        self.give_back(|_| true, out);
        self.leave_if_done(out);
    }

    fn leave_if_done(&mut self, out: Out<'_>) {
        let Some(reason) = &self.executor.leaving else {
            return;
        };
        let queued = self.executor.lanes.iter().any(|lane| lane.limit > 0 && !lane.queue.is_empty());
        if self.executor.running.is_empty() && !queued {
            out.push(Effect::Exit { reason: reason.clone(), force: false });
        }
    }

    /// How many assigned tasks run now.
    pub fn running_count(&self) -> usize {
        self.executor.running.len()
    }
}
